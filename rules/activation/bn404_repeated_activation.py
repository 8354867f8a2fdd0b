"""BN404 repeated-activation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph

_HALF = frozenset(("relu", "relu6", "softplus", "sigmoid", "hardsigmoid"))  # give nothing below zero
_PAIRS = frozenset(
    (  # functions of their own: mish's inner part, a rectified tanh
        ("softplus", "tanh"),
        ("tanh", "relu"),
        ("relu", "tanh"),
    )
)
_CLIPS = frozenset(("hardtanh", "relu6"))  # a bound on what came before


class RepeatedActivation(Rule):
    """Two nonlinearities follow each other with no layer between them.

    Why it matters: the second one does nothing, or harm. A ReLU after a ReLU or a sigmoid changes no value. A sigmoid
    after a ReLU can only give 0.5 to 1, so a gate never closes; a ReLU before the last softmax makes every negative
    logit 0 and cuts its gradient (removing it raised the accuracy by 0.1 in the case below); a softmax of a softmax
    keeps 10 classes between 0.09 and 0.23. Often a block that ends in an activation was wrapped in another one.

    Example (bad):

    ```python
    import torch.nn as nn
    import torch.nn.functional as F

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
            self.fc2 = nn.Linear(32, 4)

        def forward(self, x):
            return self.fc2(F.relu(self.block(x)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
            self.fc2 = nn.Linear(32, 4)

        def forward(self, x):
            return self.fc2(self.block(x))
    ```

    Known limits: softplus then tanh (the inner part of mish), tanh with relu, and a bound put on another activation
    (`hardtanh`, `relu6`) are functions of their own and not reported; an activation before the softmax of attention
    or graph weights is a design, so only the softmax that the model returns counts. Pooling between the two, or
    a first activation that other layers read too, keeps the rule silent.

    References: github.com/fastai/fastai pull 965, a real case; Islam et al. 2019 (arXiv 1906.01388), a study of bugs
    in deep learning; Ahmed et al. 2023, NeuraLint (doi 10.1145/3470006), rule f003.
    """

    code = "BN404"
    name = "repeated-activation"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at what feeds every activation, shape changes and dropout read through."""
        from bnlint.graph.activations import activation_name
        from bnlint.graph.ops import Kind

        graph = model.graph
        assert graph is not None
        for node in graph.of_kind(Kind.ACTIVATION, Kind.SOFTMAX):
            first = _fed_by(graph, node)
            if first is None:
                continue
            pair = activation_name(graph, first), activation_name(graph, node)
            if pair in _PAIRS or pair[1] in _CLIPS or not _counts(graph, node, *pair):
                continue
            yield self.finding(
                model.place(node),
                f"{pair[1]} directly after {pair[0]}: {_effect(*pair)}",
                help=f"keep one of the two; {pair[0]} is applied in `{first.meta['path'] or model.name}`",
                evidence={"first": pair[0], "second": pair[1]},
            )


def _fed_by(graph: Graph, node: fx.Node) -> fx.Node | None:
    """The activation that alone feeds this one and feeds nothing else."""
    from bnlint.graph.ops import SHAPE_ONLY, Kind

    through = SHAPE_ONLY | {Kind.DROPOUT}
    source = graph.data(node)
    made = graph.origins(source, through) if source is not None and len(node.all_input_nodes) == 1 else []
    if len(made) != 1 or graph.kind(made[0]) not in (Kind.ACTIVATION, Kind.SOFTMAX):
        return None
    return made[0] if graph.destinations(made[0], through) == [node] else None


def _counts(graph: Graph, node: fx.Node, first: str, second: str) -> bool:
    from bnlint.graph.activations import ACTIVATIONS
    from bnlint.graph.ops import Kind

    if graph.kind(node) is not Kind.SOFTMAX:
        return first in ACTIVATIONS and second in ACTIVATIONS
    if first.endswith("softmax"):
        return (first, second) != ("log_softmax", "softmax")  # gives the probabilities back
    returned = all(graph.kind(n) is Kind.OUTPUT for n in graph.destinations(node))
    return returned and first in ("relu", "relu6", "sigmoid")


def _effect(first: str, second: str) -> str:
    if second in ("relu", "leaky_relu", "prelu", "rrelu") and first in _HALF:
        return "it changes no value"
    if second in ("sigmoid", "hardsigmoid") and first in _HALF:
        return "it can only give values from 0.5 on"
    if second.endswith("softmax") and first in _HALF:
        return (
            "scores below zero become 0 and get no gradient" if first.startswith("relu") else "the scores are squashed"
        )
    return "no layer lies between them"
