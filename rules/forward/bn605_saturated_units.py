"""BN605 saturated-units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class SaturatedUnits(Rule):
    """Most values that a sigmoid or tanh gets lie where it is flat.

    Why it matters: the slope of a sigmoid at 5 is 0.0066 and that of tanh is 0.00018, against 0.25 and 1 in the middle.
    What lies before such a layer learns hundreds to thousands of times more slowly, and the layer tells its inputs
    apart by their sign only.

    Example (bad):

    ```python
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(256, 64)
            self.head = nn.Linear(64, 4)
            nn.init.normal_(self.hidden.weight)

        def forward(self, x):
            return self.head(torch.tanh(self.hidden(x)))
    ```

    Use instead (good):

    ```python
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(256, 64)
            self.head = nn.Linear(64, 4)
            nn.init.xavier_normal_(self.hidden.weight, gain=nn.init.calculate_gain("tanh"))

        def forward(self, x):
            return self.head(torch.tanh(self.hidden(x)))
    ```

    Values beyond a million count as masked on purpose. Gates (a sigmoid that multiplies something else) may be closed
    or open on purpose and are not judged; recurrent layers of PyTorch do not show what their gates get.

    References: Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward neural networks.
    """

    code = "BN605"
    name = "saturated-units"
    severity = Severity.WARNING
    phase = Phase.FORWARD
    at_init = True

    max_share: float = 0.5  # of the entries

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at what every sigmoid and tanh gets."""
        from bnlint.graph.activations import activation_name
        from bnlint.graph.branches import gate_nodes
        from bnlint.graph.ops import Kind

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        gates = gate_nodes(graph)
        for node in graph.of_kind(Kind.ACTIVATION):
            source, name = graph.data(node), activation_name(graph, node)
            if source is None or node in gates or name not in ("sigmoid", "tanh"):
                continue
            found = [probe.stats[n.name] for n in graph.origins(source) if n.name in probe.stats]
            share = max((stats.saturated or 0.0 for stats in found), default=0.0)
            if share > self.max_share:
                yield self.finding(
                    model.place(node),
                    f"{share:.0%} of the values that `{name}` gets are beyond 5, where it is flat",
                    help="scale the layer before it: `nn.init.xavier_normal_` keeps values near 1, and so does a norm",
                    evidence={"share": round(share, 4), "activation": name},
                )
