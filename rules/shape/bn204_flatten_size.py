"""BN204 flatten-size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph


class FlattenSize(Rule):
    """A Linear after a flatten expects another size than the flattened feature map has.

    Why it matters: the size of a flattened map is channels times height times width, and it changes with the input
    size, with every stride and with every padding before it. The forward pass raises as soon as one of them changes.
    A pooling layer with a fixed output size in front of the flatten removes the dependence.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
            self.relu = nn.ReLU()
            self.pool = nn.AdaptiveAvgPool2d(4)
            self.fc = nn.Linear(16 * 5 * 5, 10)

        def forward(self, x):
            x = self.pool(self.relu(self.conv(x)))
            return self.fc(x.flatten(1))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
            self.relu = nn.ReLU()
            self.pool = nn.AdaptiveAvgPool2d(4)
            self.fc = nn.Linear(16 * 4 * 4, 10)

        def forward(self, x):
            x = self.pool(self.relu(self.conv(x)))
            return self.fc(x.flatten(1))
    ```

    References: documentation of `torch.nn.Flatten` and `torch.nn.AdaptiveAvgPool2d`.
    """

    code = "BN204"
    name = "flatten-size"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares `in_features` of every Linear behind a flatten with the size of what was flattened."""
        from bnlint.graph.features import declared, flattened, got, mismatched, mixes_positions
        from bnlint.graph.folds import folds_batch_into_features, folds_features_into_batch, impossible_rows
        from bnlint.graph.ops import Kind

        graph = model.graph
        assert graph is not None
        for node in graph.of_kind(Kind.LINEAR):
            reshape = flattened(graph, node)
            if reshape is None or not mismatched(graph, node) or mixes_positions(graph, node):
                continue
            if folds_features_into_batch(graph, reshape) or folds_batch_into_features(graph, reshape):
                continue  # BN203 names the cause
            wanted, size, source = declared(graph, node), got(graph, node), graph.data(reshape)
            assert wanted is not None
            assert source is not None
            shape = graph.shape(source)
            yield self.finding(
                model.place(node),
                f"`Linear` takes {wanted.size} features but the flattened input has {size}"
                f" ({' x '.join(map(str, shape[1:]))})",
                help=_help(graph, node, shape, wanted.size),
                note=""
                if wanted.size % shape[1] == 0
                else f"no input size gives {wanted.size}: it is not a multiple of the {shape[1]} channels",
                evidence={"declared": wanted.size, "got": size, "shape": list(shape)},
            )
        for node in graph.of_kind(Kind.RESHAPE):
            asked, source = impossible_rows(graph, node), graph.data(node)
            if source is None or asked is None or asked[0] != graph.shape(source)[0]:
                continue
            shape = graph.shape(source)
            features = math.prod(shape[1:])
            yield self.finding(
                model.place(node),
                f"this reshape asks for {asked[1]} features per sample but there are {features}"
                f" ({' x '.join(map(str, shape[1:]))})",
                help=f"write `x.flatten(1)`, and {features} as `in_features` of the Linear after it",
                evidence={"declared": asked[1], "got": features, "shape": list(shape)},
            )


def _help(graph: Graph, node: fx.Node, shape: tuple[int, ...], features: int) -> str:
    out = graph.shape(node)[-1]
    exact = f"write `nn.Linear({math.prod(shape[1:])}, {out})`"
    if not 3 <= len(shape) <= 5:
        return exact
    rank = len(shape) - 2
    side = round((features / shape[1]) ** (1 / rank))
    if side > 0 and shape[1] * side**rank == features:
        return f"{exact}, or put `nn.AdaptiveAvgPool{rank}d({side})` before the flatten so that any input size works"
    return (
        f"{exact}; with `nn.AdaptiveAvgPool{rank}d(1)` before the flatten, `nn.Linear({shape[1]}, {out})` fits any size"
    )
