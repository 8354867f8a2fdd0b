"""Which rules run, how severe they are, and where their findings are not wanted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bnlint.config.globs import module_pattern, path_pattern
from bnlint.config.kinds import FLAG, NUMBER, TEXT, WHOLE, ConfigError
from bnlint.paths import real
from bnlint.registry import codes_by_name, did_you_mean, what_became
from bnlint.rule import ENGINE_CODES, Finding, Rule, Severity, State

if TYPE_CHECKING:
    from bnlint.config.settings import Settings

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
KINDS = {int: WHOLE, float: NUMBER, bool: FLAG, str: TEXT}  # of rule options
ALWAYS = frozenset(code for code, row in ENGINE_CODES.items() if row.severity is Severity.ERROR)  # never silent
_EXACT = 99

Rules = Mapping[str, type[Rule]]
Ignore = tuple[str, re.Pattern[str], frozenset[str]]


@dataclass(frozen=True)
class Selection:
    """One layer of selectors. `select` replaces what the layers before it chose; the other two adjust it."""

    select: tuple[str, ...] | None = None
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    origin: str = ""  # the file it stands in; empty for options

    @property
    def by(self) -> str:
        """Where it stands, for the end of a phrase."""
        return f" in {self.origin}" if self.origin else ""


@dataclass(frozen=True)
class Decision:
    """Whether a code may be reported, and what decided it."""

    on: bool
    why: str


@dataclass(frozen=True)
class Chosen:
    """The rules to run, everything that may be reported, and how."""

    rules: tuple[str, ...]
    codes: frozenset[str]
    severity: Mapping[str, Severity]
    options: Mapping[str, dict[str, Any]]
    per_file: tuple[Ignore, ...]
    per_module: tuple[Ignore, ...]
    root: str = ""

    def ignored(self, finding: Finding) -> str | None:
        """The key and the pattern that a finding is ignored by; one about several modules only when all of them are."""
        at = finding.location or finding.call
        if at is not None and self.per_file:
            file = real(at.file)
            root = real(self.root)
            path = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()
            for glob, pattern, codes in self.per_file:
                if finding.code in codes and pattern.fullmatch(path):
                    return f"per-file-ignores: {glob}"
        found = [self._module_ignore(finding.code, path) for path in finding.modules]
        return found[0] if all(found) and found else None

    def _module_ignore(self, code: str, path: str) -> str | None:
        rows = (glob for glob, pattern, codes in self.per_module if code in codes and pattern.fullmatch(path))
        return next((f"per-module-ignores: {glob}" for glob in rows), None)


def choose(rules: Rules, settings: Settings) -> Chosen:
    """What the settings say of rules, checked against the rules that there are."""
    codes = selected_codes(rules, settings.selections, preview=settings.preview)
    return Chosen(
        tuple(code for code in rules if code in codes),
        codes,
        _severities(rules, settings.severity),
        dict(_options(rules, settings.rules)),
        _ignores(rules, settings.per_file_ignores, "per-file-ignores", path_pattern),
        _ignores(rules, settings.per_module_ignores, "per-module-ignores", module_pattern),
        settings.root,
    )


def selected_codes(rules: Rules, selections: Sequence[Selection] = (), *, preview: bool = False) -> frozenset[str]:
    """The codes that may be reported: the rules selected, and bnlint's own BN9xx words."""
    return frozenset(code for code, row in decided(rules, selections, preview=preview).items() if row.on)


def decided(rules: Rules, selections: Sequence[Selection] = (), *, preview: bool = False) -> dict[str, Decision]:
    """Whether each code may be reported, and why.

    Within a layer the more specific selector wins and, between equals, `ignore` does. Only BN9xx codes below error can
    be ignored: that a check did not happen is never silent.
    """
    found = dict.fromkeys((*rules, *ENGINE_CODES), Decision(True, "by default"))
    if not preview:
        found |= {code: Decision(False, "in preview") for code, rule in rules.items() if rule.state is State.PREVIEW}
    for layer in selections:
        if layer.select is not None:
            found |= dict.fromkeys(rules, Decision(False, f"not in select{layer.by}"))
        found |= _wanted(rules, layer, preview)
    if rules and not any(found[code].on for code in rules):
        raise ConfigError("the selection leaves no rule to run; name at least one in --select, or ignore fewer")
    return found | dict.fromkeys(ALWAYS, Decision(True, "always"))


