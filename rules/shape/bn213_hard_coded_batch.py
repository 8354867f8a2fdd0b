"""BN213 hard-coded-batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Place, Rule, Severity, Variant

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel, Graph


class HardCodedBatch(Rule):
    """The forward pass works for one batch size only, or loses the batch axis when there is a single sample.

    Why it matters: the last batch of an epoch is smaller than the others, evaluation uses another size, and serving one
    sample at a time uses 1. A constant in a view raises then; a bare `squeeze()` removes the batch axis together with
    the one it was meant for, and what follows sees a vector.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.relu = nn.ReLU()
            self.pool = nn.AdaptiveAvgPool2d(3)
            self.fc = nn.Linear(144, 10)

        def forward(self, x):
            x = self.pool(self.relu(self.conv(x)))
            return self.fc(x.view(8, 144))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.relu = nn.ReLU()
            self.pool = nn.AdaptiveAvgPool2d(3)
            self.fc = nn.Linear(144, 10)

        def forward(self, x):
            x = self.pool(self.relu(self.conv(x)))
            return self.fc(x.view(x.shape[0], 144))
    ```

    Known limits: a batch that has to be a multiple of something (pairs, segments of a video) is not reported.

    References: documentation of `torch.squeeze` (its warning about a batch of one) and `torch.Tensor.view`.
    """

    code = "BN213"
    name = "hard-coded-batch"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the run with the same run on one sample more and on a single one."""
        from bnlint.graph.batches import fixed_batch, may_fix_batch, squeezes, swallowing_squeeze

        graph, given = model.graph, model.inputs
        assert graph is not None
        yield from self._misfits(model, graph)
        if given is None or given.batch_size < 2 or graph.recording.error is not None:
            return
        larger = model.variant(Variant.LARGER_BATCH) if may_fix_batch(graph, given.batch_size) else None
        fixed = fixed_batch(graph, larger, given.batch_size) if larger is not None else None
        if fixed is not None:
            line = model.resolve_call(fixed.call)
            place = model.place(fixed.node) if fixed.node is not None else Place("", line, line)
            yield self.finding(
                replace(place, node=None),
                f"the forward pass runs for a batch of {given.batch_size} and fails for {given.batch_size + 1}: "
                f"{fixed.what}",
                help=fixed.help,
                evidence={"batch": given.batch_size},
            )
        one = model.variant(Variant.BATCH_OF_ONE) if squeezes(graph) else None
        squeeze = swallowing_squeeze(graph, one) if one is not None else None
        if squeeze is not None:
            yield self._squeezed(model, graph, squeeze)

    def _misfits(self, model: AuditedModel, graph: Graph) -> Iterator[Finding]:
        from bnlint.graph.batches import misfit
        from bnlint.graph.ops import Kind

        for node in graph.of_kind(Kind.RESHAPE):
            asked, source = misfit(graph, node), graph.data(node)
            if asked is not None and source is not None:
                yield self.finding(
                    model.place(node),
                    f"this reshape asks for {asked} samples and the batch has {graph.shape(source)[0]}",
                    help="take the size from the input: `x.shape[0]`",
                    evidence={"asked": asked, "batch": graph.shape(source)[0]},
                )

    def _squeezed(self, model: AuditedModel, graph: Graph, node: object) -> Finding:
        from torch import fx

        assert isinstance(node, fx.Node)
        source = graph.data(node)
        shape = graph.shape(source) if source is not None else ()
        dims = [str(dim) for dim, size in enumerate(shape) if size == 1]
        if len(dims) > 1:
            exact = f"`squeeze(({', '.join(dims)}))`"
        else:
            exact = f"`squeeze({dims[0]})`" if dims else "nothing"
        return self.finding(
            replace(model.place(node), node=None),
            f"`squeeze()` of {list(shape)} also drops the batch axis when the batch is a single sample",
            severity=Severity.WARNING,
            help=f"name the axes: {exact}" if dims else "leave it out: with more than one sample it does nothing",
            evidence={"shape": list(shape)},
        )
