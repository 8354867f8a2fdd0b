"""BN601 signal-collapse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class SignalCollapse(Rule):
    """The signal dies out on the way through layers that nothing normalises: deep layers hardly see their input.

    Why it matters: what tells samples apart is the spread of each feature across the batch. With PyTorch's default
    initialisation a ReLU layer keeps 41 % of it: six layers leave 0.7 %, twenty leave 2e-8, and then every sample has
    the same output and training stalls at the loss of a constant answer. The standard deviation over a whole activation
    does not show this, because biases keep it alive.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self, width=64, depth=6):
            super().__init__()
            layers = []
            for _ in range(depth):
                layers += [nn.Linear(width, width), nn.ReLU()]
            for layer in layers[::2]:
                nn.init.normal_(layer.weight, std=0.04)
                nn.init.zeros_(layer.bias)
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            return self.head(self.body(x))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self, width=64, depth=6):
            super().__init__()
            layers = []
            for _ in range(depth):
                layers += [nn.Linear(width, width), nn.ReLU()]
            for layer in layers[::2]:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            return self.head(self.body(x))
    ```

    The measure is the spread after a layer over the spread after the first layer, along the path that all data takes,
    between two norms. The last layer does not count, and averages over positions (global pooling) are taken out. In
    calibration runs every healthy net of up to 40 layers stayed above 0.19. An error needs several layers to take part;
    one small layer is a warning.

    References: He et al. 2015, Delving Deep into Rectifiers (arXiv 1502.01852); Schoenholz et al. 2017, Deep
    Information Propagation (arXiv 1611.01232).
    """

    code = "BN601"
    name = "signal-collapse"
    severity = Severity.WARNING
    phase = Phase.FORWARD
    yields_to = ("BN109", "BN302", "BN303", "BN314")
    at_init = True

    min_layers: int = 4  # how many layers after the first must take part
    warn_below: float = 0.05  # what may be left of the spread
    error_below: float = 1e-3

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks for the first layer below the limit in the run that loses most."""
        from bnlint.signal.describe import cure, label, likeness, number, profile
        from bnlint.signal.trunk import spread_runs

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        runs = [run for run in spread_runs(graph, probe.stats) if len(run.points) > self.min_layers]
        if not runs:
            return
        run = min(runs, key=lambda r: r.points[-1].ratio)
        start, deepest = run.points[0], run.points[-1]
        broken, gradual = deepest.ratio < self.error_below, run.gradual(self.min_layers)
        if deepest.ratio >= self.warn_below or not (gradual or broken):
            return  # where a first layer saturates, say, the signal does not go on shrinking
        crossed = next(point for point in run.points if point.ratio < self.warn_below)
        left = f"; {number(deepest.ratio)} is left after the last hidden layer" if deepest is not crossed else ""
        yield self.finding(
            model.place(crossed.node),
            f"the signal collapses: its spread across samples is {number(crossed.ratio)} of that after the first layer "
            f"`{label(model, start.node)}`, below {self.warn_below:g}{left}",
            severity=Severity.ERROR if broken and gradual else Severity.WARNING,
            help=cure(model, run),
            note=profile(model, run) + likeness(probe.stats, deepest.node),
            evidence={"ratio": crossed.ratio, "last_ratio": deepest.ratio, "layers": len(run.points)},
        )
