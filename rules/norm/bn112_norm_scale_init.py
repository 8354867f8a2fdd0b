"""BN112 norm-scale-init."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx, nn

    from bnlint.graph.model import AuditedModel
    from bnlint.graph.norms import Norms


_SLOPE_AT_ZERO = frozenset(("silu", "gelu", "mish", "hardswish", "tanh", "elu", "selu", "celu", "leaky_relu", "prelu"))


class NormScaleInit(Rule):
    """A norm starts with a scale near zero or a large shift, as if its weights had been initialised like a conv's.

    Why it matters: a norm makes mean 0 and variance 1 and then applies its weight and bias, which start at 1 and 0. An
    init loop that draws every `weight` from N(0, 0.02) makes the output of each norm 50 times smaller (spread 0.011
    instead of 0.7 in a measured 20-layer net), with a random sign in each channel. A bias of 1 moves 84 % of all values
    to the positive side of the following ReLU, where it does nothing.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(16)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)
            for layer in (self.conv, self.norm, self.fc):
                nn.init.normal_(layer.weight, 0.0, 0.02)

        def forward(self, x):
            x = self.relu(self.norm(self.conv(x)))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(16)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)
            for layer in (self.conv, self.fc):
                nn.init.normal_(layer.weight, 0.0, 0.02)
            nn.init.normal_(self.norm.weight, 1.0, 0.02)

        def forward(self, x):
            x = self.relu(self.norm(self.conv(x)))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    A weight that is drawn around another mean, as U(0, 1) was PyTorch's default until 1.1, is info: channels that start
    at a tenth of the others' scale pass on a tenth of the signal and of the gradient.

    Known limits: a constant small scale at the end of a residual branch is deliberate (zero-init residual), and so is
    one that is multiplied by something else (adaptive norms). Norms that have already seen batches are trained and left
    alone.

    References: Goyal et al. 2017 (arXiv 1706.02677), section 5.1, for zero scales that are right;
    github.com/pytorch/examples issue 516 and github.com/pytorch/pytorch issue 12259, real cases.
    """

    code = "BN112"
    name = "norm-scale-init"
    severity = Severity.WARNING
    phase = Phase.GRAPH
    values = True

    min_scale: float = 0.1
    max_shift: float = 0.5
    note_off: float = 0.25  # how far from 1 the mean of a drawn weight is worth a remark

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at the weight and bias of every norm layer that runs."""
        from bnlint.graph.norms import Norms, batches_seen

        graph = model.graph
        assert graph is not None
        norms = Norms(graph)
        small: dict[bool, dict[str, float]] = {}  # scales by path, constant and drawn ones apart: two causes
        shifted: dict[str, float] = {}
        uneven: dict[str, float] = {}
        for norm in norms:
            module = model.modules.get(norm.path)
            if module is None or not _is_new(module, batches_seen(model, norm.path)):
                continue
            scale, shift = _mean(module, "weight"), _mean(module, "bias")
            if scale is not None and abs(scale) < self.min_scale and not _on_purpose(norms, norm.node, module):
                small.setdefault(_is_constant(module.weight), {})[norm.path] = scale
            elif shift is not None and abs(shift) > self.max_shift:
                shifted[norm.path] = shift
            elif scale is not None and abs(scale - 1) > self.note_off and not _is_constant(module.weight):
                uneven[norm.path] = scale
        for found in small.values():
            help = "start it at one: `nn.init.ones_(norm.weight)`, and leave norms out of the loop over weights"
            yield self._finding(model, found, "its weight starts at {:.2g} on average instead of 1", help)
        if shifted:
            help = "start it at zero: `nn.init.zeros_(norm.bias)`"
            yield self._finding(model, shifted, "its bias starts at {:.2g} on average instead of 0", help)
        if uneven:
            help = "start it at one: `nn.init.ones_(norm.weight)`, so that no channel begins louder than another"
            message = "its weight is drawn anew in every channel, {:.2g} on average instead of 1"
            yield self._finding(model, uneven, message, help, Severity.INFO)

    def _finding(
        self,
        model: AuditedModel,
        found: dict[str, float],
        message: str,
        help: str,
        severity: Severity = Severity.WARNING,
    ) -> Finding:
        path, value = next(iter(found.items()))
        return self.finding(
            model.place(path=path),
            message.format(value),
            help=help,
            severity=severity,
            evidence={"mean": value, "norms": len(found)},
            others=[model.place(path=other) for other in found if other != path],
        )


def _is_new(module: nn.Module, batches: int) -> bool:
    """True for a norm layer that has not been trained yet, as far as its numbers can tell.

    Batch norm counts its batches. A trained layer of another kind is one whose weight and bias both vary.
    """
    from bnlint.graph.norms import family_of

    if family_of(module) is None or batches:
        return False
    bias = getattr(module, "bias", None)
    counted = getattr(module, "num_batches_tracked", None) is not None
    return counted or _is_constant(module.weight) or (bias is not None and _is_constant(bias))


def _is_constant(tensor: object) -> bool:
    import torch

    return isinstance(tensor, torch.Tensor) and bool((tensor == tensor.flatten()[0]).all())


def _mean(module: nn.Module, name: str) -> float | None:
    import torch

    value = getattr(module, name, None)
    usable = isinstance(value, torch.Tensor) and not value.is_meta and value.numel() > 1
    return float(value.detach().float().mean()) if usable and value is not None else None


def _on_purpose(norms: Norms, node: fx.Node, module: nn.Module) -> bool:
    """A constant small scale where a residual branch ends, perhaps with an activation that has a slope at zero."""
    from bnlint.graph.activations import activation_name
    from bnlint.graph.branches import ends_branch

    graph = norms.graph
    ends = [node, *(n for n in norms.readers(node) if activation_name(graph, n) in _SLOPE_AT_ZERO)]
    return _is_constant(module.weight) and any(ends_branch(graph, end) for end in ends)
