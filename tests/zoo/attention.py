"""Attention: the torch layers and hand-written ones, encoders, decoders, positions, masks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import call, register, tokens


def init_matrices(model: nn.Module) -> None:
    """Fresh random values for the copies that nn.TransformerEncoder makes of its first layer."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def sine_table(length: int, width: int) -> Tensor:
    """The fixed positions of the first Transformer."""
    position = torch.arange(length).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)
    return table


@register(lambda: call(torch.randn(8, 10, 16), torch.rand(8, 10) > 0.8), "MultiheadAttention", "batch_first", "masks")
class PooledAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(x)
        y, weights = self.attention(y, y, y, key_padding_mask=padding)
        return self.head((x + y).mean(1)), weights


@register(lambda: call(torch.randn(10, 8, 16), torch.randn(6, 8, 12)), "MultiheadAttention", "sequence first")
class CrossAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, kdim=12, vdim=12)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        attended, _ = self.attention(queries, memory, memory, need_weights=False)
        return self.head(self.norm(queries + attended))


@register(lambda: call(tokens()), "TransformerEncoder", "embedding", "positional table", "buffers")
class TextEncoder(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.register_buffer("positions", sine_table(32, width), persistent=False)
        layer = nn.TransformerEncoderLayer(width, 4, 32, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 4)
        init_matrices(self)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) * 4 + self.positions[: ids.size(1)]
        x = self.encoder(x, src_key_padding_mask=ids == 0)
        return self.head(x[:, 0])


@register(lambda: call(tokens(), torch.randn(8, 5, 16)), "TransformerDecoder", "causal mask")
class Captioner(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.positions = nn.Parameter(0.1 * torch.randn(32, width))
        layer = nn.TransformerDecoderLayer(width, 2, 32, dropout=0.0, activation="gelu", batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)
        self.head = nn.Linear(width, 50)
        init_matrices(self)

    def forward(self, ids: Tensor, memory: Tensor) -> Tensor:
        length = ids.size(1)
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=ids.device)
        x = self.embed(ids) + self.positions[:length]
        return self.head(self.decoder(x, memory, tgt_mask=mask, tgt_is_causal=True))


@register(lambda: call(tokens(), tokens(length=7)), "nn.Transformer", "encoder-decoder")
class Translator(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.register_buffer("positions", sine_table(32, width))
        self.transformer = nn.Transformer(width, 2, 1, 1, 32, batch_first=True)
        self.head = nn.Linear(width, 50)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = torch.triu(target.new_ones(target.size(1), target.size(1), dtype=torch.bool), diagonal=1)
        x, y = (self.embed(ids) + self.positions[: ids.size(1)] for ids in (source, target))
        return self.head(self.transformer(x, y, tgt_mask=mask))


class GPTBlock(nn.Module):
    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.register_buffer("causal", torch.tril(torch.ones(context, context, dtype=torch.bool)), persistent=False)

    def attend(self, x: Tensor) -> Tensor:
        n, length, width = x.size()
        q, k, v = self.qkv(x).split(width, dim=2)
        q, k, v = (t.view(n, length, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        weights = weights.masked_fill(~self.causal[:length, :length], float("-inf"))
        y = F.dropout(F.softmax(weights, dim=-1), 0.1, self.training) @ v
        return self.proj(y.transpose(1, 2).contiguous().view(n, length, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.out(F.gelu(self.fc(self.norm2(x))))


@register(lambda: call(tokens()), "GPT", "weight tying", "loop in forward")
class GPT(nn.Module):
    def __init__(self, width: int = 32, depth: int = 3, context: int = 16) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(50, width), nn.Embedding(context, width)
        self.h = nn.ModuleList([GPTBlock(width, 4, context) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, 50, bias=False)
        self.apply(self.init_weights)
        self.wte.weight = self.lm_head.weight

    @staticmethod
    def init_weights(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.size(1), device=ids.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.norm(x))


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


@register(lambda: call(tokens()), "rotary positions", "hand-written norm", "grouped-query attention", "SwiGLU")
class Llama(nn.Module):
    """One block with rotary positions, grouped queries and a gated MLP."""

    def __init__(self, width: int = 32, heads: int = 4, groups: int = 2) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.embed = nn.Embedding(50, width)
        self.norm1, self.norm2, self.norm3 = RMSNorm(width), RMSNorm(width), RMSNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, groups * self.size, bias=False)
        self.v = nn.Linear(width, groups * self.size, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, 48, bias=False)
        self.up = nn.Linear(width, 48, bias=False)
        self.down = nn.Linear(48, width, bias=False)
        self.head = nn.Linear(width, 50, bias=False)
        rate = 10000.0 ** (-torch.arange(0, self.size, 2) / self.size)
        self.register_buffer("angles", torch.outer(torch.arange(32), rate), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        angles = self.angles[: x.size(2)]
        cos, sin = angles.cos(), angles.sin()
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

    def attend(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q = self.q(x).view(n, length, self.heads, self.size).transpose(1, 2)
        k = self.k(x).view(n, length, self.groups, self.size).transpose(1, 2)
        v = self.v(x).view(n, length, self.groups, self.size).transpose(1, 2)
        k, v = (t.repeat_interleave(self.heads // self.groups, dim=1) for t in (self.rotate(k), v))
        y = F.scaled_dot_product_attention(self.rotate(q), k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(n, length, -1))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.attend(self.norm1(x))
        y = self.norm2(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(self.norm3(x))


@register(lambda: call(torch.randn(4, 20, 8)), "latent queries", "expand", "residual")
class Perceiver(nn.Module):
    """A few learned latents read a long input, twice with the same weights."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, 6, width) * 0.2)
        self.project = nn.Linear(8, width)
        self.norm_x, self.norm_z = nn.LayerNorm(width), nn.LayerNorm(width)
        self.read = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.norm_x(self.project(x))
        z = self.latents.expand(x.shape[0], -1, -1)
        for _ in range(2):
            z = z + self.read(self.norm_z(z), memory, memory, need_weights=False)[0]
            z = z + self.mlp(z)
        return self.head(z.mean(dim=1))
