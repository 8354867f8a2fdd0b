"""BN314 gain-mismatch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel
    from bnlint.signal.bare import LayerScale
    from bnlint.signal.trunk import Run

_NAMED = ("He", "LeCun", "Xavier", "orthogonal")


class GainMismatch(Rule):
    """A row of layers without a norm follows a known scheme, but one that was made for another activation.

    Why it matters: each scheme keeps the signal's scale for the activation it was derived for. Xavier's weights before
    ReLU lose half of the variance in every layer: after ten layers of width 256 the standard deviation is 0.03 to 0.05
    of the first layer's, after twenty 0.001 to 0.002, after fifty 10⁻⁸.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layers = []
            for _ in range(6):
                layers += [nn.Linear(256, 256), nn.ReLU()]
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(256, 10)
            for layer in self.body:
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_normal_(layer.weight)
                    nn.init.zeros_(layer.bias)

        def forward(self, x):
            return self.head(self.body(x))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layers = []
            for _ in range(6):
                layers += [nn.Linear(256, 256), nn.ReLU()]
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(256, 10)
            for layer in self.body:
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)

        def forward(self, x):
            return self.head(self.body(x))
    ```

    Known limits: a mismatch counts only where it adds up: in a row of at least `min_layers` layers that leaves less
    than `warn_below` or more than `warn_above` of the first layer's spread. Two or three Xavier layers before ReLU are
    harmless. Larger errors per layer are the matter of BN302, PyTorch's default that of BN303.

    References: Glorot & Bengio 2010; He et al. 2015 (arXiv 1502.01852), figure 3, where a 30-layer net trains with the
    one and not with the other; measured as given above.
    """

    code = "BN314"
    name = "gain-mismatch"
    severity = Severity.WARNING
    phase = Phase.GRAPH
    values = True

    min_factor: float = 1.25  # of the second moment per layer, from which on a scheme does not fit
    max_factor: float = 2.7  # beyond it BN302 speaks
    min_layers: int = 4  # that do not fit
    warn_below: float = 0.1  # what the row leaves of the spread across samples
    warn_above: float = 10.0

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at the rows in which the signal is lost, and there at named schemes that lose it."""
        from bnlint.signal.bare import bare_runs, layer_scale, total_change

        graph, prediction = model.graph, model.prediction
        if graph is None or prediction is None or not graph.runs:
            return
        for run in bare_runs(graph, prediction.certain_stats):
            change = total_change(run)
            if len(run.points) < self.min_layers or self.warn_below <= change <= self.warn_above:
                continue
            scales = [layer_scale(graph, point.node, model.survey) for point in run.points]
            known = [s for s in scales if s is not None and s.activation and _named(s)]
            off = [s for s in known if self.min_factor < _towards(s, change) <= self.max_factor]
            if len(off) >= self.min_layers and not any(_towards(s, change) > self.max_factor for s in known):
                yield self._finding(model, run, off, change)

    def _finding(self, model: AuditedModel, run: Run, off: list[LayerScale], change: float) -> Finding:
        from bnlint.signal.bare import fitting
        from bnlint.signal.describe import label, listing, number

        first = off[0]
        return self.finding(
            model.place(first.node),
            f"{first.scheme.label} weights behind {first.activation} multiply the second moment by "
            f"{number(first.factor)} in each of {len(off)} layers; without a norm "
            f"`{label(model, run.points[-1].node)}` gets {number(change)} times the first layer's spread (limit "
            f"{self.warn_below if change < 1 else self.warn_above:g})",
            help=f"draw them with `{fitting(first)}`",
            note=f"the layers: {listing([label(model, s.node) for s in off])}",
            evidence={"scheme": first.scheme.label, "activation": first.activation, "factor": first.factor}
            | {"layers": len(off), "ratio": change},
            others=[model.place(s.node) for s in off[1:]],
        )


def _named(layer: LayerScale) -> bool:
    """True when a published scheme, and not the layer's own default, explains the weights."""
    scheme = layer.scheme.scheme
    return scheme is not None and scheme.name.startswith(_NAMED) and not layer.scheme.is_default


def _towards(layer: LayerScale, change: float) -> float:
    """The factor of a layer in the direction of the whole row: above one when it takes part in the loss."""
    return layer.factor if change > 1 else 1 / max(layer.factor, 1e-30)
