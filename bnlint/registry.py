"""Finds rules: the built-in package, plugins through entry points, and local files. Knows no rule by name."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from bnlint.removed import REMOVED
from bnlint.rule import ENGINE_CODES, Phase, Rule, Severity

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BUILT_IN = "bnlint.rules"
ENTRY_POINTS = "bnlint.rules"

_CODE = re.compile(r"[A-Z]{2,5}[0-9]{3,4}")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class RegistryError(ValueError):
    """A rule cannot be loaded or does not exist; the message is one sentence for people."""


def load_rules(rule_paths: Iterable[str] = ()) -> dict[str, type[Rule]]:
    """Every rule by its code: built-in, from installed plugins, and from the files or folders in `rule_paths`."""
    rules: dict[str, type[Rule]] = {}
    for origin, rule in (*_built_in(), *_plugins(), *_local(rule_paths)):
        problem = _problem(rule, rules, built_in=origin == BUILT_IN)
        if problem:
            raise RegistryError(f"{origin}: rule class `{rule.__name__}` {problem}")
        rules[rule.code] = rule
    circle = next((rule for code, rule in rules.items() if code in _causes(code, rules)), None)
    if circle is not None:
        raise RegistryError(f"rule class `{circle.__name__}` yields to a rule that yields to it")
    return dict(sorted(rules.items()))


def _causes(code: str, rules: Mapping[str, type[Rule]]) -> set[str]:
    """The codes that a rule yields to, directly or by way of others."""
    found: set[str] = set()
    todo = [code]
    while todo:
        rule = rules.get(todo.pop())
        new = set(rule.yields_to) - found if rule is not None else set()
        found |= new
        todo += new
    return found


def resolve(text: str, rules: Mapping[str, type[Rule]]) -> str:
    """The code that `text`, a code or a name, stands for; engine codes included."""
    names = codes_by_name(rules)
    code = text.upper() if text.upper() in names.values() else names.get(text.lower())
    if code is None:
        raise RegistryError(f"unknown rule `{text}`{what_became(text, [*names.values(), *names])}")
    return code


def codes_by_name(rules: Mapping[str, type[Rule]]) -> dict[str, str]:
    """Every code, bnlint's own BN9xx included, by its name."""
    return {rule.name: code for code, rule in rules.items()} | {row.name: row.code for row in ENGINE_CODES.values()}


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean ...?` with the nearest choice, or nothing when none is near."""
    folded = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), folded, n=9)
    best = max(near, key=lambda row: _likeness(row, word.lower()), default=None)
    return f"; did you mean `{folded[best]}`?" if best else ""


def _likeness(one: str, other: str) -> tuple[float, int]:
    """Of two choices that are equally near, the one that begins as the word does is meant."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return difflib.SequenceMatcher(None, one, other).ratio(), len(list(same))


def what_became(word: str, choices: Iterable[str]) -> str:
    """What is to be said of a rule that does not exist: that it was removed, or which one comes near."""
    gone = next((why for key, why in REMOVED.items() if key.lower() == word.lower()), None)
    return f"; it {gone}" if gone else did_you_mean(word, choices)


def _built_in() -> Iterator[tuple[str, type[Rule]]]:
    package = importlib.import_module(BUILT_IN)
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        for rule in _classes(importlib.import_module(info.name)):
            yield BUILT_IN, rule


def _plugins() -> Iterator[tuple[str, type[Rule]]]:
    if not any(map(_may_offer_rules, sys.path)):
        return
    from importlib.metadata import entry_points  # as slow to import as everything else together

    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda e: (e.name, e.value)):
        origin = f"plugin `{entry.dist.name if entry.dist else entry.name}`"
        for rule in _entry_rules(entry, origin):
            yield origin, rule


def _may_offer_rules(place: str) -> bool:
    """Whether a place that packages are imported from may hold a plugin."""
    folder = Path(place or ".")
    if not folder.is_dir():
        return folder.exists()  # a zip file
    names = (file.read_bytes() for file in folder.glob("*-info/entry_points.txt"))
    return any(ENTRY_POINTS.encode() in text for text in names)


def _entry_rules(entry: EntryPoint, origin: str) -> list[type[Rule]]:
    try:
        with _prints_aside():
            value = entry.load()
    except (Exception, SystemExit) as error:  # a plugin may raise anything while it is imported
        raise RegistryError(f"{origin} cannot be loaded from `{entry.value}` ({_short(error)})") from error
    if isinstance(value, ModuleType):
        return list(_classes(value))
    rows = list(value) if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(row, type) and issubclass(row, Rule) for row in rows):
        raise RegistryError(f"{origin}: `{entry.value}` is not a rule class, a module or a list of rule classes")
    return rows


def _local(rule_paths: Iterable[str]) -> Iterator[tuple[str, type[Rule]]]:
    for text in rule_paths:
        path = Path(text)
        if not path.exists():
            raise RegistryError(f"rule path `{text}` does not exist")
        for file in _python_files(path) if path.is_dir() else [path]:
            for rule in _classes(_load_file(file)):
                yield f"rule path `{file.as_posix()}`", rule


def _python_files(folder: Path) -> Sequence[Path]:
    files = (file.relative_to(folder) for file in folder.rglob("*.py"))
    return [folder / file for file in sorted(files) if not any(part.startswith(("_", ".")) for part in file.parts)]


def _load_file(file: Path) -> ModuleType:
    digest = zlib.crc32(str(file.resolve()).encode(errors="surrogateescape"))
    name = f"bnlint_rule_path_{digest:08x}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise RegistryError(f"rule path `{file.as_posix()}` is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # typing.get_type_hints looks the rule's module up here
    try:
        with _prints_aside():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a local rule may raise anything while it is imported
        del sys.modules[name]
        raise RegistryError(f"rule path `{file.as_posix()}` cannot be loaded ({_short(error)})") from error
    return module


def _classes(module: ModuleType) -> Iterator[type[Rule]]:
    """The rules defined in a module, in source order; a base class for rules starts with an underscore."""
    for value in vars(module).values():
        is_rule = isinstance(value, type) and issubclass(value, Rule)
        if is_rule and value.__module__ == module.__name__ and not value.__name__.startswith("_"):
            yield value


def _problem(rule: type[Rule], known: Mapping[str, type[Rule]], *, built_in: bool) -> str | None:
    """What is wrong with a rule class, as the end of a sentence."""
    code, name = getattr(rule, "code", None), getattr(rule, "name", None)
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        return f"has the code {code!r}; a code is two to five capitals and three or four digits"
    if code.startswith("BN") != built_in:
        return f"has the code {code}; codes starting with BN are for the built-in rules and only for them"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"has the name {name!r}; a name is lower-case words joined by hyphens"
    for taken_name, taken_code in codes_by_name(known).items():
        if code == taken_code or name == taken_name:
            return f"takes the code or name of {taken_code} {taken_name}"
    if code in REMOVED or name in REMOVED:
        return f"takes the code or name of a rule that {REMOVED.get(code) or REMOVED[name]}"
    return _incomplete(rule)


def _incomplete(rule: type[Rule]) -> str | None:
    if not (rule.__doc__ or "").strip():
        return "has no docstring; the docstring is the rule's page"
    if not isinstance(getattr(rule, "severity", None), Severity) or not isinstance(getattr(rule, "phase", None), Phase):
        return "needs a `severity` and a `phase`"
    if rule.check is Rule.check:
        return "has no `check` method"
    try:
        rule.options()
    except Exception as error:  # evaluating a rule's annotations may raise anything
        return f"has an option without a default or with an unknown type ({_short(error)})"
    return None


def _prints_aside() -> AbstractContextManager[object]:
    """Standard output belongs to the report; what a rule's file prints goes to stderr."""
    return redirect_stdout(sys.stderr)


def _short(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
