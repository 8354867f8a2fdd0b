"""BN304 unapplied-init."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Place, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel

_NAMED = re.compile(r"init\w*_?(weight|param)|(weight|param)\w*_?init|^_?(xavier|kaiming|he)_init")


class UnappliedInit(Rule):
    """A method initialises the weights, nothing calls it, and the weights are still PyTorch's default.

    Why it matters: the author chose an initialisation and trains with another. In a ReLU net without norms PyTorch's
    U(-1/√n, 1/√n) keeps 41 % of the signal in each layer where He's weights would keep all of it; with norms the
    difference is small, and the method is dead text that misleads its readers.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def _initialize_weights(self):
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, 0, 0.02)
                    nn.init.zeros_(layer.bias)

        def forward(self, x):
            return self.fc(self.relu(self.conv(x)).mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)
            self._initialize_weights()

        def _initialize_weights(self):
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)

        def forward(self, x):
            return self.fc(self.relu(self.conv(x)).mean(dim=(2, 3)))
    ```

    Known limits: a method that a base class has too, such as mmcv's `init_weights`, may be called by whoever knows the
    base; so may one that any Python file of the project asks an object for (`model.init_weights()`), after the model
    is built. A call from elsewhere cannot be seen, so this is information only. A mixin's or a nested module's weights
    count for the class that defines the method; one weight that is not the default, and it is silent.

    References: github.com/lavi135246/pytorch-Learning-to-See-in-the-Dark/issues/17, a real case.
    """

    code = "BN304"
    name = "unapplied-init"
    severity = Severity.INFO
    phase = Phase.MODULES
    values = True

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Reads the methods of the user's classes, and then the weights of their instances."""
        from bnlint.graph.mentions import may_be_called
        from bnlint.graph.statements import user_classes

        for found in user_classes(model.module):
            for method in found.methods():
                if not _NAMED.search(method.name.lower()) or not any(isinstance(n, ast.Call) for n in ast.walk(method)):
                    continue
                if not self._still_default(model, found.paths) or may_be_called(found, method.name):
                    continue
                line = found.text.header(method)
                yield self.finding(
                    Place(found.paths[0], line),
                    f"nothing calls `{method.name}`, and the weights are still PyTorch's default",
                    help=f"call `self.{method.name}()` at the end of `__init__`, or delete the method",
                    evidence={"method": method.name, "class": found.cls.__name__},
                    others=[Place(path, line) for path in found.paths[1:]],
                )

    def _still_default(self, model: AuditedModel, paths: tuple[str, ...]) -> bool:
        """True when every conv and linear weight that can tell follows the layer's own `reset_parameters`."""
        own = (row for path in paths for row in model.module.get_submodule(path).named_parameters(path))
        weights = sorted((row for row in own if row[1].ndim > 1), key=lambda row: -row[1].numel())
        told = (found for name, _ in weights if (found := model.survey.of(name)) is not None and found.law != "too few")
        first = next(told, None)  # the largest, which is the surest, often settles it
        return first is not None and first.is_default and all(found.is_default for found in told)
