"""BN804 unsupported-op."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class UnsupportedOp(Rule):
    """An op of the model does not run on the target device or in the target dtype.

    Why it matters: the first step of training, or the first request after deployment, fails with it. The model runs on
    the CPU in float32, so nothing is wrong with its shapes.

    Example (bad):

    ```python
    # bnlint check --dtype bfloat16
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(16, 16)
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            x = self.hidden(x)
            return self.head(torch.linalg.qr(x).Q @ torch.linalg.qr(x).R)
    ```

    Use instead (good):

    ```python
    # bnlint check --dtype bfloat16
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(16, 16)
            self.relu = nn.ReLU()
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.relu(self.hidden(x)))
    ```

    Reported is what torch says when it has no kernel, when operands have different dtypes because one was made in
    another than the model's, and when a number does not fit the dtype. Other failures of the probe are a note.

    References: PyTorch documentation, the errors `NotImplementedError: Could not run` and `not implemented for 'Half'`.
    """

    code = "BN804"
    name = "unsupported-op"
    severity = Severity.ERROR
    phase = Phase.FORWARD
    explains_failure = True

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Names the line whose op the probe could not run."""
        from bnlint.rule import Place

        probe = model.probe
        failed = probe.unsupported if probe is not None else None
        if probe is None or failed is None:
            return
        yield self.finding(
            Place("", model.resolve_call(failed.call)),
            f"the forward pass does not run on {probe.where}: {failed.message}",
            help="run this part in float32 (`x.float()`), make tensors in the dtype of the input, or use another op",
            evidence={"device": probe.device},
        )
