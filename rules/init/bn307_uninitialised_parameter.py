"""BN307 uninitialised-parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel, Graph


class UninitialisedParameter(Rule):
    """A parameter is made by `torch.empty` or `torch.Tensor(sizes)`, and nothing ever writes values into it.

    Why it matters: it holds what the memory held before. In a fresh process that is often zeros, in the next one the
    remains of another tensor, 1e-38, 1e30 or NaN: the same code with the same seed trains today and diverges tomorrow.

    Example (bad):

    ```python
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(64, 20))
            self.out = nn.Linear(64, 10)

        def forward(self, x):
            return self.out(torch.relu(x @ self.weight.t()))
    ```

    Use instead (good):

    ```python
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(64, 20))
            nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
            self.out = nn.Linear(64, 10)

        def forward(self, x):
            return self.out(torch.relu(x @ self.weight.t()))
    ```

    Known limits: bnlint has to build the model itself, with memory that torch marks, so a model passed as an object is
    not looked at. Parameters that forward does not read, or writes itself (data-dependent initialisation), are not
    reported. In 16 bits, and on processors that write 0/0 like the mark (ARM), a parameter computed as NaN counts, too.

    References: PyTorch documentation of `torch.utils.deterministic.fill_uninitialized_memory`.
    """

    code = "BN307"
    name = "uninitialised-parameter"
    severity = Severity.ERROR
    phase = Phase.GRAPH
    values = True

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Takes the parameters in which torch's mark was found when the model was built."""
        graph = model.graph
        assert graph is not None
        read = _read(graph) if model.unwritten else set()
        for name, count in model.unwritten.items():
            path, _, key = name.rpartition(".")
            if name not in read or model.weights is not None:
                continue
            total = model.module.get_parameter(name).numel()
            yield self.finding(
                model.place(path=path),
                f"{'all' if count == total else f'{count} of'} {total} entries of `{key}` are uninitialised memory",
                help=f"write it after making it, such as `nn.init.kaiming_normal_(self.{key})` for a weight and "
                f"`nn.init.zeros_(self.{key})` for a bias",
                evidence={"parameter": name, "unwritten": count, "entries": total},
            )


def _read(graph: Graph) -> set[str]:
    """The parameters that forward reads and does not write."""
    from bnlint.graph.gradients import written_parameters

    direct = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    layers = ((str(node.target), graph.module(node)) for node in graph.nodes if node.op == "call_module")
    inside = {f"{path}.{name}" for path, m in layers if m is not None for name, _ in m.named_parameters()}
    return (direct | inside) - written_parameters(graph)
