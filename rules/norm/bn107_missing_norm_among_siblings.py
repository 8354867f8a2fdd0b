"""BN107 missing-norm-among-siblings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.graph.norms import Norms


class MissingNormAmongSiblings(Rule):
    """A layer goes into its nonlinearity without a norm while most layers of its kind beside it have one.

    Why it matters: with PyTorch's default weights a ReLU layer without a norm passes on a sixth of the variance it got,
    and the layers after it start from that. Behind the next norm the scale is repaired, but the one bare layer still
    trains at another rate than its neighbours: its gradient grows with the scale of its weights, theirs does not. In a
    row of layers written out by hand, the odd one out is almost always a line that was forgotten.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
                nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            )
            self.fc = nn.Linear(32, 10)

        def forward(self, x):
            return self.fc(self.body(x).mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
                nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            )
            self.fc = nn.Linear(32, 10)

        def forward(self, x):
            return self.fc(self.body(x).mean(dim=(2, 3)))
    ```

    Known limits: siblings are layers of one class, with the same kind of kernel, held by the same module and written on
    different lines: where one line builds both the bare and the normalised layers, a flag decided. The first layer on
    the input, the last one, gates, weight-normalised layers and 1x1 maps, which leave nothing to normalise over, are
    bare by design. A conv without a bias is BN106's.

    References: github.com/mlcommons/training_policies issue 89 and github.com/apache/mxnet issue 2354, real cases;
    Radford et al. 2016, DCGAN (arXiv 1511.06434), section 3, for the layers left bare on purpose.
    """

    code = "BN107"
    name = "missing-norm-among-siblings"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    min_siblings: int = 3
    share: float = 0.6

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Groups the layers of each module by role and looks for the bare ones in mostly normalised groups."""
        from bnlint.graph.norms import Norms

        graph = model.graph
        assert graph is not None
        if not graph.runs:
            return
        norms = Norms(graph)
        for group in _groups(graph, norms):
            normalised = [n for n in group if norms.follows(n)]
            if len(normalised) < max(self.min_siblings, self.share * len(group)):
                continue
            lines = {model.place(n).location for n in normalised}
            for node in group:
                if _is_bare(norms, node) and model.place(node).location not in lines:
                    yield self.finding(
                        model.place(node),
                        f"no norm between `{node.target}` and its nonlinearity; {len(normalised)} of the "
                        f"{len(group)} layers of its kind in the same place have one",
                        help=f"put the same norm after `{node.target}`",
                        evidence={"normalised": len(normalised), "siblings": len(group)},
                    )


def _groups(graph: Graph, norms: Norms) -> list[list[fx.Node]]:
    """Hidden layers by the module that holds them, their class and the kind of their kernel."""
    from bnlint.graph.branches import gate_nodes, weight_layers

    gates = gate_nodes(graph)
    found: dict[tuple[object, ...], dict[str, fx.Node]] = {}
    for node in weight_layers(graph):
        module = graph.module(node)
        if module is None or node in gates or graph.is_last_layer(node):
            continue
        kernel = getattr(module, "kernel_size", ())
        owner = str(node.target).rpartition(".")[0]
        role = (owner, type(module), max(kernel, default=0) > 1, getattr(module, "groups", 1) > 1)
        found.setdefault(role, {}).setdefault(str(node.target), node)
    return [list(group.values()) for group in found.values()]


def _is_bare(norms: Norms, node: fx.Node) -> bool:
    from bnlint.graph.branches import is_rectifier
    from bnlint.graph.norms import has_normalised_weight
    from bnlint.graph.ops import Kind

    graph = norms.graph
    if has_normalised_weight(graph, node) or norms.is_first(node):
        return False
    is_conv = graph.kind(node) in (Kind.CONV, Kind.CONV_TRANSPOSE)
    if is_conv and (getattr(graph.module(node), "bias", None) is None or math.prod(graph.shape(node)[2:]) == 1):
        return False
    readers = norms.readers(node)
    return any(is_rectifier(graph, n) for n in readers) and not any(norms.at(n) for n in readers)
