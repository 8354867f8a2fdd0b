"""BN117 norm-wrong-axis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class NormWrongAxis(Rule):
    """A norm works along another axis than the one the features live on.

    Why it matters: `nn.LayerNorm` normalises the last axes; on a channels-first map (N, C, H, W) that is one row of
    pixels of one channel, so the learnt scale belongs to a column of the image and the channels are never compared.
    A channel ten times as strong as the others leaves with the same strength, and the brightest row of the picture with
    the same mean as the darkest: 0.
    `nn.BatchNorm1d` and `nn.InstanceNorm1d` take the features at axis 1; fed (N, L, C) they keep statistics per
    position. Both run when the sizes happen to be equal.

    Example (bad):

    ```python
    import torch.nn as nn

    # bnlint check --input 8x3x32x32
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 32, 3, padding=1)
            self.norm = nn.LayerNorm(32)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(32, 10)

        def forward(self, x):
            x = self.relu(self.norm(self.conv(x)))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    # bnlint check --input 8x3x32x32
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 32, 3, padding=1)
            self.norm = nn.GroupNorm(1, 32)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(32, 10)

        def forward(self, x):
            x = self.relu(self.norm(self.conv(x)))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    References: documentation of `torch.nn.LayerNorm`, section on images, and `torch.nn.BatchNorm1d`; Liu et al. 2022,
    A ConvNet for the 2020s (arXiv 2201.03545), for a LayerNorm on channels.
    """

    code = "BN117"
    name = "norm-wrong-axis"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at the role of the axes that every norm works along."""
        from bnlint.graph.misnormed import normalised_axis
        from bnlint.graph.ops import Kind

        graph = model.graph
        assert graph is not None
        for node in graph.of_kind(Kind.NORM):
            found = normalised_axis(graph, node)
            if found is None:
                continue
            cls = node.meta["class"]
            yield self.finding(
                model.place(node),
                f"`{cls}` works along axis {found.dim} of {list(found.shape)}, {found.what}; "
                f"the {found.channels} channels are at axis {found.channel_dim}",
                help=f"use `nn.GroupNorm(1, {found.channels})`, or move the channels last for the norm: "
                "`self.norm(x.movedim(1, -1)).movedim(-1, 1)`"
                if cls == "LayerNorm"
                else f"transpose around the norm: `self.norm(x.transpose(1, 2)).transpose(1, 2)` "
                f"with `nn.{cls}({found.channels})`",
                evidence={"shape": list(found.shape), "axis": found.dim, "channel_axis": found.channel_dim},
            )
