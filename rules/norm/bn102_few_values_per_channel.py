"""BN102 few-values-per-channel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity, Variant

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.graph.norms import Norm


class FewValuesPerChannel(Rule):
    """A batch norm has too few values per channel, batch times positions, to take statistics from.

    Why it matters: with one value per channel there is no variance, and PyTorch raises `ValueError` in training mode.
    With two values the output is +1 and -1 whatever the input (98 % of outputs within 0.01 of that), with four the
    mean of |output| is still 0.87 instead of the 0.80 of a normal distribution: the layer passes on the order of the
    samples rather than their values. A head that pools a map to 1x1 before a batch norm works for months and then
    stops on the last batch of an epoch, the one that happens to hold a single sample.

    Example (bad):

    ```python
    import torch.nn as nn

    # bnlint check --input 1x3x32x32
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.project = nn.Conv2d(16, 32, 1, bias=False)
            self.norm = nn.BatchNorm2d(32)
            self.relu = nn.ReLU()
            self.head = nn.Conv2d(32, 10, 1)

        def forward(self, x):
            x = self.pool(self.relu(self.conv(x)))
            return self.head(self.relu(self.norm(self.project(x)))).flatten(1)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    # bnlint check --input 1x3x32x32
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.project = nn.Conv2d(16, 32, 1, bias=False)
            self.norm = nn.GroupNorm(4, 32)
            self.relu = nn.ReLU()
            self.head = nn.Conv2d(32, 10, 1)

        def forward(self, x):
            x = self.pool(self.relu(self.conv(x)))
            return self.head(self.relu(self.norm(self.project(x)))).flatten(1)
    ```

    Known limits: the warning needs a batch size that you gave (`--input`, `--batch-size`, a batch of yours); one that
    bnlint chose, or the one sample of an `example_input_array`, says nothing about training. If the model trains with
    more samples than the check was given, check it with as many. That a batch of one fails although the declared batch
    works is info.

    References: Ioffe & Szegedy 2015 (arXiv 1502.03167); Wu & Johnson 2021, Rethinking "Batch" in BatchNorm (arXiv
    2105.07576); github.com/jfzhang95/pytorch-deeplab-xception issue 41 and github.com/YudeWang/deeplabv3plus-pytorch
    issue 34, real cases.
    """

    code = "BN102"
    name = "few-values-per-channel"
    severity = Severity.WARNING
    phase = Phase.GRAPH
    min_values: int = 8

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Counts values per channel at the declared batch, then at a batch of one."""
        graph = model.graph
        assert graph is not None
        found = _counts(graph)
        broken = [norm for norm, count in found if count == 1]
        told = model.inputs is not None and model.inputs.batch_told
        few = [(norm, count) for norm, count in found if told and 1 < count < self.min_values]
        batch = model.inputs.batch_size if model.inputs is not None else 0
        yield from self._broken(model, broken)
        yield from self._few(model, few)
        smaller = model.variant(Variant.BATCH_OF_ONE) if any(count == batch for _, count in found) else None
        if smaller is not None:
            reported = {norm.path for norm in (*broken, *(norm for norm, _ in few))}
            single = [norm for norm, count in _counts(smaller) if count == 1 and norm.path not in reported]
            yield from self._last_batch(model, single)

    def _broken(self, model: AuditedModel, norms: list[Norm]) -> Iterator[Finding]:
        assert model.graph is not None
        if norms:
            shape = model.graph.shape(norms[0].source)
            yield self.finding(
                model.place(norms[0].node),
                f"one value per channel: the input {list(shape)} leaves no variance, and training raises ValueError",
                severity=Severity.ERROR,
                help="train with a larger batch, or use `nn.GroupNorm` or `nn.LayerNorm` here",
                evidence={"values": 1, "shape": list(shape)},
                others=[model.place(norm.node) for norm in norms[1:]],
            )

    def _few(self, model: AuditedModel, rows: list[tuple[Norm, int]]) -> Iterator[Finding]:
        assert model.graph is not None and model.inputs is not None
        if rows:
            norm, count = min(rows, key=lambda row: row[1])
            shape, batch = model.graph.shape(norm.source), model.inputs.batch_size
            enough = math.ceil(self.min_values * batch / count)
            yield self.finding(
                model.place(norm.node),
                f"only {count} values per channel at a batch of {batch}: the input is {list(shape)}, and fewer than "
                f"{self.min_values} values say little about a channel's mean and variance",
                help=f"train with {enough} samples or more, and check with as many; or use `nn.GroupNorm` or "
                f"`nn.LayerNorm` here",
                evidence={"values": count, "shape": list(shape), "batch": batch, "enough": enough},
                others=[model.place(other.node) for other, _ in rows if other is not norm],
            )

    def _last_batch(self, model: AuditedModel, norms: list[Norm]) -> Iterator[Finding]:
        if norms:
            paths = list(dict.fromkeys(norm.path for norm in norms))
            yield self.finding(
                model.place(path=paths[0]),
                "a batch of one sample has one value per channel here, and training raises ValueError on it",
                severity=Severity.INFO,
                help="pass `drop_last=True` to the DataLoader, so that the last batch of an epoch is never that small",
                evidence={"batch": 1},
                others=[model.place(path=path) for path in paths[1:]],
            )


def _counts(graph: Graph) -> list[tuple[Norm, int]]:
    """Values per channel of every batch norm that takes its statistics from the batch."""
    from bnlint.graph.norms import Norms, values_per_channel

    found = [(norm, values_per_channel(graph, norm)) for norm in Norms(graph)]
    return [(norm, count) for norm, count in found if count is not None]
