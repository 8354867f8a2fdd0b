"""BN703 zero-gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class ZeroGradient(Rule):
    """The gradient of a parameter is exactly zero in every entry.

    Why it matters: the backward pass reaches the parameter, so nothing is detached, but brings nothing: it will not
    move until something else does. Dead ReLU units, a clamp that every value exceeds or a factor of zero are the usual
    causes. Weight decay goes on shrinking it meanwhile.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(32, 64)
            self.side = nn.Linear(32, 64)
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.hidden(x).tanh() + self.side(x).clamp(10, 20))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(32, 64)
            self.side = nn.Linear(32, 64)
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.hidden(x).tanh() + self.side(x).clamp(-1, 1))
    ```

    Info where it is meant or a matter of the input: behind a layer or factor that starts at zero (the second matrix of
    LoRA, a residual branch that starts as nothing), beside a factor that is zero for the whole batch (an expert that no
    token chose), and for weights that were given only zeros (a first hidden state). Not reported: what a random draw
    switched off (stochastic depth), a softmax or a norm over a single value (BN118), and biases of a layer that does
    get a gradient.

    References: Lu et al. 2019, Dying ReLU and Initialization (arXiv 1903.06733).
    """

    code = "BN703"
    name = "zero-gradient"
    severity = Severity.WARNING
    phase = Phase.BACKWARD
    at_init = True

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """One finding for each cause, with all the parameters it holds back."""
        from bnlint.signal.zeros import Cause, blocked_parameters

        probe = model.probe
        assert probe is not None
        for block in blocked_parameters(model):
            names = block.parameters
            many = f"{len(names)} parameter tensors, `{names[0]}` first" if len(names) > 1 else f"`{names[0]}`"
            help = "look for units that are off, a clamp or a factor of zero between here and the loss"
            if block.cause is Cause.UNDERFLOW:
                help = "keep the scale of the signal alive: every factor on the way to the loss takes its part"
            meant = block.cause in (Cause.ZERO_WEIGHT, Cause.ZERO_FACTOR, Cause.ZERO_INPUT)
            places = [model.place(path=path) for path in dict.fromkeys(name.rpartition(".")[0] for name in names)]
            yield self.finding(
                places[0],
                f"the gradient of {many} is exactly zero{block.because}",
                severity=Severity.INFO if meant else Severity.WARNING,
                help="" if meant else help,
                note=f"from {probe.loss}",
                evidence={"parameters": list(names[:20]), "cause": block.cause.value},
                others=places[1:],
            )
