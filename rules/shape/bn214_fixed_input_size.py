"""BN214 fixed-input-size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity, Variant

if TYPE_CHECKING:
    from bnlint.graph.fixed_sizes import OneSize
    from bnlint.graph.model import AuditedModel, Graph


class FixedInputSize(Rule):
    """The model accepts one spatial input size only; the finding names the layer that fixes it.

    Why it matters: nothing is wrong with that, but it decides how images have to be cropped, and a model that pools to
    a fixed size before its first Linear layer takes any.

    Example (bad):

    ```python
    import torch.nn as nn

    # bnlint check --input 4x3x32x32
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, stride=4, padding=1)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16 * 8 * 8, 10)

        def forward(self, x):
            return self.fc(self.relu(self.conv(x)).flatten(1))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    # bnlint check --input 4x3x32x32
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, stride=4, padding=1)
            self.relu = nn.ReLU()
            self.pool = nn.AdaptiveAvgPool2d(8)
            self.fc = nn.Linear(16 * 8 * 8, 10)

        def forward(self, x):
            return self.fc(self.pool(self.relu(self.conv(x))).flatten(1))
    ```

    References: documentation of `torch.nn.AdaptiveAvgPool2d`; He et al. 2014, Spatial Pyramid Pooling
    (arXiv 1406.4729).
    """

    code = "BN214"
    name = "fixed-input-size"
    severity = Severity.INFO
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks for the layer that fails on a larger map in a model that otherwise runs."""
        from bnlint.graph.fixed_sizes import may_fix_size, only_size

        graph = model.graph
        assert graph is not None
        if not graph.runs or not may_fix_size(graph):
            return
        larger = model.variant(Variant.LARGER_MAP)
        found = only_size(graph, larger) if larger is not None else None
        if found is None:
            return
        sizes = _sizes(graph, found)
        yield self.finding(
            replace(model.place(found.node), node=None),
            f"the model accepts one input size only{sizes}: `{found.node.target}` {found.what}",
            help=_help(graph, found),
            evidence={"layer": str(found.node.target)},
        )


def _sizes(graph: Graph, found: OneSize) -> str:
    from bnlint.graph.fixed_sizes import accepted

    ranges = accepted(graph, found.source) if found.source is not None else None
    if not ranges:
        return ""
    return ", " + " x ".join(str(low) if low == high else f"{low} to {high}" for low, high in ranges)


def _help(graph: Graph, found: OneSize) -> str:
    shape = graph.shape(found.source) if found.source is not None else ()
    rank = len(shape) - 2
    if found.source is None or not 1 <= rank <= 3:
        return "resize the input, or interpolate what has the fixed size"
    size = str(shape[2]) if len(set(shape[2:])) == 1 else str(tuple(shape[2:]))
    return f"put `nn.AdaptiveAvgPool{rank}d({size})` before this layer and any size works"
