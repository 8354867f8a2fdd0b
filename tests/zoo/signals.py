"""Sound, video, spectra and point sets: Conv1d, Conv3d, torch.fft, complex parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import call, register


class GatedDilated(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.pad = (dilation, 0)
        self.filter = nn.Conv1d(width, width, 2, dilation=dilation)
        self.gate = nn.Conv1d(width, width, 2, dilation=dilation)
        self.residual, self.skip = nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(x, self.pad)
        y = torch.tanh(self.filter(padded)) * torch.sigmoid(self.gate(padded))
        return x + self.residual(y), self.skip(y)


@register(lambda: call(torch.randn(4, 1, 64)), "WaveNet", "dilated conv", "Conv1d", "residual")
class WaveNet(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv1d(1, width, 1)
        self.layers = nn.ModuleList(GatedDilated(width, 2**index) for index in range(3))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        skips = None
        for layer in self.layers[:-1]:
            x, skip = layer(x)
            skips = skip if skips is None else skips + skip
        x, skip = self.layers[-1](x)
        return self.head(x + skips + skip)


@register(lambda: call(torch.randn(8, 4, 64)), "Conv1d", "BatchNorm1d on three axes")
def keyword_spotter() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((4, 8), (8, 16), (16, 16)):
        layers += [nn.Conv1d(inputs, outputs, 5, 2, padding=2, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(16, 5))


@register(lambda: call(torch.randn(4, 2, 8, 12, 12)), "Conv3d", "BatchNorm3d")
class VideoNet(nn.Module):
    """Spatial and temporal convolutions in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Conv3d(2, 8, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1), bias=False)
        self.norm1 = nn.BatchNorm3d(8)
        self.temporal = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.norm2 = nn.BatchNorm3d(8)
        self.pool = nn.MaxPool3d((2, 2, 2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.spatial(x)).relu()
        x = self.pool(self.norm2(self.temporal(x)).relu())
        return self.head(x.mean(dim=(2, 3, 4)))


@register(lambda: call(torch.randn(4, 256)), "torch.fft", "STFT", "buffers")
class Spectrogram(nn.Module):
    """A log spectrogram, normalised by a BatchNorm2d, and a small convolutional classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(32))
        self.norm = nn.BatchNorm2d(1)
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, wave: Tensor) -> Tensor:
        spectrum = torch.stft(wave, n_fft=32, hop_length=16, window=self.window, return_complex=True)
        x = torch.log1p(spectrum.abs() ** 2).unsqueeze(1)  # (N, 1, F, T)
        x = F.relu(self.bn(self.conv(self.norm(x))))
        return self.head(x.mean((2, 3)))


@register(lambda: call(torch.randn(4, 2, 32)), "complex", "torch.fft", "own parameters")
class SpectralConv(nn.Module):
    """A Fourier layer: complex weights on the low frequencies beside a pointwise convolution."""

    def __init__(self, width: int = 8, modes: int = 6) -> None:
        super().__init__()
        self.modes = modes
        self.lift = nn.Conv1d(2, width, 1)
        self.weight = nn.Parameter(torch.randn(width, width, modes, dtype=torch.cfloat) / width)
        self.local = nn.Conv1d(width, width, 1)
        self.project = nn.Conv1d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.lift(x))
        spectrum = torch.fft.rfft(x)
        low = torch.einsum("bim,iom->bom", spectrum[..., : self.modes], self.weight)
        mixed = torch.zeros_like(spectrum)
        mixed[..., : self.modes] = low
        y = torch.fft.irfft(mixed, n=x.shape[-1]) + self.local(x)
        return self.project(F.gelu(y))


@register(lambda: call(torch.randn(8, 24, 3)), "PointNet", "BatchNorm1d on three axes", "transpose")
class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv1d(3, 16, 1, bias=False),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Conv1d(16, 32, 1, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, 6)

    def forward(self, points: Tensor) -> Tensor:
        x = self.mlp(points.transpose(1, 2))
        return self.head(torch.max(x, dim=2).values)


@register(lambda: call(torch.randn(9, 6), (torch.rand(9, 9) > 0.6).float()), "graph network", "matmul")
class GraphNet(nn.Module):
    """Neighbourhood averages; the nodes of one graph are the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.near = nn.Linear(6, 16), nn.Linear(6, 16, bias=False)
        self.head = nn.Linear(16, 3)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        degree = adjacency.sum(1, keepdim=True).clamp(min=1)
        x = torch.relu(self.own(nodes) + self.near(adjacency @ nodes / degree))
        return self.head(x)


@register(lambda: call(torch.rand(64, 3)), "coordinates", "sine activations", "skip", "custom init")
class RadianceField(nn.Module):
    """Fourier features and a skip from the input to the middle."""

    def __init__(self, octaves: int = 3) -> None:
        super().__init__()
        self.register_buffer("octaves", 2.0 ** torch.arange(octaves))
        features = 3 * 2 * octaves
        self.first, self.second = nn.Linear(features, 32), nn.Linear(32, 32)
        self.third = nn.Linear(32 + features, 32)
        self.head = nn.Linear(32, 4)
        for layer in (self.first, self.second, self.third):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        angles = (points[..., None] * self.octaves * torch.pi).flatten(-2)
        features = torch.cat([angles.sin(), angles.cos()], dim=-1)
        x = self.second(self.first(features).relu()).relu()
        x = self.head(self.third(torch.cat([x, features], dim=-1)).relu())
        color, density = x.split([3, 1], dim=-1)
        return torch.sigmoid(color), F.softplus(density)
