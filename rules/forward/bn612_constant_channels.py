"""BN612 constant-channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.signal.statistics import NodeStats


class ConstantChannels(Rule):
    """Channels of a layer's output are the same for every sample and at every position.

    Why it matters: a channel without variance says nothing about the input. Where a layer's whole output is constant,
    everything after it is trained on a constant, and a norm that follows divides zero by its eps.

    Example (bad):

    ```python
    # also BN703
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(32, 64)
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            x = self.hidden(x).clamp(10, 255)
            return self.head(x)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(32, 64)
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            x = self.hidden(x).clamp(-1, 1)
            return self.head(x)
    ```

    Looked at are the outputs of conv, linear and norm layers. Not counted are channels whose own weights are zero,
    channels that the layer gets constant, those whose bias hides a very small signal, and what does not depend on a
    varying input at all, such as embeddings of positions or of a time step, and gates (squeeze-and-excitation), whose
    factor starts near one half for all samples. Where dead units (BN604) are the cause, that rule reports it.

    References: Brock, De and Smith 2021, Characterizing Signal Propagation to Close the Performance Gap in Unnormalized
    ResNets (arXiv 2101.08692), on the variance of channels.
    """

    code = "BN612"
    name = "constant-channels"
    severity = Severity.WARNING
    phase = Phase.FORWARD
    at_init = True

    min_share: float = 0.1  # of a layer's channels

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Reports the first layer with constant channels that its weights and its input do not explain."""
        from bnlint.graph.branches import gate_nodes
        from bnlint.graph.ops import WEIGHT_LAYERS, Kind
        from bnlint.signal.nonfinite import measured

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        stats = {name: s for name, s in probe.stats.items() if s.channels and s.similarity is not None and s.finite}
        gates = gate_nodes(graph)
        for node in graph.of_kind(*WEIGHT_LAYERS, Kind.NORM):
            if node in gates:
                continue
            found, source = stats.get(node.name), graph.data(node)
            if found is None or not found.constant or source is None or _is_picked(graph, source):
                continue
            before = [stats[n.name] for n in measured(source, stats)]
            if not before or any(s.off or _hardly_varies(s) for s in before):
                continue
            explained = _switched_off(graph, node) + _outweighed(graph, node, max(s.spread or 0.0 for s in before))
            unexplained = found.constant - explained - max(s.constant or 0 for s in before)
            if unexplained > self.min_share * (found.channels or 0):
                yield self.finding(
                    model.place(node),
                    f"{found.constant} of {found.channels} channels do not vary over the batch",
                    help="look at what the layer gets: values clamped or rounded to one number, a norm over a single "
                    "value, saturated activations",
                    evidence={"constant": found.constant, "channels": found.channels},
                )
                return


def _is_picked(graph: Graph, source: fx.Node) -> bool:
    """True for one position of many, such as a class token: what was measured before it is not about it alone."""
    from bnlint.graph.ops import SHAPE_ONLY, Kind

    return any(graph.kind(n) is Kind.INDEX for n in (source, *graph.origins(source, SHAPE_ONLY | {Kind.DROPOUT})))


def _hardly_varies(stats: NodeStats) -> bool:
    """A signal that was all but lost before: BN601's."""
    return (stats.spread or 0.0) ** 2 <= 1e-6 * (stats.second_moment or 0.0)


def _outweighed(graph: Graph, node: fx.Node, spread: float) -> int:
    """How many biases hide what the weights make of so small an input: it varies all the same."""
    from bnlint.graph.weights import gain, has_numbers
    from bnlint.signal.statistics import SAME

    bias, own = getattr(graph.module(node), "bias", None), gain(graph, node)
    if own is None or not spread or not has_numbers(bias):
        return 0
    return int((bias.detach().abs() * SAME >= own**0.5 * spread).sum())


def _switched_off(graph: Graph, node: fx.Node) -> int:
    """How many output channels have no weight but zero."""
    from bnlint.graph.ops import Kind

    found = graph.weight(node)
    if found is None:
        return 0
    weight = found[1].detach()
    if graph.kind(node) is Kind.CONV_TRANSPOSE:
        weight = weight.transpose(0, 1)
    return int((weight.flatten(1) == 0).all(1).sum()) if weight.ndim > 1 else int((weight == 0).sum())
