"""BN208 empty-feature-map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.extents import Window
    from bnlint.graph.model import AuditedModel, Graph


class EmptyFeatureMap(Rule):
    """A convolution or pooling kernel is larger than the feature map it reads, or a reflection pads further than it.

    Why it matters: the forward pass raises at this layer. Each stride of 2 halves the map; five of them and a kernel of
    7 need an input of 200 pixels and more, and a network made for 224 pixels does not take 32.

    Example (bad):

    ```python
    import torch.nn as nn

    # bnlint check --input 4x3x32x32
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 5, stride=4)
            self.conv2 = nn.Conv2d(16, 32, 5, stride=4)
            self.relu = nn.ReLU()
            self.pool = nn.MaxPool2d(4)
            self.fc = nn.Linear(32, 10)

        def forward(self, x):
            x = self.pool(self.relu(self.conv2(self.relu(self.conv1(x)))))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    # bnlint check --input 4x3x69x69
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 5, stride=4)
            self.conv2 = nn.Conv2d(16, 32, 5, stride=4)
            self.relu = nn.ReLU()
            self.pool = nn.MaxPool2d(4)
            self.fc = nn.Linear(32, 10)

        def forward(self, x):
            x = self.pool(self.relu(self.conv2(self.relu(self.conv1(x)))))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    References: the output size formulas in the documentation of `torch.nn.Conv2d` and `torch.nn.MaxPool2d`.
    """

    code = "BN208"
    name = "empty-feature-map"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Finds windows that do not fit, and searches the smallest input for which all of them do."""
        from bnlint.graph.extents import empty_windows, smallest_input

        graph = model.graph
        assert graph is not None
        smallest: dict[int, tuple[int, ...] | None] = {}
        for node, window in empty_windows(graph):
            if graph.error(node) is None:
                continue
            source = graph.data(node)
            assert source is not None
            shape = graph.shape(source)[-window.rank :]
            if window.rank not in smallest:
                smallest[window.rank] = smallest_input(graph, window.rank)
            least = smallest[window.rank]
            yield self.finding(
                model.place(node),
                _words(shape, window),
                help=_help(graph, least, shape),
                evidence={"kernel": list(window.kernel), "map": list(shape), "smallest_input": list(least or ())},
            )


def _words(shape: tuple[int, ...], window: Window) -> str:
    if any(size < least for size, least in zip(shape, window.mirrored, strict=False)):
        return f"the padding mirrors the map's edge and needs a map of {_by(window.mirrored)}; this one is {_by(shape)}"
    words = f"a kernel of {_by(tuple(map(window.span, range(window.rank))))} does not fit into the map of {_by(shape)}"
    return words + (f" padded to {_by(_padded(shape, window))}" if any(window.padding) else "")


def _help(graph: Graph, least: tuple[int, ...] | None, shape: tuple[int, ...]) -> str:
    if least is None:
        return f"use a smaller kernel, or fewer strides before this layer; the map here is {_by(shape)}"
    return f"the smallest input that every kernel fits into is {_by(least)}; for smaller ones drop a stride or pooling"


def _padded(shape: tuple[int, ...], window: Window) -> tuple[int, ...]:
    return tuple(size + extra for size, extra in zip(shape, window.padding, strict=True))


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
