"""Measures how often a trained weight is taken for a fresh draw: three nets, three starts, three optimizers.

Run `python benchmarks/schemes_trained.py [--seeds 2]`; prints what docs/schemes.md says of trained weights.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init

from bnlint.signal.survey import Survey


class Sequence(nn.Module):
    """An embedding, a transformer layer and a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0)
        self.out = nn.Linear(32, 50)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the next word at every position."""
        found: Tensor = self.out(self.block(self.embedding(x)))
        return found


def mlp() -> nn.Module:
    """Three linear layers."""
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    """Three convolutions, one norm, one linear layer."""
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.Conv2d(32, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )


NETS: dict[str, Callable[[], nn.Module]] = {"MLP": mlp, "CNN": cnn, "transformer": Sequence}
STARTS: dict[str, Callable[[Tensor], object] | None] = {
    "default": None,
    "He normal": lambda w: init.kaiming_normal_(w, nonlinearity="relu"),
    "N(0, 0.02²)": lambda w: init.normal_(w, std=0.02),
}
OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD 0.1": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "Adam 0.01": lambda p: torch.optim.Adam(p, 0.01),
    "Adam 0.001": lambda p: torch.optim.Adam(p, 0.001),
}


def batch(name: str) -> tuple[Tensor, Tensor]:
    """A task that the net can learn."""
    if name == "transformer":
        x = torch.randint(50, (32, 12))
        return x, x.roll(1, 1)
    if name == "MLP":
        x = torch.randn(64, 20)
        return x, x[:, :10].argmax(1)
    x, y = torch.randn(32, 1, 16, 16) * 0.3, torch.randint(10, (32,))
    x[torch.arange(32), 0, y, :] += 1
    return x, y


def trained(name: str, start: str, optimizer: str, steps: int, *, zero_bias: bool) -> nn.Module:
    """A net after so many steps."""
    model = NETS[name]()
    for key, value in model.named_parameters():
        fill = STARTS[start]
        if fill is not None and value.ndim > 1:
            fill(value.data)
        elif fill is not None and key.endswith("bias") and zero_bias:
            init.zeros_(value)
    update = OPTIMIZERS[optimizer](model.parameters())
    for _ in range(steps):
        x, y = batch(name)
        out = model(x)
        loss = F.cross_entropy(out.flatten(0, -2), y.flatten())
        update.zero_grad()
        loss.backward()
        update.step()
    return model


def main() -> None:
    """Prints the tensors that still have a law, and how many there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    for setting in product(NETS, STARTS, OPTIMIZERS, (100, 400), (True, False), range(options.seeds)):
        name, start, optimizer, steps, zero_bias, seed = setting
        torch.manual_seed(seed)
        model = trained(name, start, optimizer, steps, zero_bias=zero_bias)
        survey = Survey(model)
        for key, value in model.named_parameters():
            found = survey.of(key) if value.ndim > 1 else None
            if found is None:
                continue
            counts["tensors"] += 1
            if found.schemes:
                right = start == "default" if found.is_default else any(s.label == start for s in found.schemes)
                counts["its first scheme" if right else "a wrong scheme"] += 1
                print(f"{' | '.join(map(str, setting))} | {key} {tuple(value.shape)} | {found.label}")
            elif found.law != "unknown":
                counts["a law alone"] += 1
    print(dict(counts))


if __name__ == "__main__":
    main()
