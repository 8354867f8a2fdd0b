"""BN116 deep-plain-norm-stack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph


class DeepPlainNormStack(Rule):
    """Many batch norms follow each other with no skip connection past any of them.

    Why it matters: batch norm keeps the signal, not the gradient. In a plain stack of ReLU layers, each with a batch
    norm, the gradient grows by a factor of 1.21 per layer towards the input, whatever the initialisation: measured
    ratios of the first layer's gradient to the last's are 5.7 at 10 layers, 39 at 20 and 1630 at 40. Skip connections
    remove this.

    Example (bad):

    ```python
    import torch.nn as nn

    # also BN702
    class Net(nn.Module):
        def __init__(self, width=64, depth=24):
            super().__init__()
            layers = []
            for _ in range(depth):
                layers += [nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            return self.head(self.body(x))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self, width=64, depth=24):
            super().__init__()
            self.stem = nn.Conv2d(3, width, 3, padding=1)
            self.norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(depth)])
            self.convs = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(depth)])
            self.relu = nn.ReLU()
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            x = self.stem(x)
            for norm, conv in zip(self.norms, self.convs):
                x = x + conv(self.relu(norm(x)))
            return self.head(x.mean(dim=(2, 3)))
    ```

    Known limits: only batch norms that every way from the input to the output goes through are counted, and a sum or
    concatenation of two branches ends the row, as in residual, Inception and RepVGG blocks.

    References: Yang et al. 2019, A Mean Field Theory of Batch Normalization (arXiv 1902.08129); He et al. 2016
    (arXiv 1512.03385), section 4.1.
    """

    code = "BN116"
    name = "deep-plain-norm-stack"
    severity = Severity.INFO
    phase = Phase.GRAPH

    max_norms: int = 20

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Takes the longest row of batch norms that every way goes through and that no fork interrupts."""
        graph = model.graph
        assert graph is not None
        row = max(_rows(graph), key=len) if graph.runs else []
        if len(row) <= self.max_norms:
            return
        yield self.finding(
            model.place(row[0]),
            f"{len(row)} batch norms in a row without a skip connection: gradients grow about 1.2 times per layer "
            f"towards the input, {1.21 ** len(row):.2g} times in all",
            help="add skip connections around every two or three layers",
            evidence={"norms": len(row)},
            others=[model.place(node) for node in row[1:]],
        )


def _rows(graph: Graph) -> list[list[fx.Node]]:
    """Batch norms on the main path, a new row after every place where branches meet."""
    from bnlint.graph.norms import Family, Norms
    from bnlint.graph.ops import Kind
    from bnlint.signal.trunk import trunk

    norms = Norms(graph)
    rows: list[list[fx.Node]] = [[]]
    for node in trunk(graph):
        norm = norms.at(node)
        if norm is not None and norm.node is node and norm.family is Family.BATCH and norm.batch_statistics:
            rows[-1].append(node)
        elif graph.kind(node) in (Kind.ADD, Kind.CAT) and sum(n in norms.of_data for n in node.all_input_nodes) > 1:
            rows.append([])
    return rows
