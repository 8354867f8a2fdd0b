"""BN802 constant-out-of-range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class ConstantOutOfRange(Rule):
    """A number written in the code does not exist in the dtype the model is to run in.

    Why it matters: float16 ends at 65504 and its smallest number is 6e-8. A mask value of -1e9 raises or becomes
    -infinity there, and a row that is masked everywhere is NaN after the softmax; an eps of 1e-12 is zero, so the
    division it was to guard is a division by zero.

    Example (bad):

    ```python
    # bnlint check --dtype float16
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(64, 64)
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            x = self.hidden(x)
            x = x / (x.abs().sum(-1, keepdim=True) + 1e-12)
            return self.head(x)
    ```

    Use instead (good):

    ```python
    # bnlint check --dtype float16
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(64, 64)
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            x = self.hidden(x)
            x = x / (x.abs().sum(-1, keepdim=True) + 1e-4)
            return self.head(x)
    ```

    Looked at are the numbers given to `masked_fill`, `full`, `fill`, `clamp`, addition and subtraction, with `--dtype`.
    Too large is an error; so is a number that is rounded to zero where it guards a division, a logarithm or a root. Ops
    on values that the code turns into float32 first are left out. Norm layers with such an eps are BN119's.

    References: PyTorch documentation, `torch.finfo`.
    """

    code = "BN802"
    name = "constant-out-of-range"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at the literals of the ops that run in the dtype."""
        import torch

        from bnlint.graph.ops import op_name
        from bnlint.signal.halves import literals, runs_in_model_dtype

        graph = model.graph
        assert graph is not None
        if model.dtype not in ("float16", "bfloat16"):
            return
        limits = torch.finfo(getattr(torch, model.dtype))
        smallest = limits.smallest_normal * limits.eps  # the smallest subnormal number
        inside = runs_in_model_dtype(graph)
        for node in graph.nodes:
            for number, is_guard in literals(graph, node) if node in inside else ():
                if limits.max < abs(number) < float("inf"):
                    problem = f"is beyond the largest {model.dtype} number, {limits.max:.5g}"
                    help = f"use `torch.finfo(x.dtype).min` for a mask, or a number below {limits.max:.5g}"
                elif is_guard and 0 < abs(number) < smallest / 2:
                    problem = f"is zero in {model.dtype}, and guards nothing"
                    help = f"use at least {limits.smallest_normal:.1g}, or compute this part in float32"
                else:
                    continue
                yield self.finding(
                    model.place(node),
                    f"`{number:g}` in `{op_name(node)}` {problem}",
                    help=help,
                    evidence={"number": number, "dtype": model.dtype},
                )
