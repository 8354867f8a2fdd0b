"""BN101 norm-rank-mismatch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel

_FITTING = {2: "1d", 3: "1d", 4: "2d", 5: "3d"}


class NormRankMismatch(Rule):
    """A batch or instance norm gets an input of a rank it does not accept.

    Why it matters: `BatchNorm1d` takes (N, C) or (N, C, L), `BatchNorm2d` takes (N, C, H, W) and `BatchNorm3d` takes
    (N, C, D, H, W). Anything else raises `ValueError` in the first forward pass, and only the first such layer of the
    model is named by the exception. The class to use follows from the rank of what flows into the layer.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm1d(16)
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

    References: Ioffe & Szegedy 2015 (arXiv 1502.03167), section 3.2, on one statistic per feature map;
    the input shapes in the documentation of `torch.nn.BatchNorm1d`, `BatchNorm2d`, `BatchNorm3d`.
    """

    code = "BN101"
    name = "norm-rank-mismatch"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the rank of what flows into each batch or instance norm with the ranks its class takes."""
        from bnlint.graph.features import accepted_ranks
        from bnlint.graph.ops import Kind

        graph = model.graph
        assert graph is not None
        for node in graph.of_kind(Kind.NORM):
            module, source = graph.module(node), graph.data(node)
            ranks = accepted_ranks(module)
            shape = graph.shape(source) if source is not None else ()
            if not ranks or not shape or len(shape) in ranks or graph.error(node) is None:
                continue
            cls = type(module).__name__
            takes = " or ".join(f"{rank}-D" for rank in ranks)
            yield self.finding(
                model.place(node),
                f"`{cls}` takes {takes} input but gets {len(shape)}-D {list(shape)}",
                help=_help(cls, shape),
                evidence={"class": cls, "accepted_ranks": list(ranks), "shape": list(shape)},
            )


def _help(cls: str, shape: tuple[int, ...]) -> str:
    family = "InstanceNorm" if "InstanceNorm" in cls else "BatchNorm"
    if len(shape) < 2:
        return "keep the batch axis: pass (N, C), for one sample `x.unsqueeze(0)`"
    if len(shape) not in _FITTING:
        return f"reshape the input to (N, C, …) with {shape[1]} channels first"
    return f"use `nn.{family}{_FITTING[len(shape)]}({shape[1]})`"
