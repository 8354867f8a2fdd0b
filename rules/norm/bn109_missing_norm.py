"""BN109 missing-norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.signal.statistics import NodeStats
    from bnlint.signal.trunk import Run


class MissingNorm(Rule):
    """The signal dies or explodes on the way through many layers that have neither a norm nor a skip connection.

    Why it matters: without a norm every layer multiplies the signal by what its weights happen to give. PyTorch's
    default weights keep 41 % of it in a ReLU layer, 0.7 % in six and 0.27 % in the 13 convs of a VGG: the last layers
    see nearly the same map for every image, the loss stays at that of a constant answer, and the first layer's gradient
    is as small. A norm after each layer brings the spread back to one whatever the weights are; weights that fit the
    activation keep it there without one.

    A depth alone is no reason for a norm. The rule takes what the probe measured, and without the probe what the real
    weights predict; where the signal arrives, as in a VGG with He's initialisation or a SELU net with LeCun's, it says
    nothing.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layers, width = [], 3
            for wider in (16, 16, 32, 32, 64, 64, 64):
                layers += [nn.Conv2d(width, wider, 3, padding=1), nn.ReLU()]
                width = wider
            self.features = nn.Sequential(*layers)
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.features(x).mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layers, width = [], 3
            for wider in (16, 16, 32, 32, 64, 64, 64):
                layers += [nn.Conv2d(width, wider, 3, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
                width = wider
            self.features = nn.Sequential(*layers)
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.features(x).mean(dim=(2, 3)))
    ```

    Known limits: only layers that all data goes through count, one after the other; a sum that closes a skip
    connection, a norm and a layer with normalised weights (weight norm, spectral norm, weight standardisation) end the
    row. That a shallower net would train better with a norm, as many do, cannot be seen before training. Where an op
    lies on the way that the prediction has no rule for, only the probe decides.

    References: Ioffe & Szegedy 2015 (arXiv 1502.03167); He et al. 2015 (arXiv 1502.01852), section 2.2, where a
    30-layer net without norm stalls; Schoenholz et al. 2017, Deep Information Propagation (arXiv 1611.01232).
    """

    code = "BN109"
    name = "missing-norm"
    severity = Severity.WARNING
    phase = Phase.GRAPH
    yields_to = ("BN302", "BN314")
    values = True

    min_layers: int = 6  # weight layers in a row, the output layer among them
    warn_below: float = 0.05  # what may be left of the spread across samples
    warn_above: float = 20.0

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Finds the row of bare layers that changes the signal most, measured or else predicted."""
        from bnlint.signal.bare import bare_runs, total_change

        graph = model.graph
        assert graph is not None
        if not graph.runs or not self._deep(graph):
            return
        stats, how = _stats(model)
        rows = [run for run in bare_runs(graph, stats) if self._is_long(graph, run) and self._is_lost(run)]
        if rows:
            yield self._finding(model, max(rows, key=lambda run: max(total_change(run), 1 / total_change(run))), how)

    def _deep(self, graph: Graph) -> bool:
        """True when there are enough layers without a norm at all; the signal need not be looked at otherwise."""
        from bnlint.graph.branches import weight_layers
        from bnlint.graph.norms import Norms

        norms = Norms(graph)
        return sum(not norms.follows(node) for node in weight_layers(graph)) >= self.min_layers

    def _is_long(self, graph: Graph, run: Run) -> bool:
        from bnlint.signal.bare import count_layers

        return count_layers(graph, run) >= self.min_layers

    def _is_lost(self, run: Run) -> bool:
        """True when the signal leaves the limits step by step; one odd layer is another matter than a missing norm."""
        from bnlint.signal.bare import total_change

        return not self.warn_below <= total_change(run) <= self.warn_above and run.gradual(self.min_layers // 2)

    def _finding(self, model: AuditedModel, run: Run, how: str) -> Finding:
        from bnlint.signal.bare import total_change
        from bnlint.signal.describe import cure, label, number, profile

        first, last, change = run.points[0].node, run.points[-1].node, total_change(run)
        what = "dies out" if change < 1 else "explodes"
        limit = self.warn_below if change < 1 else self.warn_above
        effect = number(max(change, 1 / change))
        return self.finding(
            model.place(first),
            f"{len(run.points)} layers in a row without a norm or a skip, and the signal {what}: its spread across "
            f"samples after `{label(model, last)}` is {number(change)} times that after `{label(model, first)}` "
            f"({how}, limit {limit:g})",
            help=cure(model, run),
            note=f"{profile(model, run)}; with a norm after each, `{label(model, last)}` gets "
            f"{f'{effect} times the signal' if change < 1 else f'1/{effect} of the signal'}",
            evidence={"layers": len(run.points), "ratio": change, "measured": how == "measured"},
            others=[model.place(point.node) for point in run.points[1:]],
        )


def _stats(model: AuditedModel) -> tuple[Mapping[str, NodeStats], str]:
    """What the probe measured; without it, what the weights predict and is certain."""
    if model.probe is not None and not model.probe.failed:
        return model.probe.stats, "measured"
    return (model.prediction.certain_stats if model.prediction is not None else {}), "predicted from the weights"
