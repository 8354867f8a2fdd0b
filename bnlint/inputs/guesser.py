"""First guesses at the parameters of a forward: from their names, and from the first layers of the model."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from bnlint.inputs.configs import by_name
from bnlint.inputs.containers import containers_of, hints_of
from bnlint.inputs.detection import detection
from bnlint.inputs.guess import LENGTH, Candidate, Guess, Path
from bnlint.inputs.values import Parameter, is_required, parameters_of
from bnlint.inputs.wants import Want, guesses_for, want

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
        "image": "image images img imgs pixel pixels picture frame",
        "video": "video videos clip clips frames",
        "signal": "audio wave waveform wav speech sound",
        "points": "xyz",
        "offsets": "offset offsets",
        "graph": "batch",
        "number": "alpha lamb lambd lambda temperature temp tau",
        "table": "table tabular vector features feats state action obs observation noise z latent num numer numeric "
        "numerical cont continuous dense",
    }.items()
}
_READERS: dict[str, tuple[type, ...]] = {
    "ids": (nn.Embedding, nn.EmbeddingBag),
    "video": (nn.Conv3d,),
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
        starred = next((p.name for p in self.parameters.values() if p.kind is Parameter.VAR_KEYWORD), "")
        self.keys: list[str] = self.containers.pop(starred, (None, []))[1]  # that forward reads from **kwargs
        self.told = by_name(model, batch)
        self.detection = detection(model, hints_of(model.forward))
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
        if len(self.required) == 1 and self.named(self.required[0]):  # whatever it is called
            yield from (Candidate({(self.required[0],): data}) for data in itertools.islice(self._data(), 3))

    def _names(self) -> list[list[str]]:
        """What to call the tensors: the required parameters, or as many as a list of layers is long."""
        if self.required or self.keys:
            return [[*self.required, *self.keys]]
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
        guesses = self._states(name)
        if name in self.detection:
            container, guesses = list, self.detection[name]
        elif guesses:
            container = tuple if len(guesses) > 1 else None
        else:
            for key in keys:
                path = (name,) if key is None else (name, key)
                guesses[path] = self.named(key if isinstance(key, str) else name) or data or self.of_rank(4)[0]
        containers = {**candidate.containers, name: container} if container else candidate.containers
        return replace(candidate, guesses={**candidate.guesses, **guesses}, containers=containers)

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
        maps = any(p.ndim >= 4 for p in self.model.parameters())
        for rank in (4, 2, 3) if maps else (2, 4, 3):
            yield self.of_rank(rank)[0]

    def named(self, name: str) -> Guess | None:
        """A guess from the parameter's name."""
        if name in self.told:
            return self.told[name][0]
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
            torchs = any(isinstance(m, (nn.Transformer, nn.TransformerEncoder)) for m in self.model.modules())
            if torchs and words & {"src", "tgt", "trg"} and not words & {"padding", "pad", "key"}:
                return Guess((LENGTH, LENGTH), "bool", fill=0.0, batch=None)  # of who looks at whom
            ignored = bool(words & {"padding", "pad", "causal"}) or any(
                isinstance(m, nn.Transformer) for m, _ in self.wants
            )
            return Guess((batch, LENGTH), "bool", fill=0.0 if ignored else 1.0, free=(1,))
        if kind == "adjacency":
            return Guess((batch, batch), batch=None)
        if kind == "edges" and "index" in words:
            return Guess((2, 2 * batch), "int64", batch, batch=None)
        if kind == "edges" and words & {"attr", "attrs", "features", "feats"}:
            return Guess((2 * batch, LENGTH), batch=None)
        if kind == "graph" and any("edge" in _words(name) for name in self.parameters):
            return Guess((batch,), "int64")
        if kind == "offsets" and self._bagged:
            return Guess((batch,), "int64", fill=tuple(map(float, range(batch))))
        if kind == "length":
            return Guess((batch,), "int64", fill=float(LENGTH))
        if kind in ("time", "number"):
            return Guess((batch,), fill=0.5) if kind == "time" else Guess((), fill=0.5, batch=None)
        if kind == "label":
            return Guess((batch,), "int64")
        if kind == "image":
            first = self.wants[0][1] if self.wants else Want()
            return guesses_for(first, batch)[0] if first.ladder == "image" else self.of_rank(4)[0]
        if kind == "video":  # frames first when each goes through 2-D convolutions
            return self.of_rank(5)[any(isinstance(m, nn.Conv2d) for m, _ in self.wants)]
        if kind == "points" and any(isinstance(m, nn.modules.conv._ConvNd) for m, _ in self.wants):
            return self.of_rank(3)[1]
        if kind == "signal":
            return Guess((batch, 1024), free=(1,), ladder="signal")
        return None

    def _read_by(self, classes: tuple[type, ...]) -> Guess | None:
        """What the first layer of one of these classes takes."""
        found = next((wanted for module, wanted in self.wants if isinstance(module, classes)), None)
        if found and found.is_ids and self._bagged:
            return Guess((2 * self.batch,), "int64", found.ids, batch=None, why=found.why)
        return guesses_for(found, self.batch)[0] if found else None

    @property
    def _bagged(self) -> bool:
        """True when sentences come one after another, and where each begins."""
        bags = any(isinstance(module, nn.EmbeddingBag) for module, _ in self.wants)
        return bags and any(_words(name) & _WORDS["offsets"] for name in self.parameters)

    def of_rank(self, rank: int, features: int = 16, channels: int = 3) -> list[Guess]:
        """Tensors with so many axes about which little is known."""
        batch, side = self.batch, 32
        rows: dict[int, list[Guess]] = {
            0: [Guess((), batch=None)],
            1: [Guess((batch,))],
            2: [Guess((batch, features))],
            3: [
                Guess((batch, LENGTH, features), free=(1,)),
                Guess((batch, channels, 64), free=(2,), ladder="signal"),
            ],
            4: [Guess((batch, channels, side, side), free=(2, 3), ladder="image")],
            5: [
                Guess((batch, channels, 8, side, side), free=(3, 4), ladder="image"),
                Guess((batch, 4, channels, side, side), free=(3, 4), ladder="image"),
            ],
        }
        return rows.get(rank, [Guess((batch, 4, 4, channels, side, side), free=(4, 5), ladder="image")])
