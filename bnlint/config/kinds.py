"""The kinds of values in a configuration file: how each is read, and what the JSON schema says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnlint.registry import did_you_mean


class ConfigError(ValueError):
    """A setting makes no sense; the message is one sentence for people."""


@dataclass(eq=False)
class Kind:
    """A kind of value: what it is in words, its JSON schema, and a reader that raises ConfigError."""

    words: str
    schema: Mapping[str, Any]
    accepts: Callable[[Any], bool]
    convert: Callable[[Any], Any] = field(default=lambda value: value)

    def read(self, value: Any, where: str) -> Any:
        """The value as the program uses it; `where` begins the sentence that says it is wrong."""
        if not self.accepts(value):
            raise ConfigError(f"{where} must be {self.words}, not {shown(value)}")
        return self.convert(value)


class Choice(Kind):
    """One of some words; suggests the one that was meant."""

    def __init__(self, choices: Sequence[str]) -> None:
        words = f"one of {', '.join(choices)}"
        super().__init__(words, {"type": "string", "enum": list(choices)}, lambda value: value in choices)

    def read(self, value: Any, where: str) -> Any:
        """The word."""
        if isinstance(value, str) and not self.accepts(value):
            choices = self.schema["enum"]
            hint = did_you_mean(value, choices) or f"; it is {self.words}"
            raise ConfigError(f"{where} has an unknown value {shown(value)}{hint}")
        return super().read(value, where)


class Items(Kind):
    """A list of values of one kind, read as a tuple."""

    def __init__(self, item: Kind, words: str) -> None:
        self.item = item
        super().__init__(words, {"type": "array", "items": dict(item.schema)}, lambda value: isinstance(value, list))

    def read(self, value: Any, where: str) -> Any:
        """The values."""
        rows = super().read(value, where)
        return tuple(self.item.read(row, f"{where}, item {number}") for number, row in enumerate(rows, 1))


class Table(Kind):
    """A table whose keys are free and whose values are of one kind."""

    def __init__(self, item: Kind, words: str, keys: Mapping[str, Any] | None = None) -> None:
        self.item = item
        schema: dict[str, Any] = {"type": "object", "additionalProperties": dict(item.schema)}
        schema |= {"propertyNames": dict(keys)} if keys else {}
        super().__init__(words, schema, lambda value: isinstance(value, dict))

    def read(self, value: Any, where: str) -> Any:
        """The values by their keys."""
        rows = super().read(value, where)
        return {key: self.item.read(row, f"{where}, `{key}`") for key, row in rows.items()}


@dataclass(frozen=True, eq=False)
class Key:
    """A key of the configuration: its name there, its kind, what it means, and what holds without it."""

    name: str
    kind: Kind
    help: str
    default: Any = None

    @property
    def field(self) -> str:
        """The name in Python."""
        return self.name.replace("-", "_")


def read_keys(keys: Iterable[Key], table: Any, where: str) -> dict[str, Any]:
    """The values of a table by their Python names; an unknown key is an error that says which one comes near."""
    known = {key.name: key for key in keys}
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table, not {shown(table)}")
    found = {}
    for name, value in table.items():
        if name not in known:
            raise ConfigError(f"{where} has an unknown key `{name}`{did_you_mean(name.replace('_', '-'), known)}")
        found[known[name].field] = known[name].kind.read(value, f"{where}: `{name}`")
    return found


def shown(value: Any) -> str:
    """A value as it stands in a message: in TOML's words where Python has others, and short."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "a table"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


FLAG = Kind("true or false", {"type": "boolean"}, lambda value: isinstance(value, bool))
TEXT = Kind("a string", {"type": "string", "minLength": 1}, lambda value: isinstance(value, str) and bool(value))
WHOLE = Kind("a whole number", {"type": "integer"}, _is_whole)
POSITIVE_WHOLE = Kind(
    "a whole number above zero", {"type": "integer", "minimum": 1}, lambda value: _is_whole(value) and value > 0
)
NUMBER = Kind("a number", {"type": "number"}, _is_number, float)
POSITIVE = Kind(
    "a number above zero",
    {"type": "number", "exclusiveMinimum": 0},
    lambda value: _is_number(value) and 0 < value < math.inf,
    float,
)
TEXTS = Items(TEXT, 'a list of strings, such as ["…"]')
