"""Finds and reads the configuration: `bnlint.toml`, or `[tool.bnlint]` in `pyproject.toml`, whichever is nearest."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnlint.config.keys import KEYS
from bnlint.config.kinds import ConfigError, read_keys
from bnlint.paths import real

NAMES = ("bnlint.toml", "pyproject.toml")
_ASSIGNMENT = re.compile(r"\s*([A-Za-z][\w-]*(?:\.(?:[\w-]+|\"[^\"]*\"))*)\s*=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Config:
    """What a configuration file, and `--config KEY=VALUE`, say; relative paths start at `root`."""

    file: Path | None = None
    root: Path = field(default_factory=Path.cwd)
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file as it stands in messages."""
        return shown_path(self.file) if self.file else "the configuration"


def find_config(start: Path, configs: Sequence[str] = (), *, isolated: bool = False) -> Config:
    """The configuration for what lies in the folder `start`.

    `configs` are the values of `--config`: a file, which is read in place of the nearest one, and KEY=VALUE pairs,
    which win over the file.
    """
    files = [text for text in configs if not _is_assignment(text)]
    if len(files) > 1:
        raise ConfigError(f"--config names two files, `{files[0]}` and `{files[1]}`; one run has one configuration")
    if files and isolated:
        raise ConfigError("--isolated and a file in --config exclude each other")
    file = Path(files[0]) if files else None if isolated else nearest(start)
    table = _table(file) if file else {}
    if file and table is None:
        raise ConfigError(f"{shown_path(file)} has no [tool.bnlint] table")
    values = read_keys(KEYS, table, _where(file)) if file else {}
    for text in configs:
        if _is_assignment(text):
            _merge(values, read_keys(KEYS, _assigned(text), f"--config {text}"))
    root = real(file).parent if file else Path.cwd()
    return Config(file, root, values)


def nearest(start: Path) -> Path | None:
    """The nearest configuration file, from the folder `start` upwards."""
    for folder in (start, *start.parents):
        for name in NAMES:
            file = folder / name
            if file.is_file() and _table(file) is not None:
                return file
    return None


def overlooked(paths: Iterable[Path], config: Config, configs: Sequence[str] = ()) -> list[Path]:
    """The files that are nearest to a part of what is checked, but do not count because they are not above all of it.

    None when `--config` names the file.
    """
    if not all(map(_is_assignment, configs)):
        return []
    found = set()
    for folder in {folder_of([path]) for path in paths}:
        with contextlib.suppress(ConfigError):  # what is not read may be broken
            found.add(nearest(folder))
    return sorted(file for file in found if file and file != config.file)


def folder_of(paths: Iterable[Path]) -> Path:
    """The innermost folder that holds all the files and folders; the working directory when there are none."""
    folders = [str(real(path) if path.is_dir() else real(path).parent) for path in paths]
    try:
        return Path(os.path.commonpath(folders)) if folders else Path.cwd()
    except ValueError:  # on several drives
        return Path.cwd()


def shown_path(path: Path) -> str:
    """A path as people see it: from the working directory when that is above it."""
    absolute = real(path)
    return (absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute).as_posix()


def _table(file: Path) -> Any:
    """The table of a file; None when it is a project's file without one."""
    document = _parsed(file)
    if file.name != "pyproject.toml":
        if "tool" in document:
            raise ConfigError(f"{shown_path(file)}: the keys stand there without `tool.bnlint` in front")
        return document
    tool = document.get("tool", {})
    return tool.get("bnlint") if isinstance(tool, dict) else None


def _parsed(file: Path) -> dict[str, Any]:
    toml = _toml()
    try:
        found: dict[str, Any] = toml.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration `{shown_path(file)}`: {error.strerror}") from error
    except (toml.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"`{shown_path(file)}` is not valid TOML: {str(error).splitlines()[0]}") from error
    return found


def _where(file: Path | None) -> str:
    if file is None:
        return ""
    return f"{shown_path(file)}, [tool.bnlint]" if file.name == "pyproject.toml" else shown_path(file)


def _is_assignment(text: str) -> bool:
    return bool(_ASSIGNMENT.fullmatch(text)) and not Path(text).is_file()


def _assigned(text: str) -> dict[str, Any]:
    """`KEY=VALUE` as a table; a value that is no TOML is a string, so that `fail-on=error` needs no quotes."""
    toml, match = _toml(), _ASSIGNMENT.fullmatch(text)
    assert match is not None
    try:
        found: dict[str, Any] = toml.loads(f"{match[1]} = {match[2]}")
        return found
    except toml.TOMLDecodeError:
        pass
    quoted = match[2].strip().replace("\\", "\\\\").replace('"', '\\"')
    try:
        found = toml.loads(f'{match[1]} = "{quoted}"')
    except toml.TOMLDecodeError as error:
        raise ConfigError(f"--config {text} is not KEY=VALUE in TOML: {str(error).splitlines()[0]}") from error
    return found


def _merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Puts `more` into `values`; tables are merged key by key."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _toml() -> Any:
    """The standard library's TOML reader, or its twin for Python 3.10; imported only when there is a file to read."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib
