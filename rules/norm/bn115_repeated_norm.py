"""BN115 repeated-norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.graph.norms import Norm, Norms


class RepeatedNorm(Rule):
    """A norm gets what another norm of the same kind has just normalised.

    Why it matters: the second subtracts the mean and divides by the deviation that the first has just set. Where both
    take them per channel, the first one's weight and bias are undone: batch norm after batch norm gives the same
    output, up to eps, for any weights of the first, which then train on rounding errors. That is a warning. Layer norms
    take them over all features, so a second one leaves the first one's weights an effect and merely does nothing at the
    start; post-norm transformers end like this, and it is info.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(16)
            self.norm2 = nn.BatchNorm2d(16)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.norm2(self.norm1(self.conv(x))))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(16)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.norm(self.conv(x)))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Known limits: norms of different kinds, which take different statistics, are not compared, and a first norm that
    something else reads as well (a skip connection) has a purpose. A first norm without weights before one with them is
    only a waste, and not reported.

    References: Ioffe & Szegedy 2015 (arXiv 1502.03167), section 3.
    """

    code = "BN115"
    name = "repeated-norm"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at the only reader of every norm's output."""
        from bnlint.graph.norms import Norms

        graph = model.graph
        assert graph is not None
        norms = Norms(graph)
        for first in norms:
            second = _next(norms, first)
            if second is None or not _repeats(first, second):
                continue
            undone = _per_channel(graph, first)
            effect = "the first one's weight and bias have no effect" if undone else "at the start it changes nothing"
            yield self.finding(
                model.place(second.node),
                f"`{second.path}` normalises what `{first.path}` has just normalised: {effect}",
                severity=Severity.WARNING if undone else Severity.INFO,
                help=f"drop `{first.path}`" if undone else "",
                evidence={"first": first.path, "second": second.path},
            )


def _next(norms: Norms, norm: Norm) -> Norm | None:
    """The norm that alone reads another's output; reshapes that may change the statistics are not looked through."""
    from bnlint.graph.ops import Kind

    graph = norms.graph
    chain = list(graph.chain(norm.node, frozenset((Kind.SAME,))))
    found = norms.at(chain[-1]) if chain else None
    return found if found is not None and found.node is chain[-1] else None


def _repeats(first: Norm, second: Norm) -> bool:
    """True when both take their statistics over the same values and the first has weights of its own."""
    from bnlint.graph.norms import Family

    if first.family is not second.family or first.family in (Family.LOCAL, Family.WRITTEN, Family.FROZEN):
        return False
    if first.module is None or second.module is None or first.path == second.path:
        return False
    if getattr(first.module, "weight", None) is None:
        return False
    if first.family in (Family.BATCH, Family.INSTANCE):
        return first.batch_statistics and second.batch_statistics
    if first.family is Family.GROUP:
        return first.groups == second.groups
    return getattr(first.module, "normalized_shape", 0) == getattr(second.module, "normalized_shape", 1)


def _per_channel(graph: Graph, norm: Norm) -> bool:
    """True when each channel has statistics of its own, so that a scale and shift per channel are lost in them."""
    from bnlint.graph.norms import Family

    shape = graph.shape(norm.source)
    return norm.family in (Family.BATCH, Family.INSTANCE) or (len(shape) > 2 and norm.groups == shape[1])
