"""What the model's code keeps outside the model: `functools.lru_cache`, dictionaries of the module, class attributes.

A run on fake tensors must leave none of them there: a real run would find them and fail. Attributes of the model's own
modules are not the business of this file (`untouched.py`).
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from bnlint.graph.frames import Owner, owner

_CONTAINERS = (dict, list, set)
_NESTED = (*_CONTAINERS, tuple, frozenset)
_DEPTH = 4


@contextmanager
def without_fakes(model: nn.Module) -> Iterator[None]:
    """Takes out again what the run puts into caches of the user's code, as far as it holds fake tensors."""
    spaces = _namespaces(model)
    caches = [cache for space in spaces for cache in _caches(space)]
    caches += [cache for module in model.modules() for cache in _caches(module)]
    misses = [(cache, cache.cache_info().misses) for cache in caches]
    before = [(space, {name: (value, _copy(value)) for name, value in vars(space).items()}) for space in spaces]
    try:
        yield
    finally:
        for cache, count in misses:
            if cache.cache_info().misses != count and any(_holds_fake(item) for item in gc.get_referents(cache)):
                cache.cache_clear()
        for space, saved in before:
            _clean(space, saved)


def _namespaces(model: nn.Module) -> list[Any]:
    """The classes of the model's modules, the Python modules that define them, and all Python modules of the user."""
    classes = {base for cls in {type(m) for m in model.modules()} for base in cls.__mro__}
    classes = {cls for cls in classes if cls.__module__.partition(".")[0] not in ("torch", "builtins", "typing")}
    names = {cls.__module__ for cls in classes}
    names |= {name for name, module in list(sys.modules.items()) if _is_users(module)}
    return [*classes, *(sys.modules[name] for name in names if isinstance(sys.modules.get(name), ModuleType))]


def _is_users(module: Any) -> bool:
    file = getattr(module, "__file__", None) if type(module) is ModuleType else None
    return isinstance(file, str) and owner(file) == Owner.USER


def _caches(space: Any) -> Iterator[Any]:
    for value in list(vars(space).values()):
        found = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if isinstance(found, functools._lru_cache_wrapper):
            yield found


def _copy(value: Any) -> Any:
    return value.copy() if type(value) in _CONTAINERS else None


def _clean(space: Any, saved: dict[str, tuple[Any, Any]]) -> None:
    for name, value in list(vars(space).items()):
        old, contents = saved.get(name, (None, None))
        if value is not old and _holds_fake(value):
            setattr(space, name, old) if name in saved else delattr(space, name)
        elif contents is not None and _holds_fake(value):
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(contents)


def _holds_fake(value: Any, depth: int = _DEPTH) -> bool:
    if isinstance(value, FakeTensor):
        return True
    return isinstance(value, _NESTED) and depth > 0 and any(_holds_fake(v, depth - 1) for v in gc.get_referents(value))
