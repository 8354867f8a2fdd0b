"""bnlint: a linter for PyTorch models.

>>> import bnlint
>>> report = bnlint.check(model, inputs="8x3x32x32")      # a model, or "path.py:Net"
>>> bnlint.assert_clean(model)                            # raises AssertionError with the findings

Importing this package does not import torch.
"""

import typing as _typing
from pathlib import Path as _Path

__version__ = "0.1.0"

if not (_Path(__file__).parent / "rules" / "__init__.py").is_file():  # a source checkout: rules/ lies beside bnlint/
    __path__.append(str(_Path(__file__).resolve().parents[1]))

from bnlint.job import Report
from bnlint.rule import Finding, Severity

if _typing.TYPE_CHECKING:
    from bnlint.api import assert_clean, check

__all__ = ["Finding", "Report", "Severity", "__version__", "assert_clean", "check"]


def __getattr__(name: str) -> _typing.Any:
    """The functions of `bnlint.api` when they are asked for: the worker needs neither them nor what they import."""
    if name not in ("assert_clean", "check"):
        raise AttributeError(f"module 'bnlint' has no attribute '{name}'")
    from bnlint import api

    return getattr(api, name)
