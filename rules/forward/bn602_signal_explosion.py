"""BN602 signal-explosion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class SignalExplosion(Rule):
    """The signal grows from layer to layer where nothing normalises it.

    Why it matters: a factor per layer is exponential in depth. N(0, 1) weights of width 256 multiply the signal by 11 a
    layer: six layers give 100000, and float32 overflows before the fortieth. A residual stack without norm doubles its
    variance every block: 32 blocks multiply the signal by 50000. The first loss is huge and the first step destroys the
    weights.

    Example (bad):

    ```python
    import torch.nn as nn

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
            self.relu = nn.ReLU()
            for layer in (self.inner, self.outer):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

        def forward(self, x):
            return x + self.outer(self.relu(self.inner(self.relu(x))))

    class Net(nn.Module):
        def __init__(self, width=64, depth=16):
            super().__init__()
            self.stem = nn.Linear(width, width)
            self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            return self.head(self.blocks(self.stem(x)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norm = nn.LayerNorm(width)
            self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
            self.relu = nn.ReLU()
            for layer in (self.inner, self.outer):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

        def forward(self, x):
            return x + self.outer(self.relu(self.inner(self.norm(x))))

    class Net(nn.Module):
        def __init__(self, width=64, depth=16):
            super().__init__()
            self.stem = nn.Linear(width, width)
            self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            return self.head(self.norm(self.blocks(self.stem(x))))
    ```

    The measure is that of BN601, with limits on the other side. A residual stream whose branches are normalised grows
    slowly and is not compared, nor is anything across a norm.

    References: De and Smith 2020, Batch Normalization Biases Residual Blocks Towards the Identity Function (arXiv
    2002.10444); He et al. 2015, Delving Deep into Rectifiers (arXiv 1502.01852).
    """

    code = "BN602"
    name = "signal-explosion"
    severity = Severity.WARNING
    phase = Phase.FORWARD
    yields_to = ("BN109", "BN302", "BN311", "BN314")
    at_init = True

    min_layers: int = 4  # how many layers after the first must take part
    warn_above: float = 20.0  # how many times the spread may grow
    error_above: float = 1e3

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks for the first layer above the limit in the run that grows most."""
        from bnlint.signal.describe import cure, label, number, profile
        from bnlint.signal.trunk import spread_runs

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        runs = [run for run in spread_runs(graph, probe.stats) if len(run.points) > self.min_layers]
        if not runs:
            return
        run = max(runs, key=lambda r: r.points[-1].ratio)
        start, deepest = run.points[0], run.points[-1]
        broken, gradual = deepest.ratio > self.error_above, run.gradual(self.min_layers)
        if deepest.ratio <= self.warn_above or not (gradual or broken):
            return
        crossed = next(point for point in run.points if point.ratio > self.warn_above)
        grown = (
            f"; it is {number(deepest.ratio)} times that after the last hidden layer" if deepest is not crossed else ""
        )
        yield self.finding(
            model.place(crossed.node),
            f"the signal explodes: its spread across samples is {number(crossed.ratio)} times that after the first "
            f"layer `{label(model, start.node)}`, above {self.warn_above:g}{grown}",
            severity=Severity.ERROR if broken and gradual else Severity.WARNING,
            help=cure(model, run),
            note=profile(model, run),
            evidence={"ratio": crossed.ratio, "last_ratio": deepest.ratio, "layers": len(run.points)},
        )
