"""A callback for Lightning.

>>> from bnlint.integrations.lightning import CheckModel
>>> trainer = Trainer(callbacks=[CheckModel()])     # or CheckModel(inputs="8x3x32x32", ignore=["BN110"])
"""

from __future__ import annotations

from typing import Any

from bnlint.integrations import Once

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback


class CheckModel(Callback):
    """Checks the module once, on its device, before the sanity steps of `fit`; errors stop the run with BrokenModel.

    Without `inputs` the module's `example_input_array` counts, else an input is inferred. `fail_on="never"` only logs.
    The other options are those of `bnlint.check`. Every process checks, so that all of them stop.
    """

    def __init__(self, inputs: Any = None, *, fail_on: str = "error", **options: Any) -> None:
        super().__init__()
        self.check = Once(inputs, fail_on, options)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook."""
        self.check(pl_module, log=trainer.is_global_zero)
