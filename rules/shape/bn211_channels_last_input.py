"""BN211 channels-last-input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class ChannelsLastInput(Rule):
    """The input is laid out (N, H, W, C) and the first convolution reads (N, C, H, W).

    Why it matters: image libraries and TensorFlow keep the channels last, PyTorch's layers want them at axis 1. The
    convolution then sees as many channels as the image has rows and raises; the number in the message is the height,
    and setting `in_channels` to it hides the mistake.

    Example (bad):

    ```python
    import torch.nn as nn

    # bnlint check --input 8x64x48x3
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.conv(x))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    # bnlint check --input 8x64x48x3
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.conv(x.permute(0, 3, 1, 2)))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Known limits: only for inputs that were declared; `memory_format=torch.channels_last` does not change the axes and
    is not meant here.

    References: PyTorch tutorial "Channels Last Memory Format in PyTorch".
    """

    code = "BN211"
    name = "channels-last-input"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Finds convolutions that read an input whose last axis, not axis 1, has the channels they take."""
        from bnlint.graph.features import reads_channels_last
        from bnlint.graph.ops import Kind

        graph = model.graph
        assert graph is not None
        if model.inputs is None or model.inputs.inferred:
            return
        for node in graph.of_kind(Kind.CONV):
            given = reads_channels_last(graph, node)
            if given is None:
                continue
            shape = graph.shape(given)
            order = (0, len(shape) - 1, *range(1, len(shape) - 1))
            right = [shape[i] for i in order]
            yield self.finding(
                model.place(node),
                f"the input `{given.target}` {list(shape)} has its {shape[-1]} channels last; "
                f"this convolution reads them at axis 1",
                help=f"pass `{given.target}` as {right}, or permute it first: "
                f"`{given.target}.permute({', '.join(map(str, order))})`",
                evidence={"shape": list(shape), "channels": shape[-1]},
            )
