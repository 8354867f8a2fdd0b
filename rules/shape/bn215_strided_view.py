"""BN215 strided-view."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class StridedView(Rule):
    """A `view` joins axes that do not lie side by side in memory, as after a transpose, so it raises.

    Why it matters: `transpose`, `permute`, `expand` and slices move no data, they only change the strides by which it
    is read. `view` never copies, so it can join two axes only where one stride serves both. The forward pass stops
    there with "view size is not compatible with input tensor's size and stride".

    Example (bad):

    ```python
    import torch.nn as nn

    # bnlint check --input 8x10x32
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Linear(32, 32)
            self.out = nn.Linear(32, 32)

        def forward(self, x):
            heads = self.value(x).view(len(x), -1, 4, 8).transpose(1, 2)
            heads = heads.softmax(dim=2)
            return self.out(heads.transpose(1, 2).view(len(x), -1, 32))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    # bnlint check --input 8x10x32
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Linear(32, 32)
            self.out = nn.Linear(32, 32)

        def forward(self, x):
            heads = self.value(x).view(len(x), -1, 4, 8).transpose(1, 2)
            heads = heads.softmax(dim=2)
            return self.out(heads.transpose(1, 2).reshape(len(x), -1, 32))
    ```

    Known limits: `reshape` ends the error; whether the order of the axes is the one you mean is BN205's question.

    References: documentation of `torch.Tensor.view`, `torch.Tensor.reshape` and `torch.Tensor.contiguous`.
    """

    code = "BN215"
    name = "strided-view"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Finds views that failed although the number of elements is right."""
        from bnlint.graph.folds import is_strided_view
        from bnlint.graph.ops import Kind

        graph = model.graph
        assert graph is not None
        for node in graph.of_kind(Kind.RESHAPE):
            source = graph.data(node)
            if source is None or not is_strided_view(graph, node):
                continue
            shape, result = list(graph.shape(source)), list(graph.shape(node))
            yield self.finding(
                model.place(node),
                f"`view` cannot make {result} of {shape}: the axes it joins are not side by side in memory",
                help="write `.reshape(...)` in place of `.view(...)`, or `.contiguous()` before it",
                evidence={"shape": shape, "result": result},
            )
