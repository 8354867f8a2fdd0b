"""What a run can be told: configuration files, options, and which rules a selection names. Imports no torch."""

from bnlint.config.files import Config, find_config, folder_of
from bnlint.config.kinds import ConfigError
from bnlint.config.plan import Check, Plan
from bnlint.config.selection import FAMILIES, Chosen, Decision, Selection, choose, decided, selected_codes
from bnlint.config.settings import DTYPES, HALVES, LOSS_ALIASES, LOSSES, MODES, Settings, parse_size

__all__ = [
    "DTYPES",
    "FAMILIES",
    "HALVES",
    "LOSSES",
    "LOSS_ALIASES",
    "MODES",
    "Check",
    "Chosen",
    "Config",
    "ConfigError",
    "Decision",
    "Plan",
    "Selection",
    "Settings",
    "choose",
    "decided",
    "find_config",
    "folder_of",
    "parse_size",
    "selected_codes",
]
