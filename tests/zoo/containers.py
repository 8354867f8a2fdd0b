"""Sequential, ModuleList, ModuleDict, parameters in containers, nesting, sharing and inheritance."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from .registry import call, conv_norm_relu, images, register


@register(lambda: call(images()), "Sequential")
def plain_sequential() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


@register(lambda: call(torch.randn(8, 20)), "OrderedDict Sequential")
def ordered_sequential() -> nn.Module:
    layers: list[tuple[str, nn.Module]] = [("scale", nn.LayerNorm(20))]
    for index, (inputs, outputs) in enumerate([(20, 32), (32, 32)]):
        layers += [
            (f"fc{index}", nn.Linear(inputs, outputs)),
            (f"norm{index}", nn.LayerNorm(outputs)),
            (f"act{index}", nn.GELU()),
            (f"drop{index}", nn.Dropout(0.1)),
        ]
    return nn.Sequential(OrderedDict([*layers, ("head", nn.Linear(32, 4))]))


@register(lambda: call(images()), "ModuleList", "loop in forward")
class ListOfStages(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 16, 16)) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        channels = 3
        for width in widths:
            self.stages.append(conv_norm_relu(channels, width))
            channels = width
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index < len(self.stages) - 1:
                x = self.pool(x)
        return self.head(x.mean(dim=(2, 3)))


@register(lambda: call(torch.randn(8, 16)), "ModuleDict", "dict output")
class TaskHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.ReLU())
        self.heads = nn.ModuleDict({"color": nn.Linear(32, 5), "size": nn.Linear(32, 1)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {name: head(features) for name, head in self.heads.items()}


class Unit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.act = nn.SiLU()
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(self.norm(x))))


class Stage(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.units = nn.Sequential(*(Unit(width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.units(x)


@register(lambda: call(torch.randn(8, 12)), "nested modules", "residual")
class NestedStages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 24)
        self.encoder = nn.Sequential(Stage(24, 2), Stage(24, 1))
        self.head = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)))


@register(lambda: call(torch.randn(8, 12)), "shared module", "loop in forward")
class SharedBlock(nn.Module):
    """One block, applied several times."""

    def __init__(self, steps: int = 3) -> None:
        super().__init__()
        self.steps = steps
        self.embed = nn.Linear(12, 24)
        self.block = Unit(24)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for _ in range(self.steps):
            x = self.block(x)
        return self.head(self.norm(x))


@register(lambda: call(torch.randn(8, 12)), "shared module")
class ReusedActivation(nn.Module):
    """One activation registered once and put in several places."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ELU()
        self.body = nn.Sequential(nn.Linear(12, 16), self.act, nn.Linear(16, 16), self.act)
        self.head = nn.Linear(16, 2)
        self.classifier = self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(x))


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_relu(3, 8)
        self.body = conv_norm_relu(8, 16, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))


@register(lambda: call(images()), "inheritance")
class InheritedClassifier(Backbone):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(super().forward(x).mean((-2, -1)))


@register(lambda: call(images()), "add_module", "getattr")
class NumberedAttributes(nn.Module):
    """Layers set and read by computed names, as in old code."""

    def __init__(self) -> None:
        super().__init__()
        for index in range(3):
            self.add_module(f"conv{index}", nn.Conv2d(3 if index == 0 else 8, 8, 3, padding=1, bias=False))
            setattr(self, f"bn{index}", nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        for index in range(3):
            x = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x)).relu()
        return self.head(x.mean(-1).mean(-1))


@register(lambda: call(torch.randn(8, 10, 16)), "ParameterList", "ParameterDict")
class LearnedQueries(nn.Module):
    """Queries in a ParameterList pool a sequence; scales lie in a ParameterDict."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.ParameterList(nn.Parameter(torch.randn(16) / 4) for _ in range(3))
        self.scales = nn.ParameterDict({name: nn.Parameter(torch.ones(16)) for name in ("key", "value")})
        self.head = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        keys, values = x * self.scales["key"], x * self.scales["value"]
        pooled = []
        for query in self.queries:
            weights = (keys @ query / 4).softmax(dim=1)  # (N, L)
            pooled.append((weights.unsqueeze(-1) * values).sum(dim=1))
        return self.head(torch.cat(pooled, dim=1))
