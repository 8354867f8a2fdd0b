"""BN611 initial-loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class InitialLoss(Rule):
    """The first loss is far above that of a guess.

    Why it matters: a classifier that knows nothing yet should give all K classes about the same score, which costs
    ln K: 2.3 for ten classes, 6.9 for a thousand. A first loss of several times that means scores that are large and
    random; the first steps go into shrinking them, with gradients that upset everything else.

    Example (bad):

    ```python
    # bnlint check --loss cross_entropy
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(32, 64)
            self.relu = nn.ReLU()
            self.head = nn.Linear(64, 10)
            nn.init.normal_(self.head.weight, std=3)

        def forward(self, x):
            return self.head(self.relu(self.hidden(x)))
    ```

    Use instead (good):

    ```python
    # bnlint check --loss cross_entropy
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(32, 64)
            self.relu = nn.ReLU()
            self.head = nn.Linear(64, 10)
            nn.init.normal_(self.head.weight, std=0.02)

        def forward(self, x):
            return self.head(self.relu(self.hidden(x)))
    ```

    Needs a declared loss (`--loss cross_entropy` or `nll_loss`). The targets are random unless your batch has some; a
    binary cross-entropy is judged with your own only, as a bias may be set to how rare positives are. Weights that are
    trained make the rule meaningless on random targets: use `--mode eval`, which turns it off.

    References: Karpathy 2019, A Recipe for Training Neural Networks ("verify loss @ init").
    """

    code = "BN611"
    name = "initial-loss"
    severity = Severity.WARNING
    phase = Phase.BACKWARD
    yields_to = ("BN312",)
    at_init = True

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the loss with ln K."""
        probe, graph = model.probe, model.graph
        assert graph is not None and probe is not None
        loss = probe.initial_loss
        if loss is None or model.mode != "train" or loss.classes < 2 or not math.isfinite(loss.value):
            return
        if "binary" in loss.name and not loss.real_targets:
            return
        guess = math.log(loss.classes)
        if loss.value - guess <= guess:
            return
        scores = graph.outputs[0]
        layers = [n for n in graph.nodes if graph.is_last_layer(n) and graph.weight(n) is not None]
        yield self.finding(
            model.place(layers[-1] if layers else scores),
            f"the first loss is {loss.value:.3g}, but a guess among {loss.classes} classes costs ln {loss.classes} = "
            f"{guess:.3g}",
            help="start the last layer with small weights and zero bias, or check what its input's scale is",
            note=f"from {probe.loss}",
            evidence={"loss": loss.value, "classes": loss.classes},
        )
