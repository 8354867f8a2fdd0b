"""BN207 operand-mismatch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.graph.operands import Clash


class OperandMismatch(Rule):
    """An addition, product or concatenation gets operands whose sizes cannot be combined.

    Why it matters: the forward pass raises here, and the message names neither of the two layers whose outputs do not
    fit. The usual causes are a skip connection around a block that changes the number of channels or the resolution,
    and a decoder map that lost a row to an odd size on the way down.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, padding=1)
            self.relu = nn.ReLU()
            self.block = nn.Conv2d(16, 32, 3, stride=2, padding=1)
            self.skip = nn.Identity()
            self.fc = nn.Linear(32, 10)

        def forward(self, x):
            x = self.relu(self.stem(x))
            x = self.relu(self.block(x) + self.skip(x))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, padding=1)
            self.relu = nn.ReLU()
            self.block = nn.Conv2d(16, 32, 3, stride=2, padding=1)
            self.skip = nn.Conv2d(16, 32, 1, stride=2)
            self.fc = nn.Linear(32, 10)

        def forward(self, x):
            x = self.relu(self.stem(x))
            x = self.relu(self.block(x) + self.skip(x))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    References: He et al. 2015, Deep Residual Learning (arXiv 1512.03385), section 3.3 on projection shortcuts;
    Ronneberger et al. 2015, U-Net (arXiv 1505.04597), for cropping before the concatenation.
    """

    code = "BN207"
    name = "operand-mismatch"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Reports every failed combination of tensors with the axes that clash and who made the two operands."""
        from bnlint.graph.operands import COMBINING, clashes, guessed, source_name
        from bnlint.graph.ops import op_name
        from bnlint.graph.tables import short_table

        graph = model.graph
        assert graph is not None
        for node in graph.of_kind(*COMBINING):
            found = clashes(graph, node) if graph.error(node) is not None else []
            if not found or any(guessed(graph, clash) for clash in found):
                continue  # no clash of sizes, or one that only a stand-in for an earlier failure makes
            if short_table(graph, node) is not None:
                continue  # BN212 says more
            first, second = found[0].first, found[0].second
            shapes = [graph.shape(n) for n in (first, second)]
            sides = [
                f"{list(shape)}" + (f" from {name}" if name else "")
                for shape, name in zip(shapes, (source_name(graph, n) for n in (first, second)), strict=True)
            ]
            yield self.finding(
                model.place(node),
                f"`{op_name(node)}` cannot combine {sides[0]} with {sides[1]}: {_words(found, len(shapes[0]))}",
                help=_help(graph, node, found),
                evidence={"shapes": [list(shape) for shape in shapes]},
            )


def _words(found: Sequence[Clash], rank: int) -> str:
    return ", ".join(
        f"axis {clash.dim + rank} has {clash.sizes[0]} against {clash.sizes[1]}"
        if clash.dim == clash.other_dim
        else f"the last axis of the first has {clash.sizes[0]}, the one before last of the second {clash.sizes[1]}"
        for clash in sorted(found, key=lambda clash: clash.dim)
    )


def _help(graph: Graph, node: fx.Node, found: Sequence[Clash]) -> str:
    from bnlint.graph.axes import Role, roles
    from bnlint.graph.operands import axes_of
    from bnlint.graph.ops import Kind

    x, y = (graph.shape(n) for n in (found[0].first, found[0].second))
    if graph.kind(node) is Kind.MATMUL:
        if len(y) >= 2 and x[-1] == y[-1]:
            return "transpose the second operand: `b.transpose(-1, -2)`"
        return f"make the second operand's axis before last {x[-1]} long"
    order = _permutation(x, y)
    if order is not None:
        return f"bring the axes of the second operand into the same order: `b.permute({', '.join(map(str, order))})`"
    if any(roles(axis) == {Role.BATCH} for clash in found for axis in axes_of(graph, clash)):
        return "both operands must hold the same samples: keep the batch axis through every reshape before this line"
    rank = len(x) - 2
    by_dim = {clash.dim: clash.sizes for clash in found}
    channels = by_dim.pop(-rank - 1, None) if rank > 0 else None
    if len(x) == len(y) and rank > 0 and by_dim and all(dim > -rank - 1 for dim in by_dim) and channels is None:
        return (
            "give both the same resolution: equal strides and paddings on both paths, a crop, or "
            f"`F.interpolate(a, size=b.shape[{2 - len(x)}:])`"
        )
    if channels is not None and rank <= 3:
        step = _stride(by_dim, graph, found)
        few, many = (channels[1], channels[0]) if _is_input_side(graph, found) else channels
        return f"project one path onto the other: `nn.Conv{rank}d({few}, {many}, 1{step})`"
    sizes = found[0].sizes
    return f"make both {sizes[0]} or both {sizes[1]} long, for example with `nn.Linear({sizes[1]}, {sizes[0]})`"


def _is_input_side(graph: Graph, found: Sequence[Clash]) -> bool:
    """True when the second operand is the earlier of the two: the skip path, which the projection belongs on."""
    first, second = found[0].first, found[0].second
    return graph.position[second] < graph.position[first] or graph.shape(second)[-1] > graph.shape(first)[-1]


def _stride(by_dim: dict[int, tuple[int, int]], graph: Graph, found: Sequence[Clash]) -> str:
    ratios = {max(a, b) // max(1, min(a, b)) if max(a, b) % max(1, min(a, b)) == 0 else 0 for a, b in by_dim.values()}
    ratio = ratios.pop() if len(ratios) == 1 else 0
    return f", stride={ratio}" if ratio > 1 else ""


def _permutation(x: tuple[int, ...], y: tuple[int, ...]) -> list[int] | None:
    """How to permute `y` so that it has the sizes of `x`; None when no order, or more than one, does."""
    if len(x) != len(y) or sorted(x) != sorted(y) or len(set(x)) < len(x):
        return None
    return [y.index(size) for size in x]
