"""BN119 norm-eps-underflow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    import torch
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.graph.norms import Norm


class NormEpsUnderflow(Rule):
    """A norm's eps is zero, or too small to divide by, in the number format it is computed in.

    Why it matters: eps is there for the one case that the variance is zero, as for a dead channel, a black image or a
    padded sequence. Half precision ends at 6e-8: an eps of 1e-8 or 1e-12 becomes exactly 0 there, and 0/0 is NaN, which
    the next update writes into every weight. Where the norm itself is divided by, an eps of 1e-5 is not enough either:
    the gradient of a zero vector is 1/eps = 100000, and half precision ends at 65504. PyTorch's own norm layers compute
    in float32 even on half inputs; what is written out in tensor operations, and `F.normalize` with its eps of 1e-12,
    does not.

    Under a square root 1e-5 works, but it is below float16's smallest normal number, 6.1e-5: info.

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
            x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-4)
            return self.fc2(torch.relu(x))
    ```

    Known limits: the format is the one given with `--dtype`, else the one that the model and its input have as built.
    Under `torch.autocast` other ops run in other formats; that is not looked at.

    References: IEEE 754 binary16, smallest subnormal 2^-24; github.com/pytorch/pytorch pull request 33596 and
    github.com/jingyuanli001/RFR-Inpainting issue 8, real cases.
    """

    code = "BN119"
    name = "norm-eps-underflow"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at the eps of every norm in the format it is added in."""
        from bnlint.graph.norms import Norms
        from bnlint.signal.device import find_dtype

        graph = model.graph
        assert graph is not None
        wanted = find_dtype(model.dtype)
        for norm in Norms(graph):
            for eps in _epsilons(graph, norm, wanted):
                verdict = eps.verdict()
                if verdict is None:
                    continue
                severity, harm = verdict
                yield self.finding(
                    model.place(norm.node),
                    f"eps = {eps.value:g} {harm}",
                    help="compute the statistics in float32, or use a larger eps such as 1e-4",
                    severity=severity,
                    evidence={"eps": eps.value, "dtype": _name(eps.dtype)},
                )


@dataclass(frozen=True)
class _Eps:
    """An eps, the format it is added in, and whether a square root is taken before anything is divided by it."""

    value: float
    dtype: torch.dtype
    rooted: bool

    def verdict(self) -> tuple[Severity, str] | None:
        import torch

        limits, name = torch.finfo(self.dtype), _name(self.dtype)
        if torch.tensor(self.value, dtype=self.dtype) == 0:
            return Severity.WARNING, f"is 0 in {name}: a constant input divides by zero"
        if not self.rooted and 1 / self.value > limits.max:
            return (
                Severity.WARNING,
                f"is too small for {name}: 1/eps is above its largest number, {limits.max:g}, and the gradient of an "
                f"input of zeros is infinite",
            )
        if self.value < limits.tiny:
            return (
                Severity.INFO,
                f"is below the smallest normal number of {name}, {limits.tiny:.2g}: a device that has no smaller ones "
                f"takes it for 0",
            )
        return None


def _epsilons(graph: Graph, norm: Norm, wanted: torch.dtype | None) -> list[_Eps]:
    """The eps of a norm: of a layer, of `F.normalize`, or the small numbers in one written by hand."""
    import torch

    from bnlint.graph.norms import Family
    from bnlint.graph.ops import Kind, argument, op_name

    dtype = _dtype(graph, norm, norm.node, wanted)
    if dtype is None:
        return []
    if op_name(norm.node) == "normalize":
        return [_Eps(float(argument(norm.node, 3, "eps", 1e-12)), dtype, rooted=False)]
    if norm.family is Family.WRITTEN:
        adds = [n for n in norm.inside if graph.kind(n) is Kind.ADD or "clamp" in op_name(n)]
        rows = [(value, _dtype(graph, norm, n, wanted), n) for n in adds for value in _literals(n) if 0 < value < 1e-3]
        return [_Eps(value, found, _is_rooted(n)) for value, found, n in rows if found is not None]
    eps = getattr(norm.module, "eps", None)
    wide = dtype if dtype is torch.float64 else torch.float32  # what torch's own layers compute in
    return [_Eps(float(eps), wide, rooted=True)] if isinstance(eps, (int, float)) else []


def _literals(node: fx.Node) -> list[float]:
    return [float(a) for a in (*node.args, *node.kwargs.values()) if isinstance(a, float)]


def _is_rooted(node: fx.Node) -> bool:
    from bnlint.graph.ops import op_name

    return any(op_name(user) in ("sqrt", "rsqrt", "pow") for user in node.users)


def _dtype(graph: Graph, norm: Norm, node: fx.Node, wanted: torch.dtype | None) -> torch.dtype | None:
    """The format a node is computed in when the model runs in `wanted`, or as built; what is cast keeps its cast."""
    import torch

    dtype: torch.dtype | None = getattr(node.meta.get("val"), "dtype", None)
    if dtype is None or not dtype.is_floating_point:
        return None
    return dtype if wanted is None or dtype is torch.float64 or _is_cast(norm, node) else wanted


def _is_cast(norm: Norm, node: fx.Node) -> bool:
    """True when the text of the norm brings its input to float32 or better before this node."""
    import torch

    from bnlint.graph.ops import op_name

    todo, seen = [node], set()
    while todo:
        here = todo.pop()
        given = (*here.args[1:], *here.kwargs.values())
        if op_name(here) in ("float", "double") or any(a in (torch.float32, torch.float64) for a in _dtypes(given)):
            return True
        for source in here.all_input_nodes:
            if here is not norm.source and source not in seen:
                seen.add(source)
                todo.append(source)
    return False


def _dtypes(values: tuple[object, ...]) -> list[torch.dtype]:
    import torch

    return [value for value in values if isinstance(value, torch.dtype)]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
