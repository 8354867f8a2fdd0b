"""BN108 unnormalised-branch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel
    from bnlint.graph.norms import Norms


class UnnormalisedBranch(Rule):
    """A sum joins a branch that ends in a norm with a projection shortcut that has none.

    Why it matters: the normalised branch has variance 1 in every channel, whatever its weights do. The bare projection
    has whatever its weights and its input give: a third of the input's variance with PyTorch's default weights, and it
    drifts during training while the other side cannot. The larger of the two drowns the other. ResNet's projection
    shortcuts have a norm of their own for this reason, and reference implementations that left it out did not reach the
    published accuracy.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(16)
            self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
            self.norm2 = nn.BatchNorm2d(16)
            self.shortcut = nn.Conv2d(3, 16, 1)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
            x = self.relu(y + self.shortcut(x))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(16)
            self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
            self.norm2 = nn.BatchNorm2d(16)
            self.shortcut = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16))
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
            x = self.relu(y + self.shortcut(x))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    With the probe, a bare side with more than ten times the other's variance is an error, unless the norm's own weight
    starts small on purpose.

    Two forms are reported: a shortcut that is a single bare conv or linear beside a branch that ends in a norm, and a
    branch whose convs all have a norm but the last, beside a shortcut that is a conv with its norm, where a ReLU
    follows the sum.

    Known limits: a sum that is normalised next is not reported, nor are pre-activation blocks, which end both sides
    bare, identity skips and long skips of U-Nets and feature pyramids.

    References: He et al. 2016, Deep Residual Learning (arXiv 1512.03385), section 3.4; github.com/apache/mxnet issue
    2354 and github.com/mlcommons/training_policies issue 89, real cases.
    """

    code = "BN108"
    name = "unnormalised-branch"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    error_above: float = 10.0

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at both sides of every sum that closes a fork."""
        from bnlint.graph.norms import Norms
        from bnlint.graph.ops import Kind

        graph = model.graph
        assert graph is not None
        norms = Norms(graph)
        for add in graph.of_kind(Kind.ADD):
            pair = _bare_and_normalised(norms, add)
            if pair is None or norms.follows(add):
                continue
            bare, norm = pair
            ratio = _variance_ratio(model, bare, norm)
            measured = f"; its variance is {ratio:.3g} times the other's" if ratio is not None else ""
            broken = ratio is not None and ratio > self.error_above and not _starts_small(model, norm)
            yield self.finding(
                model.place(bare),
                f"`{bare.target}` has no norm, and is added to a branch that ends in one, `{norm.target}`{measured}",
                severity=Severity.ERROR if broken else Severity.WARNING,
                help=f"put the same norm after `{bare.target}`",
                evidence={"bare": str(bare.target), "norm": str(norm.target), "variance_ratio": ratio},
            )


def _bare_and_normalised(norms: Norms, add: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The lone layer of one side of a fork and the norm at the end of the other; None for any other sum."""
    from bnlint.graph.branches import is_rectifier
    from bnlint.graph.norms import has_normalised_weight
    from bnlint.graph.ops import SHAPE_ONLY, WEIGHT_LAYERS, Kind

    graph = norms.graph
    operands = [n for n in add.all_input_nodes if n.op != "get_attr"]
    ends = {n: graph.origins(n, SHAPE_ONLY | {Kind.DROPOUT}) for n in operands}
    if not any(graph.kind(n) is Kind.NORM for made in ends.values() for n in made):
        return None
    sides = graph.residual_branch(add)
    if sides is None or any(graph.shape(n) != graph.shape(add) for n in operands):
        return None
    for mine, other in (sides, sides[::-1]):
        layers, norm = [n for n in mine if graph.kind(n) in WEIGHT_LAYERS], _end(ends, other)
        if not layers or norm is None or graph.kind(norm) is not Kind.NORM:
            continue
        if not any(graph.kind(n) in WEIGHT_LAYERS for n in other) or has_normalised_weight(graph, layers[-1]):
            continue
        rectified = any(is_rectifier(graph, n) for n in norms.readers(add))
        forgotten = rectified and _end(ends, mine) is layers[-1] and _forgets_last_norm(norms, mine, layers, other)
        if forgotten or _is_projection(norms, mine, layers):
            return layers[-1], norm
    return None


def _end(ends: dict[fx.Node, list[fx.Node]], side: list[fx.Node]) -> fx.Node | None:
    """The op that makes what one side of the sum ends in."""
    made = next((found for operand, found in ends.items() if operand in side), [])
    return made[0] if len(made) == 1 and made[0] in side else None


def _is_projection(norms: Norms, side: list[fx.Node], layers: list[fx.Node]) -> bool:
    """A single layer with nothing else that counts: a projection shortcut."""
    from bnlint.graph.ops import SHAPE_ONLY, Kind

    passive = SHAPE_ONLY | {Kind.POOL, Kind.DROPOUT}
    others = [n for n in side if n not in layers]
    return len(layers) == 1 and all(norms.graph.kind(n) in passive and not norms.at(n) for n in others)


def _forgets_last_norm(norms: Norms, side: list[fx.Node], layers: list[fx.Node], other: list[fx.Node]) -> bool:
    """Convs with a norm each but the last, beside a shortcut of one conv and its norm; no pre-activation block."""
    from bnlint.graph.norms import PASSIVE
    from bnlint.graph.ops import Kind

    convs = all(norms.graph.kind(n) is Kind.CONV for n in layers) and len(layers) > 1
    if not convs or not _is_conv_and_norm(norms, other):
        return False
    before = [n for n in norms.makers(layers[0], PASSIVE | {Kind.ACTIVATION}) if n in side]
    return not any(norms.at(n) for n in before) and all(norms.follows(n) for n in layers[:-1])


def _is_conv_and_norm(norms: Norms, side: list[fx.Node]) -> bool:
    from bnlint.graph.ops import SHAPE_ONLY, Kind

    kinds = [norms.graph.kind(n) for n in side if norms.graph.kind(n) not in SHAPE_ONLY | {Kind.POOL}]
    return kinds == [Kind.CONV, Kind.NORM]


def _starts_small(model: AuditedModel, norm: fx.Node) -> bool:
    """True when the norm's own weight makes its branch small at the start, as in zero-init residual blocks."""
    weight = getattr(model.modules.get(str(norm.target)), "weight", None)
    return weight is not None and float(weight.detach().abs().mean()) < 0.5


def _variance_ratio(model: AuditedModel, bare: fx.Node, norm: fx.Node) -> float | None:
    """How many times the variance of the normalised side the bare side has; None when it was not measured."""
    if model.probe is None:
        return None
    sides = [model.probe.stats.get(node.name) for node in (bare, norm)]
    spreads = [stats.spread for stats in sides if stats is not None and stats.spread]
    return (spreads[0] / spreads[1]) ** 2 if len(spreads) == 2 else None
