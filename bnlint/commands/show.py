"""`bnlint check --show-settings` and `--show-targets`: what would be done, without doing it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from bnlint.config import Check, Plan, Settings, choose
from bnlint.config.files import shown_path
from bnlint.config.keys import KEYS, TARGET_KEYS
from bnlint.registry import load_rules
from bnlint.report.text import clean

_NOT_SHOWN = {"target", "args", "kwargs", "select", "extend-select", "ignore", "targets", "rule-paths"}


def shown_targets(rows: Sequence[Check]) -> Iterator[str]:
    """The targets, one a line, with their inputs; the models of a file without a name are found when it runs."""
    for row in rows:
        inputs = " ".join(row.settings.inputs) or row.settings.input_fn or row.settings.batch
        yield clean(row.target + (f"  ({inputs})" if inputs else ""))


def shown_settings(plan: Plan, rows: Sequence[Check]) -> Iterator[str]:
    """The configuration file and, for each target or for any other, every setting that has a value, in TOML."""
    file = plan.config.file
    yield f"# configuration: {clean(shown_path(file)) if file else 'none'}"
    fail_on = next(key for key in KEYS if key.name == "fail-on")
    yield f"fail-on = {_toml(plan.config.values.get('fail_on', fail_on.default))}"
    yield from () if rows else map(clean, _settings(plan.default))
    for row in rows:
        yield from ("", "[[targets]]", f"target = {_toml(row.target)}", *map(clean, _settings(row.settings)))


def _settings(settings: Settings) -> Iterator[str]:
    for key in dict.fromkeys((*TARGET_KEYS, *KEYS)):
        value = getattr(settings, key.field, None)
        if key.name not in _NOT_SHOWN and value not in (None, (), {}):
            yield f"{key.name} = {_toml(value)}"
    rules = load_rules(settings.rule_paths)
    chosen = choose(rules, settings)
    off = [code for code in rules if code not in chosen.codes]
    yield f"rules-on = {_toml(chosen.rules)}"
    yield f"rules-off = {_toml(off)}"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(row)}" for key, row in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
