"""Inputs that nobody told: found from the layers, by trying."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnlint.graph.untouched import training_mode, untouched
from bnlint.inputs import InputError, Inputs, resolve
from bnlint.inputs.trial import TRIES
from bnlint.inputs.values import unwrapped
from bnlint.job import Job

ROOT = Path(__file__).parents[1]

Expected = dict[str, tuple[int, ...]]
MODELS: dict[str, tuple[Callable[[], nn.Module], Expected]] = {}
Build = Callable[[], nn.Module]


def expect(**shapes: tuple[int, ...]) -> Callable[[Any], Any]:
    """Registers a model with the shapes that must be found, by name of the parameter."""

    def add(build: Any) -> Any:
        MODELS[build.__name__] = (build, shapes)
        return build

    return add


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs), nn.ReLU())


# -- images ------------------------------------------------------------------------------------------------------------


@expect(input=(8, 3, 32, 32))
def rgb() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.MaxPool2d(2), conv(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    )


@expect(input=(8, 8, 32, 32))
def eight_channels() -> nn.Module:
    return nn.Sequential(conv(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@expect(x=(8, 3, 32, 32))
class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.max_pool2d(F.relu(self.conv1(x)), 2))), 2)
        return self.fc2(F.relu(self.fc1(x.view(-1, 16 * 5 * 5))))


@expect(x=(8, 1, 28, 28))
class Mnist(nn.Module):
    """The network of the official example."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, 1), nn.Conv2d(32, 64, 3, 1)
        self.dropout = nn.Dropout(0.25)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        x = torch.flatten(self.dropout(x), 1)
        return F.log_softmax(self.fc2(F.relu(self.fc1(x))), dim=1)


@expect(x=(8, 1, 28, 28))
class MnistView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
        self.layer2 = nn.Sequential(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
        self.fc = nn.Linear(7 * 7 * 32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x)).view(-1, 7 * 7 * 32))


@expect(input=(8, 3, 64, 64))
def flatten_64() -> nn.Module:
    parts = [conv(3, 8, stride=2), conv(8, 8, stride=2), conv(8, 8, stride=2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(8 * 8 * 8, 2))


@expect(input=(8, 3, 224, 224))
def flatten_224() -> nn.Module:
    parts = [conv(3, 8, 7, 4, 3), nn.MaxPool2d(2), conv(8, 8, stride=2), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(8 * 7 * 7, 2))


@expect(input=(8, 1, 48, 48))
def flatten_48() -> nn.Module:
    """An unusual size that the flatten alone implies."""
    return nn.Sequential(
        conv(1, 8, stride=2), conv(8, 8, stride=2), conv(8, 8, stride=2), nn.Flatten(), nn.Linear(288, 7)
    )


@expect(input=(8, 1, 40, 80))
def oblong() -> nn.Module:
    """A flatten of 10x20 positions: no square gives 200."""
    return nn.Sequential(conv(1, 4, stride=2), conv(4, 4, stride=2), nn.Flatten(), nn.Linear(4 * 10 * 20, 12))


@expect(input=(8, 3, 128, 128))
def many_strides() -> nn.Module:
    """Any size runs, but below 128 the last maps are too small to say anything."""
    return nn.Sequential(
        *[conv(3 if i == 0 else 4, 4, stride=2) for i in range(5)], conv(4, 4), nn.AdaptiveAvgPool2d(1)
    )


@expect(input=(8, 3, 32, 32))
def vgg_for_cifar() -> nn.Module:
    parts = [nn.Sequential(conv(3 if i == 0 else 4, 4), nn.MaxPool2d(2)) for i in range(5)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(4, 10))


@expect(input=(8, 3, 224, 224))
def large_pool() -> nn.Module:
    return nn.Sequential(*[conv(3 if i == 0 else 4, 4, stride=2) for i in range(5)], nn.AvgPool2d(7), nn.Flatten())


@expect(x=(8, 3, 64, 64))
class UNet(nn.Module):
    """Four poolings: 28 is no multiple of 16, and at 32 the lowest maps are 2x2."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([conv(3, 4), conv(4, 4), conv(4, 4), conv(4, 4), conv(4, 4)])
        self.up = nn.ModuleList([conv(8, 4) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for index, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if index else x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), skips.pop()], dim=1))
        return x


@expect(img=(8, 3, 48, 48))
class ViT(nn.Module):
    """Position parameters for 144 patches and one class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.positions = nn.Parameter(torch.zeros(1, 145, 16))
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, img: Tensor) -> Tensor:
        x = self.patches(img).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.encoder(x)[:, 0]


