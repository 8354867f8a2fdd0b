"""BN306 non-finite-weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bnlint.graph.model import AuditedModel


class NonFiniteWeights(Rule):
    """A parameter or a buffer holds NaN or infinity.

    Why it matters: NaN survives every sum and product. One NaN among the 20 · 64 = 1280 weights of a layer makes one of
    its 64 outputs NaN for every sample, the next layer spreads it to all outputs, the loss is NaN and so are all
    gradients: after one optimiser step no parameter is a number any more.

    Example (bad):

    ```python
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(20, 64)
            self.relu = nn.ReLU()
            self.out = nn.Linear(64, 10)
            with torch.no_grad():
                self.hidden.weight /= self.hidden.weight.sum() * 0

        def forward(self, x):
            return self.out(self.relu(self.hidden(x)))
    ```

    Use instead (good):

    ```python
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(20, 64)
            self.relu = nn.ReLU()
            self.out = nn.Linear(64, 10)
            nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")

        def forward(self, x):
            return self.out(self.relu(self.hidden(x)))
    ```

    Known limits: infinity in a buffer is reported only for running statistics; elsewhere it is how masks are written.

    References: IEEE 754-2019, section 6.2, on the propagation of NaN.
    """

    code = "BN306"
    name = "non-finite-weights"
    severity = Severity.ERROR
    phase = Phase.MODULES
    values = True

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at every parameter and buffer that has values."""
        for path, module in model.module.named_modules():
            for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                counts = _bad(module, key, tensor)
                if counts is None:
                    continue
                nans, infinities = counts
                words = [f"{n} {what}" for n, what in ((nans, "NaN"), (infinities, "infinite")) if n]
                yield self.finding(
                    model.place(path=path),
                    f"`{key}` has {' and '.join(words)} of {tensor.numel()} entries",
                    help=f"draw or load `{key}` anew, and look for a division by zero where it is computed",
                    evidence={"tensor": key, "nan": nans, "infinite": infinities, "entries": tensor.numel()},
                )


def _bad(module: nn.Module, key: str, tensor: torch.Tensor) -> tuple[int, int] | None:
    """How many entries are NaN and how many infinite; None when that is as it should be or cannot be seen."""
    import torch

    from bnlint.graph.weights import all_finite, has_numbers

    if not has_numbers(tensor):
        return None
    values = tensor.detach().float() if tensor.dtype.itemsize == 1 else tensor.detach()  # float8 has no isfinite
    if all_finite(values):
        return None
    counted = isinstance(tensor, torch.nn.Parameter) or key in ("running_mean", "running_var")
    nans, infinities = int(torch.isnan(values).sum()), int(torch.isinf(values).sum()) if counted else 0
    return (nans, infinities) if nans or infinities else None
