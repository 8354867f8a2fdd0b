"""BN604 dead-units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel


class DeadUnits(Rule):
    """Units of a ReLU layer are zero for every sample: they pass on nothing and get no gradient.

    Why it matters: a ReLU unit that no sample activates has a gradient of exactly zero, so it never comes back. A layer
    with half of its units dead has half the width that was paid for; one with all of them dead ends training.

    Example (bad):

    ```python
    # also BN310
    # bnlint check --input 64x16
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(16, 64)
            self.relu = nn.ReLU()
            self.head = nn.Linear(64, 4)
            nn.init.constant_(self.hidden.bias[:24], -6)

        def forward(self, x):
            return self.head(self.relu(self.hidden(x)))
    ```

    Use instead (good):

    ```python
    # bnlint check --input 64x16
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(16, 64)
            self.relu = nn.ReLU()
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.relu(self.hidden(x)))
    ```

    A unit counts as dead when all its values are negative and their mean lies so far below zero that another value
    would be positive with a probability below 1e-6 (Student's prediction bound for the number of values at hand). Fewer
    than 16 values a unit say nothing. As many units as are always on by the same measure are taken off: where samples
    hardly differ, as after global average pooling or deep down a stack without norms, units are always on or always off
    by chance, half and half, and a surplus that chance gives more often than once in a million does not count. Units
    inside gates do not count. A sparse batch of 96 % zeros with no dead unit is fine.

    Known limits: layers after a batch norm that uses the batch's own statistics are not looked at, as it puts the mean
    where its parameters say.

    References: Lu et al. 2019, Dying ReLU and Initialization (arXiv 1903.06733).
    """

    code = "BN604"
    name = "dead-units"
    severity = Severity.WARNING
    phase = Phase.FORWARD
    at_init = True

    warn_above: float = 0.1  # share of a layer's units
    error_above: float = 0.5

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Reports the first layer of the model with dead units, and how many more there are."""
        from bnlint.graph.branches import gate_nodes
        from bnlint.graph.ops import Kind

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        gates = gate_nodes(graph)
        found: dict[fx.Node, tuple[int, int, float]] = {}
        for node in graph.of_kind(Kind.ACTIVATION):
            source = graph.data(node)
            for layer in graph.origins(source) if source is not None and node not in gates else ():
                stats = probe.stats.get(layer.name)
                if stats is None or stats.off is None or stats.on is None or not stats.channels:
                    continue
                share = (stats.off - stats.on) / stats.channels
                if share > self.warn_above and _chance(stats.off, stats.on) < 1e-6:
                    found[layer] = stats.off, stats.channels, share
        if not found:
            return
        first, (off, channels, _) = next(iter(found.items()))
        worst = max(share for _, _, share in found.values())
        yield self.finding(
            model.place(first),
            f"{off} of {channels} units are zero after the ReLU for every sample of the batch",
            severity=Severity.ERROR if worst > self.error_above else Severity.WARNING,
            help="look at what pushes them below zero: a negative bias, weights that are not centred, an input of one "
            "sign; or use an activation with a slope below zero",
            note=f"{len(found)} layers have dead units" if len(found) > 1 else "",
            evidence={"dead": off, "units": channels, "layers": len(found)},
        )


def _chance(off: int, on: int) -> float:
    """The probability of this many units off, or more, when each of those that never switch is on or off by a coin."""
    count = off + on
    return float(sum(math.comb(count, k) for k in range(off, count + 1)) / 2**count)
