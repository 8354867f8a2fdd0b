"""The JSON schema of the configuration, for editors; `bnlint.schema.json` is generated from it."""

from __future__ import annotations

from typing import Any

from bnlint.config.keys import KEYS
from bnlint.config.kinds import Key
from bnlint.config.selection import FAMILIES, KINDS, Rules
from bnlint.rule import ENGINE_CODES

NAME = "bnlint.schema.json"


def schema(rules: Rules) -> dict[str, Any]:
    """The schema of `bnlint.toml` and `[tool.bnlint]`, with the built-in rules' codes, names and options."""
    codes = [*rules, *ENGINE_CODES]
    names = [rule.name for rule in rules.values()] + [row.name for row in ENGINE_CODES.values()]
    selector = {"anyOf": [{"enum": ["ALL", *FAMILIES, *FAMILIES.values(), *codes, *names]}, {"type": "string"}]}
    properties = {key.name: _property(key) for key in KEYS}
    _put_selectors(properties)
    for key in ("per-file-ignores", "per-module-ignores"):
        properties[key]["additionalProperties"]["items"] = {"$ref": "#/definitions/selector"}
    properties["severity"]["propertyNames"] = {"$ref": "#/definitions/selector"}
    tables = {name: _options(rule) for rule in rules.values() if rule.options() for name in (rule.code, rule.name)}
    properties["rules"] = {
        "description": properties["rules"]["description"],
        "type": "object",
        "properties": dict(sorted(tables.items())),
        "additionalProperties": {"type": "object"},
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "bnlint",
        "description": "Configuration of bnlint, a linter for PyTorch models",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "definitions": {"selector": selector},
    }


def _property(key: Key) -> dict[str, Any]:
    found = {**key.kind.schema, "description": key.help}
    return found if key.default is None else {**found, "default": key.default}


def _put_selectors(properties: dict[str, Any]) -> None:
    """Lets the lists of selectors, also a target's, offer the rules that there are."""
    targets = properties["targets"] = {**properties["targets"]}
    text, table = targets["items"]["anyOf"]
    own = dict(table["properties"])
    targets["items"] = {"anyOf": [text, {**table, "properties": own}]}
    for group in (properties, own):
        for key in ("select", "extend-select", "ignore"):
            group[key] = {**group[key], "items": {"$ref": "#/definitions/selector"}}


def _options(rule: Any) -> dict[str, Any]:
    rows = {
        name: {**KINDS[kind].schema, "default": default}
        for name, (kind, default) in rule.options().items()
        if kind in KINDS
    }
    return {"type": "object", "description": rule.summary(), "properties": rows}
