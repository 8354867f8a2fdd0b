"""BN106 no-bias-no-norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.graph.norms import Norms


class NoBiasNoNorm(Rule):
    """A conv has neither a bias nor a norm before the next nonlinearity, unlike the model's other bias-free convs.

    Why it matters: `bias=False` is right before a norm, whose own shift replaces the bias. Without the norm nothing can
    move the threshold of the following ReLU: every unit's boundary goes through the origin, and of an input and its
    negative exactly one gives zero, whatever is learnt. It happens when a norm is deleted, or when a helper builds
    convs with `bias=False` and adds the norm only on request.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(16)
            self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
            self.conv3 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
            self.norm3 = nn.BatchNorm2d(16)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.norm1(self.conv1(x)))
            x = self.relu(self.conv2(x))
            x = self.relu(self.norm3(self.conv3(x)))
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
            self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
            self.conv3 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
            self.norm3 = nn.BatchNorm2d(16)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.norm1(self.conv1(x)))
            x = self.relu(self.conv2(x))
            x = self.relu(self.norm3(self.conv3(x)))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    On the model's input it is only info: the first layer of a GAN's discriminator has no norm by design, and a missing
    bias hurts little where the input has zero mean. A stem without norm and nonlinearity, which goes straight or
    through a pooling into the convs of the first block, is reported there too: the MLPerf reference of ResNet-50 once
    lacked both, and did not reach its 75.9 % reliably at large batches.

    Known limits: but for the stem, only convs whose output meets a rectifier directly count. A conv before another conv
    (depthwise separable and low-rank pairs), before a sum, inside a gate (squeeze-and-excitation), with a normalised
    weight, on a 1x1 map (a head behind global pooling), or at the end of the model is bias-free by design, and so may a
    depthwise conv be.

    References: Ioffe & Szegedy 2015 (arXiv 1502.03167), section 3.2; github.com/udacity/deep-learning-v2-pytorch issue
    200 and github.com/mlcommons/training_policies issue 89, real cases.
    """

    code = "BN106"
    name = "no-bias-no-norm"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    min_siblings: int = 2
    share: float = 0.5  # of all bias-free convs that is normalised

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Splits the bias-free convs into normalised ones and ones that meet a rectifier as they are."""
        from bnlint.graph.branches import gate_nodes
        from bnlint.graph.norms import Norms

        graph = model.graph
        assert graph is not None
        norms, gates = Norms(graph), gate_nodes(graph)
        convs = [n for n in _bias_free(graph) if n not in gates]
        normalised = [n for n in convs if norms.follows(n)]
        bare = [n for n in convs if not graph.is_last_layer(n) and not _is_depthwise(graph, n)]
        bare = [n for n in bare if _meets_rectifier(norms, n) or _is_stem(norms, n)]
        if len(normalised) < max(self.min_siblings, self.share * (len(normalised) + len(bare))):
            return
        for node in bare:
            yield self.finding(
                model.place(node),
                f"neither a bias nor a norm before what comes next; {len(normalised)} other bias-free convs are "
                f"normalised",
                severity=Severity.INFO if norms.is_first(node) else Severity.WARNING,
                help="put the norm back, or give the conv a bias: `bias=True`",
                evidence={"normalised": len(normalised), "bare": len(bare)},
            )


def _bias_free(graph: Graph) -> list[fx.Node]:
    from bnlint.graph.norms import has_normalised_weight
    from bnlint.graph.ops import Kind

    return [
        node
        for node in graph.of_kind(Kind.CONV, Kind.CONV_TRANSPOSE)
        if (module := graph.module(node)) is not None
        and getattr(module, "bias", None) is None
        and not has_normalised_weight(graph, node)
    ]


def _is_depthwise(graph: Graph, node: fx.Node) -> bool:
    module = graph.module(node)
    return getattr(module, "groups", 1) == getattr(module, "in_channels", 0) > 1


def _meets_rectifier(norms: Norms, node: fx.Node) -> bool:
    """True for a conv on a map, not on pooled features, whose output no norm reads but a rectifier does."""
    from bnlint.graph.branches import is_rectifier

    if math.prod(norms.graph.shape(node)[2:]) == 1:
        return False
    readers = norms.readers(node)
    return any(is_rectifier(norms.graph, n) for n in readers) and not any(norms.at(n) for n in readers)


def _is_stem(norms: Norms, node: fx.Node) -> bool:
    """True for a conv on the model's input that goes, perhaps pooled, into other convs with nothing between."""
    from bnlint.graph.ops import Kind

    module, readers = norms.graph.module(node), norms.readers(node)
    kernel = getattr(module, "kernel_size", (1,))
    overlaps = max(kernel) > 1 and kernel != getattr(module, "stride", None)  # no projection of patches
    return (
        overlaps and norms.is_first(node) and bool(readers) and all(norms.graph.kind(n) is Kind.CONV for n in readers)
    )
