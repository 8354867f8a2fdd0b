"""A callback for the Trainer of transformers.

>>> from bnlint.integrations.transformers import CheckModel
>>> trainer = Trainer(model, arguments, callbacks=[CheckModel()])     # or CheckModel(ignore=["BN110"])
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from bnlint.integrations import Once


class CheckModel(TrainerCallback):
    """Checks the model once, on its device, before the first step; errors stop the training with BrokenModel.

    Without `inputs` the model's `dummy_inputs` or its configuration count. `fail_on="never"` only logs. The other
    options are those of `bnlint.check`. Every process checks, so that all of them stop.
    """

    def __init__(self, inputs: Any = None, *, fail_on: str = "error", **options: Any) -> None:
        self.check = Once(inputs, fail_on, options)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        """The Trainer's hook."""
        self.check(model, log=state.is_world_process_zero)
