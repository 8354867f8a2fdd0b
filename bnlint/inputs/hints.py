"""Sizes that a model says of itself: timm's `default_cfg`, the config of a transformers model, image sizes it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from bnlint.graph.names import attribute
from bnlint.inputs.guess import Candidate, Guess
from bnlint.inputs.guesser import Guesser


def hinted(model: nn.Module, guesser: Guesser) -> Iterator[Candidate]:
    """Candidates from what the model says, the surest first."""
    for maker in (_from_default_cfg, _from_config, _from_sizes):
        yield from maker(model, guesser)


def _from_default_cfg(model: nn.Module, guesser: Guesser) -> Iterator[Candidate]:
    """timm: `input_size` is (channels, height, width); the model may have been built for other channels."""
    for name in ("pretrained_cfg", "default_cfg"):
        cfg = attribute(model, name)
        size = _sizes(cfg.get("input_size") if isinstance(cfg, Mapping) else attribute(cfg, "input_size"), 3)
        if size and len(guesser.required) == 1:
            for channels in dict.fromkeys((_channels(guesser) or size[0], size[0])):
                guess = Guess((guesser.batch, channels, *size[1:]), why=name, told=True)
                yield Candidate({(guesser.required[0],): guess})
            return


def _channels(guesser: Guesser) -> int | None:
    return next((wanted.size for module, wanted in guesser.wants if isinstance(module, nn.Conv2d)), None)


def _from_config(model: nn.Module, guesser: Guesser) -> Iterator[Candidate]:
    """transformers: `main_input_name` and the sizes in the configuration."""
    names = (attribute(model, "main_input_name"), *guesser.required)
    main = next((name for name in names if name in guesser.told and name in guesser.parameters), None)
    if main is None:
        return
    also = [name for name in guesser.required if name != main]
    if set(_FORECAST) <= guesser.parameters.keys() & guesser.told.keys():  # needed to train
        also += _FORECAST
    if attribute(attribute(model, "config"), "is_encoder_decoder") is True:
        also += [name for name in ("decoder_input_ids",) if name in guesser.parameters]
    for guess in guesser.told[main]:
        candidate = Candidate({(main,): guess})
        for name in dict.fromkeys(also):
            candidate = guesser.with_parameter(candidate, name)
        yield candidate


def _from_sizes(model: nn.Module, guesser: Guesser) -> Iterator[Candidate]:
    """The first guess with an image size or sequence length that the model keeps as an attribute."""
    first = next(guesser.first(), None)
    if first is None:
        return
    for ladder, names in _SIZES.items():
        counts = {len(g.free) for g in first.guesses.values() if g.ladder == ladder and g.free}
        for size in list(_kept(model, names, max(counts)))[:2] if counts else ():
            yield first.scaled(ladder, size if len(size) > 1 else size[0])


_FORECAST = ("future_values", "future_time_features")
_SIZES = {
    "image": ("img_size", "image_size", "input_size", "input_resolution", "im_size", "imsize"),
    "sequence": ("seq_len", "seq_length", "sequence_length", "context_length", "block_size", "window_size"),
}


def _kept(model: nn.Module, names: tuple[str, ...], count: int) -> dict[tuple[int, ...], None]:
    sizes: dict[tuple[int, ...], None] = {}
    for module in model.modules():
        for name in names if not type(module).__module__.startswith("torch.") else ():
            value = vars(module).get(name)
            found = _sizes((value,) * count if isinstance(value, int) else value, count)
            if found and all(8 <= side <= 1024 for side in found):
                sizes[found] = None
    return sizes


def _sizes(value: Any, count: int) -> tuple[int, ...] | None:
    fits = isinstance(value, (tuple, list)) and len(value) == count and all(isinstance(v, int) for v in value)
    return tuple(value) if fits else None
