"""Models whose layers start out badly, each in its own way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, DEPTH, CLASSES = 48, 10, 4
Model = Callable[[], nn.Module]


def drawn(model: nn.Module, draw: Callable[[torch.Tensor], object]) -> nn.Module:
    """The model with all its matrices drawn anew."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            draw(parameter)
    return model


def normal(std: float) -> Callable[[torch.Tensor], object]:
    return partial(nn.init.normal_, std=std)


def mlp(act: Callable[[], nn.Module], depth: int = DEPTH) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(WIDTH, WIDTH), act()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


def biased(value: float) -> nn.Module:
    model = mlp(nn.ReLU, 4)
    for layer in model.children():
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.bias, value)
    return model


class Images(nn.Module):
    """Its first layer makes a picture of the features."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.body = body
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(F.relu(self.stem(x.view(-1, 3, 4, 4))))
        return self.head(x.flatten(2).amax(2))


def convs(depth: int = 8, channels: int = 16, groups: int = 1) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(channels, channels, 3, padding=1, groups=groups), nn.ReLU()]
    return Images(nn.Sequential(*layers), channels)


def separable() -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(4):
        depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        pointwise = nn.Conv2d(32, 32, 1)
        for layer in (depthwise, pointwise):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        layers += [depthwise, nn.ReLU(), pointwise, nn.ReLU()]
    return Images(nn.Sequential(*layers), 32)


def upsampling() -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return Images(nn.Sequential(*layers), 16)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.b(F.relu(self.a(x)))
        return out


def residual() -> nn.Module:
    blocks = nn.Sequential(nn.Linear(WIDTH, WIDTH), *[Block() for _ in range(10)], nn.Linear(WIDTH, CLASSES))
    return drawn(blocks, partial(nn.init.kaiming_normal_, nonlinearity="relu"))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.empty(WIDTH, WIDTH)) for _ in range(6)])
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.weights:
            x = F.relu(F.linear(x, weight))
        out: torch.Tensor = self.head(x)
        return out


def normed() -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(4):
        norm = nn.LayerNorm(WIDTH)
        nn.init.normal_(norm.weight, std=0.02)
        layers += [nn.Linear(WIDTH, WIDTH), norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


BAD: dict[str, Model] = {
    "N(0, 1) before ReLU": lambda: drawn(mlp(nn.ReLU), normal(1.0)),
    "N(0, 0.01) before ReLU": lambda: drawn(mlp(nn.ReLU), normal(0.01)),
    "the default, ten layers deep": lambda: mlp(nn.ReLU),
    "Xavier before ReLU": lambda: drawn(mlp(nn.ReLU, 14), nn.init.xavier_normal_),
    "constants": lambda: drawn(mlp(nn.ReLU, 3), partial(nn.init.constant_, val=0.02)),
    "N(0, 1) before tanh": lambda: drawn(mlp(nn.Tanh), normal(1.0)),
    "N(0, 0.01) before tanh": lambda: drawn(mlp(nn.Tanh), normal(0.01)),
    "small before leaky ReLU": lambda: drawn(mlp(lambda: nn.LeakyReLU(0.2)), normal(0.02)),
    "small before GELU": lambda: drawn(mlp(nn.GELU, 6), normal(0.02)),
    "the default before SiLU": lambda: mlp(nn.SiLU, 8),
    "small before ELU": lambda: drawn(mlp(nn.ELU), normal(0.02)),
    "large before SELU": lambda: drawn(mlp(nn.SELU), normal(1.0)),
    "biases that kill": lambda: biased(-4.0),
    "small convolutions": lambda: drawn(convs(), normal(0.005)),
    "large convolutions": lambda: drawn(convs(), normal(0.5)),
    "depthwise by fan_out": separable,
    "small transposed convolutions": lambda: drawn(upsampling(), normal(0.01)),
    "unscaled residual blocks": residual,
    "functional layers": lambda: drawn(Functional(), normal(0.01)),
    "norms that mute": normed,
}
