"""What a run of `bnlint check` can be told, and which rules a selection names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bnlint.job import Job
from bnlint.registry import codes_by_name, did_you_mean
from bnlint.rule import ENGINE_CODES, Rule, Severity

FAMILIES = {
    "norm": "BN1",
    "shape": "BN2",
    "init": "BN3",
    "activation": "BN4",
    "wiring": "BN5",
    "forward": "BN6",
    "gradient": "BN7",
    "precision": "BN8",
    "meta": "BN9",
}
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
    "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy_with_logits",
    "nll": "nll_loss",
    "mse": "mse_loss",
    "l1": "l1_loss",
}
DTYPES = ("float32", "float64", "float16", "bfloat16")
MODES = ("train", "eval")

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class ConfigError(ValueError):
    """A setting makes no sense; the message is one sentence for people."""


@dataclass(frozen=True)
class Settings:
    """How to check, whatever the target; the fields are the options of `bnlint check`."""

    inputs: tuple[str, ...] = ()
    input_fn: str | None = None
    batch_size: int | None = None
    loss: str | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str | None = None
    mode: str = "train"
    timeout: float = 120.0
    memory_limit: int | None = None  # bytes
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    rule_paths: tuple[str, ...] = ()
    static: bool = False
    isolate: bool = True
    debug: bool = False

    def __post_init__(self) -> None:
        _one_of("loss", self.loss, (*LOSSES, *LOSS_ALIASES))
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("mode", self.mode, MODES)

    def job(self, target: str, codes: Iterable[str]) -> Job:
        """The job that checks one target with the rules in `codes`."""
        return Job(
            target=target,
            inputs=self.inputs,
            input_fn=self.input_fn,
            batch_size=self.batch_size,
            loss=LOSS_ALIASES.get(self.loss or "", self.loss),
            seed=self.seed,
            device=self.device,
            dtype=self.dtype,
            mode=self.mode,
            static=self.static,
            select=tuple(codes),
            rule_paths=self.rule_paths,
            debug=self.debug,
        )


def selected_codes(
    rules: Mapping[str, type[Rule]], select: Sequence[str] = (), ignore: Sequence[str] = ()
) -> frozenset[str]:
    """The codes that may be reported: the rules selected, and bnlint's own BN9xx words.

    The more specific selector wins and, between equals, `ignore` does. Only BN9xx codes below error can be ignored:
    that a check did not happen is never silent.
    """
    chosen = _selected(rules, select or ["ALL"], ignore)
    if rules and not chosen & rules.keys():
        raise ConfigError("the selection leaves no rule to run; name at least one in --select, or ignore fewer")
    own = _selected(rules, ["ALL"], ignore) & ENGINE_CODES.keys()
    broken = {code for code, row in ENGINE_CODES.items() if row.severity is Severity.ERROR}
    return frozenset(chosen & rules.keys() | own | broken)


def parse_size(text: str) -> int:
    """`2G` or `512M` as bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size <= 0:
        raise ConfigError(f"`{text}` is not a size; write a number with K, M or G, such as 2G or 512M")
    return size


def _selected(rules: Mapping[str, type[Rule]], select: Sequence[str], ignore: Sequence[str]) -> set[str]:
    wanted: dict[str, tuple[int, bool]] = {}
    for selectors, ignored in ((select, False), (ignore, True)):
        for selector in filter(None, ",".join(selectors).replace(" ", "").split(",")):
            weight, codes = _matches(selector, rules)
            for code in codes:
                wanted[code] = max(wanted.get(code, (-1, True)), (weight, ignored))
    return {code for code, (_, ignored) in wanted.items() if not ignored}


def _matches(selector: str, rules: Mapping[str, type[Rule]]) -> tuple[int, set[str]]:
    """How specific a selector is (ALL 0, a prefix its length, one rule most) and the codes it stands for."""
    names = codes_by_name(rules)
    text, codes = selector, set(names.values())
    if text.upper() == "ALL":
        return 0, codes
    if text.lower() in names or text.upper() in codes:
        return 99, {names.get(text.lower(), text.upper())}
    prefix = FAMILIES.get(text.lower(), text.upper())
    letters = prefix.rstrip("0123456789")
    found = {code for code in codes if code.startswith(prefix) and code.rstrip("0123456789") == letters}
    if not found and prefix not in FAMILIES.values():
        known = [*sorted(codes), *names, *FAMILIES, *FAMILIES.values(), "ALL"]
        raise ConfigError(f"unknown rule selector `{selector}`{did_you_mean(text, known)}")
    return len(prefix), found


def _one_of(option: str, value: str | None, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        hint = did_you_mean(value, choices) or f"; it is one of {', '.join(choices)}"
        raise ConfigError(f"unknown {option} `{value}`{hint}")
