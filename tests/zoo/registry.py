"""The list of zoo models and the decorator that fills it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Builder = TypeVar("Builder", bound=Callable[[], nn.Module])


@dataclass(frozen=True)
class Entry:
    """A model, the arguments of its forward and the styles it stands for."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    tags: frozenset[str]

    def make(self) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        """The same model and the same arguments every time, in train mode."""
        torch.manual_seed(0)
        model = self.build().train()
        args, kwargs = self.inputs()
        return model, args, kwargs


ENTRIES: dict[str, Entry] = {}


def register(inputs: Callable[[], Inputs], *tags: str) -> Callable[[Builder], Builder]:
    """Adds the decorated class or function, which needs no arguments, to the zoo."""

    def add(build: Builder) -> Builder:
        if build.__name__ in ENTRIES:
            raise ValueError(f"two zoo models are called `{build.__name__}`")
        ENTRIES[build.__name__] = Entry(build.__name__, build, inputs, frozenset(tags))
        return build

    return add


def call(*args: Any, **kwargs: Any) -> Inputs:
    """The arguments of one call of forward, either positional or by keyword."""
    return args, kwargs


def images(batch: int = 8, channels: int = 3, size: int = 16) -> Tensor:
    """Noise images."""
    return torch.randn(batch, channels, size, size)


def tokens(batch: int = 8, length: int = 12, vocabulary: int = 50) -> Tensor:
    """Random token ids."""
    return torch.randint(vocabulary, (batch, length))


def conv_norm_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """The block that most image models here are made of."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())
