"""Guesses at a forward's inputs: from the names of its parameters and from what the model's layers take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from bnlint.graph.ops import Kind, class_kind
from bnlint.inputs.containers import containers_of
from bnlint.inputs.spec import FLOATS, TensorSpec
from bnlint.inputs.values import Parameter, is_required, parameters_of

Path = tuple[Any, ...]  # (parameter, key, key, …)

LADDERS: dict[str, tuple[int, ...]] = {
    "image": (32, 64, 128, 224, 256, 28, 96, 299, 384, 512),
    "signal": (64, 128, 256, 1024, 4096, 16000),
    "volume": (16, 32, 64),
    "sequence": (16, 32, 64, 128, 10, 4),
}
LENGTH = LADDERS["sequence"][0]


@dataclass(frozen=True)
class Guess:
    """One tensor of a candidate: its axes, which of them is the batch and which may have any size."""

    shape: tuple[int, ...]
    dtype: str | None = None
    high: int | None = None
    fill: float | None = None
    batch: int | None = 0
    free: tuple[int, ...] = ()  # axes whose size is ours to choose, from the ladder
    ladder: str = "sequence"
    why: str = ""
    told: bool = False  # by the model's own words, not found by trying

    def with_size(self, axis: int, size: int, why: str = "") -> Guess:
        """With an axis that something demands to be that long."""
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        return replace(self, shape=shape, free=tuple(a for a in self.free if a != axis), why=why or self.why)

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

    def __str__(self) -> str:
        """The specs by name, as `--input` takes them."""
        rows = [f"{path_name(path)}={guess.spec()}" for path, guess in self.guesses.items()]
        return ", ".join([*rows, *(f"{name}={value!r}" for name, value in self.plain.items())]) or "no inputs"


def path_name(path: Path) -> str:
    """`batch.ids`, `levels[0]`."""
    return str(path[0]) + "".join(f".{key}" if isinstance(key, str) else f"[{key}]" for key in path[1:])


@dataclass(frozen=True)
class Want:
    """What a layer takes: so many axes, one of them so long; or ids."""

    rank: int | None = None  # None: any from 2 on
    axis: int = -1
    size: int | None = None
    ladder: str = "sequence"
    ids: int | None = None
    batch: int = 0  # where the batch is among the axes
    why: str = ""

    @property
    def is_ids(self) -> bool:
        """True for an embedding."""
        return self.ids is not None


def want(module: nn.Module, path: str) -> Want | None:
    """What a layer of `torch.nn` takes; None when it takes anything."""
    why = f"first layer `{path}`"
    kind = class_kind(type(module))
    if isinstance(module, torch.jit.ScriptModule):
        return _scripted(module, why)
    if isinstance(module, nn.modules.conv._ConvNd):
        dims = len(module.kernel_size)
        transposed = kind is Kind.CONV_TRANSPOSE and dims == 2
        ladder = ("signal", "image", "volume")[dims - 1]
        return Want(dims + 2, 1, module.in_channels or 3, "latent" if transposed else ladder, why=why)
    if isinstance(module, nn.Linear):
        return Want(None, -1, module.in_features or 16, why=why)
    if isinstance(module, nn.Bilinear):
        return Want(None, -1, module.in1_features, why=why)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return Want(2, ids=module.num_embeddings, why=why)
    if isinstance(module, nn.RNNBase):
        return Want(3, -1, module.input_size, batch=0 if module.batch_first else 1, why=why)
    if isinstance(module, nn.RNNCellBase):
        return Want(2, -1, module.input_size, why=why)
    attention = _attention(module)
    if attention is not None:
        return Want(3, -1, attention.embed_dim, batch=0 if attention.batch_first else 1, why=why)
    return _norm(module, why) if kind is Kind.NORM else None


def _scripted(module: torch.jit.ScriptModule, why: str) -> Want | None:
    """A scripted layer has lost its class, but not its sizes."""
    kernel, channels = getattr(module, "kernel_size", None), getattr(module, "in_channels", None)
    if kernel and channels:
        return Want(len(kernel) + 2, 1, channels, ("signal", "image", "volume")[len(kernel) - 1], why=why)
    features = getattr(module, "in_features", None)
    return Want(None, -1, features, why=why) if features else None


def _attention(module: nn.Module) -> nn.MultiheadAttention | None:
    if isinstance(module, nn.MultiheadAttention):
        return module
    if class_kind(type(module)) is not Kind.TRANSFORMER:
        return None
    return next((m for m in module.modules() if isinstance(m, nn.MultiheadAttention)), None)


def _norm(module: nn.Module, why: str) -> Want | None:
    name = type(module).__name__
    size = getattr(module, "num_features", None) or getattr(module, "num_channels", None)
    ranks = {"1d": (3 if "Instance" in name else 2), "2d": 4, "3d": 5}
    if name[-2:] in ranks:
        rank = ranks[name[-2:]]
        return Want(rank, 1, size or 3, {4: "image", 5: "volume"}.get(rank, "signal"), why=why)
    shape = getattr(module, "normalized_shape", None)
    if shape:
        return Want(None, -1, int(shape[-1]), why=why)
    return Want(None, 1, size, "image", why=why) if size else None


def guesses_for(wanted: Want, batch: int) -> list[Guess]:
    """Tensors that a layer takes, the likeliest first."""
    if wanted.is_ids:
        return [Guess((batch, LENGTH), "int64", wanted.ids, free=(1,), why=wanted.why)]
    size, why = wanted.size or 3, wanted.why
    if wanted.ladder == "latent":
        return [Guess((batch, size, side, side), why=why) for side in (1, 4, 8)]
    if wanted.axis == 1 and (wanted.rank or 4) > 2:
        rank = wanted.rank or 4
        side = LADDERS[wanted.ladder][0]
        free = tuple(range(2, rank))
        return [Guess((batch, size, *[side] * (rank - 2)), free=free, ladder=wanted.ladder, why=why)]
    rows = Guess((batch, size), why=why)
    time = Guess((batch, LENGTH, size), free=(1,), why=why)
    swapped = Guess((LENGTH, batch, size), free=(0,), batch=1, why=why)
    if wanted.rank == 2:
        return [rows]
    if wanted.rank == 3:
        return [swapped, time] if wanted.batch else [time]
    return [rows, time]


_WORDS: dict[str, frozenset[str]] = {
    kind: frozenset(words.split())
    for kind, words in {
        "mask": "mask masks padding",
        "adjacency": "adj adjacency",
        "edges": "edge edges",
        "length": "length lengths len lens",
        "time": "t step steps timestep timesteps time times ts sigma sigmas noise_level gamma",
        "state": "hidden state states hx h h0 c0 hc",
        "ids": "ids id token tokens idx src tgt trg text texts word words sentence sentences caption captions seq "
        "sequence input inputs source target targets",
        "label": "label labels target targets class classes cls",
        "image": "image images img imgs pixel pixels picture frame frames",
        "signal": "audio wave waveform wav speech sound",
        "table": "table tabular vector features feats state action obs observation noise z latent",
    }.items()
}
_READERS: dict[str, tuple[type, ...]] = {
    "ids": (nn.Embedding, nn.EmbeddingBag),
    "image": (nn.Conv2d,),
    "signal": (nn.Conv1d,),
    "table": (nn.Linear, nn.ConvTranspose2d),
}


def _words(name: str) -> set[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return {*re.split(r"[\W\d_]+", spaced), name.lower()}


class Guesser:
    """First guesses for the parameters of a model's forward."""

    def __init__(self, model: nn.Module, batch: int) -> None:
        self.model, self.batch = model, batch
        self.parameters = {p.name: p for p in parameters_of(model)}
        self.containers = containers_of(model)
        rows = ((path, m, want(m, path)) for path, m in model.named_modules())
        self.wants = [(module, wanted) for _, module, wanted in rows if wanted is not None]

    @property
    def required(self) -> list[str]:
        """Parameters that need a value."""
        return [name for name, p in self.parameters.items() if is_required(p)]

    def first(self) -> Iterator[Candidate]:
        """Candidates to start from, the likeliest first: one for each kind of layer, in the order of the model."""
        if not self.required:
            yield Candidate({})
        for names in self._names():
            seen: list[Any] = []
            for data in self._data():
                kind = (len(data.shape), data.whole, data.ladder, data.batch)
                if kind not in seen:
                    seen.append(kind)
                    candidate = Candidate({})
                    for name in names:
                        candidate = self.with_parameter(candidate, name, data)
                    yield candidate

    def _names(self) -> list[list[str]]:
        """What to call the tensors: the required parameters, or as many as a list of layers is long."""
        if self.required:
            return [self.required]
        starred = next((p.name for p in self.parameters.values() if p.kind is Parameter.VAR_POSITIONAL), None)
        if starred:
            lists = [len(m) for m in self.model.modules() if isinstance(m, nn.ModuleList)]
            return [[f"{starred}_{index}" for index in range(count)] for count in dict.fromkeys((*lists[:1], 1, 2, 3))]
        keyed = [list(m) for m in self.model.modules() if isinstance(m, nn.ModuleDict)]
        if any(p.kind is Parameter.VAR_KEYWORD for p in self.parameters.values()):
            return keyed[:1]
        return [[name] for name in list(self.parameters)[:1]]

    def with_parameter(self, candidate: Candidate, name: str, data: Guess | None = None) -> Candidate:
        """The candidate with a guess for one more parameter; `data` is for a name that says nothing."""
        container, keys = self.containers.get(name, (None, [None]))
        guesses = dict(candidate.guesses)
        for key in keys:
            path = (name,) if key is None else (name, key)
            guesses[path] = self.named(key if isinstance(key, str) else name) or data or self.of_rank(4)
        if container is None:
            states = self._states(name)
            if states:
                guesses.pop((name,))
                guesses |= states
                container = tuple if len(states) > 1 else None
        containers = {**candidate.containers, name: container} if container else candidate.containers
        return replace(candidate, guesses=guesses, containers=containers)

    def _states(self, name: str) -> dict[Path, Guess]:
        """The hidden state of the model's first recurrent layer."""
        if not _words(name) & _WORDS["state"]:
            return {}
        module = next((m for m, _ in self.wants if isinstance(m, (nn.RNNBase, nn.RNNCellBase))), None)
        if module is None:
            return {}
        shape: tuple[int, ...] = (self.batch, module.hidden_size)
        if isinstance(module, nn.RNNBase):
            shape = (module.num_layers * (1 + module.bidirectional), *shape)
        guess = Guess(shape, batch=len(shape) - 2, why=f"name `{name}`")
        if isinstance(module, (nn.LSTM, nn.LSTMCell)):
            return {(name, 0): guess, (name, 1): guess}
        return {(name,): guess}

    def _data(self) -> Iterator[Guess]:
        for _, wanted in self.wants:
            yield from guesses_for(wanted, self.batch)
        for rank in (4, 2, 3):
            yield self.of_rank(rank)

    def named(self, name: str) -> Guess | None:
        """A guess from the parameter's name."""
        words = _words(name)
        kinds = [kind for kind, known in _WORDS.items() if words & known]
        for kind in kinds:
            guess = self._read_by(_READERS.get(kind, ())) or self._special(kind, words)
            if guess is not None:
                return replace(guess, why=guess.why or f"name `{name}`")
        return None

    def _special(self, kind: str, words: set[str]) -> Guess | None:
        batch = self.batch
        if kind == "mask":
            ignored = bool(words & {"padding", "pad", "causal"}) or any(
                isinstance(m, nn.Transformer) for m, _ in self.wants
            )
            return Guess((batch, LENGTH), "bool", fill=0.0 if ignored else 1.0, free=(1,))
        if kind == "adjacency":
            return Guess((batch, batch), batch=None)
        if kind == "edges" and "index" in words:
            return Guess((2, 2 * batch), "int64", batch, batch=None)
        if kind == "length":
            return Guess((batch,), "int64", fill=float(LENGTH))
        if kind == "time":
            return Guess((batch,), fill=0.5)
        if kind == "label":
            return Guess((batch,), "int64")
        if kind == "signal":
            return Guess((batch, 1024), free=(1,), ladder="signal")
        return None

    def _read_by(self, classes: tuple[type, ...]) -> Guess | None:
        """What the first layer of one of these classes takes."""
        found = next((wanted for module, wanted in self.wants if isinstance(module, classes)), None)
        return guesses_for(found, self.batch)[0] if found else None

    def of_rank(self, rank: int, features: int | None = None, channels: int | None = None) -> Guess:
        """A tensor with so many axes about which little is known."""
        batch = self.batch
        if rank <= 1:
            return Guess((batch,) if rank else (), batch=0 if rank else None)
        if rank == 2:
            return Guess((batch, features or 16))
        if rank == 3:
            return Guess((batch, LENGTH, features or 16), free=(1,))
        if rank == 4:
            return Guess((batch, channels or 3, 32, 32), free=(2, 3), ladder="image")
        return Guess((batch, 4, channels or 3, *[32] * (rank - 3)), free=tuple(range(3, rank)), ladder="image")


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
    for name in [name for name in values if starred and re.fullmatch(rf"{starred}_\d+", name)]:
        args.append(values.pop(name))
    return tuple(args), values


def _packed(rows: dict[Any, Any], container: Any) -> Any:
    if container is None:
        return rows[()]
    items = {key[0]: item for key, item in rows.items()}
    if container in (list, tuple):
        return container(items.values())
    return container(**items)


__all__ = ["LADDERS", "Candidate", "Guess", "Guesser", "Path", "Want", "build", "guesses_for", "path_name", "want"]