@expect(x=(8, 3, 40, 40))
class ChecksItsSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.side = 40
        self.stem = conv(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.side:
            raise ValueError(f"images of {x.shape[-1]} pixels where {self.side} are needed")
        return self.stem(x).mean((2, 3))


@expect(x=(8, 3, 56, 56))
class KeepsItsSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img_size = (56, 56)
        self.stem = conv(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x).mean((2, 3))


@expect(x=(8, 3, 32, 32))
class Mixer(nn.Module):
    """A Linear on the positions is right here, and fixes them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.tokens, self.channels = nn.Linear(64, 64), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2)
        return self.channels((x + self.tokens(x)).transpose(1, 2)).mean(1)


@expect(x=(8, 3, 8, 8))
class Squeezed(nn.Module):
    """Maps of one position would not survive the batch norm of a smaller input."""

    def __init__(self) -> None:
        super().__init__()
        self.img_size = 8
        self.stem = conv(3, 8)
        self.fc = nn.Linear(8 * 8 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stem(x).flatten(1))


# -- vectors, sequences, audio, volumes --------------------------------------------------------------------------------


@expect(input=(8, 13))
def tabular() -> nn.Module:
    return nn.Sequential(nn.Linear(13, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))


@expect(x=(8, 784))
class FlatMnist(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x.view(-1, 784))))


@expect(x=(8, 16, 12))
class SelfAttention(nn.Module):
    """Runs on (8, 12) too, but then attends along the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out(torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(12), dim=-1) @ v)


@expect(idx=(8, 16))
class Gpt(nn.Module):
    def __init__(self, context: int = 64) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(50, 16), nn.Embedding(context, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 50, bias=False)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        logits = self.head(self.block(x))
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss


@expect(idx=(8, 6))
def short_context() -> nn.Module:
    return Gpt(context=6)


@expect(x=(8, 16, 6))
class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 10, batch_first=True)
        self.fc = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0][:, -1])


@expect(x=(16, 8, 6))
class SequenceFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 10)
        self.fc = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gru(x)[0][-1])


@expect(x=(8, 16, 6))
class LayoutMistake(nn.Module):
    """The code around the layer has the batch in front, whatever the layer thinks."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 10)
        self.fc = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0][:, -1])


@expect(x=(20, 16, 6))
class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 10, batch_first=True)
        self.fc = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = (torch.zeros(1, 20, 10), torch.zeros(1, 20, 10))
        return self.fc(self.lstm(x, state)[0][:, -1])


@expect(x=(8, 16, 6))
class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 10)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state


@expect(sentence=(8, 16))
class TextCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(60, 12)
        self.convs = nn.ModuleList(nn.Conv2d(1, 4, (k, 12)) for k in (3, 4, 5))
        self.fc = nn.Linear(12, 2)

    def forward(self, sentence: Tensor) -> Tensor:
        x = self.embed(sentence).unsqueeze(1)
        return self.fc(torch.cat([F.relu(c(x)).squeeze(3).amax(2) for c in self.convs], dim=1))


@expect(x=(8, 96, 7))
class Forecast(nn.Module):
    """A Linear over time: the window is fixed by the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(7), nn.Linear(96, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x).permute(0, 2, 1)).permute(0, 2, 1)


@expect(wave=(8, 1, 64))
class Audio(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(nn.Conv1d(1, 8, 9, padding=4), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3))

    def forward(self, wave: Tensor) -> Tensor:
        return self.convs(wave).mean(2)


