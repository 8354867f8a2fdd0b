"""The input of a model: as told, as the model itself says, or found by trying."""

from bnlint.inputs.error import InputError
from bnlint.inputs.resolve import resolve
from bnlint.inputs.values import Inputs, from_values, resized

__all__ = ["InputError", "Inputs", "from_values", "resized", "resolve"]
