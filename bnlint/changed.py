"""Which targets a change concerns: those whose file, or a local file that it imports, was changed. Runs no code."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bnlint.config import Check, ConfigError, Plan
from bnlint.paths import real
from bnlint.target import Target, defines_modules, expand, parse


def changed_since(revision: str) -> list[str]:
    """The files that differ from where this branch left a git revision, new ones among them; raises ConfigError."""
    top = _git("this is no git repository", "rev-parse", "--show-toplevel").strip()
    fetch = "; `git fetch --unshallow` brings the history that this clone lacks"
    help = fetch if _git("", "rev-parse", "--is-shallow-repository").strip() == "true" else ""
    name = f"`{revision}` is no revision here{help}"
    commit = _git(name, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").strip()
    found = _git(f"there is no way from `{revision}`{help}", "diff", "--name-only", "-z", "--merge-base", commit)
    found += _git("", "ls-files", "--others", "--exclude-standard", "--full-name", "-z", "--", top)
    return [os.path.relpath(Path(top, name)) for name in found.split("\0") if name]


def _git(problem: str, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, encoding="utf-8", errors="surrogateescape", check=False
        )
    except OSError as error:
        raise ConfigError(f"--diff-base needs git, which cannot be started: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        reason = problem or (said[-1].removeprefix("fatal: ") if said else f"git exits with {done.returncode}")
        raise ConfigError(f"--diff-base: {reason}")
    return done.stdout


def concerned(plan: Plan, files: Sequence[str], named: Sequence[Check] = ()) -> list[Check]:
    """Those of the named, or else of the configured targets that a change of the files concerns.

    Where there are none, the models in the files.
    """
    changed = {real(file) for file in files}
    if not plan.configured and not named:
        return [
            Check(Path(file).as_posix(), plan.default)
            for file in files
            if Path(file).suffix == ".py" and defines_modules(Path(file))
        ]
    if plan.config.file is not None and real(plan.config.file) in changed:
        return list(named or plan.configured)
    rows = named or [Check(text, row.settings) for row in plan.configured for text in expand([row.target])]
    return [row for row in rows if changed & local_files(row, plan.config.root)]


def local_files(check: Check, root: Path) -> set[Path]:
    """The files of the project that a target is made of, as far as its `import` statements tell."""
    target, settings = parse(check.target), check.settings
    roots = [root, root / "src", Path.cwd()]
    start = list(_files_of(target, roots))
    if settings.input_fn and ".py:" in settings.input_fn:
        start.append(Path(settings.input_fn.rpartition(":")[0]))
    if settings.batch and ".py:" in settings.batch:
        start.append(Path(settings.batch.rpartition(":")[0]))
    weights = {real(settings.weights)} if settings.weights else set()
    return set(_closure([real(path) for path in start], [real(path) for path in roots])) | weights


def _files_of(target: Target, roots: Sequence[Path]) -> Iterator[Path]:
    if target.path is not None:
        yield target.path
    else:
        yield from _module_files(str(target.module).split("."), roots)


def _closure(start: Iterable[Path], roots: Sequence[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    waiting = list(start)
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        yield path
        waiting += [real(found) for found in _imports(path, roots)]


def _imports(path: Path, roots: Sequence[Path]) -> Iterator[Path]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    folders = [path.parent, *_above(path), *roots]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module_files(alias.name.split("."), folders)
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            places = [path.parents[node.level - 1]] if 0 < node.level <= len(path.parents) else folders
            for alias in node.names:
                yield from _module_files([*base, alias.name], places)


def _above(path: Path) -> Iterator[Path]:
    """The folders that the packages around a file are imported from."""
    for folder in path.parents:
        if not (folder / "__init__.py").is_file():
            break
        yield folder.parent


def _module_files(parts: Sequence[str], folders: Iterable[Path]) -> Iterator[Path]:
    """The files that importing a module runs: its packages' and its own, in the first folder that has one."""
    for folder in folders:
        found, place = [], folder
        for part in parts:
            own, package = place / f"{part}.py", place / part / "__init__.py"
            if own.is_file() or package.is_file():
                found.append(own if own.is_file() else package)
            place /= part
            if not place.is_dir():
                break
        if found:
            yield from found
            return
