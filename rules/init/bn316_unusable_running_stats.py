"""BN316 unusable-running-stats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bnlint.graph.model import AuditedModel


class UnusableRunningStats(Rule):
    """The running statistics of a norm in loaded weights were never updated, or no activations can have had them.

    Why it matters: in eval mode a BatchNorm divides by the root of its running variance. Statistics that still are 0
    and 1 while everything else is trained leave the signal unnormalised: a network that learnt with activations of
    variance 25 sees them 5 times too large in every such layer. A variance of 0 multiplies by 1/√eps = 316, one of 10⁶
    by 1/1000, and what comes out has little to do with what was trained.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, bias=False)
            self.norm = nn.BatchNorm2d(16)
            self.head = nn.Linear(16, 10)
            self.norm.running_var.fill_(1e9)

        def forward(self, x):
            return self.head(self.norm(self.conv(x)).relu().mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, bias=False)
            self.norm = nn.BatchNorm2d(16)
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            return self.head(self.norm(self.conv(x)).relu().mean(dim=(2, 3)))
    ```

    Known limits: that statistics were never updated is only said of weights given with `--weights`; a few channels of
    variance zero are common in trained models, whose filters died, so it takes `max_dead` of them.

    References: Wu & Johnson 2021, Rethinking "Batch" in BatchNorm (arXiv 2105.07576), section 3.
    """

    code = "BN316"
    name = "unusable-running-stats"
    severity = Severity.WARNING
    phase = Phase.MODULES
    values = True

    max_variance: float = 1e6
    max_dead: float = 0.5  # of the channels with a variance of zero

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at every norm that keeps statistics."""
        for path, norm in model.module.named_modules():
            stats = _stats(norm)
            if stats is None:
                continue
            problem = self._absurd(stats[1]) or (model.weights is not None and _untouched(norm, *stats) and _NEVER)
            if problem:
                yield self.finding(
                    model.place(path=path),
                    f"the running {problem}",
                    help="let the norms see training data once more, in train mode and without gradients, and save the "
                    "whole state dict: parameters alone leave these buffers out",
                    evidence={"channels": stats[1].numel(), "largest": float(stats[1].max())},
                )

    def _absurd(self, variance: torch.Tensor) -> str:
        """What is wrong with the variances; "" when they may be those of activations."""
        largest, negative = float(variance.max()), int((variance < 0).sum())
        dead = int((variance == 0).sum())
        if negative:
            return f"variance of {negative} of {variance.numel()} channels is negative"
        if largest > self.max_variance:
            return f"variance reaches {largest:.3g} (limit {self.max_variance:g})"
        if dead > self.max_dead * variance.numel():
            return f"variance of {dead} of {variance.numel()} channels is zero, which multiplies them by 1/√eps"
        return ""


_NEVER = "statistics are still 0 and 1: they were never updated, or not saved with the weights"


def _stats(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Running mean and variance, when they have finite values; BN306 is about others."""
    import torch
    from torch import nn

    from bnlint.graph.weights import has_numbers

    if not isinstance(norm, nn.modules.batchnorm._NormBase):
        return None
    mean, variance = norm.running_mean, norm.running_var
    if not has_numbers(mean) or not has_numbers(variance):
        return None
    mean, variance = mean.detach().float(), variance.detach().float()
    return (mean, variance) if bool(torch.isfinite(variance).all()) else None


def _untouched(norm: nn.Module, mean: torch.Tensor, variance: torch.Tensor) -> bool:
    return (
        not bool(mean.any()) and bool((variance == 1).all()) and not int(getattr(norm, "num_batches_tracked", 0) or 0)
    )
