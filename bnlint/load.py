"""Imports the user's file as `python file.py` would, or inside its package when it uses relative imports."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

from bnlint.failure import BuildError, failed, said
from bnlint.graph.frames import display_path
from bnlint.graph.memory import out_of_memory
from bnlint.target import Target


@contextmanager
def as_script(target: Target) -> Iterator[None]:
    """`sys.argv` as the user's code expects it: the program and no options."""
    before, sys.argv = sys.argv, [target.place]
    try:
        yield
    finally:
        sys.argv = before


def load(target: Target, root: str = "") -> ModuleType:
    """The target's module; raises BuildError (BN901) when there is none or it fails.

    A package is also looked for in the folder `root`, and in `src` there.
    """
    if target.path is not None and not target.path.is_file():
        raise _missing_file(target.path)
    try:
        if target.path is not None:
            return _import_file(target.path.resolve())
        for folder in (Path(root), Path(root, "src")):
            if folder.is_dir():
                _on_path(folder.resolve(), first=False)
        _on_path(Path.cwd(), first=True)
        return importlib.import_module(str(target.module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if out_of_memory(error):
            raise
        raise _import_failed(target, error) from error


def _import_file(path: Path) -> ModuleType:
    try:
        tree = ast.parse(path.read_bytes(), str(path))
        levels = max((node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)
        names = _imported(tree)
    except (SyntaxError, ValueError, RecursionError):
        levels, names = 0, set()  # importing it says what is wrong
    root, packages = _packages(path, levels)
    if packages and (levels or packages[0] in names):
        _on_path(path.parent, first=False)
        _on_path(Path.cwd(), first=True)
        _on_path(root, first=True)
        name = f"{_import_packages(root, packages)}.{_identifier(path.stem)}".removesuffix(".__init__")
        if name in sys.modules:  # its package imports it
            return sys.modules[name]
    else:
        name = _free_name(path)
        _on_path(root, first=False)
        _on_path(Path.cwd(), first=True)
        _on_path(path.parent, first=True)
    return _execute(name, path)


def _imported(tree: ast.Module) -> set[str]:
    """The top-level packages that a file imports by absolute name, possibly its own."""
    rows = (node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)))
    modules = (
        [alias.name for alias in row.names] if isinstance(row, ast.Import) else [row.module or ""] * (not row.level)
        for row in rows
    )
    return {name.partition(".")[0] for group in modules for name in group}


def _execute(name: str, path: Path) -> ModuleType:
    loader = SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # not `loader.exec_module`, which may take the byte code of a version saved within the same second
        exec(loader.source_to_code(loader.get_data(str(path)), str(path)), module.__dict__)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return sys.modules.get(name, module)


def _packages(path: Path, levels: int) -> tuple[Path, list[str]]:
    """The folder to import from, and the packages from there to the file: by `__init__.py`, else by need."""
    folder, packages = path.parent, list[str]()
    while (folder / "__init__.py").is_file() and "." not in folder.name:
        packages.insert(0, folder.name)
        folder = folder.parent
    if len(packages) < levels and Path.cwd() in folder.parents:
        outer = folder.relative_to(Path.cwd()).parts
        if not any("." in part for part in outer):
            return Path.cwd(), [*outer, *packages]
    while len(packages) < levels and folder.name and "." not in folder.name:
        packages.insert(0, folder.name)
        folder = folder.parent
    return folder, packages


def _import_packages(root: Path, packages: list[str]) -> str:
    """Imports the packages around a file; a folder without `__init__.py` becomes a namespace of just this folder."""
    name, folder = "", root
    for part in packages:
        folder /= part
        name = f"{name}.{part}" if name else part
        if (folder / "__init__.py").is_file():
            importlib.import_module(name)
            continue
        while name in sys.modules and str(folder) not in getattr(sys.modules[name], "__path__", ()):
            name += "_"
        if name not in sys.modules:
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(folder)]
            sys.modules[name] = importlib.util.module_from_spec(spec)
    return name


def _identifier(stem: str) -> str:
    return re.sub(r"\W", "_", stem)


def _free_name(path: Path) -> str:
    """The file's name as a module, changed when it would hide another module, such as `torch.py`."""
    name = _identifier(path.stem)
    while True:
        known = sys.modules.get(name)
        if known is not None and getattr(known, "__file__", None) == str(path):
            return name
        if known is None and name not in sys.stdlib_module_names and not _is_installed(name, path):
            return name
        name += "_"


def _is_installed(name: str, path: Path) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).parent != path.parent


def _on_path(folder: Path, *, first: bool) -> None:
    text = str(folder)
    if first:
        sys.path[:] = [text, *(entry for entry in sys.path if entry != text)]
    elif text not in sys.path:
        sys.path.append(text)


def _missing_file(path: Path) -> BuildError:
    shown = path.as_posix()
    if path.is_symlink():
        return failed("BN901", f"the link `{shown}` leads to no file", help="name the file itself")
    if path.is_dir():
        return failed("BN901", f"`{shown}` is a folder", help=f"name a file in it: `{shown}/model.py:Net`")
    if not path.parent.is_dir():
        help = f"there is no folder `{path.parent.as_posix()}` in `{Path.cwd().as_posix()}`"
        return failed("BN901", f"the file `{shown}` does not exist", help=help)
    files = sorted(entry.name for entry in path.parent.glob("*.py"))
    near = difflib.get_close_matches(path.name, files, n=1)
    if near:
        help = f"did you mean `{path.with_name(near[0]).as_posix()}`?"
    else:
        help = f"the Python files in `{path.parent.as_posix()}` are: {', '.join(files[:8])}" if files else ""
    return failed("BN901", f"the file `{shown}` does not exist", help=help)


def _import_failed(target: Target, error: BaseException) -> BuildError:
    place = target.place
    if isinstance(error, SystemExit):
        help = 'put what runs the program below `if __name__ == "__main__":`'
        return failed("BN901", f"`{place}` exits while it is imported", error, help=help)
    if isinstance(error, SyntaxError):
        where = display_path(error.filename) if error.filename else place
        return failed("BN901", f"`{where}` is not valid Python: {error.msg}", error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        own = target.module is not None and f"{target.module}.".startswith(f"{error.name}.")
        message = f"there is no module `{error.name}`" if own else f"`{place}` needs the module `{error.name}`"
        return failed(
            "BN901", message if own else f"{message}, which is missing", error, help=_where(error.name, target)
        )
    return failed("BN901", f"importing `{place}` raises {said(error)}", error)


def _where(missing: str, target: Target) -> str:
    """Whether a missing module is a file of the user's that lies elsewhere, or a package to install."""
    top = missing.partition(".")[0]
    here = target.path.resolve().parent if target.path else Path.cwd()
    folders = [here, *list(here.parents)[:4], *(entry for entry in Path.cwd().glob("*/") if entry.name[0] != ".")]
    local = next((f for f in folders if (f / f"{top}.py").is_file() or (f / top).is_dir()), None)
    if local is not None and str(local) not in sys.path:
        found = local / top if (local / top).is_dir() else local / f"{top}.py"
        return f"`{display_path(str(found))}` looks like it: add its folder to PYTHONPATH, or run bnlint from `{local}`"
    if top != missing and (top in sys.modules or importlib.util.find_spec(top)):
        return f"`{top}` is there, but has no module `{missing.removeprefix(top + '.')}`: is its version the right one?"
    return f"install it into the environment that bnlint runs in ({sys.executable}), or run bnlint from its folder"
