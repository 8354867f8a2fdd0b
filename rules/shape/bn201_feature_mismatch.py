"""BN201 feature-mismatch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph


class FeatureMismatch(Rule):
    """A layer declares another number of features or channels than what flows into it.

    Why it matters: the forward pass raises at this layer, and with several such layers only the first is named; the
    next one shows up after the first is repaired and the script has started again. The declared number and the traced
    one come from two places in the code that have to agree: this layer and the layer that made its input.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
            self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            x = self.relu(self.conv1(x))
            x = self.relu(self.conv2(x))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
            self.conv2 = nn.Conv2d(16, 64, 3, padding=1)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            x = self.relu(self.conv1(x))
            x = self.relu(self.conv2(x))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    References: the input shapes in the documentation of `torch.nn.Conv2d`, `torch.nn.Linear`, `torch.nn.BatchNorm2d`.
    """

    code = "BN201"
    name = "feature-mismatch"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the count every layer declares with the size of the axis it reads, flatten and width bugs aside."""
        from bnlint.graph.features import declared, flattened, got, mismatched, mixes_positions, reads_channels_last
        from bnlint.graph.folds import joined_before

        graph = model.graph
        assert graph is not None
        for node in graph.nodes:
            if graph.error(node) is None or not mismatched(graph, node):
                continue
            if mixes_positions(graph, node) or flattened(graph, node) is not None:
                continue  # BN202 and BN204 say more
            if joined_before(graph, node):
                continue  # BN203 names the cause
            if reads_channels_last(graph, node) is not None and model.inputs is not None and not model.inputs.inferred:
                continue  # BN211 says more
            wanted, size = declared(graph, node), got(graph, node)
            assert wanted is not None
            assert size is not None
            made = _made_by(graph, node)
            yield self.finding(
                model.place(node),
                f"`{_layer(graph, node)}` takes {wanted.size} {_unit(wanted.attribute)} but gets {size}"
                + (f" from {made}" if made else ""),
                help=_help(graph, node, size, made),
                evidence={"declared": wanted.size, "got": size, "attribute": wanted.attribute},
            )


def _layer(graph: Graph, node: fx.Node) -> str:
    from bnlint.graph.ops import op_name

    module = graph.module(node)
    return type(module).__name__ if module is not None else op_name(node)


def _unit(attribute: str) -> str:
    return "channels" if attribute in ("in_channels", "num_channels", "num_parameters") else "features"


def _made_by(graph: Graph, node: fx.Node) -> str:
    from bnlint.graph.features import feature_axis, maker

    source = maker(graph, feature_axis(graph, node))
    if source is None:
        return ""
    if source.op == "placeholder":
        return f"the input `{source.target}`"
    return f"`{source.target}`" if source.op == "call_module" else ""


def _help(graph: Graph, node: fx.Node, size: int, made: str) -> str:
    from bnlint.graph.features import declared
    from bnlint.graph.ops import Kind

    wanted = declared(graph, node)
    assert wanted is not None
    source = graph.data(node)
    shape = graph.shape(source) if source is not None else ()
    if len(shape) > 2 and wanted.size == math.prod(shape[1:]) and graph.kind(node) is Kind.LINEAR:
        return "flatten every sample first: `x.flatten(1)`"
    first = (
        f"set `{wanted.attribute}={size}` here"
        if graph.module(node) is not None
        else f"use a weight for {size} features"
    )
    if made.startswith("the input"):
        return f"{first}, or pass an input with {wanted.size} along axis {wanted.dim}"
    return f"{first}, or make {made or 'the layer before'} give {wanted.size}"
