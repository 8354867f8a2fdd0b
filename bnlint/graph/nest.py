"""Tensors in nested containers: tuples, lists, dicts, named tuples, dataclasses and model outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

Index = tuple[Any, ...]


def tensors(value: Any, index: Index = ()) -> Iterator[tuple[Index, torch.Tensor]]:
    """Every tensor in `value` with the keys that lead to it."""
    if isinstance(value, torch.Tensor):
        yield index, value
        return
    for key, item in _items(value):
        yield from tensors(item, (*index, key))


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same nesting with every tensor changed; containers are kept as they are when nothing in them changes."""
    if isinstance(value, torch.Tensor):
        return change(value)
    items = [(key, item, map_tensors(item, change)) for key, item in _items(value)]
    if all(old is new for _, old, new in items):
        return value
    return _rebuild(value, {key: new for key, _, new in items})


def plain(value: Any) -> Any:
    """Dataclasses and mappings as dicts, so that fx sees the values in them."""
    if isinstance(value, torch.Tensor):
        return value
    items = {key: plain(item) for key, item in _items(value)}
    if isinstance(value, Mapping) or _is_dataclass(value):
        return {str(key): item for key, item in items.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(items.values()) if type(value) in (tuple, list) else tuple(items.values())
    return value


def select(value: Any, key: Any) -> Any:
    """One item of a container, by the key `tensors` gave it."""
    if isinstance(value, (Mapping, tuple, list)):
        return value[key]
    return getattr(value, key)


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return list(enumerate(value))
    if _is_dataclass(value):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if hasattr(value, f.name)]
    return []


def _rebuild(value: Any, items: dict[Any, Any]) -> Any:
    if isinstance(value, Mapping):
        try:
            return type(value)(items)  # type: ignore[call-arg]
        except TypeError:
            return items
    if isinstance(value, (tuple, list)):
        new = list(items.values())
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            try:
                return type(value)(*new)
            except (TypeError, ValueError):  # a PackedSequence checks what it holds
                return tuple(new)
        return type(value)(new)
    return dataclasses.replace(value, **items)
