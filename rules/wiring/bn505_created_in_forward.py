"""BN505 created-in-forward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class CreatedInForward(Rule):
    """Forward constructs a layer with weights, or a parameter, each time it runs.

    Why it matters: the layer is new at every call, with new random weights. The optimizer has never heard of it, so
    it is never trained; the checkpoint does not hold it; two passes over the same batch give different outputs. It is
    a random projection in the middle of the model, another one at every step: in a small experiment (10 classes, three
    layers of 128, three seeds) the accuracy is 0.18 with the middle layer made in forward and 0.54 with the same layer
    made in `__init__`, where chance is 0.10, and two passes over one batch disagree on a third of all predictions.

    An error when the model's output depends on the new weights; a warning when the class stores the layer in an
    attribute (made on first use: it is trained only if the optimizer is built after the first forward) or sets its
    weights itself.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(16, 32)
            self.relu = nn.ReLU()

        def forward(self, x):
            x = self.relu(self.fc1(x))
            return nn.Linear(x.shape[1], 4)(x)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(16, 32)
            self.relu = nn.ReLU()
            self.fc2 = nn.Linear(32, 4)

        def forward(self, x):
            x = self.relu(self.fc1(x))
            return self.fc2(x)
    ```

    Known limits: layers without weights (`nn.ReLU()(x)`) are only slow, and frozen ones are taken to be constants. For
    a size that is known only from the first batch, use `nn.LazyLinear`. A bare `nn.Parameter` made in forward is not
    seen when the model had to be recorded on real tensors.

    References: documentation of `torch.nn.Module` and of `torch.nn.LazyLinear`.
    """

    code = "BN505"
    name = "created-in-forward"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Reports trainable layers and parameters that the run made."""
        from bnlint.graph.made_in_forward import made_in_forward

        for made in made_in_forward(model):
            line = model.call_line(made.node)
            place = model.place(made.node)
            where = f" (line {line.line})" if line is not None else ""
            if made.kept:
                fate, severity = "an optimizer built before the first forward does not know it", Severity.WARNING
            else:
                fate = "its weights are new at each call and never trained"
                severity = Severity.ERROR if made.returned else Severity.WARNING
            yield self.finding(
                place,
                f"forward constructs `{made.what}` with {made.parameters} parameters{where}: {fate}",
                help="construct it in `__init__` and keep it as an attribute",
                severity=severity,
                evidence={"class": made.what, "parameters": made.parameters, "kept": made.kept},
            )
