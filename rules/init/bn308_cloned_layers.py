"""BN308 cloned-layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    import torch
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph

_LEAST = 64  # entries; fewer can be equal by chance or by design


class ClonedLayers(Rule):
    """Layers that train side by side start with the same random weights, because one was copied from the other.

    Why it matters: copies that read the same input give the same output and, summed up, get the same gradient: an
    ensemble of eight such experts is one expert. Copies in a row, as `copy.deepcopy` and `nn.TransformerEncoder` make
    them, apply one and the same random map again and again: twelve equal layers of width d have d² random numbers at
    the start in place of 12 d², the products of their weights are powers of one matrix, and a direction that one layer
    stretches is stretched twelve times.

    Example (bad):

    ```python
    import copy
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            block = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU())
            self.blocks = nn.ModuleList([copy.deepcopy(block) for _ in range(4)])
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.head(x)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([self.block() for _ in range(4)])
            self.head = nn.Linear(64, 10)

        def block(self):
            return nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU())

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.head(x)
    ```

    Known limits: only copies that both get a gradient, and that read the same input or of which one feeds the other,
    count. Tied weights, constants, momentum and target networks, copies in separate towers and trained weights are
    not reported.

    References: PyTorch documentation of `nn.TransformerEncoder`, "all layers are initialized with the same parameters";
    Goodfellow, Bengio & Courville 2016, Deep Learning, section 8.4, on breaking symmetry.
    """

    code = "BN308"
    name = "cloned-layers"
    severity = Severity.WARNING
    phase = Phase.GRAPH
    values = True

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the random weights that train, and groups equal ones by the modules that hold them."""
        from bnlint.graph.copies import copied_modules, equal_groups
        from bnlint.graph.gradients import trained_uses

        graph = model.graph
        assert graph is not None
        weights = _weights(model)
        groups = equal_groups(weights)
        if not groups or model.survey.trained:
            return
        groups = [names for names in groups if _is_random(model, names[0], weights[names[0]])]
        uses = trained_uses(graph, model.module) if groups else {}
        for paths, held in copied_modules([n for n in groups if _meet(graph, uses, n)]).items():
            first, others = paths[0], paths[1:]
            count = len(held)
            yield self.finding(
                model.place(path=others[0]),
                f"`{others[0]}` is a copy of `{first}`: "
                + (f"{count} weight tensors start" if count > 1 else "its weight starts")
                + " with the same random values",
                help="build each layer by a call of its own, or draw the weights anew after copying, such as "
                "`for p in layer.parameters(): p.dim() > 1 and nn.init.xavier_uniform_(p)`",
                evidence={"first": first, "copies": len(others), "tensors": count},
                others=[model.place(path=path) for path in others[1:]],
            )


def _weights(model: AuditedModel) -> dict[str, torch.Tensor]:
    from bnlint.graph.weights import has_numbers

    return {
        name: p.detach()
        for name, p in model.module.named_parameters()
        if p.requires_grad and has_numbers(p) and p.ndim > 1 and p.numel() >= _LEAST
    }


def _is_random(model: AuditedModel, name: str, weight: torch.Tensor) -> bool:
    found = model.survey.of(name)
    if found is None or not (found.drawn or found.law == "orthogonal"):
        return False
    entries = weight.flatten()[:4096].tolist()
    return len(set(entries)) > len(entries) // 2  # bilinear kernels repeat themselves


def _meet(graph: Graph, uses: dict[str, list[fx.Node]], names: list[str]) -> bool:
    """True when all of these train, and two of them read the same input or one of them feeds another."""
    if not all(name in uses for name in names):
        return False
    nodes = list(dict.fromkeys(uses[name][0] for name in names))
    if len(nodes) < len(names):
        return True  # within one layer, such as nn.TransformerEncoder
    inputs = [tuple(graph.origins(source)) for n in nodes if (source := graph.data(n)) is not None]
    return len(set(inputs)) < len(inputs) or _feeds(graph, nodes)


def _feeds(graph: Graph, nodes: list[fx.Node]) -> bool:
    first = min(nodes, key=graph.position.__getitem__)
    reached = {first}
    for node in graph.nodes[graph.position[first] + 1 :]:
        if any(source in reached for source in node.all_input_nodes):
            if node in nodes:
                return True
            reached.add(node)
    return False
