"""BN603 indistinguishable-samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class IndistinguishableSamples(Rule):
    """Different inputs give the same output: what told them apart is lost on the way.

    Why it matters: the loss is then that of a constant answer, and so is its gradient: every sample pulls the weights
    in the same direction and the model learns the average target. With PyTorch's default initialisation a ReLU network
    without norms maps all samples to one vector (cosine 1.0000) from ten layers on.

    Example (bad):

    ```python
    # also BN701
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self, width=64, depth=10):
            super().__init__()
            layers = []
            for _ in range(depth):
                layers += [nn.Linear(width, width), nn.ReLU()]
            for layer in layers[::2]:
                nn.init.normal_(layer.weight, std=0.04)
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            return self.head(self.body(x))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self, width=64, depth=10):
            super().__init__()
            layers = []
            for _ in range(depth):
                layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU()]
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            return self.head(self.body(x))
    ```

    The measure is the mean cosine between two samples at the output and after the last hidden layer, looked at only
    where the spread across samples has collapsed on the way (BN601): global average pooling, softmax and a ReLU stack
    of 40 healthy layers make samples look alike too (0.99), and still tell them apart. Inputs that are alike themselves
    are not judged.

    References: Schoenholz et al. 2017, Deep Information Propagation (arXiv 1611.01232).
    """

    code = "BN603"
    name = "indistinguishable-samples"
    severity = Severity.ERROR
    phase = Phase.FORWARD
    yields_to = ("BN109", "BN302", "BN303", "BN314", "BN601")

    min_layers: int = 4  # how many layers after the first must take part
    max_similarity: float = 0.999  # mean cosine between two samples

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the samples at every output, where the signal has collapsed."""
        from bnlint.signal.describe import label, number
        from bnlint.signal.nonfinite import measured
        from bnlint.signal.trunk import COLLAPSED, spread_runs

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        stats = probe.stats
        runs = [run for run in spread_runs(graph, stats) if len(run.points) > self.min_layers]
        deepest = min((run.points[-1] for run in runs), key=lambda point: point.ratio, default=None)
        if deepest is None or deepest.ratio >= COLLAPSED:
            return
        inputs = [stats[n.name].similarity for n in graph.nodes if n.op == "placeholder" and n.name in stats]
        outputs = [n for out in graph.outputs for n in measured(out, stats) if stats[n.name].similarity is not None]
        alike = [n for n in outputs if (stats[n.name].similarity or 0.0) > self.max_similarity]
        hidden = stats[deepest.node.name].similarity or 0.0
        if not alike or len(alike) < len(outputs) or hidden <= self.max_similarity:
            return
        if any((s or 0.0) > self.max_similarity for s in inputs):
            return
        found = stats[alike[0].name]
        finding = self.finding(
            model.place(alike[0]),
            f"different inputs give the same output: two samples have a cosine of {found.similarity:.5f} after "
            f"`{label(model, alike[0])}`",
            help="keep the spread across samples alive: norms between the layers, or an initialisation that fits the "
            "activation",
            note=f"after `{label(model, deepest.node)}` {number(deepest.ratio)} of the spread across samples is left",
            evidence={"similarity": found.similarity, "ratio": deepest.ratio},
        )
        yield replace(finding, nodes=(*finding.nodes, deepest.node.name))
