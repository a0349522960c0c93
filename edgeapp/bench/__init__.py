"""How fast a model reads and writes on this machine, and what another number of experts costs and saves.

speed.py (tokens per second of a loaded model) → expert_counts.py (speed against loss, count by count)
"""
