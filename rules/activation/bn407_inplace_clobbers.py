"""BN407 inplace-clobbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class InplaceClobbers(Rule):
    """An in-place op overwrites a value that something else still needs.

    Why it matters: `nn.ReLU(inplace=True)` as the first layer of a residual branch writes into the block's input. The
    skip then adds relu(x) instead of x: half of a zero-mean signal is gone from the identity path in every block, and
    the gradient of that half with it. Nothing fails; the model is another one than its code says. When the value was
    kept for the backward pass, such as the output of a sigmoid, autograd raises at the first `backward()`.

    A value that autograd needs is an error, found by looking at what the recorded run saved; a skip that reads a
    changed value is a warning.

    Example (bad):

    ```python
    # bnlint check --input 2x8x16x16
    import torch.nn as nn

    class Block(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.branch = nn.Sequential(
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 1),
            )

        def forward(self, x):
            return x + self.branch(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(8, 16, 3, padding=1)
            self.block = Block(16)

        def forward(self, x):
            return self.block(self.stem(x))
    ```

    Use instead (good):

    ```python
    # bnlint check --input 2x8x16x16
    import torch.nn as nn

    class Block(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.branch = nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 1),
            )

        def forward(self, x):
            return x + self.branch(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(8, 16, 3, padding=1)
            self.block = Block(16)

        def forward(self, x):
            return self.block(self.stem(x))
    ```

    Known limits: `x = F.relu_(x)` whose result both the branch and the skip read is a shared pre-activation and not
    reported, and neither is a ReLU of a value that is not negative anyway. Skips are not seen when the model had to be
    recorded on real tensors.

    References: github.com/rosinality/vq-vae-2-pytorch issue 60 and github.com/pytorch/pytorch issue 5687, real cases;
    PyTorch documentation, Autograd mechanics, "In-place operations with autograd".
    """

    code = "BN407"
    name = "inplace-clobbers"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Asks autograd what was changed after it was saved, and the graph which skips read a changed value."""
        from bnlint.graph.inplace import broken_backward, clobbered_skips

        graph = model.graph
        assert graph is not None
        broken = broken_backward(graph) if graph.runs else None
        if broken is not None:
            yield self.finding(
                model.place(broken.node),
                f"`{_name(broken.node.target)}` overwrites a value that the backward pass of {broken.saved_by} needs: "
                "`backward()` raises",
                help="use the op that is not in place",
                note=broken.message.splitlines()[0].partition(" Hint:")[0],
                severity=Severity.ERROR,
                evidence={"saved_by": broken.saved_by},
            )
        for skip in clobbered_skips(graph):
            line = model.call_line(skip.reader)
            where = f" at line {line.line}" if line is not None else ""
            yield self.finding(
                model.place(skip.node),
                f"`{_name(skip.node.target)}` works in place on a value that the skip{where} still reads: "
                "it gets the changed value",
                help="make it not in place (`inplace=False`), or add the value before the branch changes it",
                evidence={"branch": skip.branch, "reader_line": line.line if line is not None else None},
            )


def _name(target: object) -> str:
    return target if isinstance(target, str) else str(getattr(target, "__name__", target))