@expect(x=(8, 1, 16000))
class RawAudio(nn.Module):
    """Large strides: nothing much shorter than a second of sound survives."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(1, 8, 80, 16), nn.MaxPool1d(4)]
        for _ in range(3):
            layers += [nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(4)]
        self.convs = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x).mean(2)


@expect(volume=(8, 1, 16, 16, 16))
class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 4, 3, 2))

    def forward(self, volume: Tensor) -> Tensor:
        return self.convs(volume).mean((2, 3, 4))


@expect(video=(8, 4, 3, 32, 32))
class FrameByFrame(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.rnn = conv(3, 8, stride=2), nn.GRU(8, 8, batch_first=True)

    def forward(self, video: Tensor) -> Tensor:
        b, t, c, h, w = video.shape
        frames = self.encode(video.reshape(b * t, c, h, w)).mean((2, 3))
        return self.rnn(frames.view(b, t, 8))[0][:, -1]


@expect(x=(8, 16, 3))
class Points(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        batch, points, dims = x.shape
        return self.mlp(x.transpose(1, 2).reshape(batch, dims, points)).amax(2)


@expect(x=(8, 6))
class Coupling(nn.Module):
    """Nothing reads the input whole: its width follows from its halves."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return torch.cat([a, b + self.net(a)], dim=1)


# -- several inputs, optional inputs, containers -----------------------------------------------------------------------


@expect(a=(8, 3, 32, 32), b=(8, 3, 32, 32))
class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(conv(3, 8, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.encode(a) - self.encode(b)).abs().sum(1)


@expect(first=(8, 3, 32, 32), second=(8, 3, 32, 32))
class JoinedImages(nn.Module):
    """The first layer reads both at once."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = conv(6, 8, stride=2)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.encode(torch.cat([first, second], dim=1)).mean((2, 3))


@expect(image=(8, 3, 32, 32), question=(8, 16))
class VisualQuestion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.rnn = nn.Embedding(40, 8), nn.GRU(8, 8, batch_first=True)
        self.image, self.head = conv(3, 8, stride=2), nn.Linear(16, 5)

    def forward(self, image: Tensor, question: Tensor) -> Tensor:
        seen = self.image(image).mean((2, 3))
        return self.head(torch.cat([seen, self.rnn(self.words(question))[0][:, -1]], dim=1))


@expect(src=(8, 16), tgt=(8, 16))
class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(30, 16), nn.Embedding(20, 16)
        self.transformer = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
        self.head = nn.Linear(16, 20)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        return self.head(self.transformer(self.source(src), self.target(tgt)))


@expect(x=(8, 16, 8), mask=(8, 16))
class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.layer(x).masked_fill(~mask.unsqueeze(-1), 0.0)
        return self.head(x.sum(1) / mask.sum(1, keepdim=True))


@expect(x=(8, 3, 32, 32), t=(8,))
class Diffusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 8), nn.SiLU())
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), conv(8, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None].float() * torch.exp(-torch.arange(8.0))[None]
        embedded = self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return self.head(self.body(self.stem(x) + embedded[:, :, None, None]))


@expect(z=(8, 100, 1, 1))
class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *(nn.ConvTranspose2d(100, 16, 4, 1, 0), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh()),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)


@expect(img=(8, 3, 64, 64))
class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(3 if i == 0 else 8, 8, 4, 2, 1), nn.LeakyReLU(0.2)) for i in range(4)]
        self.main = nn.Sequential(*layers, nn.Conv2d(8, 1, 4, 1, 0), nn.Sigmoid())

    def forward(self, img: Tensor) -> Tensor:
        return self.main(img).view(-1, 1).squeeze(1)


@expect(noise=(8, 20), labels=(8,))
class ConditionalGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.labels = nn.Embedding(10, 10)
        self.fc = nn.Linear(30, 12)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.fc(torch.cat([self.labels(labels), noise], dim=-1))


@expect(x=(8, 3, 32, 32))
class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(conv(3, 8, stride=2), conv(8, 8, stride=2), nn.Flatten())
        self.mean, self.scale = nn.Linear(8 * 8 * 8, 4), nn.Linear(8 * 8 * 8, 4)
        self.decode = nn.Linear(4, 3 * 32 * 32)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encode(x)
        mean, scale = self.mean(hidden), self.scale(hidden)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * scale)
        return self.decode(z).view_as(x), mean, scale


@expect(x=(8, 12))
class NoneDefault(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 4)

    def forward(self, x: Tensor, context: Tensor | None = None, deep: bool = False) -> Tensor:
        return self.body(x) if context is None else self.body(x) + context


@expect(x=(8, 12), scale=(8, 12))
class NoneDefaultThatIsNeeded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate = nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, x: Tensor, scale: Any = None) -> Tensor:
        return self.body(x) * self.gate(scale)


@expect(input_ids=(8, 16))
class KeywordOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(30, 8), nn.Linear(8, 2)

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.head(self.embed(input_ids))}


@expect(input_ids=(8, 16))
class AllOptional(nn.Module):
    """As in transformers: every parameter has a default, and the message says which is needed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(30, 8), nn.Linear(8, 2)

    def forward(self, inputs_mask: Any = None, input_ids: Any = None, input_embeds: Any = None) -> Tensor:
        if input_ids is None:
            raise ValueError("You have to specify input_ids")
        return self.head(self.embed(input_ids))


@expect(**{"batch.ids": (8, 16), "batch.mask": (8, 16)})
class BatchDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(30, 8), nn.Linear(8, 2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.head((self.embed(batch["ids"]) * batch["mask"].unsqueeze(-1)).sum(1))


@expect(**{"levels[0]": (8, 16), "levels[1]": (8, 16)})
class Levels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [self.head(level) for level in levels]


@dataclass
class Sample:
    image: Tensor
    angle: Tensor


@expect(**{"sample.image": (8, 3, 32, 32), "sample.angle": (8, 1)})
class DataclassInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.angle = conv(3, 8), nn.Linear(1, 8)

    def forward(self, sample: Sample) -> Tensor:
        return self.body(sample.image).mean((2, 3)) + self.angle(sample.angle)


@expect(views_0=(8, 6), views_1=(8, 9))
class Starred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(6, 4), nn.Linear(9, 4)])

    def forward(self, *views: Tensor) -> Tensor:
        return torch.stack([part(view) for part, view in zip(self.parts, views, strict=True)]).sum(0)


