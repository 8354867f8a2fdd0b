"""BN315 embedding-scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph


class EmbeddingScale(Rule):
    """An embedding with PyTorch's N(0, 1) values is also the output projection, and makes the logits large.

    Why it matters: a sum over d features of unit scale with weights of unit scale has a standard deviation of √d. With
    d = 512 the logits of a fresh language model have a standard deviation of 23, and its first loss is about 94 for
    30,000 words in place of ln V, about 10.

    Example (bad):

    ```python
    # bnlint check --input int64[4,8]<100
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(100, 64)
            self.norm = nn.LayerNorm(64)
            self.head = nn.Linear(64, 100, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.norm(self.embedding(tokens)))
    ```

    Use instead (good):

    ```python
    # bnlint check --input int64[4,8]<100
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(100, 64)
            nn.init.normal_(self.embedding.weight, std=0.02)
            self.norm = nn.LayerNorm(64)
            self.head = nn.Linear(64, 100, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.norm(self.embedding(tokens)))
    ```

    Known limits: a projection that scales its input or its result by 1/√d is not reported, and nothing is said where an
    op lies on the way that the prediction has no rule for.

    References: Press & Wolf 2017, Using the Output Embedding to Improve Language Models (arXiv 1608.05859); Radford et
    al. 2019, which draw the table from N(0, 0.02²); Raffel et al. 2020 (arXiv 1910.10683), which scale by d^-0.5.
    """

    code = "BN315"
    name = "embedding-scale"
    severity = Severity.INFO
    phase = Phase.GRAPH
    values = True

    max_std: float = 3.0  # of the logits

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Finds projections that use an embedding's weight, and predicts the scale of what they give."""
        from bnlint.graph.ops import Kind
        from bnlint.signal.describe import label, number

        graph = model.graph
        assert graph is not None
        pairs = list(_tied(graph))
        if not pairs or model.prediction is None or model.survey.trained:
            return
        for table, projection in pairs:
            std = _scaled(model, projection)
            if std is None or std <= self.max_std:
                continue
            width = graph.shape(table)[-1] if graph.kind(table) is Kind.EMBEDDING else 0
            yield self.finding(
                model.place(table),
                f"the table is also the output projection `{label(model, projection)}`, whose logits have a standard "
                f"deviation of {number(std)} before any training (limit {self.max_std:g})",
                help="draw it small, `nn.init.normal_(embedding.weight, std=0.02)`, and if the layers behind it need "
                f"unit scale multiply what is looked up by {number(width**0.5)}, the root of its width",
                evidence={"std": std, "width": width},
            )


def _tied(graph: Graph) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Embeddings with the layer or product that uses the same tensor to give scores."""
    from bnlint.graph.ops import WEIGHT_LAYERS, Kind

    for table in graph.of_kind(Kind.EMBEDDING):
        found = graph.weight(table)
        if found is None:
            continue
        for node in graph.of_kind(*WEIGHT_LAYERS):
            other = graph.weight(node)
            if other is not None and other[1] is found[1]:
                yield table, node


def _scaled(model: AuditedModel, node: fx.Node) -> float | None:
    """The standard deviation of the scores, behind a constant factor if one follows."""
    from bnlint.graph.ops import Kind

    graph, prediction = model.graph, model.prediction
    assert graph is not None and prediction is not None
    readers = graph.consumers(node)
    while len(readers) == 1 and graph.kind(readers[0]) in (Kind.MUL, Kind.SAME, Kind.RESHAPE):
        node, readers = readers[0], graph.consumers(readers[0])
    return prediction.stats[node.name].std if prediction.certain(node) else None
