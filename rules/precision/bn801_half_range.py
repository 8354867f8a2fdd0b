"""BN801 half-range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.signal.statistics import NodeStats


class HalfRange(Rule):
    """Values leave, or come close to leaving, the range of a half-precision dtype.

    Why it matters: float16 ends at 65504 and has nothing below 6e-8. A sum or a score that grows past the end is
    infinite and the loss NaN one op later; what falls below is zero, and so is its gradient. bfloat16 has the range of
    float32 and fails here only where float32 is close to it.

    Example (bad):

    ```python
    # bnlint check --dtype float16
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(64, 64)
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.hidden(x * 1000).square() / 1000)
    ```

    Use instead (good):

    ```python
    # bnlint check --dtype float16
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(64, 64)
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.hidden(x).square())
    ```

    Looked at is every value of the probe's run with `--dtype float16` or `bfloat16`, or `--autocast`, that has such a
    dtype. An overflow is an error, a value above a tenth of the largest number a warning: with another batch, or after
    a few steps, it is over. So is a conv or linear layer of which more than half of the outputs are exactly zero
    although neither its weights nor its input are. Masks that were filled with the lowest number are left out.

    References: Micikevicius et al. 2018, Mixed Precision Training (arXiv 1710.03740).
    """

    code = "BN801"
    name = "half-range"
    severity = Severity.WARNING
    phase = Phase.FORWARD

    warn_above: float = 0.1  # of the largest number of the dtype
    max_underflow: float = 0.5  # of the output of a conv or linear layer

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Overflow first; without one, the largest value and the first layer that underflows."""
        from bnlint.signal.describe import label, number
        from bnlint.signal.halves import grown, is_half, overflow

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        stats = probe.stats
        if not any(is_half(found) for found in stats.values()):
            return
        origin = overflow(graph, stats)
        if origin is not None:
            sizes = [max(abs(stats[n.name].minimum), abs(stats[n.name].maximum)) for n in origin.inputs]
            given = f" from inputs of up to {number(max(sizes))}" if sizes else ""
            dtype = stats[origin.node.name].dtype
            yield self.finding(
                model.place(origin.node),
                f"`{label(model, origin.node)}` overflows {dtype}{given}",
                severity=Severity.ERROR,
                help="scale the values down before this op, run it in float32, or use bfloat16",
                evidence={"dtype": dtype},
            )
            return
        large = grown(graph, stats, self.warn_above)
        if large:
            worst = max(large, key=lambda n: stats[n.name].reach)
            found = stats[worst.name]
            yield self.finding(
                model.place(large[0]),
                f"values up to {number(found.reach)} are close to the largest {found.dtype} number, "
                f"{number(found.limit or 0.0)}"
                if found.finite
                else f"`{label(model, worst)}` overflows {found.dtype}, though not as far as the output",
                help="scale the values down before this op, run it in float32, or use bfloat16",
                note=f"{len(large)} ops are, `{label(model, worst)}` most" if len(large) > 1 else "",
                evidence={"reach": found.reach, "dtype": found.dtype},
            )
        yield from self._underflow(model, graph, stats)

    def _underflow(self, model: AuditedModel, graph: Graph, stats: Mapping[str, NodeStats]) -> Iterator[Finding]:
        """The first layer that gives zeros although neither its weights nor its input are."""
        from bnlint.graph.ops import WEIGHT_LAYERS
        from bnlint.signal.nonfinite import measured

        for node in graph.of_kind(*WEIGHT_LAYERS):
            found, weight = stats.get(node.name), graph.weight(node)
            if found is None or weight is None or (found.zeros or 0.0) <= self.max_underflow:
                continue
            given = [stats[n.name] for source in node.all_input_nodes[:1] for n in measured(source, stats)]
            if bool(weight[1].detach().any()) and not any(s.reach == 0 for s in given):
                yield self.finding(
                    model.place(node),
                    f"{found.zeros:.0%} of the output is rounded to zero in {found.dtype}",
                    help="scale the weights or the input up, or run this layer in float32",
                    evidence={"zeros": found.zeros, "dtype": found.dtype},
                )
                return
