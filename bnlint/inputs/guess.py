"""A candidate for the inputs of a forward: a guess for every tensor, and how to build the arguments from it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bnlint.inputs.values import Parameter
from bnlint.spec import FLOATS, TensorSpec

Path = tuple[Any, ...]  # (parameter, key, key, …)

LADDERS: dict[str, tuple[int | tuple[int, ...], ...]] = {
    "image": (32, 64, 128, 224, 256, 28, 96, 299, 384, 512),
    "signal": (64, 128, 256, 1024, 4096, 16000),
    "volume": (16, 32, 64, (16, 112, 112), (16, 224, 224)),
    "sequence": (16, 32, 64, 128, 10, 4),
}
LENGTH = 16


@dataclass(frozen=True)
class Guess:
    """One tensor of a candidate: its axes, which of them is the batch and which may have any size."""

    shape: tuple[int, ...]
    dtype: str | None = None
    high: int | None = None
    fill: float | tuple[float, ...] | None = None
    batch: int | None = 0
    free: tuple[int, ...] = ()  # axes whose size is ours to choose, from the ladder
    known: tuple[int, ...] = ()  # axes whose size a layer demands
    ladder: str = "sequence"
    why: str = ""
    told: bool = False  # by the model's own words, not found by trying

    def with_size(self, axis: int, size: int, why: str = "") -> Guess:
        """With an axis that something demands to be that long: a layer, when `why` says so."""
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        free, known = tuple(a for a in self.free if a != axis), (*self.known, axis) if why else self.known
        if self.ladder == "image" and why == self.why and self.known == (1,) and axis == len(shape) - 1 > 2:
            shape, free, known = (shape[0], shape[-2], *shape[2:]), tuple(range(1, axis)), (axis,)  # channels last
        return replace(self, shape=shape, free=free, known=known, why=why or self.why)

    def scaled(self, sizes: int | tuple[int, ...]) -> Guess:
        """With other sizes on the free axes."""
        rows = (sizes,) * len(self.free) if isinstance(sizes, int) else sizes
        chosen = dict(zip(self.free, rows, strict=True))
        return replace(self, shape=tuple(chosen.get(axis, size) for axis, size in enumerate(self.shape)))

    def spec(self, batch: int | None = None) -> TensorSpec:
        """What to make, perhaps with another batch size."""
        shape = self.shape
        if batch is not None and self.batch is not None:
            shape = (*shape[: self.batch], batch, *shape[self.batch + 1 :])
        return TensorSpec(shape, self.dtype, self.high, self.fill)

    @property
    def whole(self) -> bool:
        """True for integers."""
        return self.dtype is not None and self.dtype not in (*FLOATS, "bool")


@dataclass(frozen=True)
class Candidate:
    """A guess for every tensor; `containers` says how the tensors of a nested parameter are packed."""

    guesses: Mapping[Path, Guess]
    containers: Mapping[str, Any] = field(default_factory=dict)
    plain: Mapping[str, Any] = field(default_factory=dict)  # parameters that are not tensors
    spatial_only: bool = False  # has a size that only a layer on a spatial axis asked for
    doubtful: bool = False  # has another axis made as long as the batch, so that it may fit by accident

    @property
    def batch(self) -> int | None:
        """The batch size, None when no tensor has a batch."""
        return next((g.shape[g.batch] for g in self.guesses.values() if g.batch is not None), None)

    @property
    def told(self) -> bool:
        """True when the model says so itself."""
        return bool(self.guesses) and all(guess.told for guess in self.guesses.values())

    @property
    def count(self) -> int:
        """How many numbers its tensors hold."""
        return sum(math.prod(g.shape) for g in self.guesses.values())

    def with_batch(self, size: int) -> Candidate:
        """With another batch size."""
        rows = {p: replace(g, shape=g.spec(size).shape) for p, g in self.guesses.items()}
        return replace(self, guesses=rows)

    @property
    def key(self) -> Any:
        """Equal for candidates that would run alike."""
        rows = tuple((path, g.shape, g.dtype, g.fill) for path, g in self.guesses.items())
        return rows, tuple(self.containers.items()), tuple(self.plain.items())

    def having(self, path: Path, guess: Guess, *, spatial_only: bool = False, doubtful: bool = False) -> Candidate:
        """With another guess for one tensor."""
        return replace(
            self,
            guesses={**self.guesses, path: guess},
            spatial_only=self.spatial_only or spatial_only,
            doubtful=self.doubtful or doubtful,
        )

    def scaled(self, ladder: str, sizes: int | tuple[int, ...]) -> Candidate:
        """With other sizes on the free axes of every tensor of a ladder."""
        count = len(sizes) if isinstance(sizes, tuple) else None
        guesses = {
            path: g.scaled(sizes) if g.ladder == ladder and count in (None, len(g.free)) else g
            for path, g in self.guesses.items()
        }
        return replace(self, guesses=guesses)

    @property
    def ladder(self) -> str | None:
        """The ladder of the sizes that may still be chosen."""
        rows = {guess.ladder for guess in self.guesses.values() if guess.free}
        return next((name for name in ("volume", "image", "signal", "sequence") if name in rows), None)

    def sequence_first(self) -> Candidate:
        """With the sequence in front of the batch."""
        swapped = {
            path: replace(g, shape=(g.shape[1], g.shape[0], *g.shape[2:]), batch=1, free=(0,)[: len(g.free)])
            for path, g in self.guesses.items()
            if g.batch == 0 and len(g.shape) >= 2 and g.ladder == "sequence" and g.fill != 0.0  # torch's padding masks
        }
        return replace(self, guesses={**self.guesses, **swapped})

    def __str__(self) -> str:
        """The specs by name, as `--input` takes them."""
        rows = [f"{path_name(path)}={guess.spec()}" for path, guess in self.guesses.items()]
        return ", ".join([*rows, *(f"{name}={value!r}" for name, value in self.plain.items())]) or "no inputs"


def path_name(path: Path) -> str:
    """`batch.ids`, `levels[0]`."""
    return str(path[0]) + "".join(f".{key}" if isinstance(key, str) else f"[{key}]" for key in path[1:])


def build(
    candidate: Candidate, parameters: Mapping[str, Parameter], make: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of forward; `make` turns a guess into a tensor."""
    made: dict[str, dict[Any, Any]] = {}
    for path, guess in candidate.guesses.items():
        made.setdefault(path[0], {})[path[1:]] = make(guess)
    values = {name: _packed(rows, candidate.containers.get(name)) for name, rows in made.items()} | dict(
        candidate.plain
    )
    args: list[Any] = []
    for name, parameter in parameters.items():
        positional = parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        if not positional or name not in values:
            break
        args.append(values.pop(name))
    starred = next((p.name for p in parameters.values() if p.kind is Parameter.VAR_POSITIONAL), None)
    more = [name for name in values if starred and re.fullmatch(rf"{starred}_\d+", name)]
    args += [values.pop(name) for name in more]
    return tuple(args), values


def _packed(rows: dict[Any, Any], container: Any) -> Any:
    """The tensors of a parameter in their containers; inside the outermost, texts are keys of dicts."""
    if () in rows:
        return rows[()]
    items: dict[Any, dict[Any, Any]] = {}
    for key, value in rows.items():
        items.setdefault(key[0], {})[key[1:]] = value
    packed = {key: _packed(inner, None) for key, inner in items.items()}
    kind = container or (dict if all(isinstance(key, str) for key in packed) else list)
    return kind(packed.values()) if kind in (list, tuple) else kind(**packed)
