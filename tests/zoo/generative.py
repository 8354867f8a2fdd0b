"""Generators, discriminators, autoencoders, flows and denoisers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import call, conv_norm_relu, images, register


@register(lambda: call(torch.randn(8, 12)), "GAN", "ConvTranspose")
class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(12, 16, 4, 1, 0, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(True),
            nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(True),
            nn.ConvTranspose2d(8, 3, 4, 2, 1),
            nn.Tanh(),
        )
        self.apply(self.init_weights)

    @staticmethod
    def init_weights(module: nn.Module) -> None:
        name = type(module).__name__
        if name.startswith("Conv"):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif name.startswith("BatchNorm"):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z[:, :, None, None])


@register(lambda: call(images()), "GAN", "spectral_norm")
class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.main = nn.Sequential(
            norm(nn.Conv2d(3, 8, 4, 2, 1)),
            nn.LeakyReLU(0.2, inplace=True),
            norm(nn.Conv2d(8, 16, 4, 2, 1)),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Flatten(),
            norm(nn.Linear(256, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x).squeeze(1)


@register(lambda: call(images(channels=1)), "VAE", "randn_like", "tuple output")
class VAE(nn.Module):
    """Samples while training and takes the mean otherwise."""

    def __init__(self, latent: int = 4) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.LayerNorm(64), nn.ReLU())
        self.mean, self.log_var = nn.Linear(64, latent), nn.Linear(64, latent)
        self.decode = nn.Sequential(nn.Linear(latent, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 256))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.encode(x)
        mean, log_var = self.mean(y), self.log_var(y)
        z = mean
        if self.training:
            std = torch.exp(0.5 * log_var)
            z = mean + torch.randn_like(std) * std
        return self.decode(z).view(-1, 1, 16, 16), mean, log_var


@register(lambda: call(torch.rand(8, 32)), "autoencoder", "weight tying")
class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(32, 12)
        self.bias = nn.Parameter(torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(self.encoder(x))
        return F.linear(code, self.encoder.weight.t(), self.bias)


@register(lambda: call(images(size=8)), "super-resolution", "PixelShuffle")
class SuperResolution(nn.Module):
    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 5, padding=2)
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3 * factor**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(factor)
        self.act = nn.PReLU()
        for conv in (self.first, self.middle):
            nn.init.kaiming_normal_(conv.weight, a=0.25)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.first(x))
        y = y + self.act(self.middle(y))
        upsampled = F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
        return upsampled + self.shuffle(self.last(y))


class Coupling(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 24), nn.ReLU(), nn.Linear(24, 2 * width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed = x.chunk(2, dim=1)
        log_scale, shift = self.net(kept).chunk(2, dim=1)
        log_scale = torch.tanh(log_scale)
        return torch.cat([changed * log_scale.exp() + shift, kept], dim=1), log_scale.sum(1)


@register(lambda: call(torch.randn(8, 6)), "normalizing flow", "tuple output", "accumulator")
class Flow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Coupling(3) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(x.shape[0])
        for layer in self.layers:
            x, change = layer(x)
            log_det = log_det + change
        return x, log_det


class TimeBlock(nn.Module):
    """A residual block whose second norm is scaled and shifted by the time embedding."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        y = self.norm2(y) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(y))


@register(lambda: call(images(), torch.randint(1000, (8,))), "diffusion", "integer input", "modulation", "skip")
class Denoiser(nn.Module):
    def __init__(self, width: int = 8, time: int = 16) -> None:
        super().__init__()
        self.register_buffer("rates", torch.exp(-math.log(10000.0) * torch.arange(8) / 8), persistent=False)
        self.embed = nn.Sequential(nn.Linear(16, time), nn.SiLU(), nn.Linear(time, time))
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = TimeBlock(width, 2 * width, time)
        self.middle = TimeBlock(2 * width, 2 * width, time)
        self.up = TimeBlock(3 * width, width, time)
        self.norm, self.head = nn.GroupNorm(4, width), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        angles = steps[:, None].float() * self.rates
        time = self.embed(torch.cat([angles.sin(), angles.cos()], dim=-1))
        x = self.stem(x)
        y = self.middle(self.down(F.avg_pool2d(x, 2), time), time)
        y = F.interpolate(y, scale_factor=2.0)
        return self.head(F.silu(self.norm(self.up(torch.cat([x, y], dim=1), time))))


@register(lambda: call(images()), "autoencoder", "vector quantisation", "straight-through")
class VectorQuantizer(nn.Module):
    """The nearest code word replaces each position; gradients pass straight through."""

    def __init__(self, codes: int = 16, width: int = 8) -> None:
        super().__init__()
        self.encode = nn.Sequential(conv_norm_relu(3, 16, 2), nn.Conv2d(16, width, 3, 2, padding=1))
        self.codes = nn.Embedding(codes, width)
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(width, 16, 4, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encode(x).permute(0, 2, 3, 1)  # (N, H, W, C)
        distance = torch.cdist(z.flatten(0, 2), self.codes.weight)
        quantized = self.codes(distance.argmin(dim=1)).view_as(z)
        loss = F.mse_loss(quantized, z.detach()) + 0.25 * F.mse_loss(z, quantized.detach())
        quantized = z + (quantized - z).detach()
        return self.decode(quantized.permute(0, 3, 1, 2)), loss
