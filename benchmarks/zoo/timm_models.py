"""Every model of timm with random weights: `timm_models.py:make('resnet18')`."""

from __future__ import annotations

import importlib.util
import re

from torch import nn

if importlib.util.find_spec("torchvision"):  # timm imports it when it is there
    import torchvision_models  # noqa: F401

import timm

_SIZES = (  # words in the names, the smallest first
    *("test", "atto", "femto", "pico", "zepto", "nano", "xxtiny", "xx_small", "xxsmall", "xxs", "xtiny"),
    *("x_small", "xs", "tiny", "mini", "small", "s0", "s", "18", "b0"),
)


def names() -> list[str]:
    """One of every family, by its name the smallest."""
    families = {name: timm.list_models(module=name) for name in timm.list_modules()}
    return [min(models, key=_size) for models in families.values() if models]


def all_names() -> list[str]:
    """All of them."""
    return timm.list_models()


def make(name: str) -> nn.Module:
    """The model with random weights."""
    return timm.create_model(name, pretrained=False)


def _size(name: str) -> tuple[int, int, str]:
    found = [rank for rank, size in enumerate(_SIZES) if re.search(rf"(_|^){size}\d*(_|$)", name)]
    return min(found, default=len(_SIZES)), len(name), name
