"""BN212 index-out-of-range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.graph.tables import Lookup


class IndexOutOfRange(Rule):
    """An embedding or a table of positions has fewer rows than the indices or the sequence it serves need.

    Why it matters: on the CPU the forward pass raises IndexError; on a GPU it is a device-side assertion that kills
    the process and names another line. A table that is long enough for the training sequences and too short for one
    longer text fails only then.

    Example (bad):

    ```python
    import torch
    import torch.nn as nn

    # bnlint check --input int64[4,48]<100
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(100, 16)
            self.places = nn.Embedding(32, 16)
            self.head = nn.Linear(16, 5)

        def forward(self, ids):
            places = torch.arange(ids.shape[1], device=ids.device)
            x = self.words(ids) + self.places(places)
            return self.head(x.mean(dim=1))
    ```

    Use instead (good):

    ```python
    import torch
    import torch.nn as nn

    # bnlint check --input int64[4,48]<100
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(100, 16)
            self.places = nn.Embedding(48, 16)
            self.head = nn.Linear(16, 5)

        def forward(self, ids):
            places = torch.arange(ids.shape[1], device=ids.device)
            x = self.words(ids) + self.places(places)
            return self.head(x.mean(dim=1))
    ```

    Known limits: indices that are computed from floating point values are not followed, and lengths that bnlint itself
    chose for the input are not held against a table.

    References: documentation of `torch.nn.Embedding` (`num_embeddings`).
    """

    code = "BN212"
    name = "index-out-of-range"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the indices of every embedding, and the length of every sliced table, with the rows there are."""
        from bnlint.graph.ops import Kind
        from bnlint.graph.tables import lookups, short_table

        graph = model.graph
        assert graph is not None
        if model.inputs is not None and not model.inputs.inferred:
            for lookup in lookups(model):
                if lookup.high >= lookup.rows or lookup.low < 0:
                    yield self._lookup(model, graph, lookup)
        for node in graph.of_kind(Kind.ADD, Kind.MUL):
            short = short_table(graph, node) if graph.error(node) is not None else None
            if short is not None:
                yield self.finding(
                    model.place(node),
                    f"the table `{short.table.target}` has {short.rows} positions and the sequence {short.wanted}",
                    help=f"make axis {short.axis} of `{short.table.target}` at least {short.wanted} long, "
                    f"or pass at most {short.rows} positions",
                    evidence={"rows": short.rows, "positions": short.wanted},
                )

    def _lookup(self, model: AuditedModel, graph: Graph, lookup: Lookup) -> Finding:
        worst = lookup.low if lookup.low < 0 else lookup.high
        table = f"`{lookup.node.target}`" if lookup.node.op == "call_module" else "the table"
        whose = f"the input `{lookup.from_input}` holds" if lookup.from_input else "the model computes"
        width = graph.shape(lookup.node)[-1]
        return self.finding(
            model.place(lookup.node),
            f"{table} has {lookup.rows} rows, 0 to {lookup.rows - 1}, and {whose} the index {worst}",
            help="indices start at 0; shift or mask the negative ones"
            if worst < 0
            else f"write `nn.Embedding({worst + 1}, {width})`, or keep the indices below {lookup.rows}",
            evidence={"rows": lookup.rows, "lowest": lookup.low, "highest": lookup.high},
        )
