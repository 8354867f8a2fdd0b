"""BN203 batch-folded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.folds import Joined
    from bnlint.graph.model import AuditedModel, Graph


class BatchFolded(Rule):
    """A reshape folds features of every sample into the batch axis, or a concatenation puts several results there.

    Why it matters: `x.view(-1, k)` takes as many rows as there are elements. When `k` is not exactly the number of
    features of one sample, a sample becomes several rows, each with a part of its features, and the loss either
    raises (the targets have N rows) or pairs rows with the wrong targets. The batch size is the one axis that a
    reshape in a forward pass should keep by name.

    `torch.cat((a, b))` does the same to whole results: it joins along the batch, and two results for N samples become
    2 N rows. Features are joined by `torch.cat((a, b), dim=1)`. This is an error when the next layer takes the features
    of all parts together, or when a loss is declared (`--loss`), and a warning otherwise.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 32, 3, stride=2, padding=1)
            self.relu = nn.ReLU()
            self.pool = nn.AdaptiveAvgPool2d(8)
            self.fc = nn.Linear(512, 10)

        def forward(self, x):
            x = self.pool(self.relu(self.conv(x)))
            return self.fc(x.view(-1, 512))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 32, 3, stride=2, padding=1)
            self.relu = nn.ReLU()
            self.pool = nn.AdaptiveAvgPool2d(8)
            self.fc = nn.Linear(32 * 8 * 8, 10)

        def forward(self, x):
            x = self.pool(self.relu(self.conv(x)))
            return self.fc(x.flatten(1))
    ```

    Known limits: views of one batch that pass the same layers (contrastive pairs, crops), embeddings joined at the very
    end, and whatever is cut apart again are joined along the batch on purpose and not reported. Folding whole axes,
    such as time into the batch, (B, T, C) to (B*T, C), is a normal way to apply a layer per position and is not
    reported; nor is a fold that a later reshape undoes.

    References: documentation of `torch.Tensor.view`; github.com/qijiezhao/pseudo-3d-pytorch issue 28, a real case.
    """

    code = "BN203"
    name = "batch-folded"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Finds reshapes after which the rows are no longer samples, and never become samples again."""
        from bnlint.graph.folds import (
            folds_batch_into_features,
            folds_features_into_batch,
            impossible_rows,
            is_unfolded_later,
            per_sample,
        )
        from bnlint.graph.ops import Kind

        graph = model.graph
        assert graph is not None
        yield from self._joined(model, graph)
        for node in graph.of_kind(Kind.RESHAPE):
            source = graph.data(node)
            asked = impossible_rows(graph, node)
            if source is not None and asked is not None and asked[0] is None:
                shape = graph.shape(source)
                yield self.finding(
                    model.place(node),
                    f"this reshape asks for rows of {asked[1]} features, but a sample of {list(shape)} has "
                    f"{per_sample(shape)}, and {shape[0]} samples do not divide into such rows",
                    help=_help(graph, node, per_sample(shape)),
                    evidence={"shape": list(shape), "features_per_sample": per_sample(shape)},
                )
                continue
            if source is not None and folds_batch_into_features(graph, node):
                shape = graph.shape(source)
                yield self.finding(
                    model.place(node),
                    f"this reshape makes the {shape[0]} samples of {list(shape)} one: {list(graph.shape(node))}",
                    help=_help(graph, node, per_sample(shape)),
                    evidence={"shape": list(shape), "result": list(graph.shape(node))},
                )
                continue
            if source is None or not folds_features_into_batch(graph, node) or is_unfolded_later(graph, node):
                continue
            shape, rows = graph.shape(source), graph.shape(node)
            features = per_sample(shape)
            yield self.finding(
                model.place(node),
                f"this reshape folds the features {list(shape)} into the batch: "
                f"{shape[0]} samples become {rows[0]} rows {list(rows)}",
                help=_help(graph, node, features),
                note=f"one sample has {' x '.join(map(str, shape[1:]))} = {features} features with this input",
                evidence={"shape": list(shape), "result": list(rows), "features_per_sample": features},
            )

    def _joined(self, model: AuditedModel, graph: Graph) -> Iterator[Finding]:
        from bnlint.graph.folds import samples_joined
        from bnlint.graph.ops import Kind

        for node in graph.of_kind(Kind.CAT):
            found = samples_joined(graph, node)
            if found is None:
                continue
            proven = found.contradicts or (model.loss is not None and graph.runs)
            yield self.finding(
                model.place(node),
                f"this concatenation puts {found.parts} results for {found.batch} samples below each other: "
                f"{graph.shape(node)[0]} rows {list(graph.shape(node))}",
                severity=Severity.ERROR if proven else Severity.WARNING,
                help=_side_by_side(graph, found),
                evidence={"parts": found.parts, "batch": found.batch},
            )


def _side_by_side(graph: Graph, found: Joined) -> str:
    from torch import nn

    module = graph.module(found.reader)
    fix = "join the features: `torch.cat(..., dim=1)`"
    if found.contradicts or not isinstance(module, nn.Linear):
        return fix
    return f"{fix}, and read them with `nn.Linear({found.parts * module.in_features}, {module.out_features})`"


def _help(graph: Graph, node: fx.Node, features: int) -> str:
    from torch import nn

    from bnlint.graph.ops import WEIGHT_LAYERS

    reader = next((n for n in graph.destinations(node) if graph.kind(n) in WEIGHT_LAYERS), None)
    module = graph.module(reader) if reader is not None else None
    fix = "keep the batch axis: `x.flatten(1)`"
    if reader is not None and isinstance(module, nn.Linear):
        fix += f", and read it with `nn.Linear({features}, {module.out_features})`"
    return fix + ", or pool to a fixed size first (`nn.AdaptiveAvgPool2d`) so that any input size works"
