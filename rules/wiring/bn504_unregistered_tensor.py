"""BN504 unregistered-tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    import torch
    from torch import fx

    from bnlint.graph.model import AuditedModel


class UnregisteredTensor(Rule):
    """A tensor that forward computes with is a plain attribute, neither a parameter nor a buffer.

    Why it matters: `.to(device)`, `.half()` and `state_dict()` know parameters and buffers only. A positional table
    kept as `self.table = torch.randn(...)` stays on the CPU when the model moves, and the first forward on a GPU raises
    "Expected all tensors to be on the same device"; a random one is not in the checkpoint, so that the loaded model
    computes something else. With `requires_grad=True` it looks like a weight, but no optimizer ever gets it.

    Example (bad):

    ```python
    # bnlint check --input 4x16
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.linspace(0.5, 1.5, 16)
            self.fc = nn.Linear(16, 4)

        def forward(self, x):
            return self.fc(x * self.scale)
    ```

    Use instead (good):

    ```python
    # bnlint check --input 4x16
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.linspace(0.5, 1.5, 16))
            self.fc = nn.Linear(16, 4)

        def forward(self, x):
            return self.fc(x * self.scale)
    ```

    Known limits: a tensor that forward moves itself (`self.table.to(x.device)`), one without axes (it mixes with any
    device), integer tables and models that override `_apply` or `to` are not reported.

    References: documentation of `torch.nn.Module.register_buffer` and `torch.nn.ParameterList`.
    """

    code = "BN504"
    name = "unregistered-tensor"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Follows every plain tensor attribute to the first op that combines it with the model's own tensors."""
        from bnlint.graph.attributes import attribute_place
        from bnlint.graph.devices import left_behind

        graph = model.graph
        assert graph is not None
        found = left_behind(graph, lambda node: _is_plain_attribute(model, node))
        rows: dict[str, list[fx.Node]] = {}
        for node in found:
            rows.setdefault(str(node.target).partition("[")[0], []).append(node)
        for path, nodes in rows.items():
            value: torch.Tensor = nodes[0].meta["val"]
            name = path.rpartition(".")[2]
            listed = str(nodes[0].target) != path
            what = (
                f"`{name}` holds {len(nodes)} plain tensor{'s' * (len(nodes) > 1)}"
                if listed
                else f"`{name}` is a plain tensor"
            )
            if value.grad_fn is not None:
                harm = "what it was computed from is no parameter of the model, so no optimizer gets it"
                cure = "make the result the parameter: `nn.Parameter(...)` around the whole expression"
            elif value.requires_grad:
                harm, kind = "no optimizer gets it", "nn.ParameterList" if listed else "nn.Parameter"
                cure = f"make it an `{kind}`"
            else:
                harm, cure = (
                    "`.to()` does not move it and `state_dict()` does not save it",
                    f'`self.register_buffer("{name}", ...)`',
                )
            yield self.finding(
                attribute_place(model, path),
                f"{what} of shape {list(value.shape)}: {harm}",
                help=cure,
                evidence={"shape": list(value.shape), "requires_grad": value.requires_grad, "count": len(nodes)},
            )


def _is_plain_attribute(model: AuditedModel, node: fx.Node) -> bool:
    """A floating tensor with axes that was a plain attribute, or a list's item, before the run."""
    import torch

    value, name = node.meta.get("val"), str(node.target)
    if node.op != "get_attr" or node.meta.get("registered", True) or name.startswith("_tensor_constant"):
        return False
    if not isinstance(value, torch.Tensor) or not value.dtype.is_floating_point or not value.ndim:
        return False
    if value.grad_fn is not None:  # computed from the model's own parameters, as weight_norm does, or from a stray one
        from bnlint.graph.attributes import computed_from

        leaves = computed_from(model, name)
        return leaves is not None and bool(leaves) and leaves.isdisjoint(model.module.parameters())
    return not _moves_itself(model, name.partition("[")[0].rpartition(".")[0])


def _moves_itself(model: AuditedModel, owner: str) -> bool:
    """True when the module, or one it is in, has its own way of moving to a device."""
    from torch import nn

    path = owner
    while True:
        cls = type(model.module.get_submodule(path))
        if any(getattr(cls, name) is not getattr(nn.Module, name) for name in ("_apply", "to", "cuda")):
            return True
        if not path:
            return False
        path = path.rpartition(".")[0]
