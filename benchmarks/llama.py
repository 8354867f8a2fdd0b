"""A Llama of 70 billion parameters: 80 layers, 8192 wide, 64 heads that share 8 keys, 128256 tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Grouped-query attention."""

    def __init__(self, width: int, heads: int, shared: int) -> None:
        super().__init__()
        self.head, self.groups = width // heads, heads // shared
        self.query, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, shared * self.head, bias=False)
        self.value = nn.Linear(width, shared * self.head, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            layer(x).view(batch, length, -1, self.head).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        key = rotated(key, cos, sin).repeat_interleave(self.groups, dim=1)
        value = value.repeat_interleave(self.groups, dim=1)
        x = functional.scaled_dot_product_attention(rotated(query, cos, sin), key, value, is_causal=True)
        return self.out(x.transpose(1, 2).reshape(batch, length, -1))


class Layer(nn.Module):
    """Attention and a gated feed-forward net, each behind a norm and beside a skip."""

    def __init__(self, width: int, heads: int, shared: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width, heads, shared)
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), cos, sin)
        y = self.norm2(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """The whole."""

    def __init__(self, layers: int = 80, width: int = 8192, heads: int = 64, shared: int = 8) -> None:
        super().__init__()
        head = width // heads
        self.tokens = nn.Embedding(128256, width)
        self.layers = nn.ModuleList(Layer(width, heads, shared, 7 * width // 2) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, 128256, bias=False)
        self.register_buffer("frequencies", 500000 ** -(torch.arange(0, head, 2) / head), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        angles = torch.arange(ids.shape[1], device=ids.device)[:, None] * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin, x = angles.cos(), angles.sin(), self.tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.head(self.norm(x))
