"""Every key of the configuration: one declaration gives the reader, the JSON schema and the reference in the docs."""

from __future__ import annotations

import math
from typing import Any

from bnlint.config.kinds import (
    FLAG,
    POSITIVE,
    POSITIVE_WHOLE,
    TEXT,
    TEXTS,
    WHOLE,
    Choice,
    ConfigError,
    Items,
    Key,
    Kind,
    Table,
    read_keys,
)
from bnlint.config.settings import DTYPES, HALVES, LOSS_ALIASES, LOSSES, MODES, checked_spec, parse_size
from bnlint.report import FORMATS
from bnlint.rule import Severity
from bnlint.spec import DTYPES as INPUT_DTYPES

LEVELS = tuple(severity.value for severity in reversed(Severity))


def _is_literal(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_literal, value))
    if isinstance(value, dict):
        return all(map(_is_literal, value.values()))
    return _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))


LITERAL = Kind("a string, number, boolean, list or table of these", {}, _is_literal)
SCALAR = Kind("a string, number or boolean", {"type": ["string", "number", "boolean"]}, _is_scalar)
SHAPE = Items(POSITIVE_WHOLE, "a list of whole numbers, such as [8, 3, 32, 32]")
INPUT_KEYS = (
    Key("name", TEXT, "The argument of `forward`; without it the inputs go in by position."),
    Key("shape", SHAPE, "The shape of a tensor; `[]` is a scalar."),
    Key("dtype", Choice(INPUT_DTYPES), "Of the tensor; without it the model's, or int64 with `high`."),
    Key("high", POSITIVE_WHOLE, "Integers are drawn from 0 up to, and without, this."),
    Key("value", SCALAR, "A plain value, such as `true`, in place of a tensor."),
)


class _Input(Kind):
    """One input, as a spec or as a table that becomes one."""

    def __init__(self) -> None:
        properties = {key.name: {**key.kind.schema, "description": key.help} for key in INPUT_KEYS}
        table = {"type": "object", "properties": properties, "additionalProperties": False}
        words = 'a spec such as "8x3x32x32" or a table with `shape`'
        super().__init__(words, {"anyOf": [TEXT.schema, table]}, lambda value: isinstance(value, (str, dict)))

    def read(self, value: Any, where: str) -> str:
        """The spec, as `--input` takes it."""
        row = super().read(value, where)
        text = row if isinstance(row, str) else _spec(read_keys(INPUT_KEYS, row, where), where)
        return checked_spec(text, f"{where}: ")


def _spec(row: dict[str, Any], where: str) -> str:
    named = f"{row['name']}=" if "name" in row else ""
    if "value" in row:
        if not named or len(row) > 2:
            raise ConfigError(f"{where} with `value` needs a `name` and nothing else")
        return f"{named}{row['value']!r}"
    if "shape" not in row:
        raise ConfigError(f"{where} needs `shape`, or `name` and `value`")
    bound = f"<{row['high']}" if "high" in row else ""
    sizes = [str(size) for size in row["shape"]]
    number = len(sizes) < (2 if named else 1)  # alone it would be a plain value
    dtype = row.get("dtype") or ("int64" if bound else "float32" if number else None)
    return named + (f"{dtype}[{','.join(sizes)}]" if dtype else "x".join(sizes)) + bound


def _inputs_schema() -> dict[str, Any]:
    item = _Input()
    return {"anyOf": [TEXT.schema, {"type": "array", "items": dict(item.schema)}]}


class _Inputs(Kind):
    """One input or a list of them."""

    def __init__(self) -> None:
        words = 'a list of inputs, such as ["8x3x32x32"]'
        super().__init__(words, _inputs_schema(), lambda value: isinstance(value, (str, list)))

    def read(self, value: Any, where: str) -> tuple[str, ...]:
        """The specs."""
        rows = super().read(value, where)
        rows = [rows] if isinstance(rows, str) else rows
        return tuple(_Input().read(row, f"{where}, item {number}") for number, row in enumerate(rows, 1))


def _size(value: Any) -> int:
    return value if isinstance(value, int) else parse_size(value)


SIZE = Kind(
    'a size such as "2G" or "512M"', {"type": ["string", "integer"]}, lambda v: isinstance(v, str) or _whole(v), _size
)


def _whole(value: Any) -> bool:
    return WHOLE.accepts(value) and value > 0


