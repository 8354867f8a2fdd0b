"""BN302 weight-scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel
    from bnlint.signal.bare import LayerScale
    from bnlint.signal.trunk import Run


class WeightScale(Rule):
    """The scale of the weights does not fit the layer's inputs, and no norm makes up for it.

    Why it matters: a layer multiplies the variance of its input by var(W)·fan_in, and the activation before it has
    already multiplied it by E[φ(z)²], a half for ReLU. Where the product r is not near one, the signal and the
    gradient shrink or grow by √r with every layer. N(0, 0.01²) on layers of 256 units gives r = 0.013: four of them
    leave a ten-thousandth of the signal, the output no longer depends on the input, and training does not start.
    N(0, 1) gives r = 128, which is beyond float32 at layer 20.

    These are the laws that keep r at one (n is the fan-in, m the fan-out; U(-k/√n, k/√n) has var·n = k²/3):

    | before the layer | std | uniform bound | named after |
    |---|---|---|---|
    | nothing, SELU | 1/√n | √3/√n | LeCun |
    | tanh, near zero | √(2/(n+m)) | √6/√(n+m) | Xavier (Glorot) |
    | ReLU | √2/√n | √6/√n | He (Kaiming) |
    | leaky ReLU of slope a | √(2/((1+a²)n)) | √(6/((1+a²)n)) | He |
    | GELU, SiLU | 1.53/√n, 1.68/√n | 2.66/√n, 2.90/√n | |

    A fixed σ, N(0, 0.01²) or N(0, 0.02²), fits one width only, 20,000 or 5,000 inputs before a ReLU; it comes from
    nets whose norms hide the scale. PyTorch's default, U(-1/√n, 1/√n), has var·n = 1/3 (BN303).

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(64, 256)
            self.fc2 = nn.Linear(256, 256)
            self.fc3 = nn.Linear(256, 256)
            self.fc4 = nn.Linear(256, 10)
            self.relu = nn.ReLU()
            for layer in (self.fc1, self.fc2, self.fc3, self.fc4):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

        def forward(self, x):
            x = self.relu(self.fc1(x))
            x = self.relu(self.fc2(x))
            x = self.relu(self.fc3(x))
            return self.fc4(x)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(64, 256)
            self.fc2 = nn.Linear(256, 256)
            self.fc3 = nn.Linear(256, 256)
            self.fc4 = nn.Linear(256, 10)
            self.relu = nn.ReLU()
            for layer in (self.fc1, self.fc2, self.fc3, self.fc4):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

        def forward(self, x):
            x = self.relu(self.fc1(x))
            x = self.relu(self.fc2(x))
            x = self.relu(self.fc3(x))
            return self.fc4(x)
    ```

    Known limits: only rows of layers that all data goes through count, without a norm or a skip between them, and only
    where the whole row leaves less than `warn_below` or more than `warn_above` of the spread that its first layer
    gives, and the reported layers make at least half of that change; one layer of another scale in a row that is
    sound, such as the N(0, 0.01²) classifier of a VGG, is not reported. Trained weights, constants, weights that a norm
    rescales and PyTorch's default are other matters.

    References: Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks;
    He et al. 2015 (arXiv 1502.01852), section 2.2; LeCun et al. 1998, Efficient BackProp, section 4.6;
    Hanin & Rolnick 2018, How to Start Training (arXiv 1803.01719).
    """

    code = "BN302"
    name = "weight-scale"
    severity = Severity.WARNING
    phase = Phase.GRAPH
    values = True

    max_factor: float = 2.7  # per layer, of the second moment, in either direction
    min_layers: int = 4  # weight layers in the row, the output layer among them
    warn_below: float = 0.05  # what the row leaves of the spread across samples
    warn_above: float = 20.0
    min_share: float = 0.5  # of that change, as a logarithm, that these layers must make

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at the rows of layers in which the signal is lost, and in them at each layer's own factor."""
        from bnlint.signal.bare import bare_runs, count_layers, layer_scale, total_change

        graph, prediction = model.graph, model.prediction
        if graph is None or prediction is None or not graph.runs:
            return
        for run in bare_runs(graph, prediction.certain_stats):
            change = total_change(run)
            if count_layers(graph, run) < self.min_layers or self.warn_below <= change <= self.warn_above:
                continue
            scales = [layer_scale(graph, point.node, model.survey) for point in run.points]
            off = [s for s in scales if s is not None and not s.scheme.is_default and self._is_off(s, change)]
            later = [s for s in off if s.node is not run.points[0].node]
            if later and self._explains(later, change):
                yield self._finding(model, run, off, change)

    def _is_off(self, layer: LayerScale, change: float) -> bool:
        """True when the layer's factor is far from one, in the direction of the whole row."""
        factor = layer.factor if change > 1 else 1 / max(layer.factor, 1e-30)
        return factor > self.max_factor

    def _explains(self, off: list[LayerScale], change: float) -> bool:
        """True when these layers do most of what happens to the signal."""
        own = sum(math.log(max(s.factor, 1e-30)) / 2 for s in off)
        return abs(own) >= self.min_share * abs(math.log(change))

    def _finding(self, model: AuditedModel, run: Run, off: list[LayerScale], change: float) -> Finding:
        from bnlint.signal.bare import fitting
        from bnlint.signal.describe import label, number

        last = label(model, run.points[-1].node)
        worst = max(off, key=lambda s: max(s.factor, 1 / max(s.factor, 1e-30)))
        behind = f" behind {worst.activation}" if worst.activation else ""
        return self.finding(
            model.place(off[0].node),
            f"the weights are too {'large' if change > 1 else 'small'}: `{label(model, worst.node)}` "
            f"({worst.scheme.label}) multiplies the second moment{behind} by {number(worst.factor)} (limit "
            f"{number(self.max_factor if change > 1 else 1 / self.max_factor)}), and without a norm `{last}` gets "
            f"{number(change)} times the first layer's spread",
            help=f"draw them with `{fitting(worst)}`",
            note=f"{len(off)} of the {len(run.points)} layers of the row: "
            + ", ".join(f"`{label(model, s.node)}` {number(s.factor)}" for s in off[:8]),
            evidence={"factor": worst.factor, "gain": worst.gain, "moment": worst.moment, "ratio": change},
            others=[model.place(s.node) for s in off[1:]],
        )
