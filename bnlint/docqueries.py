"""The page `docs/queries.md`: what a rule can ask, by what it answers. Read from the source, so torch stays out."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_PARTS = {  # what a rule is given: how it writes it, where it is declared
    "model": ("bnlint.graph.model", "AuditedModel"),
    "model.graph": ("bnlint.graph.queries", "Graph"),
    "model.probe": ("bnlint.signal.facts", "ProbeFacts"),
    "model.probe.stats[node.name]": ("bnlint.signal.statistics", "NodeStats"),
    "model.prediction": ("bnlint.signal.predict", "Prediction"),
    "model.survey": ("bnlint.signal.survey", "Survey"),
    "Norms(graph)": ("bnlint.graph.norms", "Norms"),
}
_HEAD = """\
# What a rule can ask

A rule gets one object, `model`, and asks it and the functions below; [writing a rule](writing-a-rule.md) shows how. A
node is a node of `torch.fx`, and its value, a fake tensor, is `node.meta["val"]`."""


def queries(root: Path) -> str:
    """The page without its first line."""
    parts = [_HEAD]
    for word, (module, name) in _PARTS.items():
        path = _file(root, module)
        found = next(row for row in _tree(path).body if isinstance(row, ast.ClassDef) and row.name == name)
        parts += [f"## `{word}`", f"{_summary(found)} [{name}](../{path.relative_to(root).as_posix()})"]
        parts.append(_table(_members(found, path.read_text(encoding="utf-8").split("\n"))))
    parts += ["## Functions", "What the built-in rules import, by the file that holds it."]
    for module, names in sorted(_imported(root / "rules").items()):
        path = _file(root, module)
        tree = _tree(path)
        rows = [row for row in tree.body if isinstance(row, ast.FunctionDef) and row.name in names]
        if rows:
            parts += [f"### `{module}`", _summary(tree), _table((_call(row), _summary(row)) for row in rows)]
    return "\n\n".join(parts) + "\n"


def _members(owner: ast.ClassDef, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The public methods and properties with what they say of themselves, and the fields with their comments."""
    for row in owner.body:
        if isinstance(row, ast.FunctionDef) and not row.name.startswith("_") and _summary(row):
            yield _call(row, bound=True), _summary(row)
        elif isinstance(row, ast.AnnAssign) and isinstance(row.target, ast.Name):
            comment = lines[(row.end_lineno or row.lineno) - 1].partition("  # ")[2]
            if comment and not row.target.id.startswith("_"):
                yield row.target.id, f"{comment[0].upper()}{comment[1:]}."


def _call(row: ast.FunctionDef, *, bound: bool = False) -> str:
    if any(ast.unparse(mark) in ("property", "cached_property") for mark in row.decorator_list):
        return row.name
    names = [arg.arg for arg in (*row.args.posonlyargs, *row.args.args)][bound:]
    names += [f"*{row.args.vararg.arg}"] if row.args.vararg else []
    return f"{row.name}({', '.join([*names, *(f'{arg.arg}=' for arg in row.args.kwonlyargs)])})"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    escaped = ((asked, answer.replace("|", r"\|")) for asked, answer in rows)
    cells = [f"| `{asked}` | {answer} |" for asked, answer in escaped]
    return "\n".join(["| ask | answer |", "|---|---|", *cells])


def _imported(rules: Path) -> dict[str, set[str]]:
    """What the rules import, by module."""
    found: dict[str, set[str]] = {}
    for path in sorted(rules.rglob("*.py")):
        for row in ast.walk(_tree(path)):
            if (
                isinstance(row, ast.ImportFrom)
                and row.module
                and row.module.startswith(("bnlint.graph", "bnlint.signal"))
            ):
                found.setdefault(row.module, set()).update(name.name for name in row.names)
    return found


def _summary(row: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    return (ast.get_docstring(row) or "").partition("\n\n")[0].replace("\n", " ")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _file(root: Path, module: str) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
