"""Where the text of a class sets an attribute of a model."""

from __future__ import annotations

import torch
from torch import nn

from bnlint.graph.model import AuditedModel
from bnlint.graph.syntax import class_text
from bnlint.rule import Location, Place


def attribute_place(model: AuditedModel, path: str) -> Place:
    """The place of `self.<name> = …` for a tensor at `path`; of the module that holds it when the text is not found."""
    owner, _, name = path.partition("[")[0].rpartition(".")
    try:
        module = model.module.get_submodule(owner)
    except AttributeError:
        return model.place(path=path)
    return Place(path, _assignment(module, name) or model.source.location(owner))


def _assignment(module: nn.Module, name: str) -> Location | None:
    for base in type(module).__mro__:
        text = class_text(base) if not base.__module__.startswith(("torch.", "builtins")) else None
        span = text.assignment(name, None) if text is not None else None
        if span is not None:
            return span.location()
    return None


def computed_from(model: AuditedModel, path: str) -> set[torch.Tensor] | None:
    """The leaves that need a gradient and that the attribute at `path` was computed from; None when it is a leaf.

    `self.scale = nn.Parameter(torch.ones(8)) * 2` is computed from a parameter that nothing holds.
    """
    owner, _, name = path.rpartition(".")
    value = getattr(model.module.get_submodule(owner), name, None)
    if not isinstance(value, torch.Tensor) or value.grad_fn is None:
        return None
    leaves, todo, seen = set(), [value.grad_fn], {value.grad_fn}
    while todo:
        step = todo.pop()
        if hasattr(step, "variable"):
            leaves.add(step.variable)
        more = [before for before, _ in step.next_functions if before is not None and before not in seen]
        seen.update(more)
        todo.extend(more)
    return leaves
