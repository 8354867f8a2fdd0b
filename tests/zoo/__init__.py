"""The zoo: small, correct models in the styles people write them. Every one must record, and be clean."""

from __future__ import annotations

from . import (
    attention,
    containers,
    control,
    generative,
    norms,
    operators,
    parameters,
    recurrent,
    signals,
    signatures,
    tabular,
    vision,
    vision_transformers,
)
from .registry import ENTRIES, Entry

__all__ = [
    "ENTRIES",
    "Entry",
    "attention",
    "containers",
    "control",
    "generative",
    "norms",
    "operators",
    "parameters",
    "recurrent",
    "signals",
    "signatures",
    "tabular",
    "vision",
    "vision_transformers",
]
