"""Writes what is generated from the rules: `docs/rules/*.md` and the table in the README.

`python -m bnlint.docgen` writes, `python -m bnlint.docgen --check` only says what is stale and exits 1.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from bnlint.registry import load_rules
from bnlint.rule import ENGINE_CODES, Rule

_ROOT = Path(__file__).resolve().parents[1]
_MARK = "<!-- rules -->"
_GENERATED = "<!-- generated from the rule by `python -m bnlint.docgen`; edit the rule, not this page -->"
_TITLES = {
    "Why it matters:": "## Why it matters",
    "Example (bad):": "## Example",
    "Use instead (good):": "## Use instead",
    "Known limits:": "## Known limits",
    "References:": "## References",
}


def page(rule: type[Rule]) -> str:
    """A rule's page in Markdown."""
    facts = f"**{rule.code}** · severity {rule.severity.value} · phase {rule.phase.value}"
    parts = [_GENERATED, f"# {rule.name}", facts, *_sections(rule.doc())]
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


def generated(root: Path) -> dict[Path, str]:
    """Every generated file with the text it should have."""
    rules = load_rules()
    files = {root / "docs" / "rules" / f"{rule.name}.md": page(rule) for rule in rules.values()}
    index = table(rules).replace("](docs/rules/", "](")
    files[root / "docs" / "rules" / "index.md"] = f"{_GENERATED}\n\n# Rules\n\n{index}\n"
    readme = root / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(_MARK)
    after = rest.partition(_MARK)[2]
    files[readme] = f"{before}{_MARK}\n{table(rules)}\n{_MARK}{after}"
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
