"""Parameters that hold the same values without being the same parameter: what `copy.deepcopy` leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

_SPREAD = 16  # entries that are compared first


def equal_groups(tensors: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """The names of tensors with equal values, in groups of two and more; views of one memory count once."""
    alike: dict[tuple[object, ...], list[str]] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        alike.setdefault((tensor.shape, tensor.dtype, tensor.device, _some(tensor)), []).append(name)
    groups: list[list[str]] = []
    for names in alike.values():
        while len(names) > 1:
            first = tensors[names[0]]
            same = [name for name in names if torch.equal(tensors[name], first)]
            groups += [same] if len(same) > 1 else []
            names = [name for name in names if name not in same]
    return groups


def copied_modules(groups: Iterable[list[str]]) -> dict[tuple[str, ...], list[str]]:
    """The outermost modules that are copies of each other, with the names of the first one's equal parameters.

    `layers.0.fc.weight` and `layers.1.fc.weight` belong to the copies `layers.0` and `layers.1`.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for names in groups:
        rows = [name.split(".") for name in names]
        common = 0
        while len({tuple(row[len(row) - common - 1 :]) for row in rows}) == 1 and all(len(r) > common for r in rows):
            common += 1
        found.setdefault(tuple(".".join(row[: len(row) - common]) for row in rows), []).append(names[0])
    return found


def _some(tensor: torch.Tensor) -> tuple[float, ...]:
    flat = tensor.detach().flatten()
    picked = torch.arange(_SPREAD, device=flat.device) * flat.numel() // _SPREAD
    return tuple(flat[picked].double().tolist())
