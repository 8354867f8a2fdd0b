"""BN103 norm-momentum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class NormMomentum(Rule):
    """A norm's momentum makes its running statistics follow the newest batch only, or hardly move at all.

    Why it matters: PyTorch's momentum is the weight of the new batch, `running = (1 - m) * running + m * batch`;
    TensorFlow's and Keras's is the weight of the old value. 0.99 copied from there keeps one percent of the past: with
    data of standard deviation 3 in batches of 32 the running mean is then wrong by 0.49 on average, with 0.1 by 0.14,
    and evaluation uses it as it is. At the other end 0.001 needs 3000 steps until 5 % of the start value are left.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(16, eps=1e-3, momentum=0.99)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

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
            self.norm = nn.BatchNorm2d(16, eps=1e-3, momentum=0.01)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.norm(self.conv(x)))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Known limits: `momentum=None`, the plain average over all batches, is fine, and so is any momentum of a norm that
    keeps no running statistics.

    References: documentation of `torch.nn.BatchNorm2d` (momentum); github.com/pytorch/vision issue 8250 and
    github.com/Cadene/pretrained-models.pytorch issue 44, real cases.
    """

    code = "BN103"
    name = "norm-momentum"
    severity = Severity.WARNING
    phase = Phase.MODULES

    warn_from: float = 0.5
    slow_to: float = 0.001

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at every norm with running statistics; layers with the same momentum are one finding."""
        found: dict[float, list[str]] = {}
        for path, module in model.module.named_modules():
            momentum = getattr(module, "momentum", None) if _keeps_statistics(module) else None
            if isinstance(momentum, (int, float)):
                found.setdefault(float(momentum), []).append(path)
        for momentum, paths in found.items():
            if self.slow_to < momentum < self.warn_from:
                continue
            fast = momentum >= self.warn_from
            yield self.finding(
                model.place(path=paths[0]),
                self._message(momentum),
                severity=Severity.WARNING if fast else Severity.INFO,
                help=_help(momentum) if fast else "",
                evidence={"momentum": momentum},
                others=[model.place(path=path) for path in paths[1:]],
            )

    def _message(self, momentum: float) -> str:
        if momentum >= self.warn_from:
            return (
                f"momentum {momentum:g} is the weight of the newest batch: the running statistics keep "
                f"{max(0.0, 1 - momentum):.3g} of the past"
            )
        if momentum == 0:
            return "momentum 0: the running statistics never change"
        return f"momentum {momentum:g}: the running statistics need {round(3 / momentum)} steps to forget their start"


def _keeps_statistics(module: object) -> bool:
    from torch import nn

    return isinstance(module, nn.modules.batchnorm._NormBase) and bool(module.track_running_stats)


def _help(momentum: float) -> str:
    if 0.85 <= momentum < 1:
        return f"TensorFlow's momentum {momentum:g} is `momentum={round(1 - momentum, 6):g}` in PyTorch"
    return "PyTorch's default is `momentum=0.1`"
