"""Inputs that the configuration of a transformers model implies; the models here only look like those."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnlint.inputs import Inputs, resolve
from bnlint.job import Job


def shapes(found: Inputs) -> dict[str, tuple[int, ...]]:
    return {row["name"]: tuple(row["shape"]) for row in found.rows}


def resolved(model: nn.Module) -> Inputs:
    return resolve(model, Job("-"))


class Configured(nn.Module):
    """A model with a configuration."""

    main_input_name = "input_ids"

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)


class Text(Configured):
    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.words, self.boxes = nn.Embedding(50, 16), nn.Embedding(20, 16)

    def forward(self, input_ids: Tensor | None = None, bbox: Tensor | None = None, **kwargs: Any) -> Tensor:
        if bbox is None:
            raise ValueError("You have to specify bbox")
        return self.words(input_ids) + self.boxes(bbox).sum(2)


class Translator(Configured):
    def __init__(self) -> None:
        super().__init__(is_encoder_decoder=True, vocab_size=30)
        self.words, self.body = nn.Embedding(30, 16), nn.Transformer(16, 2, 1, 1, 32, batch_first=True)

    def forward(self, input_ids: Tensor | None = None, decoder_input_ids: Tensor | None = None) -> Tensor:
        if decoder_input_ids is None:
            raise ValueError("You must specify exactly one of decoder_input_ids or decoder_inputs_embeds")
        return self.body(self.words(input_ids), self.words(decoder_input_ids))


class Picture(Configured):
    main_input_name = "pixel_values"

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.patches = nn.Conv2d(config.get("num_channels", 3), 8, 8, 8)
        self.table = nn.Parameter(torch.zeros(1, 15, 8))

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        patches = self.patches(pixel_values.flatten(0, -4)).flatten(2).transpose(1, 2) + self.table
        return patches.mean(1).reshape(pixel_values.shape[0], -1)


class Sound(Configured):
    main_input_name = "input_values"

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.layer = nn.Linear(40, 8)

    def forward(self, input_values: Tensor) -> Tensor:
        batch, frames, bins = input_values.shape
        return self.layer(input_values.reshape(batch, frames * bins // 40, 40))


class Clip(Configured):
    """Text and pictures, the sizes of which stand in parts of the configuration."""

    def __init__(self) -> None:
        vision = SimpleNamespace(image_size=[24, 40], num_channels=1)
        super().__init__(text_config=SimpleNamespace(vocab_size=50), vision_config=vision)
        self.text, self.vision = nn.Embedding(50, 8), Picture(num_channels=1)

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        return self.text(input_ids).mean(1) @ self.vision(pixel_values).T


class Patches(Configured):
    """Pictures cut up, as vision towers take them: their sizes are data."""

    main_input_name = "pixel_values"

    def __init__(self) -> None:
        super().__init__(patch_size=2, temporal_patch_size=2, in_channels=3)
        self.layer = nn.Linear(3 * 2 * 2 * 2, 8)

    def forward(self, hidden_states: Tensor, grid_thw: Tensor) -> Tensor:
        if int(grid_thw.prod(1).sum()) != len(hidden_states):
            raise ValueError("patches and grids do not match")
        return self.layer(hidden_states)


class Placed(Configured):
    """Patches, each with the row and column that it comes from."""

    main_input_name = "pixel_values"

    def __init__(self) -> None:
        super().__init__(patch_size=2)
        self.layer, self.places = nn.Linear(3 * 2 * 2, 8), nn.Embedding(4, 8)

    def forward(self, pixel_values: Tensor, pixel_position_ids: Tensor) -> Tensor:
        return self.layer(pixel_values) + self.places(pixel_position_ids).sum(2)


class Strip(Configured):
    """Pictures of any size side by side in one strip of patches, with the rows and columns of each."""

    main_input_name = "pixel_values"

    def __init__(self) -> None:
        super().__init__(patch_size=2)
        self.layer, self.places = nn.Conv2d(3, 8, 2, 2), nn.Embedding(16, 8)

    def forward(self, pixel_values: Tensor, target_sizes: Tensor | None = None) -> Tensor:
        rows = [torch.arange(height * width) for height, width in target_sizes.tolist()]  # type: ignore[union-attr]
        patches: Tensor = self.layer(pixel_values).flatten(2).transpose(1, 2)
        return patches + self.places(torch.cat(rows))


class Forecast(Configured):
    """Needs the values to come to train, and takes no features of time: an axis without a value."""

    main_input_name = "past_values"

    def __init__(self, features: int) -> None:
        lags = {"context_length": 6, "prediction_length": 3, "lags_sequence": [1, 2]}
        super().__init__(**lags, num_time_features=features)
        self.layer = nn.Linear(1 + features, 8)

    def forward(
        self,
        past_values: Tensor,
        past_time_features: Tensor,
        past_observed_mask: Tensor,
        future_values: Tensor | None = None,
        future_time_features: Tensor | None = None,
    ) -> Tensor:
        if future_values is None or future_time_features is None:
            raise ValueError("the future is needed to train")
        values = torch.cat((past_values * past_observed_mask, future_values), 1)
        return self.layer(torch.cat((values[..., None], torch.cat((past_time_features, future_time_features), 1)), -1))


class WithFlags(Text):
    """Speaks of a flag and a cache, which are no tensors, and of an input in other letters."""

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        past: dict[str, int] | None = None,
        use_boxes: bool | None = None,
        bbox: Tensor | None = None,
    ) -> Tensor:
        if past is not None or use_boxes is not None:
            raise TypeError("no tensors")
        if bbox is None:
            raise ValueError("Bbox is needed with past and use_boxes")
        return self.words(input_ids) + self.boxes(bbox).sum(2)


class OnlyReal(Configured):
    """Fails on fake tensors, with an error that does not speak of them."""

    def __init__(self) -> None:
        super().__init__(vocab_size=30)
        self.words = nn.Embedding(30, 16)

    def forward(self, input_ids: Tensor | None = None) -> Tensor:
        if type(input_ids) is not Tensor:
            raise RuntimeError("Expected inputs of another type")
        return self.words(input_ids)


def test_the_main_input_and_what_an_error_asks_for() -> None:
    found = resolved(Text(vocab_size=50))
    assert shapes(found) == {"input_ids": (8, 16), "bbox": (8, 16, 4)}
    assert not found.inferred and {row["from"] for row in found.rows} == {"config"}
    assert found.tensors[0].max() >= 20 > found.tensors[1].max()


def test_an_encoder_with_a_decoder_in_one_try() -> None:
    assert shapes(resolved(Translator())) == {"input_ids": (8, 16), "decoder_input_ids": (8, 16)}


def test_pictures_of_the_size_that_the_configuration_names() -> None:
    assert shapes(resolved(Picture(image_size=(24, 40)))) == {"pixel_values": (8, 3, 24, 40)}
    sides = {"height": 40, "width": 24}
    assert shapes(resolved(Picture(image_size=sides, num_frames=4))) == {"pixel_values": (8, 4, 3, 40, 24)}


def test_a_spectrogram() -> None:
    assert shapes(resolved(Sound(num_mel_bins=40, max_length=20))) == {"input_values": (8, 20, 40)}


def test_sizes_in_parts_of_the_configuration() -> None:
    assert shapes(resolved(Clip())) == {"input_ids": (8, 16), "pixel_values": (8, 1, 24, 40)}


def test_patches_and_their_grid() -> None:
    found = resolved(Patches())
    assert shapes(found) == {"hidden_states": (32, 24), "grid_thw": (2, 3)} and not found.inferred
    assert found.tensors[1].tolist() == [[1, 4, 4], [1, 4, 4]]


def test_patches_and_their_places() -> None:
    found = resolved(Placed())
    assert shapes(found) == {"pixel_values": (8, 16, 12), "pixel_position_ids": (8, 16, 2)} and not found.inferred
    assert found.tensors[1].max() == 3


def test_pictures_in_one_strip_and_their_sizes() -> None:
    found = resolved(Strip())
    assert shapes(found) == {"pixel_values": (1, 3, 2, 64), "target_sizes": (2, 2)} and not found.inferred
    assert found.tensors[1].tolist() == [[4, 4], [4, 4]]


@pytest.mark.parametrize("features", [0, 2])
def test_a_forecast_and_its_features_of_time(features: int) -> None:
    found = resolved(Forecast(features))
    assert not found.inferred
    assert shapes(found)["past_values"] == (8, 8) and shapes(found)["future_values"] == (8, 3)
    assert shapes(found)["past_time_features"] == (8, 8, features)


def test_only_what_may_be_a_tensor_is_added() -> None:
    assert shapes(resolved(WithFlags(vocab_size=50))) == {"input_ids": (8, 16), "bbox": (8, 16, 4)}


def test_real_tensors_when_only_these_can_do_it() -> None:
    assert shapes(resolved(OnlyReal())) == {"input_ids": (8, 16)}


def test_a_configuration_that_raises_is_no_hint() -> None:
    class Raising:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    model = Text()
    model.config = Raising()  # type: ignore[assignment]
    assert shapes(resolved(model))["input_ids"][0] == 8
