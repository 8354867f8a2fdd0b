"""BN107 missing-norm-among-siblings."""

from __future__ import annotations

import math
from collections import Counter
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

    Where one line builds both the bare and the normalised layers, a flag decided, and it is only info.

    Known limits: siblings are layers of one class, with the same kind of kernel, held by the same module or by blocks
    of one class; a norm that every block lacks in the only layer of its kind is not missed. The first layer on the
    input, the last one, gates, weight-normalised layers and 1x1 maps, which leave nothing to normalise over, are bare
    by design. A conv without a bias is BN106's.

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
        norms, reported = Norms(graph), set[str]()
        for group in (*_groups(graph), *_groups(graph, model)):
            normalised = [n for n in group if norms.follows(n)]
            if len(normalised) < max(self.min_siblings, self.share * len(group)):
                continue
            lines = {model.place(n).location for n in normalised}
            for node in group:
                if str(node.target) in reported or not _is_bare(norms, node):
                    continue
                reported.add(str(node.target))
                chosen = model.place(node).location in lines  # one line builds both kinds: a flag decides
                yield self.finding(
                    model.place(node),
                    f"no norm between `{node.target}` and its nonlinearity; {len(normalised)} of the "
                    f"{len(group)} layers of its kind in the same place have one",
                    severity=Severity.INFO if chosen else Severity.WARNING,
                    help=f"put the same norm after `{node.target}`",
                    evidence={"normalised": len(normalised), "siblings": len(group)},
                )


def _groups(graph: Graph, model: AuditedModel | None = None) -> list[list[fx.Node]]:
    """Hidden layers by the module that holds them, their class and the kind of their kernel.

    With the model, those of all instances of a block that is used several times are one group.
    """
    from bnlint.graph.branches import gate_nodes, weight_layers

    gates = gate_nodes(graph)
    blocks = _blocks(model) if model is not None else None
    found: dict[tuple[object, ...], dict[str, fx.Node]] = {}
    for node in weight_layers(graph):
        module = graph.module(node)
        if module is None or node in gates or graph.is_last_layer(node):
            continue
        kernel = getattr(module, "kernel_size", ())
        owner = str(node.target).rpartition(".")[0]
        place = _block(owner, blocks) if blocks is not None else owner
        role = (place, type(module), max(kernel, default=0) > 1, getattr(module, "groups", 1) > 1)
        if place is not None:
            found.setdefault(role, {}).setdefault(str(node.target), node)
    return [list(group.values()) for group in found.values()]


def _blocks(model: AuditedModel) -> dict[str, type]:
    """The classes by path of the modules that are no containers and of a class used more than once."""
    from torch import nn

    own = {p: type(m) for p, m in model.modules.items() if not isinstance(m, (nn.Sequential, nn.ModuleList))}
    count = Counter(own.values())
    return {path: cls for path, cls in own.items() if count[cls] > 1}


def _block(path: str, blocks: dict[str, type]) -> type | None:
    """The class of the nearest block around a path."""
    while path and path not in blocks:
        path = path.rpartition(".")[0]
    return blocks.get(path)


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
