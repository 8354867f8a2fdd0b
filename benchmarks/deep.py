"""Families of models of any depth, each of which once took bnlint longer than the number of its ops explains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 16


def plain(depth: int) -> nn.Module:
    """Linear, BatchNorm, ReLU, one after the other."""
    return nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())))


def linear_only(depth: int) -> nn.Module:
    """Linear on Linear: a finding on every layer."""
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4 * depth)))


def mismatched(depth: int) -> nn.Module:
    """Every other layer takes a size that it does not get."""
    return nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(16, 16), nn.ReLU(), nn.Linear(24, 16))))


class Residual(nn.Module):
    """A ResNet's basic blocks."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH),
            ) for _ in range(depth)
        )  # fmt: skip
        self.fc = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = functional.relu(x + block(x))
        return self.fc(x.mean((2, 3)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, time, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A small GPT."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 50)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Attention(nn.Module):
    """Sequence-first torch.nn attention in a residual trunk."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(8, 1, WIDTH))
        self.layers = nn.ModuleList(nn.MultiheadAttention(WIDTH, 2) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(depth))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(x + layer(x, x, x, need_weights=False)[0])
        return self.head(x.mean(0))


class Gated(nn.Module):
    """Squeeze-and-excitation on the trunk itself, and activations in place."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        for layer, gate in zip(self.maps, self.gates, strict=True):
            x = x + self.act(layer(x))
            x = x * torch.sigmoid(gate(x.mean((2, 3))))[:, :, None, None]
        return x.mean((2, 3))


class Unrolled(nn.Module):
    """A recurrence written by hand, one step after the other."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.read, self.step, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], WIDTH)
        for _ in range(self.depth):
            state = torch.tanh(self.read(x) + self.step(state))
        return self.head(state)


class Collected(nn.Module):
    """Every step's state kept and joined at the end."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth, self.cell, self.head = depth, nn.GRUCell(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], WIDTH)
        states = []
        for _ in range(self.depth):
            state = self.cell(x, state)
            states.append(state)
        return self.head(torch.stack(states, 1))


FAMILIES: dict[str, tuple[Callable[[int], nn.Module], str]] = {
    "plain": (plain, "8x16"),
    "linear only": (linear_only, "8x16"),
    "mismatched": (mismatched, "8x16"),
    "residual": (Residual, "4x3x8x8"),
    "transformer": (Transformer, "int64[4,8]<50"),
    "attention": (Attention, "8x4x16"),
    "gated": (Gated, "4x16x8x8"),
    "unrolled": (Unrolled, "8x16"),
    "collected": (Collected, "8x16"),
}
