"""BN805 compiled-differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Pass, Phase, Place, Rule, Severity
from bnlint.signal.tolerance import Tolerance

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class CompiledDiffers(Tolerance, Rule):
    """The model under `torch.compile` does not run, or gives something else than without it.

    Why it matters: compilers fold, fuse and reorder, and trust what they saw while tracing. A forward that asks whether
    it is being compiled, an operator without a meta kernel or a fault in a generated kernel then makes a job fail after
    minutes of compiling, or train on other numbers than those that were debugged.

    Example (bad):

    ```python
    # bnlint check --compile
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(16, 16)
            self.relu = nn.ReLU()
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            x = self.hidden(x)
            if not torch.compiler.is_compiling():
                x = self.relu(x)
            return self.head(x)
    ```

    Use instead (good):

    ```python
    # bnlint check --compile
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(16, 16)
            self.relu = nn.ReLU()
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.relu(self.hidden(x)))
    ```

    Only with `--compile`. Both run forward and backward on the same batch, with the same random numbers and without
    dropout. Compared are the outputs, whose limits are those of BN803, and the gradients of all parameters, whose
    limits are ten times as wide; a model that draws random numbers by itself is only run. Nor is anything said where
    the eager model departs from itself as far when its inputs are rounded differently: a deep stack of batch norms has
    4 % in its gradients for that. An error where the compiled model raises and the eager one does not. The finding
    names the innermost module that shows it by itself. Where no compiler works, the report says so.

    References: PyTorch documentation, torch.compile Troubleshooting.
    """

    code = "BN805"
    name = "compiled-differs"
    severity = Severity.WARNING
    phase = Phase.FORWARD
    passes = frozenset((Pass.COMPILED,))

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Says what the compiled model raised, or how far it is from the eager one."""
        probe = model.probe
        found = probe.compiled if probe is not None else None
        if probe is None or found is None:
            return
        place = Place(found.path, model.source.location(found.path), found.line)
        if found.raised is not None:
            yield self.finding(
                place,
                f"the compiled model does not run: {found.raised}",
                help="repair this part, or keep it out of the compiled graph with `torch.compiler.disable`",
                severity=Severity.ERROR,
            )
            return
        limit = self.limit(stats.dtype for stats in probe.stats.values())
        if found.output <= limit and found.gradient <= 10 * limit:
            return
        what, size = ("output", found.output) if found.output > limit else ("gradient", found.gradient)
        yield self.finding(
            place,
            f"compiled, the model's {what} is {size:.1%} away from what it is without a compiler",
            help="look for code that asks whether it is being compiled, and for state that one run leaves to the next; "
            "if there is none, keep this part out with `torch.compiler.disable` and report it to PyTorch",
            evidence={"output": found.output, "gradient": found.gradient, "limit": limit},
        )
