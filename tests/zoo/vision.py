"""Convolutional networks: residual, dense, mobile, multi-branch, encoder-decoder, siamese."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import call, conv_norm_relu, images, register


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return F.relu(out)


@register(lambda: call(images()), "ResNet", "residual", "in-place ops")
class ResNet(nn.Module):
    """Residual blocks whose last norm starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_relu(3, 8)
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, stride=2), BasicBlock(16, 16))
        self.fc = nn.Linear(16, 10)
        for block in self.modules():
            if isinstance(block, BasicBlock):
                nn.init.zeros_(block.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.stem(x)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class PreActBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        return x + self.conv2(F.relu(self.bn2(y)))


@register(lambda: call(images()), "pre-activation ResNet", "residual")
class PreActResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList([PreActBlock(8) for _ in range(3)])
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(F.relu(self.norm(x)).mean([2, 3]))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.conv(F.relu(self.norm(torch.cat(features, 1))))


@register(lambda: call(images()), "DenseNet", "cat", "list input")
class DenseNet(nn.Module):
    def __init__(self, growth: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.layers = nn.ModuleList(DenseLayer(8 + index * growth, growth) for index in range(depth))
        width = 8 + depth * growth
        self.transition = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 8, 1, bias=False))
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(features))
        x = F.avg_pool2d(self.transition(torch.cat(features, dim=1)), 2)
        return self.fc(F.relu(self.norm(x)).mean((2, 3)))


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3), keepdim=True)
        return x * self.expand(F.relu(self.reduce(gate))).sigmoid()


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = 4 * inputs
        self.use_skip = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            SqueezeExcite(hidden, inputs),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.use_skip else self.body(x)


@register(lambda: call(images()), "MobileNet", "depthwise", "squeeze-excite")
class MobileNet(nn.Module):
    """Linear bottlenecks: blocks end without an activation on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_norm_relu(3, 8), InvertedResidual(8, 8, 1), InvertedResidual(8, 12, 2), InvertedResidual(12, 12, 1)
        )
        self.last = nn.Sequential(nn.Conv2d(12, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(24, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.last(self.features(x)).mean([2, 3]))


@register(lambda: call(images()), "depthwise-separable")
def separable_convs() -> nn.Module:
    """A depthwise and a pointwise convolution with nothing between them."""
    layers: list[nn.Module] = [conv_norm_relu(3, 8)]
    for inputs, outputs in ((8, 12), (12, 16)):
        layers += [
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


@register(lambda: call(images()), "Inception", "branches", "cat")
class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_relu(3, 8)
        self.one = nn.Sequential(nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.three = conv_norm_relu(8, 4)
        self.five = nn.Sequential(conv_norm_relu(8, 4), conv_norm_relu(4, 4))
        self.pooled = nn.Sequential(nn.AvgPool2d(3, 1, padding=1), conv_norm_relu(8, 4))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([branch(x) for branch in (self.one, self.three, self.five, self.pooled)], 1)
        return self.fc(x.mean((2, 3)))


@register(lambda: call(images()), "ShuffleNet", "views", "groups")
class ShuffleNet(nn.Module):
    """Half of the channels passes through; the halves are then shuffled by view and transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_relu(3, 16)
        self.branches = nn.ModuleList(conv_norm_relu(8, 8) for _ in range(2))
        self.fc = nn.Linear(16, 10)

    @staticmethod
    def shuffle(x: Tensor, groups: int = 2) -> Tensor:
        n, c, h, w = x.size()
        return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            kept, worked = x.chunk(2, dim=1)
            x = self.shuffle(torch.cat([kept, branch(worked)], dim=1))
        return self.fc(x.mean((2, 3)))


@register(lambda: call(images()), "U-Net", "ConvTranspose", "cat", "skip")
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = conv_norm_relu(3, 8), conv_norm_relu(8, 16)
        self.middle = conv_norm_relu(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.merge2, self.merge1 = conv_norm_relu(32, 16), conv_norm_relu(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down1(x)
        low = self.down2(F.max_pool2d(high, 2))
        x = self.middle(F.max_pool2d(low, 2))
        x = self.merge2(torch.cat([low, self.up2(x)], dim=1))
        x = self.merge1(torch.cat([high, self.up1(x)], dim=1))
        return self.head(x)


@register(lambda: call(images()), "feature pyramid", "interpolate", "dict output")
class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions, without activation by design, summed top down."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv_norm_relu(3, 8), conv_norm_relu(8, 16, 2), conv_norm_relu(16, 24, 2)])
        self.lateral = nn.ModuleList(nn.Conv2d(width, 8, 1) for width in (8, 16, 24))
        self.smooth = nn.ModuleList(conv_norm_relu(8, 8) for _ in range(3))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            levels.append(lateral(x))
        for index in (1, 0):
            levels[index] = levels[index] + F.interpolate(levels[index + 1], scale_factor=2, mode="nearest")
        return {
            f"p{i}": self.head(smooth(level)) for i, (smooth, level) in enumerate(zip(self.smooth, levels, strict=True))
        }


@register(lambda: call(images()), "dilated conv", "interpolate", "branches")
class DilatedSegmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_relu(3, 8, 2)
        self.branches = nn.ModuleList()
        for rate in (1, 2, 3):
            conv = nn.Conv2d(8, 8, 3, padding=rate, dilation=rate, bias=False)
            self.branches.append(nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU()))
        self.fuse = nn.Sequential(nn.Conv2d(24, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout2d(0.1))
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = self.head(self.fuse(torch.cat([branch(y) for branch in self.branches], dim=1)))
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


@register(lambda: call(images(), images()), "siamese", "shared module", "multiple inputs")
class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.project = nn.Linear(32, 16, bias=False)
        self.head = nn.Linear(16, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = (self.project(self.encoder(x)) for x in (first, second))
        return self.head(torch.abs(a - b))


@register(lambda: call(images()), "ConvNeXt", "LayerScale", "permute", "depthwise")
class ConvNeXt(nn.Module):
    """Channels-last norm and MLP after an explicit permute; a depthwise convolution meets a norm and a Linear."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 2, 2), nn.GroupNorm(1, width))
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-2))
        self.head_norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.scale * self.down(F.gelu(self.up(self.norm(y))))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(self.head_norm(x.mean((-2, -1))))
