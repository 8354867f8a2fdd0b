"""BN614 scale-surprise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel
    from bnlint.signal.statistics import NodeStats


class ScaleSurprise(Rule):
    """A layer's output has another scale than its weights and its input explain.

    Why it matters: the scale is predicted from the weights as they are registered, and measured as they are used. Where
    the two part by more than a factor of three, something stands between: a hook, a weight that is replaced or scaled
    in forward, a layer that is called again on its own output, inputs and weights that are not independent.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(64, 64)
            self.relu = nn.ReLU()
            self.second = nn.Linear(64, 64)
            self.second.register_forward_hook(lambda module, args, output: output * 5)
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.relu(self.second(self.relu(self.first(x)))))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(64, 64)
            self.relu = nn.ReLU()
            self.second = nn.Linear(64, 64)
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.relu(self.second(self.relu(self.first(x)))))
    ```

    Compared is the mean square at conv and linear layers of the path that all data takes, each relative to the layer
    before, so that one surprise is reported once, where it is. The prediction is for an input of zero mean and unit
    scale, and nothing is said of a batch far from that (BN610). Layers of fewer than 16 units, or whose prediction is a
    guess because an op before them is not known, are left out, and so are trained weights, which are anything but
    independent of their input.

    References: He et al. 2015, Delving Deep into Rectifiers (arXiv 1502.01852), section 2.2, for the prediction.
    """

    code = "BN614"
    name = "scale-surprise"
    severity = Severity.INFO
    phase = Phase.FORWARD
    at_init = True

    max_ratio: float = 3.0  # either way
    min_units: int = 16

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares measured and predicted mean squares along the trunk."""
        from bnlint.graph.ops import WEIGHT_LAYERS
        from bnlint.signal.describe import number
        from bnlint.signal.trunk import trunk

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        prediction = model.prediction
        if prediction is None or model.mode != "train":
            return
        given = [probe.stats[n.name] for n in graph.nodes if n.op == "placeholder" and n.name in probe.stats]
        if not all(_is_as_predicted(stats) for stats in given):
            return
        before = 1.0
        for node in trunk(graph):
            found, weight = probe.stats.get(node.name), graph.weight(node)
            if graph.kind(node) not in WEIGHT_LAYERS or weight is None or found is None or not found.second_moment:
                continue
            wanted = prediction.second_moment(node) if prediction.certain(node) else None
            if not wanted or not found.finite:
                before = 1.0
                continue
            ratio = found.second_moment / wanted
            surprise, before = ratio / before, ratio
            units = found.channels or 0
            if units >= self.min_units and not 1 / self.max_ratio <= surprise <= self.max_ratio:
                if model.survey.trained:
                    return
                yield self.finding(
                    model.place(node),
                    f"the mean square of the output is {number(found.second_moment)}, {number(surprise)} times what "
                    "the weights and the layer before explain",
                    help="look for hooks, for weights that are replaced or scaled in forward, and for a layer that is "
                    "called several times",
                    evidence={"measured": found.second_moment, "predicted": wanted, "surprise": surprise},
                )
                return


def _is_as_predicted(stats: NodeStats) -> bool:
    """True for an input of about zero mean and unit scale."""
    moment, mean = stats.second_moment, stats.mean
    return moment is None or mean is None or (0.5 <= moment <= 2 and mean * mean <= moment / 4)
