"""Object detectors: a list of pictures, and to train a list of dicts; the models here only look like those."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnlint.inputs import resolve
from bnlint.job import Job


class Detector(nn.Module):
    """Wants targets to train, and boxes that are none too thin."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 4)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> dict[str, Tensor]:
        if any(image.dim() != 3 for image in images):
            raise ValueError("images is expected to be a list of 3d tensors of shape [C, H, W]")
        scores = self.head(self.body(torch.stack(images)).mean((2, 3)))
        if not self.training:
            return {"scores": scores}
        if targets is None:
            raise AssertionError("targets should not be none when in training mode")
        boxes = torch.cat([target["boxes"] for target in targets])
        if (boxes[:, 2:] <= boxes[:, :2]).any():
            raise ValueError("all bounding boxes should have positive height and width")
        labels = torch.stack([target["labels"][0] for target in targets])
        return {"loss": F.cross_entropy(scores, labels), **self.also(targets)}

    def also(self, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {}


class WithMasks(Detector):
    def __init__(self) -> None:
        super().__init__()
        self.mask_head = nn.Linear(8, 4)

    def also(self, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {"masks": torch.stack([target["masks"].float().mean() for target in targets])}


def shapes(model: nn.Module, mode: str = "train") -> dict[str, tuple[int, ...]]:
    return {row["name"]: tuple(row["shape"]) for row in resolve(model.train(mode == "train"), Job("-", mode=mode)).rows}


def test_boxes_and_labels_to_train() -> None:
    found = shapes(Detector())
    assert found["images[0]"] == found["images[1]"] == (3, 64, 64)
    assert found["targets[0].boxes"] == (3, 4) and found["targets[1].labels"] == (3,)
    assert len(found) == 6


def test_no_targets_to_predict() -> None:
    assert set(shapes(Detector(), "eval")) == {"images[0]", "images[1]"}


def test_masks_for_a_model_that_has_layers_for_them() -> None:
    assert shapes(WithMasks())["targets[0].masks"] == (3, 64, 64)
