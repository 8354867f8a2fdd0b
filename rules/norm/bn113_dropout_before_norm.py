"""BN113 dropout-before-norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph


class DropoutBeforeNorm(Rule):
    """A batch norm lies behind dropout, so the variance it stores in training is not the one it meets in evaluation.

    Why it matters: dropout with probability p keeps the mean and raises the variance by 1/(1-p), in training only:
    measured ratios are 1.11, 1.43 and 2.0 for p = 0.1, 0.3 and 0.5, and 2.47 for 0.5 behind a ReLU. The batch norm
    stores the raised variance and divides by it in evaluation, where it is not there, so the output is 5 % too small
    for p = 0.1 and 29 to 36 % for p = 0.5. Weight layers between the two do not remove the shift.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(64, 64, bias=False)
            self.norm1 = nn.LayerNorm(64)
            self.relu = nn.ReLU()
            self.dropout = nn.Dropout(0.5)
            self.fc2 = nn.Linear(64, 64, bias=False)
            self.norm2 = nn.BatchNorm1d(64)
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            x = self.dropout(self.relu(self.norm1(self.fc1(x))))
            return self.head(self.relu(self.norm2(self.fc2(x))))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(32)
            self.relu = nn.ReLU()
            self.dropout = nn.Dropout(0.5)
            self.head = nn.Linear(32, 10)

        def forward(self, x):
            x = self.relu(self.norm1(self.conv1(x)))
            return self.head(self.dropout(x.mean(dim=(2, 3))))
    ```

    Known limits: stochastic depth, which drops whole branches, is not looked at; neither is alpha dropout, which keeps
    the variance, nor a shift that another kind of norm between the two takes away.

    References: Li et al. 2019, Understanding the Disharmony between Dropout and Batch Normalization by Variance Shift
    (arXiv 1801.05134).
    """

    code = "BN113"
    name = "dropout-before-norm"
    severity = Severity.INFO
    phase = Phase.GRAPH

    min_p: float = 0.1

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Walks down from every dropout to the first norms; one finding for the target."""
        from bnlint.graph.norms import Family, Norms
        from bnlint.graph.ops import Kind

        graph = model.graph
        assert graph is not None
        norms = Norms(graph)
        everything = frozenset(Kind) - {Kind.OUTPUT}
        found: list[tuple[fx.Node, fx.Node]] = []
        for node in graph.of_kind(Kind.DROPOUT):
            reached = norms.readers(node, everything) if _probability(graph, node) >= self.min_p else []
            behind = [n for n in map(norms.at, reached) if n is not None]
            first = next((n for n in behind if n.family is Family.BATCH and n.running), None)
            if first is not None:
                found.append((node, first.node))
        if not found:
            return
        dropout, norm = found[0]
        yield self.finding(
            model.place(dropout),
            f"dropout with p = {_probability(graph, dropout):g} lies before the batch norm `{norm.target}`: the norm "
            f"stores a variance that evaluation does not have",
            help="put dropout behind the last batch norm, before the output layer",
            evidence={"p": _probability(graph, dropout), "dropouts": len(found)},
            others=[model.place(node) for node, _ in found[1:]],
        )


def _probability(graph: Graph, node: fx.Node) -> float:
    """The share of values that a dropout sets to zero in this run."""
    from bnlint.graph.ops import argument, op_name

    module = graph.module(node)
    if "alpha" in op_name(node).lower():
        return 0.0
    if module is not None:
        p = getattr(module, "p", 0.0) if module.training else 0.0
    else:
        p = argument(node, 1, "p", 0.5) if argument(node, 2, "training", True) else 0.0
    return float(p) if isinstance(p, (int, float)) else 0.0
