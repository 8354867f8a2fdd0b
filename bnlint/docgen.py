"""Writes what is generated: `docs/rules/*.md`, `docs/queries.md`, tables in README and docs, and the schema.

`python -m bnlint.docgen` writes, `python -m bnlint.docgen --check` only says what is stale and exits 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from bnlint.config.keys import INPUT_KEYS, KEYS, RUN_KEYS, TARGET_KEYS
from bnlint.config.kinds import Key
from bnlint.config.schema import NAME, schema
from bnlint.docqueries import queries
from bnlint.registry import load_rules
from bnlint.removed import REMOVED
from bnlint.rule import ENGINE_CODES, Rule

_ROOT = Path(__file__).resolve().parents[1]
_MARK = "<!-- rules -->"
_GENERATED = "<!-- generated from the rule by `python -m bnlint.docgen`; edit the rule, not this page -->"
_QUERIES = "<!-- generated from the source by `python -m bnlint.docgen`; edit the docstrings, not this page -->"
_TITLES = {
    "Why it matters:": "## Why it matters",
    "Example (bad):": "## Example",
    "Use instead (good):": "## Use instead",
    "Known limits:": "## Known limits",
    "References:": "## References",
}


def page(rule: type[Rule], rules: Mapping[str, type[Rule]]) -> str:
    """A rule's page in Markdown."""
    facts = f"**{rule.code}** · severity {rule.severity.value} · phase {rule.phase.value}"
    facts += f" · {rule.state.value} since {rule.since}"
    parts = [_GENERATED, f"# {rule.name}", facts, *_sections(rule.doc())]
    if rule.yields_to:
        causes = ", ".join(f"[{code}]({rules[code].name}.md)" for code in rule.yields_to)
        parts.append(f"Where {causes} finds the cause in the same place, that finding stands for this one.")
    if rule.options():
        rows = [f"| `{key}` | {kind.__name__} | `{value!r}` |" for key, (kind, value) in rule.options().items()]
        parts.append("\n".join(["## Options\n", "| option | type | default |", "|---|---|---|", *rows]))
    module = rule.__module__.removeprefix("bnlint.").replace(".", "/")
    parts.append(f"Source: [`{module}.py`](../../{module}.py)")
    return "\n\n".join(parts) + "\n"


def _sections(doc: str) -> list[str]:
    """The docstring with its section titles as headings."""
    for title, heading in _TITLES.items():
        doc = re.sub(rf"^{re.escape(title)}[ \n]\s*", f"{heading}\n\n", doc, flags=re.MULTILINE)
    return [doc.strip()]


def table(rules: dict[str, type[Rule]]) -> str:
    """All rules as a Markdown table, for the README and the index."""
    rows = [
        f"| {r.code} | [{r.name}](docs/rules/{r.name}.md) | {r.severity.value} | {r.summary()} |"
        for r in rules.values()
    ]
    rows += [f"| {row.code} | {row.name} | {row.severity.value} | {row.summary} |" for row in ENGINE_CODES.values()]
    return "\n".join(["| code | name | severity | what it finds |", "|---|---|---|---|", *rows])


def removed() -> str:
    """The rules that are no more as a Markdown list."""
    return "\n".join(f"- `{word}` {why}" for word, why in sorted(REMOVED.items())) or "None so far."


def keys_table(keys: Iterable[Key]) -> str:
    """Keys of the configuration as a Markdown table."""
    rows = [f"| `{k.name}` | {k.kind.words} | {_default(k.default)} | {k.help} |" for k in keys]
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])


def _default(value: object) -> str:
    return "" if value is None else f"`{json.dumps(value)}`"


def _between(text: str, mark: str, content: str) -> str:
    """The text with what stands between two marks replaced."""
    before, _, rest = text.partition(mark)
    after = rest.partition(mark)[2]
    return f"{before}{mark}\n{content}\n{mark}{after}"


def generated(root: Path) -> dict[Path, str]:
    """Every generated file with the text it should have."""
    rules = load_rules()
    files = {root / "docs" / "rules" / f"{rule.name}.md": page(rule, rules) for rule in rules.values()}
    index = table(rules).replace("](docs/rules/", "](")
    files[root / "docs" / "rules" / "index.md"] = f"{_GENERATED}\n\n# Rules\n\n{index}\n"
    files[root / "docs" / "queries.md"] = f"{_QUERIES}\n\n{queries(root)}"
    readme = root / "README.md"
    files[readme] = _between(readme.read_text(encoding="utf-8"), _MARK, table(rules))
    reference = root / "docs" / "configuration.md"
    text = reference.read_text(encoding="utf-8")
    own = [key for key in TARGET_KEYS if key not in RUN_KEYS]
    for name, keys in (("keys", KEYS), ("target keys", own), ("input keys", INPUT_KEYS)):
        text = _between(text, f"<!-- {name} -->", keys_table(keys))
    files[reference] = text
    policy = root / "docs" / "versioning.md"
    files[policy] = _between(policy.read_text(encoding="utf-8"), "<!-- removed -->", removed())
    files[root / NAME] = json.dumps(schema(rules), indent=2) + "\n"
    return files


def main(arguments: list[str] | None = None) -> int:
    """Writes or checks the generated files; 1 when `--check` finds a stale one."""
    parser = argparse.ArgumentParser(prog="python -m bnlint.docgen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 when a file is stale")
    check = parser.parse_args(arguments).check
    files = generated(_ROOT)
    pages = set((_ROOT / "docs" / "rules").glob("*.md"))
    stale = [p for p, text in files.items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
    stale += sorted(pages - set(files))
    for path in stale:
        print(f"{'stale' if check else 'wrote'}: {path.relative_to(_ROOT).as_posix()}")
        if check:
            continue
        if path not in files:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