RUN_KEYS = (  # of the whole configuration, and of one target
    Key("loss", Choice((*LOSSES, *LOSS_ALIASES)), "Loss for the backward pass."),
    Key("device", TEXT, "cpu, cuda, cuda:1, mps, xpu, or auto.", "cpu"),
    Key("dtype", Choice(DTYPES), "Convert the model to this type."),
    Key("autocast", Choice(HALVES), "Run the probe's ops in this type where `torch.autocast` does."),
    Key("compile", FLAG, "Run the model under `torch.compile` too, and compare.", False),
    Key("mode", Choice(MODES), "Mode of the model.", "train"),
    Key("seed", WHOLE, "Seed of everything random.", 0),
    Key("batch-size", POSITIVE_WHOLE, "Samples in the batch when no input says it."),
    Key("timeout", POSITIVE, "Seconds for each target.", 120.0),
    Key("memory-limit", SIZE, "Memory a target may use; Linux only."),
    Key("meta", FLAG, "Build the model without memory for its values; nothing then runs on data.", False),
    Key("static", FLAG, "Stop before the model runs on data.", False),
    Key("select", TEXTS, "Rules to run: codes, prefixes (BN2), names, families or ALL.", ["ALL"]),
    Key("extend-select", TEXTS, "Rules to run besides those.", []),
    Key("ignore", TEXTS, "Rules not to run; the more specific selector wins.", []),
)
TARGET_KEYS = (
    Key("target", TEXT, "`models/net.py:Net`, `pkg.mod:factory`, a file or a folder; paths start at this file."),
    Key("args", Items(LITERAL, "a list"), "Arguments to build the model with, by position.", []),
    Key("kwargs", Table(LITERAL, "a table"), "Arguments to build the model with, by name.", {}),
    Key("inputs", _Inputs(), "What `forward` gets."),
    Key("input-fn", TEXT, "`file.py:function` that returns the inputs."),
    Key("batch", TEXT, "Real data: `file.py:loader`, or a .pt, .npz or .safetensors file."),
    Key("weights", TEXT, "File of trained weights, .pt or .safetensors, to check the model with."),
    *RUN_KEYS,
)


class _Target(Kind):
    """A target alone, or a table with how to check it."""

    def __init__(self) -> None:
        properties = {key.name: {**key.kind.schema, "description": key.help} for key in TARGET_KEYS}
        table = {"type": "object", "properties": properties, "required": ["target"], "additionalProperties": False}
        words = 'a string such as "models/net.py:Net" or a table with `target`'
        super().__init__(words, {"anyOf": [TEXT.schema, table]}, lambda value: isinstance(value, (str, dict)))

    def read(self, value: Any, where: str) -> dict[str, Any]:
        """The table by Python names."""
        row = super().read(value, where)
        found = read_keys(TARGET_KEYS, {"target": row} if isinstance(row, str) else row, where)
        if "target" not in found:
            raise ConfigError(f"{where} needs the key `target`")
        told = [key.replace("_", "-") for key in ("inputs", "input_fn", "batch") if key in found]
        if len(told) > 1:
            raise ConfigError(f"{where} has `{told[0]}` and `{told[1]}`; one is enough")
        return found


RULE_TABLE = Table(Table(LITERAL, "a table of options"), "a table of rules")
KEYS = (
    Key("targets", Items(_Target(), "a list of targets"), "What `bnlint check` without arguments checks.", []),
    *RUN_KEYS,
    Key("preview", FLAG, "Also run rules that are in preview.", False),
    Key("severity", Table(Choice(LEVELS), "a table of severities"), "Severity of rules: code, prefix, name or family."),
    Key("fail-on", Choice(LEVELS), "Lowest severity that makes the exit code 1.", "warning"),
    Key("per-file-ignores", Table(TEXTS, "a table of lists"), "Rules not wanted in files, by path pattern.", {}),
    Key("per-module-ignores", Table(TEXTS, "a table of lists"), "Rules not wanted in modules, by path pattern.", {}),
    Key("inline-ignores", FLAG, "Heed `# bnlint: ignore[...]` comments.", True),
    Key(
        "baseline",
        TEXT,
        "File of known findings; the default is used when it is there.",
        "bnlint-baseline.json",
    ),
    Key("rules", RULE_TABLE, "Options of rules, by code or name.", {}),
    Key("output-format", Choice(FORMATS), "Format of the report on the terminal.", "full"),
    Key("rule-paths", TEXTS, "Files or folders with more rules.", []),
    Key("cache", FLAG, "Answer for unchanged targets from earlier runs.", True),
    Key("cache-dir", TEXT, "Folder of these answers; without it the user's, such as `~/.cache/bnlint`."),
    Key("isolate", FLAG, "A process for each target, or none.", True),
    Key("python", TEXT, "Interpreter that the models run in, such as `.venv/bin/python`."),
)
