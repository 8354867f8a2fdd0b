"""Tables, recommendations and sets: embeddings joined with numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .registry import call, register


@register(lambda: call(torch.randint(4, (16, 3)), torch.randn(16, 5)), "embedding", "cat", "BatchNorm1d on two axes")
class TabularNet(nn.Module):
    def __init__(self, sizes: tuple[int, ...] = (4, 6, 9)) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, 3) for size in sizes)
        self.numbers = nn.BatchNorm1d(5)
        self.layers = nn.Sequential(
            nn.Linear(3 * len(sizes) + 5, 32, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 16, bias=False),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Linear(16, 1),
        )

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        x = [embed(categories[:, index]) for index, embed in enumerate(self.embeddings)]
        return self.layers(torch.cat([*x, self.numbers(numbers)], dim=1)).squeeze(-1)


@register(lambda: call(torch.randint(20, (16, 4))), "factorisation machine", "EmbeddingBag", "buffers")
class DeepFM(nn.Module):
    """Offsets put all fields into one table; a linear, a pairwise and a deep part are summed."""

    def __init__(self, fields: int = 4, size: int = 20, width: int = 4) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.arange(fields) * size)
        self.linear = nn.EmbeddingBag(fields * size, 1, mode="sum")
        self.embed = nn.Embedding(fields * size, width)
        self.deep = nn.Sequential(nn.Linear(fields * width, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))
        nn.init.normal_(self.embed.weight, std=0.1)
        nn.init.normal_(self.linear.weight, std=0.1)

    def forward(self, fields: Tensor) -> Tensor:
        index = fields + self.offsets
        x = self.embed(index)
        pairs = 0.5 * (x.sum(1) ** 2 - (x**2).sum(1)).sum(1, keepdim=True)
        return (self.linear(index) + pairs + self.deep(x.flatten(1))).squeeze(1)


@register(lambda: call(torch.randn(8, 7, 5)), "DeepSets", "sum over a set")
class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.element = nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU())
        self.whole = nn.Linear(24, 2)

    def forward(self, elements: Tensor) -> Tensor:
        return self.whole(self.element(elements).mean(dim=-2))


@register(lambda: call(torch.randint(30, (16,)), torch.randint(40, (16,))), "matrix factorisation", "embedding")
class MatrixFactorization(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(30, width), nn.Embedding(40, width)
        self.user_bias, self.item_bias = nn.Embedding(30, 1), nn.Embedding(40, 1)
        for table in (self.user_bias, self.item_bias):
            nn.init.zeros_(table.weight)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        score = (self.users(user) * self.items(item)).sum(dim=1)
        return score + self.user_bias(user).squeeze(1) + self.item_bias(item).squeeze(1)


@register(lambda: call(torch.randn(16, 12)), "bilinear", "highway", "gates")
class Highway(nn.Module):
    """A carry gate that starts open, then a bilinear comparison."""

    def __init__(self) -> None:
        super().__init__()
        self.transform, self.gate = nn.Linear(12, 12), nn.Linear(12, 12)
        nn.init.constant_(self.gate.bias, -1.0)
        self.compare = nn.Bilinear(6, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x))
        x = gate * torch.relu(self.transform(x)) + (1 - gate) * x
        return self.compare(*x.tensor_split(2, dim=1))
