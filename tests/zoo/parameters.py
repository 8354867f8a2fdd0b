"""Reparametrised, lazy, tied and hand-normalised weights."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from .registry import call, images, register, tokens


@register(lambda: call(torch.randn(4, 3, 32)), "weight_norm", "parametrization")
class WeightNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            parametrizations.weight_norm(nn.Conv1d(a, b, 3, padding=1)) for a, b in ((3, 16), (16, 16))
        )
        self.head = parametrizations.weight_norm(nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.elu(conv(x))
        return self.head(x.mean(-1))


@register(lambda: call(torch.randn(8, 12)), "weight_norm", "old hooks")
def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        first = nn.utils.weight_norm(nn.Linear(12, 16))
        second = nn.utils.weight_norm(nn.Linear(16, 3), dim=None)
    return nn.Sequential(first, nn.ReLU(), second)


@register(lambda: call(torch.randn(8, 12)), "spectral_norm", "old hooks")
def old_spectral_norm() -> nn.Module:
    first, second = nn.utils.spectral_norm(nn.Linear(12, 16)), nn.utils.spectral_norm(nn.Linear(16, 1))
    return nn.Sequential(first, nn.LeakyReLU(0.1), second)


@register(lambda: call(torch.randn(8, 12)), "orthogonal", "parametrization")
class OrthogonalNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.middle = parametrizations.orthogonal(nn.Linear(16, 16, bias=False))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(torch.tanh(self.first(x)))))


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


@register(lambda: call(torch.randn(8, 12)), "parametrization")
class SymmetricMixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(12, 12)
        parametrize.register_parametrization(self.mix, "weight", Symmetric())
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.mix(x)))


@register(lambda: call(images()), "lazy modules")
class LazyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LazyConv2d(8, 3, 2, padding=1, bias=False), nn.LazyBatchNorm2d(), nn.ReLU())
        self.head = nn.LazyLinear(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


@register(lambda: call(tokens()), "weight tying", "embedding")
class TiedLanguageModel(nn.Module):
    """The output layer is the embedding's own Parameter."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.decoder = nn.Linear(width, 50)
        self.decoder.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(ids))
        return self.decoder(self.norm(states))


class StandardizedConv2d(nn.Conv2d):
    """Weights with zero mean and unit variance per filter, scaled by the fan-in."""

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        weight = (self.weight - mean) * torch.rsqrt(var + 1e-6) / self.weight[0].numel() ** 0.5
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@register(lambda: call(images()), "weight standardisation", "layer subclass")
class StandardizedNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = StandardizedConv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(4, 8)
        self.conv2 = StandardizedConv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(4, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


class LowRankLinear(nn.Module):
    """A frozen linear map and a trained low-rank correction that starts at zero."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


@register(lambda: call(torch.randn(8, 12)), "low rank", "frozen parameters")
def low_rank_adapter() -> nn.Module:
    return nn.Sequential(LowRankLinear(nn.Linear(12, 24)), nn.GELU(), nn.LayerNorm(24), LowRankLinear(nn.Linear(24, 3)))


@register(lambda: call(torch.randn(16, 12), torch.randn(16, 20)), "two towers", "normalised output", "temperature")
class TwoTowers(nn.Module):
    """Contrastive: the batch-by-batch matrix is the output on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 16))
        self.right = nn.Sequential(nn.Linear(20, 24), nn.GELU(), nn.Linear(24, 16))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = F.normalize(self.left(a), dim=-1), F.normalize(self.right(b), dim=-1)
        return self.log_scale.exp() * a @ b.t()
