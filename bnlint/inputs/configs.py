"""What the configuration of a transformers model says about the inputs of its forward, by the names it gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from bnlint.graph.names import attribute
from bnlint.inputs.guess import LENGTH, Guess
from bnlint.inputs.values import parameters_of

_PARTS = ("", "vision_config", "image_config", "audio_config", "text_config", "encoder", "backbone_config")
_WAVE = 16000  # samples: a second
_SIDE = 4  # patches along a side


def by_name(model: nn.Module, batch: int) -> dict[str, list[Guess]]:
    """Guesses for the parameters with a meaning that transformers fixes, the likeliest first; {} for other models."""
    config = attribute(model, "config")
    if not isinstance(attribute(model, "main_input_name"), str) or config is None:
        return {}
    vocabulary = _number(config, "vocab_size", "src_vocab_size") or _number(
        attribute(config, "text_config"), "vocab_size"
    )
    ids = Guess((batch, LENGTH), "int64", vocabulary or 2, free=(1,), why="config", told=True)
    guesses = {
        "input_ids": [ids],
        "decoder_input_ids": [ids],
        "bbox": [replace(ids, shape=(batch, LENGTH, 4), high=2)],
        **_pictures(config, batch),
        **_sounds(config, batch),
        **_series(config, batch),
        **_patches(config, batch, {parameter.name for parameter in parameters_of(model)}),
    }
    return {name: [replace(guess, why="config", told=True) for guess in rows] for name, rows in guesses.items()}


def _pictures(config: Any, batch: int) -> dict[str, list[Guess]]:
    height, width = _sides(config) or (224, 224)
    channels = _anywhere(config, "num_channels", "in_channels", "in_chans") or 3
    image = Guess((batch, channels, height, width))
    frames = _anywhere(config, "num_frames", "frames_per_clip") or 8
    video = replace(image, shape=(batch, frames, channels, height, width))
    first = [video, image] if _number(config, "num_frames", "frames_per_clip") else [image, video]
    return {"pixel_values": first, "pixel_values_videos": [video]}


def _patches(config: Any, batch: int, names: set[str]) -> dict[str, list[Guess]]:
    """Pictures that come cut up, with the number of patches along each side beside them."""
    side, channels = _anywhere(config, "patch_size"), _anywhere(config, "in_channels", "in_chans", "num_channels") or 3
    if not side or not names & {"grid_thw", "spatial_shapes", "pixel_position_ids", "target_sizes"}:
        return {}
    if "target_sizes" in names:  # side by side in one strip
        strip = Guess((1, channels, side, 2 * _SIDE**2 * side), batch=None)
        return {"pixel_values": [strip], "target_sizes": [Guess((2, 2), "int64", fill=float(_SIDE), batch=None)]}
    rows = Guess((batch, _SIDE**2, channels * side**2))
    if "pixel_position_ids" in names:
        return {"pixel_values": [rows], "pixel_position_ids": [Guess((batch, _SIDE**2, 2), "int64", _SIDE)]}
    if "spatial_shapes" in names:
        mask = Guess((batch, _SIDE**2), "int64", fill=1.0)
        shapes = Guess((batch, 2), "int64", fill=float(_SIDE))
        return {"pixel_values": [rows], "pixel_attention_mask": [mask], "spatial_shapes": [shapes]}
    values = channels * side**2 * (_anywhere(config, "temporal_patch_size") or 1)
    rows = Guess((2 * _SIDE**2, values), batch=None)
    grid = Guess((2, 3), "int64", fill=(1.0, _SIDE, _SIDE), batch=None)  # one moment of time: pictures
    return {"pixel_values": [rows], "hidden_states": [rows], "grid_thw": [grid]}


def _sounds(config: Any, batch: int) -> dict[str, list[Guess]]:
    bins = _anywhere(config, "num_mel_bins", "input_feat_per_channel", "feature_size", "n_mels") or 80
    frames = 2 * (_anywhere(config, "max_source_positions") or 1500)
    wave = Guess((batch, _WAVE), free=(1,), ladder="signal")
    channels = _anywhere(config, "audio_channels") or 1
    spectrogram = Guess((batch, _number(config, "max_length", "spectrogram_length") or 1024, bins))
    codec = replace(wave, shape=(batch, channels, _WAVE), free=(2,))
    values = [wave, spectrogram, codec]
    if _number(config, "audio_channels", "num_filters", "codebook_size"):
        values = [codec, wave]
    elif _number(config, "num_mel_bins"):
        values = [spectrogram, wave]
    features = [Guess((batch, bins, frames)), Guess((batch, 128, bins)), Guess((batch, 1, 1024, bins))]
    return {
        "input_values": values,
        "input_features": features if _anywhere(config, "max_source_positions") else features[1:] + features[:1],
        "spectrogram": [Guess((batch, 128, bins))],
    }


def _series(config: Any, batch: int) -> dict[str, list[Guess]]:
    length = _number(config, "context_length")
    if not length:
        return {}
    lags = getattr(config, "lags_sequence", None) or [0]
    past, future = length + max(lags), _number(config, "prediction_length") or 1
    channels = _number(config, "num_input_channels", "input_size") or 1
    rows = [attribute(config, name) for name in ("num_time_features", "num_dynamic_real_features")]
    features = sum(row for row in rows if isinstance(row, int))  # none, often: an axis without a value

    def values(size: int) -> Guess:
        return Guess((batch, size, channels)[: 2 + (channels > 1)])

    return {
        "past_values": [values(past)],
        "past_time_features": [Guess((batch, past, features))],
        "past_observed_mask": [replace(values(past), dtype="bool", fill=1.0)],
        "future_values": [values(future)],
        "future_time_features": [Guess((batch, future, features))],
    }


def _sides(config: Any) -> tuple[int, int] | None:
    for part in _parts(config):
        value = next(
            (v for name in ("image_size", "img_size", "crop_size") if (v := attribute(part, name)) is not None), None
        )
        if isinstance(value, Mapping):
            value = (value.get("height"), value.get("width"))
        if isinstance(value, int) and value > 0:
            return value, value
        if isinstance(value, (tuple, list)) and len(value) >= 2 and all(isinstance(v, int) for v in value[-2:]):
            return value[-2], value[-1]
    return None


def _anywhere(config: Any, *names: str) -> int | None:
    return next((found for part in _parts(config) if (found := _number(part, *names))), None)


def _parts(config: Any) -> list[Any]:
    return [part for name in _PARTS if (part := attribute(config, name) if name else config) is not None]


def _number(config: Any, *names: str) -> int | None:
    for name in names:
        value = attribute(config, name)
        if isinstance(value, (tuple, list)) and value:
            value = value[0]
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