@expect(red=(8, 6), blue=(8, 5))
class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"red": nn.Linear(6, 4), "blue": nn.Linear(5, 4)})

    def forward(self, **views: Tensor) -> Tensor:
        return self.parts["red"](views["red"]) + self.parts["blue"](views["blue"])


@expect(x=(8, 16, 6), **{"state[0]": (1, 8, 10), "state[1]": (1, 8, 10)})
class StateIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 10, batch_first=True)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
        return self.lstm(x, state)


@expect(user=(8,), item=(8,))
class Recommender(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items, self.bias = nn.Embedding(9, 8), nn.Embedding(7, 8), nn.Embedding(9, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.users(user) * self.items(item)).sum(1) + self.bias(user).squeeze(1)


@expect(x=(8, 3))
class FieldOffsets(nn.Module):
    """Three columns of ids share a table: what is added to them must stay inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(2 + 3 + 4, 5), nn.Linear(15, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + x.new_tensor([0, 2, 5])
        return self.fc(self.embed(x).view(-1, 15))


@expect(nodes=(8, 6), adj=(8, 8))
class GraphConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, nodes: Tensor, adj: Tensor) -> Tensor:
        return adj @ (nodes @ self.weight)


@expect(ids=(8, 16), lengths=(8,))
class Packed(nn.Module):
    """Lengths are read as numbers, which fake tensors cannot do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(30, 8), nn.GRU(8, 8, batch_first=True)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        return self.rnn(packed)[1][0]


@expect(x=(8, 3, 32, 32))
class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = conv(3, 4, stride=2), nn.Linear(4 * 16 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.mean() > 100:
            x = x * 0
        return self.fc(x.flatten(1))


@expect(x=(8, 3, 32, 32))
class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.fc = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.stem(x)).flatten(1))


@expect(x=(8, 12))
class Weights(nn.Module):
    """No layers, only parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.randn(12, 8)), nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(x @ self.w1), self.w2)


@expect(input=(8, 12))
def compiled() -> nn.Module:
    return torch.compile(nn.Sequential(nn.Linear(12, 3)))  # type: ignore[return-value]


@expect(x=(8, 4, 32, 32))
class ColourAndDepth(nn.Module):
    """The depth is the fourth channel, sliced off: of three there is nothing left for it."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.depth, self.head = conv(3, 8), conv(1, 8), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat((self.colour(x[:, :3]), self.depth(x[:, 3:])), 1))


@expect(x=(8, 4, 32, 32))
class ColourAndDepthSplit(ColourAndDepth):
    def forward(self, x: Tensor) -> Tensor:
        colour, depth = torch.split(x, [3, 1], dim=1)
        return self.head(torch.cat((self.colour(colour), self.depth(depth)), 1))


