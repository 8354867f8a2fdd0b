"""BN610 input-scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class InputScale(Rule):
    """Your batch is far from zero mean and unit scale, and no norm follows the layer that reads it.

    Why it matters: initialisations and learning rates are made for inputs of about unit scale. Images of 0 to 255 make
    the first layer's output and its gradient a hundred times larger, so a learning rate that suits the other layers
    is far too large for the first.

    Example (bad):

    ```python
    # bnlint check --input-fn bnlint_batch
    import torch
    import torch.nn as nn

    def bnlint_batch():
        return torch.randint(256, (8, 3, 16, 16)).float()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.relu = nn.ReLU()
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.relu(self.conv(x)).mean((2, 3)))
    ```

    Use instead (good):

    ```python
    # bnlint check --input-fn bnlint_batch
    import torch
    import torch.nn as nn

    def bnlint_batch():
        return (torch.randint(256, (8, 3, 16, 16)).float() - 127) / 74

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.relu = nn.ReLU()
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.relu(self.conv(x)).mean((2, 3)))
    ```

    Only a batch that you gave (`--batch`, `--input-fn`, or tensors in Python) is judged, never a made-up one, and only
    where a conv or linear layer reads it as it is: a model that scales its input itself is fine, and so is one with a
    norm right after the first layer.

    References: LeCun et al. 1998, Efficient BackProp, section 4.3.
    """

    code = "BN610"
    name = "input-scale"
    severity = Severity.INFO
    phase = Phase.FORWARD

    max_scale: float = 10.0  # root mean square of the input
    min_scale: float = 0.02

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at the floating inputs that a weight layer reads directly."""
        from bnlint.graph.ops import SHAPE_ONLY, WEIGHT_LAYERS
        from bnlint.signal.describe import number

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        if model.inputs is None or not model.inputs.is_data:
            return
        for node in graph.nodes:
            stats = probe.stats.get(node.name) if node.op == "placeholder" else None
            if stats is None or not stats.second_moment or stats.mean is None or not stats.finite:
                continue
            scale = stats.second_moment**0.5
            readers = [n for n in graph.destinations(node, SHAPE_ONLY) if graph.kind(n) in WEIGHT_LAYERS]
            raw = [n for n in readers if graph.following_norm(n) is None]
            if raw and not self.min_scale <= scale <= self.max_scale:
                yield self.finding(
                    model.place(raw[0]),
                    f"`{node.name}` has a mean of {number(stats.mean)} and a root mean square of {number(scale)}; "
                    "initialisations expect about 0 and 1",
                    help="subtract the mean and divide by the standard deviation of the training data",
                    note=f"values from {number(stats.minimum)} to {number(stats.maximum)}",
                    evidence={"mean": stats.mean, "scale": scale},
                )
