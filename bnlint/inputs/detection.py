"""What object detectors take: a list of pictures, and to train, boxes and labels for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

import torch
from torch import nn

from bnlint.inputs.guess import Guess, Path

PICTURES = 2
_SIDE = 64
_BOXES = 3  # in a picture
_CORNERS = (8.0, 8.0, 40.0, 48.0)  # left, top, right, bottom


def are_targets(hint: Any) -> bool:
    """True for a list of dicts of tensors, perhaps optional."""
    if get_origin(hint) is list:
        item = next(iter(get_args(hint)), None)
        return get_origin(item) is dict and get_args(item)[-1:] == (torch.Tensor,)
    return any(are_targets(option) for option in get_args(hint))


def are_pictures(hint: Any) -> bool:
    """True for a list of tensors."""
    return get_origin(hint) is list and get_args(hint) == (torch.Tensor,)


def detection(model: nn.Module, hints: Mapping[str, Any]) -> dict[str, dict[Path, Guess]]:
    """Guesses for the pictures and their targets by parameter; {} for other models."""
    targets = [name for name, hint in hints.items() if are_targets(hint)]
    pictures = [name for name, hint in hints.items() if are_pictures(hint)]
    if not targets or not pictures:
        return {}
    picture = Guess((3, _SIDE, _SIDE), batch=None, why="a list of pictures")
    rows = _of_a_picture(model)
    return {
        **{name: {(name, i): picture for i in range(PICTURES)} for name in pictures[:1]},
        **{name: {(name, i, key): g for i in range(PICTURES) for key, g in rows.items()} for name in targets[:1]},
    }


def _of_a_picture(model: nn.Module) -> dict[str, Guess]:
    """What is told of one: masks and keypoints to a model that has layers for them."""
    paths = " ".join(path for path, _ in model.named_modules())
    rows = {
        "boxes": Guess((_BOXES, 4), "float32", fill=_CORNERS, batch=None),
        "labels": Guess((_BOXES,), "int64", fill=1.0, batch=None),
    }
    if "mask" in paths:
        rows["masks"] = Guess((_BOXES, _SIDE, _SIDE), "uint8", fill=1.0, batch=None)
    if "keypoint" in paths:
        rows["keypoints"] = Guess((_BOXES, 17, 3), "float32", fill=(16.0, 16.0, 1.0), batch=None)
    return rows
