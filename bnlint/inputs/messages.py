"""What the exception that ended a run says about the inputs."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType

import torch

from bnlint.graph.frames import Owner, owner
from bnlint.inputs.guess import LENGTH, Candidate, Path
from bnlint.inputs.guesser import Guesser
from bnlint.inputs.outcome import Outcome
from bnlint.inputs.values import Parameter
from bnlint.inputs.wants import guesses_for

FEW = 8  # recorded ops, below which the number of axes may be wrong altogether
_RANKS = tuple(
    (re.compile(pattern), plus)
    for pattern, plus in (
        (r"not enough values to unpack \(expected (\d+)", 0),
        (r"too many values to unpack \(expected (\d+)", 0),
        (r"len\(dims\) = (\d+)", 0),
        (r"but got (\d+)\)$", 1),
        (r"too many indices for tensor of dimension (\d+)", 1),
        (r"[Ee]xpected (\d+)-?[Dd]", 0),
        (r"must be (?:a )?(\d+)-?D", 0),
    )
)
_WHOLE = re.compile(r"must be (?:long|int|.*integer)|tensors used as indices|IntTensor|LongTensor|Long\b|int64")
_FLOAT = re.compile(r"either a floating point|expected .*floating|\"\w+\" not implemented for '(?:Long|Int)'")
_BOOL = re.compile(r"\b[Bb]ool")


def from_message(outcome: Outcome, guesser: Guesser) -> Iterator[Candidate]:
    """Candidates that the exception suggests, the likeliest first."""
    error, candidate = outcome.recording.error, outcome.candidate
    if error is None:
        return
    text, rank, blamed = str(error), rank_asked(error), _blamed(outcome, error)
    for path in blamed if rank is not None else ():
        if rank != len(candidate.guesses[path].shape):
            yield from of_rank(candidate, path, rank or 0, guesser)
    yield from _optional(candidate, error, guesser)
    yield from _numbers(candidate, f"{text} {' '.join(map(str, _compared(error)))}")
    yield from _dtypes(candidate, text, blamed)
    if outcome.graph.op_count < FEW:
        for path in blamed:
            for other in (4, 2, 3, 5, 1):
                if other != len(candidate.guesses[path].shape):
                    yield from of_rank(candidate, path, other, guesser)


def of_rank(candidate: Candidate, path: Path, rank: int, guesser: Guesser) -> Iterator[Candidate]:
    """The same input with another number of axes."""
    guess = candidate.guesses[path]
    if not 0 <= rank <= 6:
        return
    if guess.whole or guess.dtype == "bool" or guess.fill is not None:
        shape = (*guess.shape, *[LENGTH] * 6)[:rank]
        other = replace(guess, shape=shape, free=tuple(range(1, rank)), batch=0 if rank else None)
        alike = [p for p, g in candidate.guesses.items() if (g.shape, g.dtype) == (guess.shape, guess.dtype)]
        if len(alike) > 1:
            yield replace(candidate, guesses={**candidate.guesses, **dict.fromkeys(alike, other)})
        yield candidate.having(path, other)
        return
    for _, wanted in guesser.wants:
        if not wanted.is_ids and wanted.rank in (rank, None):
            found = [g for g in guesses_for(wanted, guesser.batch) if len(g.shape) == rank]
            if found:
                yield candidate.having(path, found[0])
                break
    yield from (candidate.having(path, other) for other in guesser.of_rank(rank))


def rank_asked(error: BaseException) -> int | None:
    """The number of axes that an error asks for: in its words, or in the einops pattern of the failing call."""
    trace, pattern = error.__traceback__, None
    while trace is not None:
        frame = trace.tb_frame
        if "einops" in frame.f_code.co_filename:
            holder = frame.f_locals.get("self")
            pattern = frame.f_locals.get("pattern") or getattr(holder, "pattern", None) or pattern
        trace = trace.tb_next
    if isinstance(pattern, str) and "..." not in pattern:
        return len(re.findall(r"\([^)]*\)|\S+", pattern.partition("->")[0]))
    text = str(error)
    return next((int(found[1]) + plus for words, plus in _RANKS if (found := words.search(text))), None)


def _optional(candidate: Candidate, error: BaseException, guesser: Guesser) -> Iterator[Candidate]:
    """Parameters with a default that turn out to be needed."""
    given = {path[0] for path in candidate.guesses}
    absent = [name for name, p in guesser.parameters.items() if name not in given and _may_be_a_tensor(p)]
    words = " ".join((str(error), *(_source(frame, line) for frame, line in _frames(error)[-2:])))
    named = [name for name in absent if re.search(rf"(?i)\b{re.escape(name)}\b", words)]
    for name in named or (absent[:1] if "NoneType" in str(error) else []):
        yield guesser.with_parameter(candidate, name)


def _may_be_a_tensor(parameter: Parameter) -> bool:
    """False for what must be given, or says that it is something else: a flag, a cache."""
    said = "" if parameter.annotation is Parameter.empty else str(parameter.annotation)
    return parameter.default is None and (not said or "Tensor" in said or "Any" in said)


def _numbers(candidate: Candidate, text: str) -> Iterator[Candidate]:
    """Sizes named in the message of the model's own check."""
    numbers = (int(number[:6]) for number in re.findall(r"\d+", text))
    sizes = list(dict.fromkeys(number for number in numbers if 2 <= number <= 20000))[:6]
    batch = candidate.batch
    for ladder in dict.fromkeys(g.ladder for g in candidate.guesses.values() if g.free):
        yield from (candidate.scaled(ladder, size) for size in sizes if size != batch)
    for path, guess in candidate.guesses.items():
        for axis, present in enumerate(guess.shape):
            channels = axis == 1 and len(guess.shape) > 2 and not guess.whole
            if axis != guess.batch and axis not in guess.known and (present in sizes or channels):
                yield from (candidate.having(path, guess.with_size(axis, size)) for size in sizes if size != batch)


