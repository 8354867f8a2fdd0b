"""BN402 activation-on-logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.heads import Head
    from bnlint.graph.model import AuditedModel

_OF_CLASSES = "cross_entropy"
_OF_TWO = ("binary_cross_entropy_with_logits", "soft_margin_loss")
_OF_NUMBERS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


class ActivationOnLogits(Rule):
    """The model's output passes an activation, and the loss expects raw scores (logits) and applies its own.

    Why it matters: `cross_entropy` applies a softmax itself. On probabilities instead of logits the scores lie
    between 0 and 1, so the loss cannot go below ln(e + K - 1) - 1 for K classes: 0.313 for 2, 1.461 for 10, 3.622 for
    100, where chance is 0.693, 2.303 and 4.605. Training still seems to work, slowly and with a small gradient. A
    sigmoid before `binary_cross_entropy_with_logits` keeps every prediction between 0.5 and 0.731: the loss stays
    above 0.313 for positives and 0.693 for negatives. A ReLU on the logits cuts the gradient of every class whose
    score is negative.

    Without a declared loss (`--loss`) this is only a remark, given for softmax, log-softmax and sigmoid. A log-softmax
    before `cross_entropy` is harmless, as it is applied twice with the same result. With a regression loss such as
    `mse_loss`, a sigmoid or tanh at the end is a remark too: right for pixels scaled to its range, while for a target
    of 30 the squared error of a sigmoid's output stays above 841 whatever is learnt.

    Example (bad):

    ```python
    # bnlint check --loss cross_entropy
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(42, 64)
            self.relu = nn.ReLU()
            self.fc2 = nn.Linear(64, 10)
            self.softmax = nn.Softmax(dim=1)

        def forward(self, x):
            return self.softmax(self.fc2(self.relu(self.fc1(x))))
    ```

    Use instead (good):

    ```python
    # bnlint check --loss cross_entropy
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(42, 64)
            self.relu = nn.ReLU()
            self.fc2 = nn.Linear(64, 10)

        def forward(self, x):
            return self.fc2(self.relu(self.fc1(x)))
    ```

    Known limits: the loss is taken to read the model's first floating output; a model that returns the scores beside
    the probabilities is not reported, nor are probabilities that are mixed before they are returned (the product with
    one-hot labels at the end of a matching network). A ReLU followed by pooling (SqueezeNet) or an activation that is
    scaled afterwards (`30 * tanh(x / 30)`) is a design and not reported.

    References: documentation of `torch.nn.CrossEntropyLoss` and `torch.nn.BCEWithLogitsLoss`;
    github.com/Lightning-Universe/lightning-bolts issue 654 and github.com/yudi-mars/daisyRec pull 15, real cases.
    """

    code = "BN402"
    name = "activation-on-logits"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    min_floor: float = 0.05  # a bound that keeps the loss above this is reported

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares what bounds the output with what the declared loss expects."""
        from bnlint.graph.heads import head

        graph = model.graph
        assert graph is not None
        end = head(graph)
        if end is None or not end.activation or (end.activation.endswith("softmax") and end.classes < 2):
            return
        if model.loss is None:
            finding = self._remark(model, end)
        elif model.loss == _OF_CLASSES and end.activation == "log_softmax":
            finding = self._harmless(model, end)
        elif model.loss in _OF_NUMBERS:
            finding = self._bounded(model, end)
        else:
            finding = self._broken(model, end, model.loss)
        if finding is not None:
            yield finding

    def _remark(self, model: AuditedModel, end: Head) -> Finding | None:
        words = {
            "softmax": f"probabilities: `cross_entropy` on them stays above {_floor(end):.3f}",
            "sigmoid": "probabilities: `binary_cross_entropy_with_logits` on them stays above 0.313 and 0.693",
            "log_softmax": "log-probabilities: right for `nll_loss`",
        }.get(end.activation)
        if words is None:
            return None
        return self.finding(
            model.place(end.node),
            f"the output passes {end.activation}, so the model returns {words}",
            help="name the loss with --loss to have this checked",
            severity=Severity.INFO,
            evidence={"activation": end.activation, "classes": end.classes},
        )

    def _harmless(self, model: AuditedModel, end: Head) -> Finding:
        return self.finding(
            model.place(end.node),
            "`cross_entropy` applies log-softmax to an output that is one already; the result is the same",
            help="return the logits, or use `nll_loss`",
            severity=Severity.INFO,
            evidence={"activation": end.activation, "loss": _OF_CLASSES},
        )

    def _bounded(self, model: AuditedModel, end: Head) -> Finding | None:
        """What a regression can reach; whether its targets lie there only the data tell."""
        if math.isinf(end.low) or math.isinf(end.high):
            return None
        return self.finding(
            model.place(end.node),
            f"the output passes {end.activation}: no target below {end.low:g} or above {end.high:g} can be reached",
            help="right for targets scaled to that range, such as pixels; else return the value before it",
            severity=Severity.INFO,
            evidence={"activation": end.activation, "loss": model.loss},
        )

    def _broken(self, model: AuditedModel, end: Head, loss: str) -> Finding | None:
        evidence = {"activation": end.activation, "loss": loss, "classes": end.classes}
        if loss == _OF_CLASSES:
            floor = _floor(end)
            bound = (
                f"the loss cannot go below {floor:.3f} for {end.classes} classes (chance: {math.log(end.classes):.3f})"
            )
        elif loss in _OF_TWO:
            positive, negative = math.log1p(math.exp(-end.high)), math.log1p(math.exp(end.low))
            floor = max(positive, negative)
            bound = f"the loss cannot go below {positive:.3f} for positives and {negative:.3f} for negatives"
        else:
            return None
        if floor < self.min_floor:
            if end.activation not in ("relu", "relu6"):
                return None
            bound = "a class whose score is negative gets no gradient"
        return self.finding(
            model.place(end.node),
            f"`{loss}` expects logits and gets the output of {end.activation}: {bound}",
            help=f"return the value before {end.activation}; apply it outside the model where probabilities are needed",
            evidence={**evidence, "floor": round(floor, 4)},
        )


def _floor(end: Head) -> float:
    """The smallest cross entropy when the scores lie between the head's bounds: ln(1 + (K-1) exp(low - high))."""
    return math.log1p((end.classes - 1) * math.exp(end.low - end.high))
