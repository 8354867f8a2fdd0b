"""BN105 bias-before-norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel


class BiasBeforeNorm(Rule):
    """A trained bias is subtracted again by the norm that follows: it has no effect and gets no gradient.

    Why it matters: batch norm subtracts the mean of each channel over the batch, and a constant added to a channel is
    part of that mean, BN(Wx + b) = BN(Wx). In training the bias changes no output and its gradient is zero up to
    rounding (about 4e-8 of the others). The norm's own bias does the work. It costs one number per channel, its
    optimizer state and one addition; nothing is wrong with the result, which is why this is only info.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.norm = nn.BatchNorm2d(16)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.norm(self.conv(x)))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(16)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.norm(self.conv(x)))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Known limits: only a bias that is cancelled on every way out of its layer is listed, through max pooling, unpadded
    average pooling, concatenation of channels, sums and a final flatten. Layer norm and group norm with fewer groups
    than channels do not cancel it, and neither does anything behind a nonlinearity, zero padding or dropout. Weights
    trained with such a bias must keep it, or have it folded into the running mean.

    References: Ioffe & Szegedy 2015 (arXiv 1502.03167), section 3.2; github.com/milesial/Pytorch-UNet pull request 325
    and github.com/huawei-noah/VanillaNet issue 32, real cases.
    """

    code = "BN105"
    name = "bias-before-norm"
    severity = Severity.INFO
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Follows the constant that each bias adds; one finding for the target, with the list of layers."""
        from bnlint.graph.shifts import cancelled_biases

        graph = model.graph
        assert graph is not None
        if not graph.runs:
            return
        found = cancelled_biases(graph, model.module)
        if not found:
            return
        layers: list[fx.Node] = [nodes[0] for nodes in found.values()]
        count = sum(bias.numel() for bias in found)
        yield self.finding(
            model.place(layers[0]),
            f"the bias of {len(layers)} layer{'s' if len(layers) > 1 else ''} ({count} parameters) is cancelled by the "
            f"norm that follows",
            help="build them with `bias=False`",
            evidence={"layers": len(layers), "parameters": count},
            others=[model.place(node) for node in layers[1:]],
        )
