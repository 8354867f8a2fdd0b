"""BN403 softmax-axis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph


class SoftmaxAxis(Rule):
    """A softmax runs along the batch, an axis of size 1, the queries of an attention, or an axis that nobody chose.

    Why it matters: along the batch the probabilities of one sample depend on the others and sum to 1 over the batch;
    a batch of one gives all ones. Over an axis of size 1 the output is the constant 1 and the layer before it never
    gets a gradient: a classifier with one unit and a softmax stays at its base rate (an accuracy of 0.5 in the case
    below, 1.0 with a sigmoid). Without `dim` PyTorch picks axis 0 for inputs of one or three axes and axis 1
    otherwise, so that attention scores of shape (batch, steps, steps) are normalised over the batch. Along the queries
    the weights with which one query sums the values add up to anything, 0.03 to 1.85 in an untrained layer.

    An axis of size 1 is an error, the batch or the queries a warning; a missing `dim` is a warning where PyTorch picks
    the batch and a remark where it picks another axis.

    Example (bad):

    ```python
    # bnlint check --input 4x7x16
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(16, 1)
            self.softmax = nn.Softmax(dim=0)
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            weights = self.softmax(self.score(x))
            return self.head((weights * x).sum(1))
    ```

    Use instead (good):

    ```python
    # bnlint check --input 4x7x16
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(16, 1)
            self.softmax = nn.Softmax(dim=1)
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            weights = self.softmax(self.score(x))
            return self.head((weights * x).sum(1))
    ```

    Known limits: an axis counts as size 1 only where the code makes it so (a layer with one output, `unsqueeze`,
    `keepdim`), not where the input is that short. A softmax over samples that are pooled into one (multiple-instance
    learning) or compared with each other (contrastive scores) is not reported, nor is one along the queries whose
    weights are divided by their sum afterwards (slot attention), nor is one in a model with a
    sequence-first recurrent layer, where the leading axis is time.

    References: documentation of `torch.nn.functional.softmax`; github.com/pytorch/pytorch issue 1020,
    github.com/PetrochukM/PyTorch-NLP issue 2 and stackoverflow.com/questions/31880720, real cases.
    """

    code = "BN403"
    name = "softmax-axis"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at the axis of every softmax."""
        from bnlint.graph.attention import summed_axis
        from bnlint.graph.axes import holds_batch
        from bnlint.graph.heads import declared_axis, softmax_axis
        from bnlint.graph.ops import Kind
        from bnlint.graph.sizes import always_one

        graph = model.graph
        assert graph is not None
        for node in graph.of_kind(Kind.SOFTMAX):
            source, axis = graph.data(node), softmax_axis(graph, node)
            if source is None or axis is None or graph.error(node) is not None:
                continue
            evidence = {"axis": axis, "shape": list(graph.shape(node))}
            if always_one(graph, source, axis):
                yield self.finding(
                    model.place(node),
                    f"softmax over axis {axis} of size 1: it always gives 1 and what comes before gets no gradient",
                    help="use a sigmoid for one unit, or another `dim`",
                    severity=Severity.ERROR,
                    evidence=evidence,
                )
            elif len(graph.axes(source)) > axis and holds_batch(graph.axes(source)[axis]):
                if _mixes_samples(graph, node, source):
                    yield self._along_batch(model, node, axis, declared_axis(graph, node) is None)
            elif (summed := summed_axis(graph, node, axis)) is not None:
                yield self.finding(
                    model.place(node),
                    f"softmax along axis {axis} of attention scores, and the product that follows sums over axis "
                    f"{summed}: the weights it sums do not add up to 1",
                    help=f"use `dim={summed - len(graph.shape(node))}`, the positions that are summed",
                    evidence=evidence,
                )
            elif declared_axis(graph, node) is None:
                ndim = len(graph.shape(node))
                yield self.finding(
                    model.place(node),
                    f"softmax without `dim`: PyTorch picks axis {axis} for an input of {ndim} axes",
                    help=f"write `dim={axis}`",
                    severity=Severity.INFO,
                    evidence=evidence,
                )

    def _along_batch(self, model: AuditedModel, node: fx.Node, axis: int, implicit: bool) -> Finding:
        graph = model.graph
        assert graph is not None
        how = f"softmax without `dim` runs along axis {axis}" if implicit else f"softmax along axis {axis}"
        return self.finding(
            model.place(node),
            f"{how}, the batch: the samples of a batch share one probability",
            help="use the axis of the classes or positions, often `dim=-1`",
            evidence={"axis": axis, "shape": list(graph.shape(node))},
        )


def _mixes_samples(graph: Graph, node: fx.Node, source: fx.Node) -> bool:
    """True when the samples stay separate otherwise: one batch axis, still there in what the model returns."""
    from bnlint.graph.axes import holds_batch, is_batch

    if sum(holds_batch(axis) for axis in graph.axes(source)) != 1 or _is_sequence_first(graph):
        return False
    reached = {node}
    for other in graph.nodes[graph.position[node] + 1 :]:
        if any(n in reached for n in other.all_input_nodes):
            reached.add(other)
    ends = [n for n in graph.outputs if n in reached]
    return bool(ends) and all(any(is_batch(axis) for axis in graph.axes(n)) for n in ends)


def _is_sequence_first(graph: Graph) -> bool:
    from bnlint.graph.ops import Kind

    layers = [graph.module(n) for n in graph.of_kind(Kind.RNN, Kind.ATTENTION, Kind.TRANSFORMER)]
    return any(layer is not None and getattr(layer, "batch_first", None) is False for layer in layers)
