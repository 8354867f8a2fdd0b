"""Where the models of `coverage.py` come from: packages that are installed, and checkouts of public repositories."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

ZOO = Path(__file__).resolve().parent / "zoo"
sys.path.insert(0, str(ZOO))
PACKAGES = ("torchvision", "timm", "transformers")


@dataclass(frozen=True)
class Case:
    """One model: what to check, from which folder, and what its forward takes when nobody can tell."""

    corpus: str
    name: str
    target: str
    folder: str = "."
    inputs: tuple[str, ...] = ()
    input_fn: str | None = None
    prepare: Callable[[], object] | None = None  # makes and keeps them, where that is slow

    @property
    def has_input(self) -> bool:
        """True when somebody wrote its input down."""
        return bool(self.inputs or self.input_fn)


class Missing(str):
    """Why a corpus is not on this machine."""

    __slots__ = ()


def of_package(package: str, *, everything: bool = False) -> list[Case] | Missing:
    """The models of a package that is installed, made by `zoo/PACKAGE_models.py`."""
    if importlib.util.find_spec(package) is None:
        return Missing(f"{package}: it is not installed")
    module = importlib.import_module(f"{package}_models")
    listed: Callable[[], list[str]] = module.names
    if everything:
        listed = getattr(module, "all_names", listed)
    return [_case(package, module, name) for name in listed()]


def _case(package: str, module: ModuleType, name: str) -> Case:
    case = Case(package, name, f"{module.__name__}:make({name!r})")
    if not hasattr(module, "inputs"):
        return case
    return replace(case, input_fn=f"{module.__name__}:inputs({name!r})", prepare=partial(module.make, name))


def of_repositories(listing: Path, checkouts: Path) -> list[Case] | Missing:
    """The targets of `repositories.json` whose repository has a checkout: a folder `owner__name`."""
    if importlib.util.find_spec("torchvision"):  # many import it
        importlib.import_module("torchvision_models")
    cases = []
    for repository in json.loads(listing.read_text(encoding="utf-8")):
        name = "/".join(repository["url"].split("/")[-2:])
        folder = checkouts / name.replace("/", "__")
        if folder.is_dir():
            cases += [
                Case(
                    "repositories",
                    f"{name}: {row['target']}",
                    row["target"],
                    str(folder.joinpath(row.get("folder", "."))),
                    tuple(row["inputs"]),
                )
                for row in repository["models"]
            ]
    if not cases:
        return Missing(f"repositories: {checkouts} holds none of those in {listing.name}")
    return cases
