"""BN312 large-output-layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph

_LOSSES = ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")
_SCORES = ("softmax", "log_softmax", "sigmoid", "logsigmoid")


class LargeOutputLayer(Rule):
    """The logits of a fresh classifier are so large that it starts out sure of random answers.

    Why it matters: equal chances for K classes cost ln K, 2.3 for ten. Logits with a standard deviation of 10 cost
    about 15 on average, and the first steps do nothing but shrink the last layer: the loss curve starts with a hockey
    stick. Behind a saturated softmax or sigmoid the gradient of most samples is close to zero or to its maximum.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(20, 256)
            self.norm = nn.LayerNorm(256)
            self.relu = nn.ReLU()
            self.out = nn.Linear(256, 10)
            nn.init.normal_(self.out.weight)

        def forward(self, x):
            return self.out(self.relu(self.norm(self.hidden(x))))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(20, 256)
            self.norm = nn.LayerNorm(256)
            self.relu = nn.ReLU()
            self.out = nn.Linear(256, 10)
            nn.init.normal_(self.out.weight, std=0.01)

        def forward(self, x):
            return self.out(self.relu(self.norm(self.hidden(x))))
    ```

    Known limits: without a softmax, a sigmoid or `--loss` nobody knows whether the output is logits; then only an
    output layer whose own weights multiply the scale by more than `max_std` is reported. Weights that are tied to an
    embedding are the matter of BN315.

    References: Karpathy 2019, A Recipe for Training Neural Networks, "verify loss @ init"; Goyal et al. 2017 (arXiv
    1706.02677), section 5.1, which draws the last layer from N(0, 0.01²).
    """

    code = "BN312"
    name = "large-output-layer"
    severity = Severity.WARNING
    phase = Phase.GRAPH
    values = True

    max_std: float = 3.0  # of the logits, over samples and classes

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at the predicted, or measured, scale of what the last layer returns."""
        from bnlint.graph.weights import gain
        from bnlint.signal.describe import number

        graph = model.graph
        assert graph is not None
        layer = _logits(model)
        own = gain(graph, layer) if layer is not None else None
        if layer is None or own is None or _is_tied(graph, layer):
            return
        std, how = _std(model, layer)
        declared = model.loss in _LOSSES or not graph.outputs or layer not in graph.origins(graph.outputs[0])
        if std is None or std <= self.max_std or not (declared or own > self.max_std**2) or model.survey.trained:
            return
        yield self.finding(
            model.place(layer),
            f"the output has a standard deviation of {number(std)} before any training ({how}, limit "
            f"{self.max_std:g}): its weights multiply the scale by {number(own**0.5)}",
            help="draw the last layer small, such as `nn.init.normal_(layer.weight, std=0.01)`"
            if own > 1
            else "put a norm before the last layer: what it gets is too large",
            evidence={"std": std, "gain": own**0.5, "max_std": self.max_std},
        )


def _logits(model: AuditedModel) -> fx.Node | None:
    """The layer whose output is the model's, or goes into the softmax or sigmoid that ends it."""
    from bnlint.graph.heads import head
    from bnlint.graph.ops import WEIGHT_LAYERS

    graph = model.graph
    assert graph is not None
    end = head(graph)
    if end is None or (end.activation and end.activation not in _SCORES) or end.classes < 2:
        return None
    if model.loss is not None and model.loss not in _LOSSES:
        return None
    found = graph.origins(end.node.all_input_nodes[0]) if end.activation else [end.node]
    return found[0] if len(found) == 1 and graph.kind(found[0]) in WEIGHT_LAYERS else None


def _std(model: AuditedModel, layer: fx.Node) -> tuple[float | None, str]:
    if model.probe is not None and not model.probe.failed:
        found = model.probe.stats.get(layer.name)
        return (found.std if found is not None else None), "measured"
    prediction = model.prediction
    if prediction is None or not prediction.certain(layer):
        return None, ""
    return prediction.stats[layer.name].std, "predicted from the weights"


def _is_tied(graph: Graph, layer: fx.Node) -> bool:
    from bnlint.graph.ops import Kind

    found = graph.weight(layer)
    tables = [graph.weight(node) for node in graph.of_kind(Kind.EMBEDDING)]
    return found is not None and any(table is not None and table[1] is found[1] for table in tables)
