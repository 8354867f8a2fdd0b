"""What may import what, where torch may be imported, and that the engine knows no rule by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bnlint.registry import load_rules

ROOT = Path(__file__).resolve().parents[1]

# Parts of the engine, lowest first: each imports what stands above it in this list, and its own files.
ORDER = (
    ("rule", "paths"),
    ("whole", "removed", "interpreter"),
    ("job", "target", "registry", "spec"),
    ("collector", "grouping", "graph"),
    ("signal", "failure", "untraced"),
    ("load", "checkpoint"),
    ("inputs",),
    ("build", "unexplained"),
    ("audit",),
    ("ending", "watch_files"),
    ("worker",),
    ("child",),
    ("report", "testing"),
    ("config",),
    ("docqueries",),
    ("docgen", "suppress", "baseline", "changed", "cache", "parallel"),
    ("settle",),
    ("api",),
    ("bnlint",),
    ("commands", "pytest_plugin", "integrations"),
    ("cli",),
    ("__main__",),
)
LAYERS = {name: layer for layer, names in enumerate(ORDER) for name in names}
# Imports against that order: methods of the report that render it, the version, and the worker's inner half.
UPWARD = {("job", "report"), ("report", "bnlint"), ("cache", "bnlint"), ("worker", "child")}
TORCH_AT_TOP = {"build", "checkpoint", "inputs", "graph", "signal"}
FOR_RULES = {"rule", "graph", "signal"}
RULE_CODE = re.compile(r"\bBN[1-8][0-9]{2}\b")


@dataclass(frozen=True)
class Import:
    """One imported name: the module it comes from, and whether it runs when the file is imported."""

    module: str
    line: int
    at_top: bool
    for_types: bool


def imports(tree: ast.AST, *, at_top: bool = True, for_types: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, node.lineno, at_top, for_types)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for name in node.names:
                yield Import(f"{base}.{name.name}" if base == "bnlint" else base, node.lineno, at_top, for_types)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(node, at_top=False, for_types=True)
        else:
            function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(node, at_top=at_top and not function, for_types=for_types)


def part(module: str) -> str | None:
    """`bnlint.graph.ops` is of the part `graph`; names that are not of the engine are of none."""
    names = module.split(".")
    if names[0] != "bnlint":
        return None
    return names[1] if len(names) > 1 and names[1] in LAYERS else "bnlint"


def files(root: Path, package: str) -> Iterator[tuple[str, str, ast.Module]]:
    """Each file as its path, the part it belongs to and its syntax tree."""
    for path in sorted((root / package).rglob("*.py")):
        inside = path.relative_to(root / package)
        name = inside.parts[0].removesuffix(".py")
        yield path.relative_to(root).as_posix(), "bnlint" if name == "__init__" else name, ast.parse(path.read_bytes())


def wrong_directions(root: Path) -> list[str]:
    found = []
    for file, own, tree in files(root, "bnlint"):
        if own not in LAYERS:
            found.append(f"{file}: `{own}` has no layer; give it one in this test")
            continue
        for row in imports(tree):
            other = part(row.module)
            allowed = other in (None, own) or (own, other) in UPWARD or row.for_types
            if not allowed and LAYERS[other or ""] >= LAYERS[own]:
                found.append(f"{file}:{row.line}: {own} imports {other}")
    return found


def wrong_torch(root: Path) -> list[str]:
    found = []
    for package in ("bnlint", "rules"):
        for file, own, tree in files(root, package):
            rows = [row for row in imports(tree) if row.module.split(".")[0] == "torch" and row.at_top]
            if package == "rules" or own not in TORCH_AT_TOP:
                found += [f"{file}:{row.line}: torch is imported at the top" for row in rows]
    return found


def wrong_rule_imports(root: Path) -> list[str]:
    found = []
    for file, _, tree in files(root, "rules"):
        for row in imports(tree):
            inside = row.module.startswith(("bnlint", ".", "rules"))
            if inside and part(row.module) not in FOR_RULES:
                found.append(f"{file}:{row.line}: a rule imports {row.module}")
    return found


def rules_named_in_engine(root: Path, names: frozenset[str]) -> list[str]:
    found = []
    for file, _, tree in files(root, "bnlint"):
        docstrings = {id(node.body[0].value) for node in ast.walk(tree) if _documented(node)}  # type: ignore[attr-defined]
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and id(node) not in docstrings else None
            if isinstance(text, str) and (RULE_CODE.search(text) or text in names):
                found.append(f"{file}:{node.lineno}: names the rule in {text!r}")
    return found


def _documented(node: ast.AST) -> bool:
    documentable = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, documentable) and ast.get_docstring(node, clean=False) is not None


def test_imports_point_down() -> None:
    assert wrong_directions(ROOT) == []


def test_torch_is_imported_only_where_models_run() -> None:
    assert wrong_torch(ROOT) == []


def test_rules_import_only_what_is_made_for_them() -> None:
    assert wrong_rule_imports(ROOT) == []


def test_the_engine_names_no_rule() -> None:
    names = frozenset(rule.name for rule in load_rules().values())
    assert rules_named_in_engine(ROOT, names) == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small project in which nothing is wrong."""
    for file, text in {
        "bnlint/__init__.py": "from bnlint.api import check\n",
        "bnlint/api.py": "import sys\nfrom bnlint import job\nfrom bnlint.rule import Rule\n",
        "bnlint/job.py": "def render():\n    from bnlint.report.json import render\n",
        "bnlint/rule.py": '"""As in BN101."""\nif TYPE_CHECKING:\n    from bnlint.graph import ops\nENGINE = "BN901"\n',
        "bnlint/graph/ops.py": "import torch\nfrom bnlint.graph.nodes import Node\n",
        "bnlint/report/json.py": "import json\n",
        "rules/norm/bn101_x.py": "from bnlint.rule import Rule\n\ndef check():\n    import torch\n",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    return tmp_path


def problems(root: Path) -> dict[str, list[str]]:
    rows = {
        "direction": wrong_directions(root),
        "torch": wrong_torch(root),
        "rule": wrong_rule_imports(root),
        "name": rules_named_in_engine(root, frozenset({"some-rule"})),
    }
    return {key: value for key, value in rows.items() if value}


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [
        ("bnlint/rule.py", "from bnlint.job import Job", "direction"),
        ("bnlint/rule.py", "def f():\n    import bnlint.api", "direction"),
        ("bnlint/graph/ops.py", "from bnlint import api", "direction"),
        ("bnlint/graph/ops.py", "from bnlint import check", "direction"),
        ("bnlint/report/json.py", "from bnlint.api import check", "direction"),
        ("bnlint/extra.py", "import json", "direction"),
        ("bnlint/api.py", "import torch", "torch"),
        ("bnlint/api.py", "try:\n    from torch.nn import Module\nexcept ImportError:\n    pass", "torch"),
        ("rules/norm/bn101_x.py", "import torch.nn", "torch"),
        ("rules/norm/bn101_x.py", "class A:\n    from torch import nn", "torch"),
        ("rules/norm/bn101_x.py", "from bnlint.job import Job", "rule"),
        ("rules/norm/bn101_x.py", "from bnlint import check", "rule"),
        ("rules/norm/bn101_x.py", "def f():\n    from bnlint.audit import run", "rule"),
        ("rules/norm/bn101_x.py", "from .bn102_y import helper", "rule"),
        ("bnlint/api.py", "CODE = 'BN101'", "name"),
        ("bnlint/api.py", "TEXT = f'see BN203 for {x}'", "name"),
        ("bnlint/api.py", "NAME = 'some-rule'", "name"),
    ],
)
def test_each_check_can_fail(tree: Path, file: str, text: str, kind: str) -> None:
    assert problems(tree) == {}
    path = tree / file
    path.write_text((path.read_text() if path.exists() else "") + text + "\n")
    assert list(problems(tree)) == [kind]
