"""BN702 exploding-gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.signal.trunk import Run


class ExplodingGradient(Rule):
    """The gradient grows from layer to layer on its way back, or is not finite at all.

    Why it matters: with a gradient that is a thousand times larger at the first layers than at the last, no learning
    rate suits both. Layers that amplify (steep activations, large weights) grow it exponentially with depth, and a
    plain stack of batch norms does too, by about 1.2 a layer: 40 layers make it 1500 times larger. A NaN or an infinity
    in one gradient ends training at the first step.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self, width=64, depth=14):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            for layer, norm in zip(self.layers, self.norms):
                x = (4 * norm(layer(x))).tanh()
            return self.head(x)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self, width=64, depth=14):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            for layer, norm in zip(self.layers, self.norms):
                x = norm(layer(x)).tanh()
            return self.head(x)
    ```

    The measure is that of BN701. After a BatchNorm the scale of weights does not matter, which makes up for some of it,
    so the limit is higher there: the plain 18-layer network of the ResNet paper measures 20, MobileNet 156, and the
    plain 34-layer network, which that paper shows to train worse than the 18-layer one, 330. A gradient that is not
    finite is an error wherever the output itself is finite; the place is the last op in the model with such a gradient,
    where the backward pass met it first.

    References: Yang et al. 2019, A Mean Field Theory of Batch Normalization (arXiv 1902.08129); He et al. 2015, Deep
    Residual Learning for Image Recognition (arXiv 1512.03385); Zhang et al. 2021, AutoTrainer (limits 1e-3 and 70).
    """

    code = "BN702"
    name = "exploding-gradient"
    severity = Severity.WARNING
    phase = Phase.BACKWARD
    yields_to = ("BN109", "BN302", "BN314", "BN602")
    at_init = True

    min_layers: int = 4  # how many hidden layers a comparison needs
    warn_above: float = 70.0  # how many times the gradient may grow on its way back
    warn_above_batch_norm: float = 200.0  # the same where a BatchNorm follows the layers
    error_above: float = 1e4

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Reports a gradient that is not finite, else one that grows towards the first layers."""
        from bnlint.signal.describe import label, number, profile
        from bnlint.signal.nonfinite import finite_outputs
        from bnlint.signal.trunk import gradient_runs

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        if not finite_outputs(graph, probe.stats):
            return
        bad = [name for name, parameter in probe.parameters.items() if not parameter.finite]
        if bad:
            yield self._not_finite(model, bad)
            return
        runs = [run for run in gradient_runs(graph, probe.stats) if len(run.points) >= self.min_layers]
        if not runs:
            return
        run = max(runs, key=lambda r: r.points[0].ratio)
        first, last = run.points[0], run.points[-1]
        limit = self.warn_above_batch_norm if _batch_normalised(graph, run) else self.warn_above
        if first.ratio <= limit:
            return
        yield self.finding(
            model.place(first.node),
            f"the gradient explodes: relative to its output it is {number(first.ratio)} times that at the last hidden "
            f"layer `{label(model, last.node)}`, above {limit:g}",
            severity=Severity.ERROR if first.ratio > self.error_above and run.gradual() else Severity.WARNING,
            help="add skip connections around every two or three layers, or scale the layers so that each passes on as "
            "much gradient as it gets",
            note=f"{profile(model, run)}; from {probe.loss}",
            evidence={"ratio": first.ratio, "layers": len(run.points), "loss": probe.loss},
        )

    def _not_finite(self, model: AuditedModel, bad: list[str]) -> Finding:
        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        gradients = [(n, probe.stats[n.name].gradient) for n in graph.nodes if n.name in probe.stats]
        met = [n for n, value in gradients if value is not None and not math.isfinite(value)]
        place = model.place(met[-1]) if met else model.place(path=bad[-1].rpartition(".")[0])
        return self.finding(
            place,
            f"the gradient is NaN or infinite for {len(bad)} parameter tensors, `{bad[0]}` first, though the output is "
            "finite",
            severity=Severity.ERROR,
            help="look for an op after this line whose slope is infinite or 0/0 at the values it gets: `sqrt` or "
            "`norm` at 0, `log` or a division masked by `where`; add an epsilon inside it, or mask its input",
            note=f"from {probe.loss}",
            evidence={"parameters": bad[:20], "loss": probe.loss},
        )


def _batch_normalised(graph: Graph, run: Run) -> bool:
    """True when a BatchNorm follows most layers of a run."""
    norms = [graph.following_norm(point.node) for point in run.points]
    count = sum(n is not None and "batch" in str(n.meta.get("class") or n.target).lower() for n in norms)
    return count > len(run.points) / 2
