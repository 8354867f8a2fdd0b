"""BN202 linear-on-spatial-axis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph


class LinearOnSpatialAxis(Rule):
    """A Linear is applied to a channels-first feature map, so it mixes along the image width, not the channels.

    Why it matters: `nn.Linear` works on the last axis. On a map (N, C, H, W) that is the width, so the layer mixes
    pixels of a row with each other and never combines two channels. When the width differs from `in_features` the
    forward pass raises; when it happens to be equal everything runs and the model is not the one that was meant, and
    it works for one image width only.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.relu = nn.ReLU()
            self.mix = nn.Linear(16, 16)
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.conv(x))
            x = self.relu(self.mix(x))
            return self.head(x.mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.relu = nn.ReLU()
            self.mix = nn.Conv2d(16, 16, 1)
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.conv(x))
            x = self.relu(self.mix(x))
            return self.head(x.mean(dim=(2, 3)))
    ```

    References: documentation of `torch.nn.Linear` ("all but the last dimension are the same shape as the input");
    Lin et al. 2013, Network in Network (arXiv 1312.4400), for the 1x1 convolution that mixes channels.
    """

    code = "BN202"
    name = "linear-on-spatial-axis"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Finds Linears whose last axis is a spatial one of a map that no permute, transpose or flatten touched."""
        from bnlint.graph.features import declared, mixes_positions, positions
        from bnlint.graph.ops import Kind

        graph = model.graph
        assert graph is not None
        for node in graph.of_kind(Kind.LINEAR):
            source, wanted = graph.data(node), declared(graph, node)
            if source is None or wanted is None or not mixes_positions(graph, node):
                continue
            shape = graph.shape(source)
            clash = shape[-1] != wanted.size
            flat = wanted.size == shape[1] * positions(shape)
            message = f"`Linear` mixes along the width of the feature map {list(shape)}, not its {shape[1]} channels"
            if clash:
                message += f"; it takes {wanted.size} features and the width is {shape[-1]}"
            yield self.finding(
                model.place(node),
                message,
                severity=Severity.ERROR if clash else Severity.WARNING,
                help=_help(graph, node, shape, wanted.size, flat=flat),
                note="" if clash else f"it runs only because the width happens to be {wanted.size} with this input",
                evidence={"shape": list(shape), "in_features": wanted.size, "channels": shape[1], "width": shape[-1]},
            )


def _help(graph: Graph, node: fx.Node, shape: tuple[int, ...], features: int, *, flat: bool) -> str:
    from bnlint.graph.features import channel_mixer

    if flat:
        return "flatten the map first: `x.flatten(1)`"
    return (
        f"to mix channels use `{channel_mixer(graph, node)}`, or move them last: "
        f"`self.{str(node.target).rpartition('.')[2]}(x.movedim(1, -1)).movedim(-1, 1)`"
        + ("" if features == shape[1] else f" with `in_features={shape[1]}`")
    )
