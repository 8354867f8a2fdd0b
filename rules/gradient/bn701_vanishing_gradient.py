"""BN701 vanishing-gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class VanishingGradient(Rule):
    """The first layers receive a gradient that is tiny beside that of the last ones, so they hardly train.

    Why it matters: a sigmoid passes on at most a quarter of a gradient and a saturated one nearly nothing; ten layers
    leave 4e-8 of it. The first layers then stay as random as they were initialised while the last ones learn from
    features that nobody trained.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self, width=64, depth=12):
            super().__init__()
            layers = []
            for _ in range(depth):
                layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.Sigmoid()]
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            return self.head(self.body(x))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self, width=64, depth=12):
            super().__init__()
            layers = []
            for _ in range(depth):
                layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU()]
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            return self.head(self.body(x))
    ```

    The measure is the gradient at a layer's output times the output's root mean square: what a relative change there
    does to the loss. At He initialisation it equals the gradient-to-weight norm ratio and is the same at every layer;
    unlike that ratio it does not change with a layer's size, nor with the scale of weights before a norm. First and
    last are the hidden layers on the path that all data takes; a skip connection ends the comparison.

    References: Bengio et al. 1994, Learning Long-Term Dependencies with Gradient Descent is Difficult; Zhang et al.
    2021, AutoTrainer (limits 1e-3 and 70).
    """

    code = "BN701"
    name = "vanishing-gradient"
    severity = Severity.WARNING
    phase = Phase.BACKWARD
    yields_to = ("BN109", "BN302", "BN303", "BN314", "BN601")
    at_init = True

    min_layers: int = 4  # how many hidden layers a comparison needs
    warn_below: float = 1e-3
    error_below: float = 1e-6

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the first hidden layer of each run with the last."""
        from bnlint.signal.describe import label, number, profile
        from bnlint.signal.trunk import gradient_runs

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        runs = [run for run in gradient_runs(graph, probe.stats) if len(run.points) >= self.min_layers]
        if not runs:
            return
        run = min(runs, key=lambda r: r.points[0].ratio)
        first, last = run.points[0], run.points[-1]
        if first.ratio >= self.warn_below:
            return
        yield self.finding(
            model.place(first.node),
            f"the gradient vanishes: relative to its output it is {number(first.ratio)} of that at the last hidden "
            f"layer `{label(model, last.node)}`, below {self.warn_below:g}",
            severity=Severity.ERROR if first.ratio < self.error_below and run.gradual() else Severity.WARNING,
            help="use an activation that does not saturate with an initialisation that fits it, put norms between the "
            "layers, or add skip connections",
            note=f"{profile(model, run)}; from {probe.loss}",
            evidence={"ratio": first.ratio, "layers": len(run.points), "loss": probe.loss},
        )
