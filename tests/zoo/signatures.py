"""Several inputs and outputs of every kind: tuples, dicts, dataclasses, None, flags, keyword-only and starred."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .registry import call, conv_norm_relu, images, register, tokens


@register(lambda: call(images(), torch.randn(8, 6)), "multiple inputs")
class ImageAndTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(conv_norm_relu(3, 8, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.table = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.head(torch.cat([self.image(image), self.table(table)], dim=1))


@register(lambda: call(torch.randn(8, 12)), "tuple output")
class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.actor = nn.Linear(32, 4)
        self.critic = nn.Linear(32, 1)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(observation)
        return self.actor(x), self.critic(x).squeeze(-1)


@register(lambda: call({"ids": tokens(), "mask": torch.rand(8, 12) > 0.2}), "dict input", "dict output")
class BatchDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 2)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = self.norm(self.embed(batch["ids"]))
        mask = batch["mask"].unsqueeze(-1)
        pooled = (x * mask).sum(1) / mask.sum(1).clamp(min=1)
        return {"logits": self.head(pooled), "features": pooled}


@dataclass
class Boxes:
    scores: Tensor
    corners: Tensor


@register(lambda: call(images()), "dataclass output")
class DataclassOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = conv_norm_relu(3, 8, stride=4)
        self.scores = nn.Conv2d(8, 2, 1)
        self.corners = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Boxes:
        x = self.body(x)
        return Boxes(scores=self.scores(x), corners=self.corners(x).permute(0, 2, 3, 1))


class Posterior(NamedTuple):
    mean: Tensor
    log_std: Tensor


@register(lambda: call(torch.randn(8, 12)), "namedtuple output")
class NamedTupleOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 32), nn.SiLU())
        self.mean = nn.Linear(32, 3)
        self.log_std = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Posterior:
        x = self.body(x)
        return Posterior(self.mean(x), self.log_std(x).clamp(-5, 2))


class ModelOutput(OrderedDict[str, Any]):
    """An ordered dict whose entries are attributes too, as some libraries return."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@register(lambda: call(input_ids=tokens(), attention_mask=None), "OrderedDict output", "None argument", "kwargs-only")
class LibraryStyle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(50, 16)
        self.mix = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.lm_head = nn.Linear(16, 50, bias=False)

    def forward(
        self, *, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> ModelOutput:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        hidden = self.norm(self.mix(self.embeddings(input_ids)).relu()) * attention_mask[..., None]
        output = ModelOutput(logits=self.lm_head(hidden), hidden_states=(hidden,))
        if labels is not None:
            output["loss"] = nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
        return output


@register(lambda: call(torch.randn(8, 12), None, True), "None argument", "bool argument")
class OptionalContext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.ReLU())
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor, context: Tensor | None = None, return_features: bool = False) -> Any:
        x = self.body(x)
        if context is not None:
            x = x + context
        return (self.head(x), x) if return_features else self.head(x)


@register(lambda: call(torch.randn(8, 12), torch.randn(8, 6), torch.randn(8, 4)), "*args")
class StarredInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(width, 16) for width in (12, 6, 4))
        self.head = nn.Linear(16, 2)

    def forward(self, *views: Tensor) -> Tensor:
        joined = sum(project(view) for project, view in zip(self.project, views, strict=True))
        return self.head(torch.tanh(joined))


@register(lambda: call(red=torch.randn(8, 6), blue=torch.randn(8, 6)), "**kwargs", "kwargs-only")
class KeywordViews(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Linear(6, 16) for name in ("red", "blue")})
        self.head = nn.Linear(16, 2)

    def forward(self, **views: Tensor) -> Tensor:
        encoded = [self.encoders[name](view) for name, view in sorted(views.items())]
        return self.head(torch.stack(encoded).mean(0).relu())


@register(lambda: call([torch.randn(8, 4, 16), torch.randn(8, 7, 16)]), "list input", "list output")
class ListOfLevels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 3))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [self.shared(level) for level in levels]


@register(lambda: call(images(), 2), "int argument", "nested output")
class NestedOutput(nn.Module):
    """Features of several scales in a tuple inside a dict; an integer chooses how many."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv_norm_relu(3, 8, 2), conv_norm_relu(8, 16, 2)])
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor, levels: int = 1) -> dict[str, Any]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return {"logits": self.head(x.mean((2, 3))), "features": tuple(features[-levels:]), "stride": 4}


@dataclass
class Sample:
    image: Tensor
    angle: Tensor


@register(lambda: call(Sample(images(), torch.rand(8, 1))), "dataclass input")
class DataclassInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = conv_norm_relu(3, 8, stride=4)
        self.angle = nn.Linear(1, 8)
        self.head = nn.Linear(16, 10)

    def forward(self, sample: Sample) -> Tensor:
        image = self.body(sample.image).mean((2, 3))
        return self.head(torch.cat([image, self.angle(sample.angle).relu()], dim=-1))