@expect(ids=(8, 16))
class Segments(nn.Module):
    """The table of segments has two rows, and all tokens are in the first: that bounds no length."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.segments, self.head = nn.Embedding(90, 8), nn.Embedding(2, 8), nn.Linear(8, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head((self.tokens(ids) + self.segments(torch.zeros_like(ids))).mean(1))


@expect(**{"maps[0]": (8, 4, 32, 32), "maps[1]": (8, 6, 32, 32), "maps[2]": (8, 8, 32, 32)})
class Pyramid(nn.Module):
    """As many maps as there are layers to take them."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(size, 4, 1) for size in (4, 6, 8))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [layer(x) for layer, x in zip(self.lateral, maps, strict=False)]


@expect(**{"inputs.colour": (8, 3, 32, 32), "inputs.heat": (8, 1, 32, 32)})
class NamedStems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stems = nn.ModuleDict({"colour": nn.Conv2d(3, 4, 3), "heat": nn.Conv2d(1, 4, 3)})

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return sum(self.stems[name](x) for name, x in inputs.items())


@expect(ids=(8, 16), mask=(8, 16))
class KeysOfKeywords(nn.Module):
    """The keys are read in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(50, 8), nn.Linear(8, 2)

    def forward(self, **batch: Tensor) -> Tensor:
        return self.head((self.table(batch["ids"]) * batch["mask"][..., None]).mean(1))


@expect(xs_0=(8, 4), xs_1=(8, 5), xs_2=(8, 6))
class Branches(nn.Module):
    """Runs without any input too, but then does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, 8) for size in (4, 5, 6))

    def forward(self, *xs: Tensor) -> Tensor:
        return sum(layer(x) for layer, x in zip(self.layers, xs, strict=False))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return -ctx.alpha * gradient, None


@expect(x=(8, 12), alpha=())
class Adversarial(nn.Module):
    """The number is only used in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.domain = nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, alpha: Tensor) -> Tensor:
        return self.domain(Reversed.apply(self.fc(x), alpha))


class Labelled(Tensor):
    @staticmethod
    def __new__(cls, x: Tensor) -> Tensor:
        return Tensor._make_subclass(cls, x)


@expect(x=(8, 12))
class OwnTensors(nn.Module):
    """Fake tensors refuse to become of another class."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return Labelled(self.fc(x)).as_subclass(Tensor)


@expect(feats=(8, 80, 80), lengths=(8,))
class Subsampled(nn.Module):
    """Spectrograms whose one channel is added in forward: the layer after the flatten tells their height."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
        self.project = nn.Linear(8 * 19, 12)

    def forward(self, feats: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = self.convs(feats[:, None]).transpose(1, 2)
        return self.project(x.flatten(2)), lengths // 4


@expect(waveform=(8, 1024))
class WaveWithoutChannel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv1d(1, 16, 80, 16), nn.Conv1d(16, 32, 3), nn.Linear(32, 35)

    def forward(self, waveform: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.first(waveform.unsqueeze(1))), 4)
        return self.fc(F.max_pool1d(F.relu(self.second(x)), 4).mean(-1))


@expect(x=(8, 32, 32, 3))
class ChannelsLast(nn.Module):
    """All the other axes of the image stay as large as they were."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x.permute(0, 3, 1, 2))).mean((2, 3)))


@expect(text=(16,), offsets=(8,))
class BagOfWords(nn.Module):
    """All sentences in one row, and where each begins."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.fc = nn.EmbeddingBag(95, 16), nn.Linear(16, 4)

    def forward(self, text: Tensor, offsets: Tensor) -> Tensor:
        return self.fc(self.bag(text, offsets))


@expect(tokens=(16, 8), lengths=(8,))
class PackedSequenceFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.rnn, self.fc = nn.Embedding(50, 16), nn.GRU(16, 16), nn.Linear(16, 7)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.table(tokens), lengths)
        return self.fc(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0])[0])


@expect(src=(16, 8), trg=(16, 8), src_mask=(16, 16), tgt_mask=(16, 16), src_padding_mask=(8, 16))
class MaskedTranslator(nn.Module):
    """The sequence in front, but the batch in the padding mask; the other masks say who looks at whom."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(60, 16), nn.Embedding(70, 16)
        self.transformer, self.fc = nn.Transformer(16, 2, 1, 1, 32), nn.Linear(16, 70)

    def forward(self, src: Tensor, trg: Tensor, src_mask: Tensor, tgt_mask: Tensor, src_padding_mask: Tensor) -> Tensor:
        source, target = self.source(src), self.target(trg)
        return self.fc(self.transformer(source, target, src_mask, tgt_mask, None, src_padding_mask))


