"""Reasoning and tool formats of model families, one file each, and the choice among them."""

from edgeapp.engine.dialects.dialect import GENERIC, Dialect, ForcedCall

__all__ = ["GENERIC", "Dialect", "ForcedCall"]
