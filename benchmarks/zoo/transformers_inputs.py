"""What the configuration of a transformers model implies as its input, independently of what bnlint infers."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

BATCH, LENGTH, SIDE, WAVE = 2, 16, 4, 16000  # samples, tokens, patches along a side, samples of sound
TRIES = 6
_PARTS = ("", "vision_config", "audio_config", "text_config", "encoder", "backbone_config")
_ALSO = (  # optional, yet asked for by some
    *("bbox", "decoder_input_ids", "input_ids", "pixel_values", "attention_mask"),
    *("future_values", "future_time_features", "input_values", "target_sizes"),
)


def why_not(model: nn.Module) -> tuple[dict[str, Tensor], Exception | None]:
    """The implied input with which the forward pass runs and None; else the likeliest one and what it raises."""
    failed: list[tuple[dict[str, Tensor], Exception | None]] = []
    for given in itertools.islice(filter(None, implied(model)), TRIES):
        errors = [_error(model.train(train), given) for train in (True, False)]
        if None in errors:
            return given, None
        failed.append((given, errors[0]))
    return failed[:2][-1] if failed else ({}, TypeError("nothing is known of what forward takes"))


def _error(model: nn.Module, given: dict[str, Tensor]) -> Exception | None:
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            model(**given)
    except Exception as error:
        return error
    return None


def implied(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Arguments of forward: what the model declares, then what must be given, then also what some models ask for."""
    config, known = model.config, list(inspect.signature(model.forward).parameters.values())
    names = [p.name for p in known]
    yield {k: v for k, v in model.dummy_inputs.items() if k in names}
    main = model.main_input_name
    wanted = [main] if isinstance(main, str) else list(main)
    wanted += [p.name for p in known if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if getattr(config, "is_encoder_decoder", False):
        wanted.append("decoder_input_ids")
    for more in ((), _ALSO):
        chosen = [name for name in dict.fromkeys((*wanted, *more)) if name in names]
        values = [_values(config, name, names) for name in chosen]
        for row in itertools.product(*values):
            yield dict(zip(chosen, row, strict=True))


def _values(config: Any, name: str, names: list[str]) -> list[Tensor]:
    """Tensors for a parameter, by the name that transformers gives it, the likeliest first."""
    number = lambda *fields, default: _number(config, *fields) or default  # noqa: E731
    channels = number("num_channels", "in_channels", "in_chans", default=3)
    cut = number("patch_size", default=16) ** 2 * channels * number("temporal_patch_size", default=1)
    bins = number("num_mel_bins", "input_feat_per_channel", "feature_size", "n_mels", default=80)
    if name.endswith("mask") and not name.startswith("past_"):
        length = SIDE**2 if name == "pixel_attention_mask" else LENGTH
        return [torch.ones(BATCH, length, dtype=torch.long)]
    if name.endswith("_thw"):
        return [torch.tensor([[1, SIDE, SIDE]] * BATCH)]
    if name in ("spatial_shapes", "target_sizes"):
        return [torch.full((BATCH, 2), SIDE)]
    if name in ("hidden_states", "pixel_values") and {"grid_thw", "image_grid_thw"} & {*names}:
        return [torch.rand(BATCH * SIDE**2, cut)]
    if name == "pixel_values" and {"spatial_shapes", "pixel_position_ids"} & {*names}:
        return [torch.rand(BATCH, SIDE**2, cut)]
    if name == "pixel_values" and "target_sizes" in names:  # side by side in one strip
        side = number("patch_size", default=16)
        return [torch.rand(1, channels, side, BATCH * SIDE**2 * side)]
    if name == "pixel_position_ids":
        return [torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).expand(BATCH, -1, -1)]
    if "pixel_values" in name:
        image = torch.rand(BATCH, channels, *_sides(config))
        video = image[:, None].repeat(1, number("num_frames", "frames_per_clip", default=8), 1, 1, 1)
        return [video, image] if "videos" in name or _number(config, "num_frames") else [image, video]
    if name in ("input_values", "inputs", "waveform"):
        spectrum = torch.rand(BATCH, number("max_length", "spectrogram_length", default=1024), bins)
        return [torch.rand(BATCH, WAVE), torch.rand(BATCH, number("audio_channels", default=1), WAVE), spectrum]
    if name in ("input_features", "spectrogram", "audio_mel"):
        frames = 2 * number("max_source_positions", default=1500)
        return [torch.rand(BATCH, bins, frames), torch.rand(BATCH, 128, bins)]
    if name.startswith(("past_", "future_")):
        past = number("context_length", default=64) + max(getattr(config, "lags_sequence", None) or [0])
        size = number("prediction_length", default=1) if name.startswith("future_") else past
        if name.endswith("time_features"):
            return [torch.rand(BATCH, size, getattr(config, "num_time_features", 0))]
        channels = number("num_input_channels", default=1)
        return [torch.rand(BATCH, size, channels) if channels > 1 else torch.rand(BATCH, size)]
    if name == "bbox":
        return [torch.zeros(BATCH, LENGTH, 4, dtype=torch.long)]
    if name.endswith(("ids", "input", "inputs")):
        return [torch.randint(3, min(200, number("vocab_size", "src_vocab_size", default=200)), (BATCH, LENGTH))]
    return [torch.rand(BATCH, LENGTH, number("hidden_size", "d_model", default=16))]


def _sides(config: Any) -> tuple[int, int]:
    for part in _parts(config):
        for name in ("image_size", "img_size", "crop_size"):
            value = getattr(part, name, None)
            value = tuple(value.values()) if isinstance(value, dict) else value
            if isinstance(value, int):
                return value, value
            if isinstance(value, (list, tuple)) and len(value) >= 2:
                return value[-2], value[-1]
    return 224, 224


def _number(config: Any, *names: str) -> int | None:
    for part in _parts(config):
        for name in names:
            value = vars(part).get(name)
            value = value[0] if isinstance(value, (list, tuple)) and value else value
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _parts(config: Any) -> list[Any]:
    return [part for name in _PARTS if (part := getattr(config, name, None) if name else config) is not None]
