"""What the check of one target can be told."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnlint.config.kinds import ConfigError
from bnlint.config.selection import Selection
from bnlint.job import Job
from bnlint.registry import did_you_mean
from bnlint.spec import SpecError, parse

LOSSES = (  # functions of torch.nn.functional
    "cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "soft_margin_loss",
)
LOSS_ALIASES = {
    "ce": "cross_entropy",
    "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy_with_logits",
    "nll": "nll_loss",
    "mse": "mse_loss",
    "l1": "l1_loss",
}
DTYPES = ("float32", "float64", "float16", "bfloat16")
HALVES = ("float16", "bfloat16")
MODES = ("train", "eval")

_LARGEST = 2**63 - 1  # that torch and the system take as a whole number
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Settings:
    """How to check one target; the fields are the options of `bnlint check` and the keys of the configuration."""

    inputs: tuple[str, ...] = ()
    input_fn: str | None = None
    batch: str | None = None
    batch_size: int | None = None
    loss: str | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str | None = None
    autocast: str | None = None
    compile: bool = False
    mode: str = "train"
    weights: str | None = None
    timeout: float = 120.0
    memory_limit: int | None = None  # bytes
    selections: tuple[Selection, ...] = ()  # the configuration's, the target's, the command line's
    preview: bool = False
    severity: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    per_file_ignores: Mapping[str, Sequence[str]] = field(default_factory=dict)
    per_module_ignores: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rule_paths: tuple[str, ...] = ()
    inline_ignores: bool = True
    cache: bool = True
    cache_dir: str | None = None  # the user's own when there is none
    root: str = ""  # the configuration's folder, where patterns and packages start
    meta: bool = False
    static: bool = False
    isolate: bool = True
    python: str | None = None  # the interpreter that models run in; None for this one, or the project's
    debug: bool = False

    def __post_init__(self) -> None:
        _one_of("loss", self.loss, (*LOSSES, *LOSS_ALIASES))
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("autocast", self.autocast, HALVES)
        _one_of("mode", self.mode, MODES)
        for text in self.inputs:
            checked_spec(text)
        if abs(self.seed) > _LARGEST:
            raise ConfigError(f"the seed {self.seed} has more than 64 bits; any smaller number does")
        if not 0 < self.timeout < math.inf:
            raise ConfigError(f"the timeout must be a number of seconds above zero, not {self.timeout}")
        if self.meta and self.weights:
            raise ConfigError("--meta makes no values and --weights loads some; leave one of them out")
        if self.python and not self.isolate:
            raise ConfigError("another Python and no process of its own exclude each other; leave one of them out")

    def job(self, target: str, codes: Iterable[str], options: Mapping[str, dict[str, Any]] | None = None) -> Job:
        """The job that checks one target with the rules in `codes` and the options of those that have some."""
        return Job(
            target=target,
            inputs=self.inputs,
            input_fn=self.input_fn,
            batch=self.batch,
            batch_size=self.batch_size,
            loss=LOSS_ALIASES.get(self.loss or "", self.loss),
            seed=self.seed,
            device=self.device,
            dtype=self.dtype,
            autocast=self.autocast,
            compile=self.compile,
            mode=self.mode,
            weights=self.weights,
            meta=self.meta,
            static=self.static,
            select=tuple(codes),
            rule_paths=self.rule_paths,
            rule_options=dict(options or {}),
            root=self.root,
            debug=self.debug,
        )


def parse_size(text: str) -> int:
    """`2G` or `512M` as bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = int(min(float(match[1]) * _UNITS[match[2].upper()], _LARGEST + 1)) if match else 0
    if not 0 < size <= _LARGEST:
        raise ConfigError(f"`{text}` is not a size; write a number with K, M or G, such as 2G or 512M")
    return size


def checked_spec(text: str, where: str = "") -> str:
    """The spec of an input, when it can be read; `where` begins the sentence that says it cannot."""
    try:
        parse(text)
    except SpecError as error:
        help = "" if str(error).endswith("?") else f"; {error.help}"
        raise ConfigError(f"{where}{error}{help}") from error
    return text


def _one_of(option: str, value: str | None, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        hint = did_you_mean(value, choices) or f"; it is one of {', '.join(choices)}"
        raise ConfigError(f"unknown {option} `{value}`{hint}")