def _dtypes(candidate: Candidate, text: str, blamed: list[Path]) -> Iterator[Candidate]:
    for path in blamed:
        guess = candidate.guesses[path]
        if _WHOLE.search(text) and not guess.whole:
            yield candidate.having(path, replace(guess, dtype="int64", high=None, fill=None))
        if _FLOAT.search(text) and guess.whole:
            yield candidate.having(path, replace(guess, dtype=None, high=None, fill=None))
        if _BOOL.search(text) and guess.dtype != "bool":
            yield candidate.having(path, replace(guess, dtype="bool", fill=1.0))


def _blamed(outcome: Outcome, error: BaseException) -> list[Path]:
    """The inputs that the failing line reads, else all of them."""
    shapes = []
    for frame, line in _frames(error)[-1:]:
        words = set(re.findall(r"\w+", _source(frame, line)))
        values = (value for name, value in frame.f_locals.items() if name in words)
        shapes += [tuple(value.shape) for value in values if isinstance(value, torch.Tensor)]
    guesses = outcome.candidate.guesses
    return [p for p, g in guesses.items() if g.spec(outcome.batch).shape in shapes] or list(guesses)


def _compared(error: BaseException) -> list[int]:
    """The whole numbers that the failing check, or the line above, reads from attributes: `self.image_size`."""
    found: list[int] = []
    for frame, line in _frames(error)[-1:]:
        words = f"{_source(frame, line - 1)} {_source(frame, line)}"
        for name, attribute in re.findall(r"\b(\w+)\.(\w+)", words):
            value = getattr(frame.f_locals.get(name), "__dict__", {}).get(attribute)
            values = value if isinstance(value, (tuple, list)) else (value,)
            found += [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
    return found


def _frames(error: BaseException) -> list[tuple[FrameType, int]]:
    """The frames and lines of the user's and of library code, innermost last."""
    rows, trace = [], error.__traceback__
    while trace is not None:
        if owner(trace.tb_frame.f_code.co_filename) != Owner.TORCH:
            rows.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return rows


def _source(frame: FrameType, line: int) -> str:
    return linecache.getline(frame.f_code.co_filename, line)
