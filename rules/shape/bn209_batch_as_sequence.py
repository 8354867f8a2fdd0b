"""BN209 batch-as-sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel


class BatchAsSequence(Rule):
    """A recurrent layer, attention or Transformer runs along the batch axis, as if the samples were time steps.

    Why it matters: without `batch_first=True` these layers read (L, N, C). Given (N, L, C) they run without an error:
    the state is carried from sample to sample, every output depends on the other samples of the batch, and the steps of
    one sequence never meet. Such a model still learns a little, which is why the bug survives.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            self.rnn = nn.LSTM(16, 32)
            self.fc = nn.Linear(32, 10)

        def forward(self, ids):
            out, _ = self.rnn(self.embed(ids))
            return self.fc(out[:, -1])
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            self.rnn = nn.LSTM(16, 32, batch_first=True)
            self.fc = nn.Linear(32, 10)

        def forward(self, ids):
            out, _ = self.rnn(self.embed(ids))
            return self.fc(out[:, -1])
    ```

    Known limits: a model that is consistent with (L, N, C) from its input to its output is taken to mean it; the layout
    of your data is not known here.

    References: documentation of `batch_first` in `torch.nn.LSTM` and `torch.nn.MultiheadAttention`;
    github.com/AndersonJo/dqn-pytorch issue 1 and github.com/aipixel/AEMatter issue 3, real cases.
    """

    code = "BN209"
    name = "batch-as-sequence"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """An error where layers before or after contradict the layer's layout, a warning where they only suggest it."""
        from bnlint.graph.along import runs_along_batch
        from bnlint.graph.ops import op_name

        graph = model.graph
        assert graph is not None
        for found in runs_along_batch(graph):
            cls = op_name(found.node)
            does = "gives the batch at" if cls == "pad_packed_sequence" else "runs along"
            yield self.finding(
                model.place(found.node),
                f"`{cls}` {does} axis {found.dim} of {list(found.shape)}"
                + (", which is the batch" if does == "runs along" else "")
                + f": {found.why}",
                severity=Severity.ERROR if found.certain else Severity.WARNING,
                help=_help(cls, found.node, found.dim, len(found.shape)),
                evidence={"shape": list(found.shape), "axis": found.dim},
            )


def _help(cls: str, node: fx.Node, dim: int, rank: int) -> str:
    if cls in ("pack_padded_sequence", "pad_packed_sequence"):
        return f"pass `batch_first={dim == (cls == 'pad_packed_sequence')}` to `{cls}`"
    if cls.endswith("Cell"):
        return "step along the other axis: `for step in x.unbind(1)`, and `torch.stack(states, dim=1)`"
    if rank == 2:
        return "give it a time axis: `x.unsqueeze(1)` with `batch_first=True`, or use a Linear layer"
    if dim == 1:
        return "keep the batch first here, without the transpose before it, or drop `batch_first=True`"
    name = str(node.target).rpartition(".")[2]
    layer = f"self.{name}" if node.op == "call_module" and name.isidentifier() else "layer"
    return f"set `batch_first=True`, or transpose before and after, as in `{layer}(x.transpose(0, 1))`"