@expect(x=(8, 9), edge_index=(2, 16), batch=(8,))
class PooledGraph(nn.Module):
    """`batch` is the number of the graph that each node belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.fc = nn.Linear(9, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        row, col = edge_index[0], edge_index[1]
        x = torch.zeros(len(x), 16).index_add_(0, col, self.message(x[row]))
        return self.fc(torch.zeros(int(batch.max()) + 1, 16).index_add_(0, batch, x))


@expect()
def without_inputs() -> nn.Module:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 3))

        def forward(self) -> Tensor:
            return self.w * 2

    return Constant()


def infer(model: nn.Module, **job: Any) -> Inputs:
    return resolve(model, Job("net.py:Net", **job))


@pytest.mark.parametrize("name", MODELS)
def test_inferred(name: str) -> None:
    build, expected = MODELS[name]
    torch.manual_seed(0)
    model = build()
    found = infer(model)
    assert {row["name"]: tuple(row["shape"]) for row in found.rows} == expected
    assert found.inferred or not expected
    model = unwrapped(model)  # to run a compiled model would compile it
    with untouched(model, values=True), training_mode(model, True):
        model(*found.args, **found.kwargs)


def state(model: nn.Module) -> dict[str, Any]:
    return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", ["UNet", "Diffusion", "Packed", "DataDependent", "oblong"])
def test_inference_leaves_the_model_and_the_random_state_alone(name: str) -> None:
    model = MODELS[name][0]().eval()
    before, attributes, random = state(model), sorted(vars(model)), torch.get_rng_state()
    infer(model)
    assert not model.training and sorted(vars(model)) == attributes
    assert all(torch.equal(v, before[k]) for k, v in state(model).items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


def test_inference_is_repeatable() -> None:
    one, two = infer(Diffusion()), infer(Diffusion())
    assert one.rows == two.rows and all(torch.equal(a, b) for a, b in zip(one.tensors, two.tensors, strict=True))


@pytest.mark.parametrize("batch", [1, 3])
def test_batch_size(batch: int) -> None:
    found = infer(SequenceFirst(), batch_size=batch)
    assert found.rows[0]["shape"] == [16, batch, 6] and found.batch_size == batch and found.batch_axes == [1]
    assert infer(Siamese(), batch_size=batch).rows[1]["shape"] == [batch, 3, 32, 32]


def test_rows_say_where_the_input_comes_from() -> None:
    assert infer(LeNet()).rows[0]["from"] == "inferred: first layer `conv1`"
    assert [row["from"] for row in infer(Masked()).rows] == ["inferred: first layer `layer`", "inferred: name `mask`"]


def test_the_model_is_tried_in_the_asked_mode() -> None:
    class OnlyEval(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.other = nn.Linear(5, 2), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.other(x) if self.training else self.fc(x)

    assert infer(OnlyEval(), mode="eval").rows[0]["shape"] == [8, 5]
    assert infer(OnlyEval()).rows[0]["shape"] == [8, 7]


@pytest.mark.parametrize(
    ("build", "tables"),
    [(Gpt, [50]), (FieldOffsets, [2]), (Recommender, [9, 7]), (Translator, [30, 20]), (ConditionalGenerator, [0, 10])],
)
def test_ids_stay_inside_their_tables(build: Build, tables: list[int]) -> None:
    for tensor, table in zip(infer(build()).tensors, tables, strict=True):
        assert not table or (tensor.min() >= 0 and table // 2 < int(tensor.max()) + 1 <= table)


def test_masks_keep_everything() -> None:
    assert infer(Masked()).args[1].all()


def test_floats_have_the_dtype_of_the_model() -> None:
    found = infer(LeNet().double())
    assert found.args[0].dtype is torch.float64 and found.rows[0]["dtype"] == "float64"


# -- models that are broken, and models that cannot be guessed ---------------------------------------------------------


def seed_net() -> nn.Module:
    namespace: dict[str, Any] = {"__name__": "seed_net"}
    exec((ROOT / "examples" / "seed_net.py").read_text(), namespace)
    model: nn.Module = namespace["Net"]()
    return model


class WrongNorm(LeNet):
    """A mistake of its own beside a flatten that fixes the size."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.norm(self.conv1(x)), 2)
        return self.fc2(self.fc1(F.max_pool2d(self.conv2(x), 2).view(-1, 400)))


class WrongFlatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = conv(3, 16), nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stem(x).flatten(1))


class WrongChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).mean((2, 3))


class TwoMinds(nn.Module):
    """Two layers want different widths of the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(10, 2), nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.other(x)


class Typo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(x)


@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        (seed_net, {(8, 3, 32, 32)}),
        (WrongNorm, {(8, 3, 32, 32)}),
        (WrongFlatten, {(8, 3, 32, 32)}),
        (WrongChannels, {(8, 3, 32, 32)}),
        (TwoMinds, {(8, 10), (8, 20)}),
        (Typo, {(8, 20)}),
    ],
)
def test_a_broken_model_gets_the_input_it_would_have_if_it_worked(build: Build, shapes: set[tuple[int, ...]]) -> None:
    assert tuple(infer(build()).rows[0]["shape"]) in shapes


class Unguessable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        if x.shape[0] != 17 * table.shape[-1]:
            raise ValueError("the table does not fit")  # here
        return self.fc(x)


def test_when_nothing_fits_the_finding_says_what_to_write() -> None:
    with pytest.raises(InputError) as caught:
        infer(Unguessable())
    finding = caught.value.finding
    assert finding.code == "BN903" and "`Unguessable.forward(x, table)`" in finding.message
    assert "--input 'x=float32[" in finding.help and "--input 'table=float32[" in finding.help
    assert "the table does not fit" in finding.note
    line = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("# here"))
    assert finding.location is not None and finding.location.line == line


class EdgeFeatures(nn.Module):
    """The first layer takes three inputs together: that their widths do not add up is no fault of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update, self.fc = nn.Linear(22, 16), nn.GRUCell(16, 9), nn.Linear(9, 1)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        row, col = edge_index[0], edge_index[1]
        messages = self.message(torch.cat((x[row], x[col], edge_attr), -1))
        return self.fc(self.update(torch.zeros(len(x), 16).index_add_(0, col, messages), x))


def test_a_layer_that_no_guess_suits_is_not_blamed() -> None:
    with pytest.raises(InputError):
        infer(EdgeFeatures())


class Table(nn.Module):
    def __init__(self, length: int, token: bool = False, embedded: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 12, 12)
        self.token = nn.Parameter(torch.zeros(1, int(token), 16))
        self.table = nn.Parameter(torch.zeros(1, length, 16))
        self.places = nn.Embedding(length, 16) if embedded else None
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(len(y), -1, -1), y], 1) if self.token.shape[1] else y
        table = self.table if self.places is None else self.places(torch.arange(self.table.shape[1]))
        return self.head((y + table).mean(1))


def test_a_table_of_positions_of_pictures_that_are_not_square() -> None:
    shape = infer(Table(15)).tensors[0].shape
    assert sorted(side // 12 for side in shape[2:]) == [3, 5]
    for model in (Table(16, token=True), Table(15, embedded=True), Table(17)):  # 17 may be one row of patches
        with pytest.raises(InputError):
            infer(model)


def test_the_search_is_bounded() -> None:
    class Counted(Unguessable):
        calls = 0

        def forward(self, x: Tensor, table: Tensor) -> Tensor:
            Counted.calls += 1
            return super().forward(x, table)

    with pytest.raises(InputError):
        infer(Counted())
    assert 1 < Counted.calls <= 2 * TRIES


def test_a_model_that_works_is_tried_once() -> None:
    class Counted(LeNet):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Counted.calls += 1
            return super().forward(x)

    infer(Counted())
    assert Counted.calls == 1


def test_what_the_model_prints_while_it_is_tried_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    class Chatty(LeNet):
        def forward(self, x: Tensor) -> Tensor:
            print("shape", x.shape)
            return super().forward(x)

    infer(Chatty())
    assert capfd.readouterr().out == ""
