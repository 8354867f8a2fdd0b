"""BN210 no-valid-input-size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.constraints import SizeNeed
    from bnlint.graph.features import WidthNeed
    from bnlint.graph.model import AuditedModel, Graph


class NoValidInputSize(Rule):
    """Layers of the model need sizes of one spatial axis that contradict each other, whatever the input size.

    Why it matters: a Linear on a spatial axis fixes that axis to `in_features`. Two of them on the same axis with
    different sizes, or one behind another that makes the axis a different length, cannot both run: there is no image
    size to look for, and trying other crops or resolutions is time lost. The layers have to change.

    Example (bad):

    ```python
    # also BN202
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
            self.mix1 = nn.Linear(16, 16)
            self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
            self.mix2 = nn.Linear(24, 24)
            self.relu = nn.ReLU()

        def forward(self, x):
            x = self.relu(self.mix1(self.relu(self.conv1(x))))
            return self.relu(self.mix2(self.relu(self.conv2(x))))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
            self.mix1 = nn.Conv2d(8, 8, 1)
            self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
            self.mix2 = nn.Conv2d(8, 8, 1)
            self.relu = nn.ReLU()

        def forward(self, x):
            x = self.relu(self.mix1(self.relu(self.conv1(x))))
            return self.relu(self.mix2(self.relu(self.conv2(x))))
    ```

    References: documentation of `torch.nn.Linear`; Lin et al. 2013 (arXiv 1312.4400) for mixing channels by 1x1 convs.
    """

    code = "BN210"
    name = "no-valid-input-size"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares what every Linear on a spatial axis needs with who made that axis and what others need of it."""
        from bnlint.graph.constraints import contradict, size_needs
        from bnlint.graph.features import channel_mixer, width_needs

        graph = model.graph
        assert graph is not None
        reported = set()
        needs = width_needs(graph)
        for i, need in enumerate(needs):
            reason = _contradiction(need, needs[:i])
            if reason is None:
                continue
            first, words = reason
            reported.add(need.node)
            yield self.finding(
                model.place(need.node),
                f"no input size satisfies this model: `{need.node.target}` needs width {need.size}, {words}",
                help="mix the channels instead, then the width is free: "
                + ", ".join(f"`{channel_mixer(graph, n.node)}` for `{n.node.target}`" for n in (first, need)),
                evidence={"needs": {str(n.node.target): n.size for n in (first, need)}},
            )
        others = size_needs(graph)
        for j, later in enumerate(others):
            before = next((other for other in others[:j] if contradict(graph, other, later)), None)
            if before is None or later.node in reported:
                continue
            yield self.finding(
                model.place(later.node),
                f"no input size satisfies this model: `{later.node.target}` needs {later.words()}, "
                f"`{before.node.target}` needs {before.words()}, and no input gives both",
                help="make both independent of the input's size: "
                + ", ".join(_cure(graph, n) for n in (before, later)),
                evidence={"needs": {str(n.node.target): n.positions for n in (before, later)}},
            )


def _cure(graph: Graph, need: SizeNeed) -> str:
    from bnlint.graph.constraints import map_of
    from bnlint.graph.features import channel_mixer

    if not need.flat:
        return f"`{channel_mixer(graph, need.node)}` for `{need.node.target}`"
    sizes = map_of(need.positions, len(graph.shape(need.source)) - 2)
    size = sizes[0] if len(set(sizes)) == 1 else sizes
    return f"`nn.AdaptiveAvgPool{len(sizes)}d({size})` before the flatten of `{need.node.target}`"


def _contradiction(need: WidthNeed, earlier: list[WidthNeed]) -> tuple[WidthNeed, str] | None:
    """The earlier need that `need` contradicts, and why, as the end of a sentence."""
    for other in earlier:
        if need.made_by is other.node and need.got != need.size:
            return other, f"but `{other.node.target}` makes it {need.got} for every input"
        if need.axis is other.axis and need.size != other.size:
            return other, f"`{other.node.target}` needs width {other.size}, and both see the same width"
    return None
