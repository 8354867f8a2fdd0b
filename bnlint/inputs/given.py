"""Inputs that were told with `--input`: bounds for their integers, and what to write when they do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from bnlint.inputs.bounds import bounded
from bnlint.inputs.error import InputError
from bnlint.inputs.guess import Candidate, Guess, path_name
from bnlint.inputs.outcome import Outcome
from bnlint.inputs.search import Search
from bnlint.inputs.values import Inputs, from_specs
from bnlint.job import Job
from bnlint.spec import InputSpec, TensorSpec, parse

_FREE = {3: ((1,), "sequence"), 4: ((2, 3), "image"), 5: ((2, 3, 4), "volume")}  # axes of data of so many axes


def from_options(model: nn.Module, job: Job) -> Inputs:
    """What `--input` says; integers without a bound stay below the tables that they index."""
    specs = [parse(text) for text in job.inputs]
    try:
        given = from_specs(model, specs, job.seed)
    except InputError as error:
        raise _completed(model, job, specs, error) from None
    loose = [s for s in specs if isinstance(s.value, TensorSpec) and s.value.whole and s.value.high is None]
    if not loose:
        return given
    names = [row["name"] for row in given.rows]
    outcome = _search(model, job, given.batch_size).trials.run(_candidate(specs, names, given.tensors))
    if outcome is None:
        return given
    high = {path[0]: guess.high for path, guess in bounded(outcome).guesses.items()}
    told = {id(s): name for s, name in zip((s for s in specs if isinstance(s.value, TensorSpec)), names, strict=True)}
    specs = [
        replace(s, value=replace(s.value, high=high[told[id(s)]]))
        if s in loose and isinstance(s.value, TensorSpec)
        else s
        for s in specs
    ]
    return from_specs(model, specs, job.seed)


def nearest(model: nn.Module, job: Job) -> str:
    """The `--input` options nearest to those told that the model takes, `""` when none was found."""
    specs = [parse(text) for text in job.inputs]
    given = from_specs(model, specs, job.seed)
    search = _search(model, job, given.batch_size)
    start = _candidate(specs, [row["name"] for row in given.rows], given.tensors)
    outcome = search.find([start, *search.guesser.first()])
    return options(bounded(outcome)) if outcome is not None and outcome.right else ""


def options(candidate: Candidate) -> str:
    """The `--input` options that say this; a name in front of every one, which no tensor inside a dict or list has."""
    if any(len(path) > 1 for path in candidate.guesses):
        return f"--input-fn file.py:make_inputs, a function that returns {candidate}"
    rows = [f"{path_name(path)}={_spec(guess)}" for path, guess in candidate.guesses.items()]
    rows += [f"{name}={value!r}" for name, value in candidate.plain.items()]
    return " ".join(f"--input '{row}'" for row in rows)


def _spec(guess: Guess) -> TensorSpec:
    return replace(guess.spec(), dtype=guess.dtype or "float32", high=guess.high if guess.whole else None)


def _search(model: nn.Module, job: Job, batch: int) -> Search:
    return Search(model, job.mode, batch, job.seed)


def _candidate(specs: Sequence[InputSpec], names: Sequence[str], tensors: Iterable[torch.Tensor]) -> Candidate:
    plain = {s.name: s.value for s in specs if s.name and not isinstance(s.value, TensorSpec)}
    return Candidate({(name,): _guess(tensor) for name, tensor in zip(names, tensors, strict=True)}, plain=plain)


def _guess(tensor: torch.Tensor) -> Guess:
    """The tensor as a guess, of which any size but the batch may be wrong."""
    rank, dtype = tensor.ndim, str(tensor.dtype).removeprefix("torch.")
    free, ladder = ((), "sequence") if rank < 2 else _FREE.get(rank, ((), "sequence"))
    if not tensor.is_floating_point():
        free, ladder = tuple(range(1, rank)), "sequence"
    return Guess(tuple(tensor.shape), dtype, batch=0 if rank else None, free=free, ladder=ladder)


def _completed(model: nn.Module, job: Job, specs: Sequence[InputSpec], error: InputError) -> InputError:
    """The error, with options for the inputs that are missing."""
    found = error.finding
    missing = found.evidence.get("missing", ())
    if not missing:
        return error
    tensors = [s.value for s in specs if isinstance(s.value, TensorSpec)]
    batch = next((spec.shape[0] for spec in tensors if spec.shape), 8)
    search = _search(model, job, batch)
    names = [name for name in search.guesser.parameters if name not in missing]
    generator = torch.Generator()
    start = _candidate(specs, _names(specs, names), [spec.make(generator) for spec in tensors])
    for name in missing:
        start = search.guesser.with_parameter(start, name)
    outcome = _best(search, start)
    guesses = {p: g for p, g in (outcome.candidate if outcome else start).guesses.items() if p[0] in missing}
    return InputError(str(error), help=f"add {options(Candidate(guesses))}", note=found.note, missing=missing)


def _names(specs: Sequence[InputSpec], parameters: Sequence[str]) -> list[str]:
    """What the told tensors are called: by their own names, else in the order of forward's parameters."""
    unused = iter([name for name in parameters if name not in {s.name for s in specs}])
    return [s.name or next(unused, f"input_{i}") for i, s in enumerate(specs) if isinstance(s.value, TensorSpec)]


def _best(search: Search, start: Candidate) -> Outcome | None:
    outcome = search.find([start])
    return outcome if outcome is not None and outcome.right else None
