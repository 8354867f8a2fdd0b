"""From a job to inputs: told, or the model's own example, or found by trying."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import torch
from torch import nn

from bnlint.failure import said, users_traceback
from bnlint.inputs.batch import from_batch
from bnlint.inputs.bounds import bounded
from bnlint.inputs.error import InputError
from bnlint.inputs.given import from_options, options
from bnlint.inputs.guess import Candidate, build, path_name
from bnlint.inputs.guesser import Guesser
from bnlint.inputs.hints import hinted
from bnlint.inputs.outcome import Outcome
from bnlint.inputs.search import Search
from bnlint.inputs.told import dummy_inputs, from_function, own_example
from bnlint.inputs.values import Inputs, bound, model_dtype, parameters_of, unwrapped, with_batch
from bnlint.job import Job
from bnlint.rule import Place

BATCH = 8
LARGE = 1 << 22  # numbers in the input, above which there are fewer samples: a video, say
_SHOWN = 5  # of the candidates that were tried
_OWN_FAULT = (NameError, AttributeError, ImportError, NotImplementedError, RecursionError, SystemExit)  # of any input


def resolve(model: nn.Module, job: Job, user_module: ModuleType | None = None) -> Inputs:
    """The inputs to run the model with; raises InputError when there are none to be had."""
    if job.inputs:
        return from_options(model, job)
    if job.batch:
        return from_batch(model, job.batch, user_module, job.seed)
    if job.input_fn:
        return from_function(model, job.input_fn, user_module, job.seed)
    example = own_example(model, user_module, job.seed)
    if example is not None:
        batch = job.batch_size or (BATCH if _needs_several(model, job, example) else None)
        found = with_batch(example, batch, job.seed) if batch else example
    else:
        found = _found(model, job)
    return replace(found, batch_told=True) if job.batch_size is not None else found


def _needs_several(model: nn.Module, job: Job, example: Inputs) -> bool:
    """True when the model keeps one sample as a mere shape, and trains by the statistics of a batch."""
    alone = example.batch_size == 1 and not example.batch_told and job.mode == "train"
    return alone and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def _found(model: nn.Module, job: Job) -> Inputs:
    batch = job.batch_size or BATCH
    search = Search(model, job.mode, batch, job.seed)
    dummy = dummy_inputs(model)
    if dummy is not None and search.trials.accepts(dummy):
        return with_batch(dummy, job.batch_size, job.seed) if job.batch_size else dummy
    outcome = search.find(_first(model, search.guesser))
    if outcome is None or not _usable(search, outcome):
        raise _not_found(model, search, outcome)
    candidate = bounded(outcome)
    if job.batch_size is None and candidate.batch == BATCH and candidate.count > LARGE:
        candidate = candidate.with_batch(max(2, BATCH * LARGE // candidate.count))
    generator = torch.Generator().manual_seed(job.seed)
    dtype = model_dtype(model)
    args, kwargs = build(candidate, search.guesser.parameters, lambda guess: guess.spec().make(generator, dtype))
    why = {path_name(path): guess.why for path, guess in candidate.guesses.items()}
    axes = {path_name(path): guess.batch for path, guess in candidate.guesses.items()}
    inferred = not all(guess.told for guess in candidate.guesses.values())
    return bound(model, args, kwargs, lambda name: _source(why.get(name, "")), inferred=inferred, batch=axes)


def _source(why: str) -> str:
    return why if why in ("pretrained_cfg", "default_cfg", "config") else f"inferred: {why}" if why else "inferred"


def _first(model: nn.Module, guesser: Guesser) -> Iterator[Candidate]:
    yield from hinted(unwrapped(model), guesser)
    yield from guesser.first()


def _usable(search: Search, outcome: Outcome) -> bool:
    """False when the failures may be the guess's fault and not the model's."""
    if outcome.right or isinstance(outcome.recording.error, _OWN_FAULT):
        return True
    if not outcome.candidate.told and search.repairs.unconfirmed(outcome):
        return False
    found = search.repairs.of_failures(outcome)
    candidates = [proposal for proposal in found.proposals if isinstance(proposal, Candidate)]
    if found.hopeless or (found.proposals and not candidates):
        return True
    rivals = [search.trials.outcomes.get(candidate.key) for candidate in candidates]
    return outcome.finished and (not rivals or any(o is not None and o.finished for o in rivals))


def _not_found(model: nn.Module, search: Search, outcome: Outcome | None) -> InputError:
    name = type(unwrapped(model)).__name__
    parameters = [p.name for p in parameters_of(model)]
    message = (
        f"no input was found that `{name}.forward({', '.join(parameters)})` takes, after {search.trials.count} tries"
    )
    tried = [f"tried {candidate}" for candidate in search.trials.tried[:_SHOWN]]
    if outcome is None:
        return InputError(message, help=_write(search, None), note="\n".join(tried))
    error = outcome.recording.error
    failure = outcome.failures[0].meta.get("error") if outcome.failures else None
    reason = said(error) if error is not None else failure.message.splitlines()[0] if failure else "it loses the batch"
    _, location = users_traceback(error) if error is not None else ("", None)
    note = "\n".join([*tried, f"the nearest was {outcome.candidate}: {reason}"])
    return InputError(message, help=_write(search, outcome), note=note, place=Place("", location))


def _write(search: Search, outcome: Outcome | None) -> str:
    """The `--input` options to start from."""
    if outcome is not None and (outcome.candidate.containers or not outcome.candidate.guesses):
        return "write a function that returns the inputs and pass it with --input-fn file.py:make_inputs"
    if outcome is not None:
        return f"say what it takes, for example {options(outcome.candidate)}"
    names = search.guesser.required or list(search.guesser.parameters)
    return "say what it takes, for example " + " ".join(f"--input '{name}=float32[8,3,32,32]'" for name in names)
