"""BN303 default-init-decays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel
    from bnlint.signal.bare import LayerScale
    from bnlint.signal.trunk import Run


class DefaultInitDecays(Rule):
    """A deep row of layers keeps PyTorch's default weights, and the signal dies out in it.

    Why it matters: `nn.Linear` and `nn.Conv2d` draw their weights from U(-1/√n, 1/√n), n the fan-in. That is
    `kaiming_uniform_` with a = √5, kept for compatibility with Lua Torch, and its variance is 1/(3n), a sixth of what
    He et al. found right for ReLU. With no norm and no skip each ReLU layer then keeps 41 % of the spread across
    samples: 0.6 % is left after six layers of 256 units, 2e-8 after twenty. The output still looks alive, since the
    biases keep it at 0.04, but it is the same for every input, and the gradient is lost on the way back.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layers = [nn.Linear(64, 128), nn.ReLU()]
            for _ in range(6):
                layers += [nn.Linear(128, 128), nn.ReLU()]
            self.body = nn.Sequential(*layers, nn.Linear(128, 10))

        def forward(self, x):
            return self.body(x)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layers = [nn.Linear(64, 128), nn.ReLU()]
            for _ in range(6):
                layers += [nn.Linear(128, 128), nn.ReLU()]
            self.body = nn.Sequential(*layers, nn.Linear(128, 10))
            for layer in self.body:
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)

        def forward(self, x):
            return self.body(x)
    ```

    Known limits: only rows of layers that all data goes through count, with no norm and no skip between them, and only
    where the prediction is certain. Tensors of fewer than 64 entries are too small to tell.

    References: github.com/pytorch/pytorch/issues/6950, 15314 and 57109, on the default; He et al. 2015
    (arXiv 1502.01852), section 2.2; Glorot & Bengio 2010, where U(-1/√n, 1/√n) is the "standard" law that they replace.
    """

    code = "BN303"
    name = "default-init-decays"
    severity = Severity.WARNING
    phase = Phase.GRAPH
    yields_to = ("BN109",)
    values = True

    min_layers: int = 6  # weight layers in the row, the output layer among them
    warn_below: float = 0.05  # what the row leaves of the spread across samples

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks for rows in which the signal is lost, most layers of which have the default law."""
        from bnlint.signal.bare import bare_runs, count_layers, layer_scale, total_change

        graph, prediction = model.graph, model.prediction
        if graph is None or prediction is None or not graph.runs:
            return
        for run in bare_runs(graph, prediction.certain_stats):
            if count_layers(graph, run) < self.min_layers or total_change(run) >= self.warn_below:
                continue
            scales = [layer_scale(graph, point.node, model.survey) for point in run.points]
            default = [s for s in scales if s is not None and s.scheme.is_default]
            if len(default) >= self.min_layers - 1:
                yield self._finding(model, run, default)

    def _finding(self, model: AuditedModel, run: Run, default: list[LayerScale]) -> Finding:
        from bnlint.signal.bare import fitting, total_change
        from bnlint.signal.describe import label, number, profile

        change = total_change(run)
        each = change ** (1 / (len(run.points) - 1))
        return self.finding(
            model.place(default[0].node),
            f"{len(default)} layers in a row keep PyTorch's default weights, of variance 1/(3·fan_in), without a norm "
            f"or a skip: each leaves {each:.0%} of the spread across samples, and `{label(model, default[-1].node)}` "
            f"gets {number(change)} times the first layer's (predicted, limit {self.warn_below:g})",
            help=f"initialise them with `{fitting(default[-1])}` and zero biases, or put a norm after each",
            note=profile(model, run),
            evidence={"layers": len(default), "per_layer": each, "ratio": change},
            others=[model.place(s.node) for s in default[1:]],
        )
