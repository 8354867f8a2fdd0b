"""BN803 device-disagrees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Pass, Phase, Rule, Severity
from bnlint.signal.tolerance import Tolerance

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class DeviceDisagrees(Tolerance, Rule):
    """The output on the target device or in the target dtype is not that of the CPU in float32.

    Why it matters: some rounding is expected, more is an error that nobody notices: sums of thousands of terms in half
    precision, a softmax or a norm that is not kept in float32, a faulty kernel. Training then follows the noise, and a
    model that is trained on one device gives other answers on the next.

    Example (bad):

    ```python
    # bnlint check --dtype bfloat16
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(64, 64)
            self.relu = nn.ReLU()
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            x = self.hidden(x)
            x = (x + 100) - 100
            return self.head(self.relu(x))
    ```

    Use instead (good):

    ```python
    # bnlint check --dtype bfloat16
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(64, 64)
            self.relu = nn.ReLU()
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.relu(self.hidden(x)))
    ```

    Both run in eval mode on two samples of the batch, on all where the model does not run on two; up to 4096 entries of
    each layer are compared by the Euclidean norm of their difference. The limit is 0.5 % in float32, 3 % in float16 and
    15 % in bfloat16, about forty roundings. Nothing is said where the runs take different ways through the model, and
    nothing without another device, `--dtype` or `--autocast`.

    References: PyTorch documentation, Numerical accuracy.
    """

    code = "BN803"
    name = "device-disagrees"
    severity = Severity.WARNING
    phase = Phase.FORWARD
    passes = frozenset((Pass.REFERENCE,))

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the outputs, and names the first layer that departs."""
        from bnlint.signal.describe import label

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        found = probe.agreement
        if found is None:
            return
        limit = self.limit(stats.dtype for stats in probe.stats.values())
        if found.output <= limit:
            return
        nodes = [node for node in graph.nodes if found.errors.get(node.name, 0.0) > limit]
        yield self.finding(
            model.place(nodes[0]),
            f"the output is {found.output:.1%} away from that on the CPU in float32; `{label(model, nodes[0])}` is the "
            f"first to depart, by {found.errors[nodes[0].name]:.1%}",
            help="keep this part in float32 (`with torch.autocast(..., enabled=False)`), or look for large sums and "
            "small differences of large numbers just before it",
            evidence={"output": found.output, "layer": found.errors[nodes[0].name], "limit": limit},
        )
