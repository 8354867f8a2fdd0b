"""The input of a model: as told, as the model itself says, or found by trying."""

from bnlint.inputs.resolve import resolve
from bnlint.inputs.spec import InputError, InputSpec, TensorSpec, parse
from bnlint.inputs.values import Inputs, from_values, resized

__all__ = ["InputError", "InputSpec", "Inputs", "TensorSpec", "from_values", "parse", "resized", "resolve"]
