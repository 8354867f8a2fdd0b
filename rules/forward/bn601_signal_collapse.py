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

    min_layers: int = 4
    warn_below: float = 0.05
    error_below: float = 1e-3

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks for the first layer below the limit in the run that loses most."""
        from bnlint.signal.describe import cure, likeness, number, profile
        from bnlint.signal.trunk import spread_runs

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        runs = [run for run in spread_runs(graph, probe.stats) if len(run.points) > self.min_layers]
        if not runs:
            return
        run = min(runs, key=lambda r: r.points[-1].ratio)
        low = [p for p in run.points[self.min_layers :] if p.ratio < self.warn_below]
        deepest = run.points[-1]
        if not low or deepest.ratio >= self.warn_below:
            return
        broken = deepest.ratio < self.error_below
        if run.one_step() and not broken:
            return  # a first layer that saturates, say: the signal does not go on shrinking
        severity = Severity.ERROR if broken and not run.one_step() else Severity.WARNING
        start = run.points[0]
        lost = f"{number(deepest.ratio)} of it is left after the last hidden layer" if deepest is not low[0] else ""
        yield self.finding(
            model.place(low[0].node),
            f"the signal collapses: its spread across samples is {number(low[0].ratio)} of that after the first layer "
            f"`{model.place(start.node).module_path}`, below {self.warn_below:g}" + (f"; {lost}" if lost else ""),
            severity=severity,
            help=cure(model, run),
            note=f"{profile(model, run)}; {likeness(probe.stats, deepest.node)}",
            evidence={"ratio": low[0].ratio, "last_ratio": deepest.ratio, "layers": len(run.points)},
        )
