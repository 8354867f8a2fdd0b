"""BN119 norm-eps-underflow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    import torch
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.graph.norms import Norm


class NormEpsUnderflow(Rule):
    """A norm's eps is zero in the number format it is computed in, so a constant input divides by zero.

    Why it matters: eps is there for the one case that the variance is zero, as for a dead channel, a black image or a
    padded sequence. Half precision ends at 6e-8: an eps of 1e-8 or 1e-12 becomes exactly 0 there, and 0/0 is NaN, which
    the next update writes into every weight. PyTorch's own norm layers compute in float32 even on half inputs; what is
    written out in tensor operations, and `F.normalize` with its eps of 1e-12, does not.

    Example (bad):

    ```python
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(16, 32)
            self.fc2 = nn.Linear(32, 4)
            self.half()

        def forward(self, x):
            x = self.fc1(x)
            x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-8)
            return self.fc2(torch.relu(x))
    ```

    Use instead (good):

    ```python
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(16, 32)
            self.fc2 = nn.Linear(32, 4)
            self.half()

        def forward(self, x):
            x = self.fc1(x)
            x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5)
            return self.fc2(torch.relu(x))
    ```

    Known limits: the format is the one that the model and its input have as built.

    References: IEEE 754 binary16, smallest subnormal 2^-24; github.com/pytorch/pytorch pull request 33596 and
    github.com/jingyuanli001/RFR-Inpainting issue 8, real cases.
    """

    code = "BN119"
    name = "norm-eps-underflow"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Rounds the eps of every norm to the format it is added in."""
        from bnlint.graph.norms import Norms

        graph = model.graph
        assert graph is not None
        for norm in Norms(graph):
            for eps, dtype in _epsilons(graph, norm):
                if not _rounds_to_zero(eps, dtype):
                    continue
                name = str(dtype).removeprefix("torch.")
                yield self.finding(
                    model.place(norm.node),
                    f"eps = {eps:g} is 0 in {name}: a constant input divides by zero",
                    help="use eps=1e-5, or compute the statistics in float32",
                    evidence={"eps": eps, "dtype": name},
                )


def _epsilons(graph: Graph, norm: Norm) -> list[tuple[float, torch.dtype]]:
    """The eps of a norm and the format it is added in."""
    import torch

    from bnlint.graph.norms import Family
    from bnlint.graph.ops import Kind, argument, op_name

    dtype = _dtype(norm.node)
    if dtype is None:
        return []
    if op_name(norm.node) == "normalize":
        return [(float(argument(norm.node, 3, "eps", 1e-12)), dtype)]
    if norm.family is Family.WRITTEN:
        adds = [n for n in norm.inside if graph.kind(n) is Kind.ADD or "clamp" in op_name(n)]
        values = [(value, _dtype(n)) for n in adds for value in _literals(n) if 0 < value < 1e-3]
        return [(value, found) for value, found in values if found is not None]
    eps = getattr(norm.module, "eps", None)
    wide = dtype if dtype is torch.float64 else torch.float32
    return [(float(eps), wide)] if isinstance(eps, (int, float)) else []


def _literals(node: fx.Node) -> list[float]:
    return [float(a) for a in (*node.args, *node.kwargs.values()) if isinstance(a, float)]


def _dtype(node: fx.Node) -> torch.dtype | None:
    value = node.meta.get("val")
    dtype: torch.dtype | None = getattr(value, "dtype", None)
    return dtype if dtype is not None and dtype.is_floating_point else None


def _rounds_to_zero(value: float, dtype: torch.dtype) -> bool:
    import torch

    return bool(torch.tensor(value, dtype=dtype) == 0)
