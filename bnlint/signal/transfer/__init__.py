"""How each family of ops carries an expected value on: one function for each kind, `(walk, node) -> value`."""

from __future__ import annotations

from bnlint.signal.transfer import attention, elementwise, layers, mixing, moving, norms, recurrent
from bnlint.signal.transfer.base import TRANSFERS, Unknown

__all__ = ["TRANSFERS", "Unknown", "attention", "elementwise", "layers", "mixing", "moving", "norms", "recurrent"]
