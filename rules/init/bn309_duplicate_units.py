"""BN309 duplicate-units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    import torch
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph

_FEWEST_INPUTS = 4  # two units of fewer inputs may agree by chance in half precision


class DuplicateUnits(Rule):
    """Units or filters of one layer have equal weights, or, in loaded weights, weights that are all zero.

    Why it matters: units with equal incoming weights give equal outputs for every sample, so a layer of 64 units of
    which half are copies starts as a layer of 32; if the weights behind them are alike, too, the copies also get equal
    gradients and never part. In trained weights a copied or a zero unit is capacity that is paid for and not used.

    Example (bad):

    ```python
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(20, 64)
            self.relu = nn.ReLU()
            self.out = nn.Linear(64, 10)
            nn.init.zeros_(self.hidden.bias)
            with torch.no_grad():
                self.hidden.weight[:] = torch.randn(1, 20) / 20**0.5

        def forward(self, x):
            return self.out(self.relu(self.hidden(x)))
    ```

    Use instead (good):

    ```python
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(20, 64)
            self.relu = nn.ReLU()
            self.out = nn.Linear(64, 10)
            nn.init.zeros_(self.hidden.bias)
            with torch.no_grad():
                self.hidden.weight[:] = torch.randn(64, 20) / 20**0.5

        def forward(self, x):
            return self.out(self.relu(self.hidden(x)))
    ```

    Known limits: only trainable hidden convs and linears whose output is not cut into parts (queries and keys, gates)
    count. Filters that read different channels, copies that a pixel shuffle spreads over neighbouring pixels (ICNR
    initialisation), constants and freshly zeroed units are not reported. Zero units of loaded weights are info: pruning
    leaves them on purpose.

    References: Goodfellow, Bengio & Courville 2016, Deep Learning, section 8.4; Aitken et al. 2017, Checkerboard
    artifact free sub-pixel convolution (arXiv 1707.02937), for ICNR.
    """

    code = "BN309"
    name = "duplicate-units"
    severity = Severity.WARNING
    phase = Phase.GRAPH
    values = True

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the rows of every hidden weight, with their biases."""
        graph = model.graph
        assert graph is not None
        for node in dict.fromkeys(_hidden_layers(graph)):
            units = _units(graph, node)
            if units is None:
                continue
            copies, dead = _counts(units)
            count = units.shape[0] * units.shape[1]
            if copies:
                yield self.finding(
                    model.place(node),
                    f"{copies} of {count} units have the same weights as another unit of the layer",
                    help="draw the weights of every unit at random, or build the layer with fewer units",
                    evidence={"copies": copies, "units": count},
                )
            elif dead and model.weights is not None:
                yield self.finding(
                    model.place(node),
                    f"{dead} of {count} units have weights and biases of zero in the loaded file",
                    severity=Severity.INFO,
                    help="units that were pruned or died in training can be taken out, with the inputs that read them",
                    evidence={"dead": dead, "units": count},
                )


def _hidden_layers(graph: Graph) -> Iterator[fx.Node]:
    from bnlint.graph.ops import LINEAR_OPS, WEIGHT_LAYERS, Kind

    parts = {Kind.SPLIT, Kind.INDEX, Kind.SHUFFLE}
    for node in graph.of_kind(*(WEIGHT_LAYERS - {Kind.BILINEAR})):
        cut = any(graph.kind(n) in parts for n in graph.destinations(node, LINEAR_OPS))
        if graph.module(node) is not None and not cut and not graph.is_last_layer(node):
            yield node


def _units(graph: Graph, node: fx.Node) -> torch.Tensor | None:
    """Groups x units x (weights and bias) of a layer that trains; None where nothing can be said, or nothing is."""
    import torch

    from bnlint.graph.ops import Kind
    from bnlint.graph.weights import all_finite, constant, has_numbers

    found, module = graph.weight(node), graph.module(node)
    if found is None or not found[1].requires_grad or not has_numbers(found[1]):
        return None
    weight, groups = found[1].detach(), int(getattr(module, "groups", 1))
    if graph.kind(node) is Kind.CONV_TRANSPOSE:
        weight = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    rows = weight.flatten(1)
    if rows.shape[1] < _FEWEST_INPUTS or rows.shape[0] < 2 * groups or _all_differ(rows):
        return None
    if not all_finite(rows) or constant(rows) is not None:
        return None
    bias = getattr(module, "bias", None)
    if has_numbers(bias):
        rows = torch.cat([rows, bias.detach().to(rows.dtype)[:, None]], 1)
    return rows.reshape(groups, -1, rows.shape[1])


def _all_differ(rows: torch.Tensor) -> bool:
    """True when the first 64 bits of the rows are all different and none is zero, as for nearly all weights."""
    import torch

    first = (rows[:, : 8 // rows.element_size()] + 0.0).contiguous().view(torch.int64).flatten()  # -0.0 becomes 0.0
    ordered = first.sort().values
    return bool(first.all()) and bool((ordered[1:] != ordered[:-1]).all())


def _counts(units: torch.Tensor) -> tuple[int, int]:
    """How many units are copies of one before them, and how many are zero."""
    copies = dead = 0
    for rows in units:
        alive = rows[rows.any(1)]
        dead += rows.shape[0] - alive.shape[0]
        copies += alive.shape[0] - alive.unique(dim=0).shape[0]
    return copies, dead
