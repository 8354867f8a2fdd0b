"""BN502 unused-module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class UnusedModule(Rule):
    """A layer with parameters is registered but the forward pass never calls it.

    Why it matters: its parameters are saved, counted and given to the optimizer, but they never get a gradient.
    `DistributedDataParallel` waits for exactly those gradients and stops with an error unless
    `find_unused_parameters=True` is set, which slows every step. Often the layer was meant to be called and a line of
    `forward` is missing: a published SE-Inception adds 12 squeeze-and-excitation blocks with 1.2 million parameters by
    `add_module`, and none of them is ever called, so that it is a plain Inception with a larger checkpoint.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(16, 16)
            self.fc2 = nn.Linear(16, 16)
            self.relu = nn.ReLU()
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            x = self.relu(self.fc1(x))
            return self.head(x)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(16, 16)
            self.fc2 = nn.Linear(16, 16)
            self.relu = nn.ReLU()
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            x = self.relu(self.fc1(x))
            x = self.relu(self.fc2(x))
            return self.head(x)
    ```

    Known limits: a layer that the source of the model's classes mentions anywhere outside its construction, such as a
    branch that a flag selects or an auxiliary head, is not reported; nor is one whose weight is used directly.

    References: documentation of `torch.nn.parallel.DistributedDataParallel` (`find_unused_parameters`);
    github.com/inria-thoth/HySUPP issue 3, a real case.
    """

    code = "BN502"
    name = "unused-module"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Reports the outermost modules that neither ran nor lent a parameter, and that no other code mentions."""
        from bnlint.graph.usage import unused_modules

        graph = model.graph
        assert graph is not None
        if graph.recording.error is not None:
            return  # what comes after a failure that stopped the run has had no chance to run
        for path, module in unused_modules(model):
            count = sum(p.numel() for p in module.parameters())
            name = path.rpartition(".")[2]
            yield self.finding(
                model.place(path=path),
                f"`{name}` ({type(module).__name__}, {count} parameters) is never called in the forward pass",
                help=f"call `self.{name}(...)` in forward, or delete it",
                evidence={"parameters": count, "class": type(module).__name__},
            )
