"""Norms other than plain BatchNorm, subclasses of it, and networks that need none."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import call, conv_norm_relu, images, register


@register(lambda: call(images()), "GroupNorm", "residual")
class GroupNormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, padding=1)
        self.norm1, self.conv1 = nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv1(F.relu(self.norm1(x)))
        x = x + self.conv2(F.relu(self.norm2(y)))
        return self.head(F.relu(x).mean((2, 3)))


@register(lambda: call(images(4)), "InstanceNorm", "style transfer", "reflection padding")
class StyleTransfer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = self.block(3, 8, stride=2)
        self.body = nn.Sequential(self.block(8, 8), nn.Conv2d(8, 8, 1), nn.InstanceNorm2d(8, affine=True))
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), self.block(8, 8))
        self.last = nn.Conv2d(8, 3, 3, padding=1, padding_mode="reflect")

    @staticmethod
    def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, 3, stride)
        return nn.Sequential(nn.ReflectionPad2d(1), conv, nn.InstanceNorm2d(outputs, affine=True), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x)
        return torch.tanh(self.last(self.up(y + self.body(y))))


@register(lambda: call(torch.randn(16, 20)), "SELU", "AlphaDropout", "custom init")
def self_normalizing() -> nn.Module:
    """SELU with LeCun initialisation keeps the signal without any norm."""
    layers: list[nn.Module] = []
    widths = (20, 32, 32, 32, 32, 32)
    for inputs, outputs in pairwise(widths):
        layer = nn.Linear(inputs, outputs)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.SELU(), nn.AlphaDropout(0.05)]
    return nn.Sequential(*layers, nn.Linear(32, 4))


@register(lambda: call(torch.randn(16, 20)), "He init", "deep", "no norm")
def he_initialised_mlp() -> nn.Module:
    """Eight ReLU layers that need no norm because their initialisation fits."""
    layers: list[nn.Module] = []
    for index in range(8):
        layer = nn.Linear(20 if index == 0 else 64, 64)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 4))


class BatchNormAct2d(nn.BatchNorm2d):
    """Batch norm and activation in one layer, on the functional form."""

    def __init__(self, width: int, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__(width)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        training = self.training or (self.running_mean is None and self.running_var is None)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training, momentum, self.eps)
        return self.act(x)


@register(lambda: call(images()), "BatchNorm subclass", "fused activation")
def batch_norm_act() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        BatchNormAct2d(8, nn.SiLU),
        nn.Conv2d(8, 16, 3, 2, padding=1, bias=False),
        BatchNormAct2d(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


class ConditionalBatchNorm(nn.BatchNorm2d):
    """Scale and shift come from a class embedding."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(width, affine=False)
        self.embed = nn.Embedding(classes, 2 * width)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        scale, shift = self.embed(label)[..., None, None].chunk(2, dim=1)
        return (1 + scale) * super().forward(x) + shift


@register(lambda: call(images(), torch.randint(5, (8,))), "BatchNorm subclass", "overridden forward", "modulation")
class ClassConditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = ConditionalBatchNorm(8, 5)
        self.conv2 = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(self.conv2(F.relu(self.norm1(self.conv1(x), label))))


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a channels-first map."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


@register(lambda: call(images()), "LayerNorm subclass", "permute")
def channel_layer_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, padding=1),
        LayerNorm2d(16),
        nn.GELU(),
        nn.Conv2d(16, 16, 3, 2, padding=1),
        LayerNorm2d(16),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


class ChannelNorm(nn.Module):
    """A norm written with mean and variance, for any number of spatial axes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        var = (x - mean).pow(2).mean(1, keepdim=True)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return (x - mean) / torch.sqrt(var + 1e-5) * self.gain.view(shape) + self.shift.view(shape)


@register(lambda: call(images()), "hand-written norm")
class HandWrittenNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 12, 3, padding=1), ChannelNorm(12)
        self.conv2, self.norm2 = nn.Conv2d(12, 12, 3, 2, padding=1), ChannelNorm(12)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


@register(lambda: call(images()), "BatchNorm", "pooled classifier", "BatchNorm1d on two axes")
class HeadNorm(nn.Module):
    """BatchNorm2d on maps, BatchNorm1d on vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm_relu(3, 8, 2), conv_norm_relu(8, 8, 2))
        self.fc1 = nn.Linear(128, 32, bias=False)
        self.norm = nn.BatchNorm1d(32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).view(x.size(0), -1)
        return self.fc2(F.dropout(F.relu(self.norm(self.fc1(x))), training=self.training))


@register(lambda: call(images(), torch.randn(8, 6)), "FiLM", "AdaIN", "modulation", "F.instance_norm")
class Stylized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.content = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.style = nn.Linear(6, 16)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style).unsqueeze(-1).unsqueeze(-1).chunk(2, 1)
        y = F.instance_norm(self.content(x)) * (1 + scale) + shift
        return self.last(F.leaky_relu(y, 0.2))
