"""BN408 probabilities-expected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.heads import Head
    from bnlint.graph.model import AuditedModel


class ProbabilitiesExpected(Rule):
    """The declared loss expects probabilities or log-probabilities, and the model returns something else.

    Why it matters: `nll_loss` does nothing but pick the value of the true class and change its sign. On raw logits it
    has no lower end: the loss falls to minus infinity by making all scores large, and nothing is learnt. On
    probabilities (a softmax without the log) it lies between -1 and 0 and its gradient is smallest where the model is
    most wrong: 1/K of the log-softmax one at the start. `binary_cross_entropy` raises for a value outside 0 to 1.

    Example (bad):

    ```python
    # bnlint check --loss nll_loss
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

    Use instead (good):

    ```python
    # bnlint check --loss nll_loss
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(42, 64)
            self.relu = nn.ReLU()
            self.fc2 = nn.Linear(64, 10)
            self.log_softmax = nn.LogSoftmax(dim=1)

        def forward(self, x):
            return self.log_softmax(self.fc2(self.relu(self.fc1(x))))
    ```

    Known limits: only outputs that come straight from a layer or an activation are judged; anything computed after
    them (`torch.log(p)`, a mixture, a clamp) is taken to be right.

    References: documentation of `torch.nn.NLLLoss` ("the input given through a forward call is expected to contain
    log-probabilities of each class") and of `torch.nn.BCELoss`.
    """

    code = "BN408"
    name = "probabilities-expected"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the range of the output with the one the declared loss is defined on."""
        from bnlint.graph.heads import head

        graph = model.graph
        assert graph is not None
        if model.loss not in ("nll_loss", "binary_cross_entropy"):
            return
        end = head(graph)
        if end is None or _fits(end, model.loss):
            return
        got = f"the output of {end.activation}" if end.activation else f"raw scores of `{end.node.target}`"
        if model.loss == "nll_loss":
            wanted, cure = "log-probabilities", "`cross_entropy`, or end the model with `log_softmax`"
        else:
            wanted, cure = "values from 0 to 1", "`binary_cross_entropy_with_logits`, or end the model with `sigmoid`"
        yield self.finding(
            model.place(end.node),
            f"`{model.loss}` expects {wanted} and gets {got}",
            help=f"use {cure}",
            evidence={"activation": end.activation, "loss": model.loss},
        )


def _fits(end: Head, loss: str) -> bool:
    if loss == "nll_loss":
        return end.activation in ("log_softmax", "logsigmoid")
    return end.low >= 0 and end.high <= 1
