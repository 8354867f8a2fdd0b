"""BN121 batch-dependent-eval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class BatchDependentEval(Rule):
    """A batch norm keeps no running statistics, so its output depends on the other samples in evaluation too.

    Why it matters: with `track_running_stats=False` the layer normalises by the batch at hand in `eval()` as in
    training. A prediction then changes with the samples it is batched with, results depend on the batch size and the
    order of the data, and a single sample behind a 1x1 map raises or comes out as the bias. It is a choice for some
    GANs and for test-time adaptation, and a surprise everywhere else.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(16, track_running_stats=False)
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
            self.norm = nn.BatchNorm2d(16)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.norm(self.conv(x)))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    References: documentation of `torch.nn.BatchNorm2d` (track_running_stats); Wu & Johnson 2021 (arXiv 2105.07576).
    """

    code = "BN121"
    name = "batch-dependent-eval"
    severity = Severity.INFO
    phase = Phase.MODULES

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks for batch norm layers without buffers; one finding for the target."""
        from torch import nn

        found = [
            path
            for path, module in model.module.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None
        ]
        if found:
            yield self.finding(
                model.place(path=found[0]),
                "no running statistics (`track_running_stats=False`): predictions depend on the batch they are made in",
                help="leave out `track_running_stats=False`, or use a norm without batch statistics",
                evidence={"norms": len(found)},
                others=[model.place(path=path) for path in found[1:]],
            )
