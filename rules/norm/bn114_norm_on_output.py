"""BN114 norm-on-output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.graph.norms import Norm


class NormOnOutput(Rule):
    """The last layer's output goes through a batch norm before it leaves the model.

    Why it matters: batch norm gives every output the same mean and variance over the batch, whatever is in it. For
    logits this means that a batch full of one class still gets a mean of zero for that class, and that the norm's scale
    alone decides how far apart logits lie: at the start, two of them differ by about 1.1 on average. In training an
    output also depends on the other samples of its batch. Embeddings are normalised like this on purpose, so this is
    info.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(64, 64, bias=False)
            self.norm1 = nn.BatchNorm1d(64)
            self.relu = nn.ReLU()
            self.fc2 = nn.Linear(64, 10, bias=False)
            self.norm2 = nn.BatchNorm1d(10)

        def forward(self, x):
            return self.norm2(self.fc2(self.relu(self.norm1(self.fc1(x)))))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(64, 64)
            self.norm1 = nn.LayerNorm(64)
            self.relu = nn.ReLU()
            self.fc2 = nn.Linear(64, 10)

        def forward(self, x):
            return self.fc2(self.relu(self.norm1(self.fc1(x))))
    ```

    Known limits: only a batch norm directly behind a conv or linear counts; a softmax or sigmoid may follow it.

    References: Ioffe & Szegedy 2015 (arXiv 1502.03167), section 3.2, on where to place the norm.
    """

    code = "BN114"
    name = "norm-on-output"
    severity = Severity.INFO
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Walks up from every output to a batch norm that follows a weight layer."""
        graph = model.graph
        assert graph is not None
        for norm in _last_norms(graph):
            yield self.finding(
                model.place(norm.node),
                f"the output of `{norm.source.target}` is batch-normalised before it leaves the model",
                help="leave the last layer as it is; keep the norm only if the output is an embedding",
                evidence={"layer": str(norm.source.target)},
            )


def _last_norms(graph: Graph) -> list[Norm]:
    from bnlint.graph.norms import Family, Norms
    from bnlint.graph.ops import SHAPE_ONLY, WEIGHT_LAYERS, Kind, op_name

    norms = Norms(graph)
    found: dict[fx.Node, Norm] = {}
    for output in graph.outputs:
        end: fx.Node | None = output
        while end is not None and (
            graph.kind(end) in SHAPE_ONLY | {Kind.SOFTMAX} or op_name(end).lower().endswith("sigmoid")
        ):
            end = graph.data(end)
        norm = norms.at(end) if end is not None else None
        if norm is None or norm.family is not Family.BATCH or not norm.batch_statistics:
            continue
        if graph.kind(norm.source) in WEIGHT_LAYERS:
            found[norm.node] = norm
    return list(found.values())
