"""BN205 reshape-as-transpose."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity, Variant

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.graph.regroup import Regrouped


class ReshapeAsTranspose(Rule):
    """A view or reshape gives the sizes of a permutation but leaves the elements where they are.

    Why it matters: `reshape` never moves an element; it only draws the axis boundaries elsewhere. A feature map
    (N, C, H, W) reshaped to (N, H*W, C) has the right sizes and in each of its rows pixels of a few channels, not the
    channels of a pixel. Nothing raises, the layers after it learn from scrambled features, and when the batch axis is
    involved samples leak into each other.

    Example (bad):

    ```python
    import torch.nn as nn

    # bnlint check --input 4x3x16x16
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 24, 4, stride=4)
            self.norm = nn.LayerNorm(24)
            self.head = nn.Linear(24, 10)

        def forward(self, x):
            x = self.conv(x)
            n, c, h, w = x.shape
            x = x.reshape(n, h * w, c)
            return self.head(self.norm(x).mean(dim=1))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    # bnlint check --input 4x3x16x16
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 24, 4, stride=4)
            self.norm = nn.LayerNorm(24)
            self.head = nn.Linear(24, 10)

        def forward(self, x):
            x = self.conv(x)
            n, c, h, w = x.shape
            x = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
            return self.head(self.norm(x).mean(dim=1))
    ```

    Known limits: where the sizes of two axes are equal, only an input of another size shows the mistake; the forward
    pass is recorded again on a larger batch and on larger maps, not on longer sequences. A transposition right before
    the reshape that an option of the model turns on (`if self.mix:`) is taken as meant, and so is the relative shift,
    which swaps two axes around a padded or cut edge.

    References: documentation of `torch.Tensor.view`; github.com/meta-pytorch/opacus pull 825 and
    github.com/Jingkang50/OpenPSG issue 56, real cases.
    """

    code = "BN205"
    name = "reshape-as-transpose"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Finds reshapes that cut through axes where another order of the same pieces keeps all of them whole."""
        from bnlint.graph.folds import folds_features_into_batch, is_unfolded_later
        from bnlint.graph.ops import Kind
        from bnlint.graph.regroup import ambiguous, confirmed, hidden, optional, regrouped, skews, undone

        graph = model.graph
        assert graph is not None
        for node in graph.of_kind(Kind.RESHAPE):
            seen, found = graph, regrouped(graph, node)
            if found is None and not ambiguous(graph, node):
                continue
            batch, map_ = (model.variant(v) for v in (Variant.LARGER_BATCH, Variant.LARGER_MAP))
            if found is None:
                other = hidden(node, [variant for variant in (map_, batch) if variant is not None])
                if other is None:
                    continue
                seen, found = other
            elif not confirmed(found, batch) or not confirmed(found, map_, literals=True):
                continue
            if undone(seen, found) or optional(seen, found) or skews(seen, found):
                continue
            if folds_features_into_batch(graph, node) and not is_unfolded_later(graph, node):
                continue  # BN203 says more
            before = seen.shape(found.source)
            yield self.finding(
                model.place(node),
                f"this reshape of {list(before)} to {list(found.sizes)} does not move any axis: "
                "it cuts them into pieces and mixes those",
                help=f"permute first: `{_cure(seen, found)}`",
                note=""
                if seen is graph
                else "these are the sizes for a larger input; with the one used here two axes "
                "are equally long and nothing shows",
                evidence={"shape": list(before), "result": list(found.sizes), "order": list(found.order)},
            )


def _cure(graph: Graph, found: Regrouped) -> str:
    before = graph.shape(found.source)
    text = "x"
    if tuple(size for size in before if size != 1) != found.pieces:
        text += f".reshape{_open(graph, found, found.pieces)}"
        order = list(found.order)
    else:  # the pieces are the axes; those of size one go last
        axes = [i for i, size in enumerate(before) if size != 1]
        order = [*(axes[i] for i in found.order), *(i for i, size in enumerate(before) if size == 1)]
    swapped = [i for i, axis in enumerate(order) if axis != i]
    if len(swapped) == 2:
        text += f".transpose({swapped[0]}, {swapped[1]})"
    else:
        text += f".permute({', '.join(map(str, order))})"
    now = [found.pieces[i] for i in found.order]
    if tuple(now) == found.sizes:
        return text
    for first in range(len(now)):
        for last in range(first + 1, len(now)):
            if (*now[:first], math.prod(now[first : last + 1]), *now[last + 1 :]) == found.sizes:
                return f"{text}.flatten({first}, {last})"
    return f"{text}.reshape{_open(graph, found, found.sizes)}"


def _open(graph: Graph, found: Regrouped, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes with the batch left open, so that no batch size is written into the code."""
    from bnlint.graph.axes import Role

    batch = next((atom.size for axis in graph.axes(found.source) for atom in axis if atom.role is Role.BATCH), 0)
    return tuple(-1 if i == sizes.index(batch) else size for i, size in enumerate(sizes)) if batch in sizes else sizes
