"""Functional calls with own parameters, tensor methods, operators, in-place changes, views and indexing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import call, conv_norm_relu, images, register


@register(lambda: call(torch.randn(8, 12)), "functional", "own parameters")
class FunctionalMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight1 = nn.Parameter(torch.empty(24, 12))
        self.bias1 = nn.Parameter(torch.zeros(24))
        self.weight2 = nn.Parameter(torch.empty(3, 24))
        nn.init.kaiming_normal_(self.weight1, nonlinearity="relu")
        nn.init.xavier_uniform_(self.weight2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.linear(x, self.weight1, self.bias1))
        return F.linear(F.dropout(x, 0.1, training=self.training), self.weight2)


@register(lambda: call(images()), "functional", "own parameters", "buffers")
class FunctionalConvNet(nn.Module):
    """Convolution and batch norm by hand, with registered running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(nn.init.kaiming_normal_(torch.empty(8, 3, 3, 3)))
        self.gamma = nn.Parameter(torch.ones(8))
        self.beta = nn.Parameter(torch.zeros(8))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel, stride=2, padding=1)
        x = F.batch_norm(x, self.mean, self.var, self.gamma, self.beta, training=self.training)
        x = F.adaptive_avg_pool2d(F.leaky_relu(x, 0.1), 1)
        return self.head(torch.flatten(x, 1))


@register(lambda: call(images()), "tensor methods")
class TensorMethods(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.mix = nn.Linear(8, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        x = x.flatten(start_dim=2).transpose(1, 2).contiguous()  # (N, L, 8)
        x = self.mix(x).tanh()
        return self.head(x.amax(dim=1).clamp(min=-1.0, max=1.0))


@register(lambda: call(torch.randn(8, 12)), "operators", "own parameters")
class Operators(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 12) / 12**0.5)
        self.scale = nn.Parameter(torch.ones(12))
        self.shift = nn.Parameter(torch.zeros(12))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.t()
        y = y / (1 + abs(y)) - 0.5 * x
        y = (self.scale * y + self.shift) ** 2
        y = y / (y.mean(-1, keepdim=True) + 1e-3)
        return self.head(-y)


@register(lambda: call(images()), "in-place ops", "index assignment")
class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu_()
        y = self.norm2(self.conv2(x))
        y += x
        y = self.act(y)
        y = y.clone()
        y[:, 0] = y[:, 0] * 0.5
        y[:, :, 0, :] = 0
        y[..., -1].zero_()
        y.add_(1).mul_(0.5)
        return self.head(y.mean((2, 3)))


@register(lambda: call(images()), "views", "slices")
class SpaceToDepth(nn.Module):
    """Strided slices trade resolution for channels; a crop feeds the second branch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_norm_relu(12, 16)
        self.detail = conv_norm_relu(3, 16)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
        coarse = self.conv(torch.cat(parts, 1))
        height, width = x.shape[-2:]
        fine = self.detail(x[:, :, height // 4 : -height // 4, width // 4 : -width // 4])
        pooled = [coarse.mean((2, 3)), fine.mean((2, 3))]
        return self.head(torch.cat(pooled, dim=-1))


@register(lambda: call(torch.randn(8, 10, 16)), "views", "folding undone")
class PerStepNorm(nn.Module):
    """Folds time into the batch for a BatchNorm1d and unfolds it again."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 32, bias=False)
        self.norm = nn.BatchNorm1d(32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        x = self.project(x.reshape(batch * length, width))
        x = self.norm(x).relu().view(batch, length, -1)
        return self.head(x.mean(1))


@register(lambda: call(torch.randn(8, 10, 16)), "einsum")
class EinsumAttention(nn.Module):
    def __init__(self, heads: int = 4, width: int = 16) -> None:
        super().__init__()
        self.qkv = nn.Parameter(torch.randn(3, heads, width, width // heads) / width**0.5)
        self.out = nn.Parameter(torch.randn(heads, width // heads, width) / width**0.5)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = torch.einsum("bld,shde->sbhle", self.norm(x), self.qkv).unbind(0)
        weights = torch.einsum("bhqe,bhke->bhqk", q, k).div(q.shape[-1] ** 0.5).softmax(dim=-1)
        mixed = torch.einsum("bhqk,bhke->bhqe", weights, v)
        x = x + torch.einsum("bhqe,hed->bqd", mixed, self.out)
        return self.head(x.mean(1))


@register(lambda: call(torch.randn(8, 12)), "chunk", "split", "unbind", "stack")
class Gates(nn.Module):
    """Gated units by chunk, split and unbind."""

    def __init__(self) -> None:
        super().__init__()
        self.glu = nn.Linear(12, 32)
        self.norm = nn.LayerNorm(16)
        self.mixed = nn.Linear(16, 3 * 8)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.glu(x).chunk(2, dim=-1)
        x = self.norm(value * gate.sigmoid())
        a, b, c = torch.split(self.mixed(x), 8, dim=1)
        rows = torch.stack([a * b.tanh(), c.relu()], dim=1)
        first, second = rows.unbind(1)
        return self.head(torch.cat((first, second), 1))


@register(lambda: call(torch.randn(8, 10, 16), torch.randint(1, 11, (8,))), "indexing", "masks", "integer input")
class LastStep(nn.Module):
    """Takes each sequence's last valid step and a masked mean."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(16, 24), nn.LayerNorm(24), nn.ReLU())
        self.head = nn.Linear(48, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = self.encode(x)
        last = x[torch.arange(x.size(0), device=x.device), lengths - 1]
        mask = torch.arange(x.size(1), device=x.device)[None, :] < lengths[:, None]
        mean = x.masked_fill(~mask.unsqueeze(-1), 0.0).sum(1) / lengths.unsqueeze(1)
        return self.head(torch.cat([last, torch.where(mean > 0, mean, 0.1 * mean)], dim=1))


@register(lambda: call(images()), "views", "unfold", "permute")
class PatchesByUnfold(nn.Module):
    """Patches by reshape and permute and by F.unfold, each projected."""

    def __init__(self, patch: int = 4) -> None:
        super().__init__()
        self.patch = patch
        self.norm = nn.LayerNorm(3 * patch * patch)
        self.project = nn.Linear(3 * patch * patch, 32)
        self.overlapping = nn.Linear(3 * 9, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        p = self.patch
        patches = x.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        windows = F.unfold(x, kernel_size=3, stride=p, padding=1).transpose(1, 2)
        tokens = F.gelu(self.project(self.norm(patches)) + self.overlapping(windows))
        return self.head(tokens.mean(dim=1))
