"""Which experts a model uses, for which text: counts, what they say, and their picture. Pure: no engine.

usage.py (counts and their JSON) → balance.py (numbers) → shades.py → heat_map.py (terminal), svg.py
"""

from edgeapp.experts.usage import TextUsage, UsageProfile

__all__ = ["TextUsage", "UsageProfile"]