def _wanted(rules: Rules, layer: Selection, preview: bool) -> Iterator[tuple[str, Decision]]:
    """What a layer says of each code that it speaks of."""
    wanted: dict[str, tuple[int, bool, str]] = {}
    groups = (("select", layer.select or (), False), ("extend-select", layer.extend_select, False))
    for key, selectors, ignored in (*groups, ("ignore", layer.ignore, True)):
        for selector in filter(None, ",".join(selectors).replace(" ", "").split(",")):
            where = f"{layer.origin}: {key}: " if layer.origin else ""
            weight, codes = (_ignorable if ignored else matches)(selector, rules, where)
            for code in codes:
                hidden = not ignored and not preview and code in rules and rules[code].state is State.PREVIEW
                if hidden and weight == _EXACT:
                    raise ConfigError(f"the rule `{selector}` is in preview; --preview, or `preview = true`, allows it")
                if not hidden:
                    row = (weight, ignored, f"{key} {selector}{layer.by}")
                    wanted[code] = max(wanted.get(code, (-1, True, "")), row)
    return ((code, Decision(not ignored, why)) for code, (_, ignored, why) in wanted.items())


def matches(selector: str, rules: Rules, where: str = "") -> tuple[int, set[str]]:
    """How specific a selector is (ALL 0, a prefix its length, one rule most) and the codes it stands for."""
    names = codes_by_name(rules)
    text, codes = selector, set(names.values())
    if text.upper() == "ALL":
        return 0, codes
    if text.lower() in names or text.upper() in codes:
        return _EXACT, {names.get(text.lower(), text.upper())}
    prefix = FAMILIES.get(text.lower(), text.upper())
    letters = prefix.rstrip("0123456789")
    found = {code for code in codes if code.startswith(prefix) and code.rstrip("0123456789") == letters}
    if not found and prefix not in FAMILIES.values():
        known = [*sorted(codes), *names, *FAMILIES, *FAMILIES.values(), "ALL"]
        raise ConfigError(f"{where}unknown rule selector `{selector}`{what_became(text, known)}")
    return len(prefix), found


def _ignorable(selector: str, rules: Rules, where: str) -> tuple[int, set[str]]:
    """What `matches` says of a selector of findings that are not wanted."""
    weight, codes = matches(selector, rules, where)
    if weight == _EXACT and codes & ALWAYS:
        raise ConfigError(f"{where}`{selector}` says that a check did not happen, and cannot be ignored")
    return weight, codes - ALWAYS


def _severities(rules: Rules, levels: Mapping[str, str]) -> dict[str, Severity]:
    """The severity of each code that has one of its own; the more specific selector wins."""
    found: dict[str, tuple[int, Severity]] = {}
    for selector, level in levels.items():
        weight, codes = matches(selector, rules, "severity: ")
        if weight == _EXACT and codes & ALWAYS:
            raise ConfigError(f"severity: `{selector}` says that a check did not happen, and stays an error")
        for code in codes - ALWAYS:
            if weight >= found.get(code, (-1, None))[0]:
                found[code] = (weight, Severity(level))
    return {code: severity for code, (_, severity) in found.items()}


def _options(rules: Rules, tables: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The options by code, each of the type the rule declares."""
    names = {name: code for name, code in codes_by_name(rules).items() if code in rules}
    seen: set[str] = set()
    for key, table in tables.items():
        code = key.upper() if key.upper() in rules else names.get(key.lower())
        if code is None:
            raise ConfigError(f"rules: unknown rule `{key}`{what_became(key, [*rules, *names])}")
        known = rules[code].options()
        if code in seen:
            raise ConfigError(f"rules: {code} is configured twice, by its code and by its name")
        seen.add(code)
        values = {}
        for name, value in table.items():
            option = name.replace("-", "_")
            if option not in known:
                hint = did_you_mean(option, known) or f"; it has {', '.join(known) or 'none'}"
                raise ConfigError(f"rules.{key}: {code} has no option `{name}`{hint}")
            kind, default = known[option]
            values[option] = KINDS.get(kind, TEXT).read(value, f"rules.{key}: `{name}`")
            _not_negative(values[option], default, f"rules.{key}: `{name}`")
        yield code, values


def _not_negative(value: Any, default: Any, where: str) -> None:
    """Limits and counts are never below zero unless the rule's own default is."""
    if isinstance(value, (int, float)) and value < 0 <= default:
        raise ConfigError(f"{where} must not be negative, and is {value}")


def _ignores(rules: Rules, table: Mapping[str, Sequence[str]], key: str, pattern: Any) -> tuple[Ignore, ...]:
    rows = []
    for glob, selectors in table.items():
        codes = [_ignorable(selector, rules, f"{key}, `{glob}`: ")[1] for selector in selectors]
        rows.append((glob, pattern(glob), frozenset().union(*codes)))
    return tuple(rows)
