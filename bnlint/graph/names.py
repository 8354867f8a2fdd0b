"""What modules and tensors of a model are called, also those that `named_modules()` does not know."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_SCALARS = frozenset((bool, int, float, str, type(None)))  # most attributes of layers: not worth a second look


def held_outside(model: nn.Module) -> dict[str, nn.Module]:
    """Modules kept in plain lists, tuples, dicts or sets of the model's modules, by a path such as `blocks[0]`."""
    registered = {id(m) for m in model.modules()}
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            if type(value) in _SCALARS:
                continue
            if isinstance(value, _CONTAINERS) and value and key not in ("_modules", "_parameters", "_buffers"):
                for where, item in _modules_in(value, join(path, key)):
                    if id(item) not in registered:
                        found.setdefault(where, item)
    return found


def parameters_of(module: nn.Module) -> list[nn.Parameter]:
    """All parameters, also of a model that has an attribute called `parameters`."""
    return list(nn.Module.parameters(module))


def holds_values(module: nn.Module) -> bool:
    """False when a parameter or buffer is on the meta device."""
    return not any(tensor.is_meta for tensor in (*parameters_of(module), *module.buffers()))


def attribute(holder: Any, name: str) -> Any:
    """An attribute of an object of the user's, None without: its properties and `__getattr__` may raise anything."""
    try:
        return getattr(holder, name, None)
    except Exception:
        return None


def join(path: str, name: str) -> str:
    """`a.b`, or `b` below the root."""
    return f"{path}.{name}" if path else name


def _modules_in(value: Any, where: str, depth: int = 8) -> Iterator[tuple[str, nn.Module]]:
    if type(value) in _SCALARS:
        return
    if isinstance(value, nn.Module):
        yield where, value
    elif isinstance(value, _CONTAINERS) and depth:
        rows = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in rows:
            yield from _modules_in(item, f"{where}[{key!r}]", depth - 1)


class ModuleNames:
    """Module object to path. A module in a plain list is found there; one made in forward is named by its class."""

    def __init__(self, model: nn.Module) -> None:
        self.paths: dict[int, str] = {id(module): path for path, module in reversed(list(model.named_modules()))}
        self.unregistered: dict[str, nn.Module] = {}
        for path, module in held_outside(model).items():
            self._add(path, module)

    def path_of(self, module: nn.Module, caller: str) -> str:
        """The module's path; `caller` is the path of the module whose forward calls it."""
        if id(module) not in self.paths:
            name = f"{type(module).__name__}()"
            path, number = join(caller, name), 2
            while path in self.unregistered:
                path, number = f"{join(caller, name)}#{number}", number + 1
            self._add(path, module)
        return self.paths[id(module)]

    def _add(self, path: str, module: nn.Module) -> None:
        for inner, child in module.named_modules():
            if id(child) not in self.paths:
                self.paths[id(child)] = join(path, inner) if inner else path
                self.unregistered[self.paths[id(child)]] = child


def tensor_names(model: nn.Module) -> dict[int, tuple[str, bool]]:
    """Tensor object to (path, registered): parameters and buffers, then plain tensor attributes."""
    found: dict[int, tuple[str, bool]] = {}
    for path, module in model.named_modules():
        for store in (module._parameters, module._buffers):
            for key, tensor in store.items():
                if tensor is not None:
                    found.setdefault(id(tensor), (join(path, key), True))
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            if type(value) in _SCALARS:
                continue
            if isinstance(value, torch.Tensor):
                found.setdefault(id(value), (join(path, key), False))
            elif type(value) in (list, tuple):
                for index, item in enumerate(value):
                    if isinstance(item, torch.Tensor):
                        found.setdefault(id(item), (f"{join(path, key)}[{index}]", False))
    return found
