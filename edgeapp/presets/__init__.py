"""Task presets: what a model is told for one kind of work, with the cases that grade it.

A preset is a TOML file (models/README.md documents each field). Knows no engine and no terminal.
"""

from edgeapp.presets.cases import Case, read_cases
from edgeapp.presets.format import Example, Preset, Variable, read_preset
from edgeapp.presets.grading import is_right
from edgeapp.presets.library import ShelvedPreset, all_presets, load_preset, own_dir, write_preset
from edgeapp.presets.render import Rendered, render
from edgeapp.presets.validity import is_valid

__all__ = [
    "Case",
    "Example",
    "Preset",
    "Rendered",
    "ShelvedPreset",
    "Variable",
    "all_presets",
    "is_right",
    "is_valid",
    "load_preset",
    "own_dir",
    "read_cases",
    "read_preset",
    "render",
    "write_preset",
]
