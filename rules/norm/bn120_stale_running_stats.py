"""BN120 stale-running-stats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel
    from bnlint.graph.norms import Norm

_OWN_DATA = ("inputs=", "--input-fn", "bnlint_inputs()")


class StaleRunningStats(Rule):
    """The running variance that a trained batch norm has stored is far from the variance of your batch.

    Why it matters: evaluation divides by the stored deviation. Where it is ten times that of the data, the norm's
    output is ten times too small in `eval()`, although training looked right. It happens when pretrained weights meet
    data on another scale (0 to 255 instead of 0 to 1, another normalisation), when a checkpoint's buffers were not
    loaded with its weights, or when the model was trained with tiny batches.

    Example (bad):

    ```python
    import torch
    import torch.nn as nn

    def bnlint_inputs():
        return 255 * torch.rand(16, 3, 16, 16)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.fc = nn.Linear(16, 10)
            self.norm.running_var.fill_(1 / 12)  # as loaded from a checkpoint that was trained on 0 to 1
            self.norm.num_batches_tracked.fill_(5000)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(self.norm(x))).mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch
    import torch.nn as nn

    def bnlint_inputs():
        return torch.rand(16, 3, 16, 16)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.fc = nn.Linear(16, 10)
            self.norm.running_var.fill_(1 / 12)
            self.norm.num_batches_tracked.fill_(5000)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(self.norm(x))).mean(dim=(2, 3)))
    ```

    Known limits: only norms that have seen training batches are compared, and only with values that you gave
    (`bnlint_inputs()`, `--input-fn`, `inputs=`): a made-up batch says nothing about statistics. One batch of few values
    has a variance of its own, hence the wide limit.

    References: Wu & Johnson 2021, Rethinking "Batch" in BatchNorm (arXiv 2105.07576), section 3.
    """

    code = "BN120"
    name = "stale-running-stats"
    severity = Severity.INFO
    phase = Phase.FORWARD

    factor: float = 4.0  # of the variances

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the mean running variance of every trained norm with what the probe measured before it."""
        from bnlint.graph.norms import Family, Norms, batches_seen

        assert model.graph is not None
        rows = model.inputs.rows if model.inputs is not None else []
        if not rows or any(row["from"] not in _OWN_DATA for row in rows):
            return
        norms = [n for n in Norms(model.graph) if n.family is Family.BATCH and n.module is not None]
        ratios = {n: _ratio(model, n) for n in norms if batches_seen(model, n.path)}
        far = {n: r for n, r in ratios.items() if r is not None and not 1 / self.factor <= r <= self.factor}
        if not far:
            return
        first, ratio = next(iter(far.items()))
        side = "above" if ratio > 1 else "below"
        yield self.finding(
            model.place(first.node),
            f"the variance of this batch is over {self.factor:g} times {side} the one that `{first.path}` has stored",
            help="give the model data on the scale it was trained with, or let the norm see training batches first",
            evidence={"norms": len(far), "side": side},
            others=[model.place(norm.node) for norm in far if norm is not first],
        )


def _ratio(model: AuditedModel, norm: Norm) -> float | None:
    """Variance per channel of what a norm gets, over the variance it has stored; None when either is missing."""
    assert model.probe is not None
    found = model.probe.stats.get(norm.source.name)
    stored = getattr(norm.module, "running_var", None)
    mean = float(stored.float().mean()) if stored is not None else 0.0
    if found is None or not found.spread or mean <= 0:
        return None
    return found.spread**2 / mean
