"""From what the user names and what the configuration says to the targets to check, each with its settings."""

from __future__ import annotations

import dataclasses
import keyword
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnlint.config.files import Config
from bnlint.config.kinds import ConfigError
from bnlint.config.selection import Selection
from bnlint.config.settings import Settings
from bnlint.paths import real
from bnlint.target import Target, TargetError, parse

_FIELDS = frozenset(row.name for row in dataclasses.fields(Settings))
_INPUTS = frozenset(("inputs", "input_fn", "batch"))
_SELECTORS = ("select", "extend_select", "ignore")


@dataclass(frozen=True)
class Check:
    """One target and how it is checked."""

    target: str
    settings: Settings


class Plan:
    """The configured targets, and the settings for any other: options win over a target's own, those over the rest."""

    def __init__(self, config: Config | None = None, options: Mapping[str, Any] | None = None) -> None:
        self.config = config or Config()
        self._options = dict(options or {})
        self.default = self._settings({})
        self.configured: list[Check] = []
        for number, row in enumerate(self.config.values.get("targets", ()), 1):
            check = self._entry(row, f"{self.config.name}: target {number}")
            if any(check.target == other.target for other in self.configured):
                raise ConfigError(f"{self.config.name}: target {number} repeats `{check.target}`")
            self.configured.append(check)

    @classmethod
    def of(cls, settings: Settings) -> Plan:
        """The plan that checks everything with the same settings."""
        plan = cls(Config())
        plan.default = settings
        return plan

    def checks(self, text: str) -> list[Check]:
        """What a target that the user names stands for: itself, or what is configured under that name."""
        target = parse(text)
        same = [row for row in self.configured if target.attribute and _same(parse(row.target), target)]
        if target.called:
            return [Check(target.text, same[0].settings if same else self.default)]
        return same or [Check(target.text, self.default)]

    def in_file(self, path: Path) -> list[Check]:
        """The configured targets of a file."""
        return [row for row in self.configured if _is_at(parse(row.target), path)]

    def _entry(self, row: Mapping[str, Any], where: str) -> Check:
        try:
            text = parse(self._text(row, where)).text
        except TargetError as error:
            raise ConfigError(f"{where}: {error}") from error
        values = {key: value for key, value in row.items() if key not in ("target", "args", "kwargs")}
        if ".py:" in values.get("input_fn", ""):
            values["input_fn"] = self._from_here(values["input_fn"])
        if "batch" in values and (".py:" in values["batch"] or ":" not in values["batch"]):
            values["batch"] = self._from_here(values["batch"])
        if "weights" in values:
            values["weights"] = self._from_here(values["weights"])
        return Check(text, self._settings(values))

    def _text(self, row: Mapping[str, Any], where: str) -> str:
        """The entry as a target that a user could have typed in the working directory."""
        target = parse(row["target"])
        place = self._from_here(target.place) if target.path else target.place
        if target.attribute is None:
            text = place
        else:
            text = f"{place}:{target.text.removeprefix(f'{target.place}:')}"
        odd = [key for key in row.get("kwargs", {}) if not key.isidentifier() or keyword.iskeyword(key)]
        if odd:
            raise ConfigError(f"{where}: `{odd[0]}` is not the name of an argument")
        arguments = [repr(value) for value in row.get("args", ())]
        arguments += [f"{key}={value!r}" for key, value in row.get("kwargs", {}).items()]
        if not arguments:
            return text
        if target.called or target.attribute is None:
            problem = "has arguments already" if target.called else "names no class or function"
            raise ConfigError(f"{where}: `{row['target']}` {problem}, so `args` and `kwargs` have no place to go")
        return f"{text}({', '.join(arguments)})"

    def _settings(self, entry: Mapping[str, Any]) -> Settings:
        config = {key: value for key, value in self.config.values.items() if key in _FIELDS}
        if "rule_paths" in config:
            config["rule_paths"] = tuple(map(self._from_here, config["rule_paths"]))
        if "cache_dir" in config:
            config["cache_dir"] = self._from_here(config["cache_dir"])
        if "/" in config.get("python", ""):
            config["python"] = self._from_here(config["python"])
        options = {key: value for key, value in self._options.items() if key in _FIELDS}
        layers = ((self.config.values, self.config.name), (entry, self.config.name), (self._options, ""))
        selections = tuple(_selection(row, name) for row, name in layers if any(key in row for key in _SELECTORS))
        values = {**config, **{key: value for key, value in entry.items() if key in _FIELDS}, **options}
        if options.keys() & _INPUTS:  # they replace what the configuration says of the input
            values = {key: value for key, value in values.items() if key not in _INPUTS - options.keys()}
        root = str(self.config.root) if self.config.file else ""
        return Settings(**values, selections=selections, root=root)

    def _from_here(self, path: str) -> str:
        """A path of the configuration, which starts at its folder, as one from the working directory."""
        absolute = self.config.root / path
        try:
            return Path(os.path.relpath(absolute)).as_posix()
        except ValueError:  # on another drive
            return absolute.as_posix()


def _selection(row: Mapping[str, Any], origin: str) -> Selection:
    select = row.get("select")
    return Selection(
        None if select is None else tuple(select),
        tuple(row.get("extend_select", ())),
        tuple(row.get("ignore", ())),
        origin,
    )


def _same(one: Target, other: Target) -> bool:
    """Whether two targets name the same class or function, whatever the arguments."""
    if one.attribute != other.attribute or one.module != other.module:
        return False
    return one.path is None or (other.path is not None and _is_at(one, other.path))


def _is_at(target: Target, path: Path) -> bool:
    return target.path is not None and real(target.path) == real(path)
