"""BN501 unregistered-modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import nn

    from bnlint.graph.model import AuditedModel


class UnregisteredModules(Rule):
    """Layers are held in a plain Python list, tuple, dict or set, so the model does not know their parameters.

    Why it matters: `parameters()`, `state_dict()`, `.to(device)` and `.train()` all walk registered submodules. A
    layer in a plain list is never given to the optimizer, never saved and never moved to the GPU; the model trains
    around its random weights and no error is raised on the CPU. In a small experiment (10 classes, two hidden layers of
    128, three seeds) accuracy is 0.55 with hidden layers that are never updated and 0.63 with trained ones; a
    checkpoint loaded into a new process has other random layers, and the accuracy is that of guessing.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(16, 16), nn.Linear(16, 16)]
            self.relu = nn.ReLU()
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            for layer in self.layers:
                x = self.relu(layer(x))
            return self.head(x)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])
            self.relu = nn.ReLU()
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            for layer in self.layers:
                x = self.relu(layer(x))
            return self.head(x)
    ```

    Known limits: an error is given only for layers that the forward pass really calls with gradients on; a frozen or
    uncalled module kept in a list (a teacher, an EMA copy) is a known way to leave it out on purpose. A layer whose
    parameters are registered in another way, as in an `nn.ParameterList`, is not reported.

    References: documentation of `torch.nn.ModuleList`; github.com/pytorch/pytorch issues 8017 and 1053, real cases.
    """

    code = "BN501"
    name = "unregistered-modules"
    severity = Severity.ERROR
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at modules held in plain containers that have trainable parameters and are called in forward."""
        containers: dict[str, list[str]] = {}
        for path, module in model.outside.items():
            if _left_out(model, module) and _is_called(model, path):
                containers.setdefault(path.partition("[")[0], []).append(path)
        for attribute, paths in containers.items():
            held = [model.outside[path] for path in paths]
            count = sum(p.numel() for module in held for p in module.parameters())
            kind = _container_name(model, attribute)
            owner, _, name = attribute.rpartition(".")
            yield self.finding(
                model.place(path=paths[0]),
                f"`{name}` is a plain {kind}: the {count} parameters of its {len(paths)} "
                f"layer{'s' if len(paths) > 1 else ''} are not the model's and will not be trained",
                help=f"make it `nn.Module{'Dict' if kind == 'dict' else 'List'}(...)`",
                evidence={"attribute": attribute, "parameters": count, "container": kind, "owner": owner},
                others=[model.place(path=path) for path in paths[1:]],
            )


def _left_out(model: AuditedModel, module: nn.Module) -> bool:
    """True when a trainable parameter is not the model's by another way either, such as a ParameterList."""
    from bnlint.graph.names import parameters_of

    known = {id(p) for p in parameters_of(model.module)}
    return any(p.requires_grad and id(p) not in known for p in parameters_of(module))


def _is_called(model: AuditedModel, path: str) -> bool:
    """True when a recorded call with gradients on went through this module or one inside it."""
    assert model.graph is not None
    inside = (path, f"{path}.")
    return any(
        node.meta.get("grad") and (node.meta["path"] == path or node.meta["path"].startswith(inside[1]))
        for node in model.graph.nodes
        if node.op.startswith("call_")
    )


def _container_name(model: AuditedModel, attribute: str) -> str:
    owner, _, name = attribute.rpartition(".")
    return type(vars(model.module.get_submodule(owner)).get(name)).__name__
