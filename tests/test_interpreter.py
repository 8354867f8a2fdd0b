"""Models that run in another Python than bnlint does."""

from __future__ import annotations

import importlib.util
import json
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from bnlint import interpreter as module
from bnlint.interpreter import interpreter
from tests.commands import Run

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"
NET = """\
import sys
from torch import nn

def make():
    raise RuntimeError(f"it runs in {sys.prefix}")
"""


def environment(folder: Path, *, torch: bool) -> str:
    """The interpreter of a new environment, without bnlint, which sees this one's packages or none."""
    venv.create(folder, with_pip=False)
    if torch:
        site = sysconfig.get_path("purelib", vars={"base": str(folder)})
        spec = importlib.util.find_spec("torch")
        assert spec is not None and spec.origin is not None
        Path(site, "here.pth").write_text(f"{Path(spec.origin).parents[1]}\n")
    return str(folder / SCRIPTS / "python")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


@pytest.mark.slow
def test_the_model_runs_there(run: Run, project: Path) -> None:
    python = environment(project / "env", torch=True)
    code, out, _ = run("check", "net.py:make", "--python", python, "--output-format", "json")
    (finding,) = json.loads(out)["findings"]
    assert (code, finding["code"]) == (2, "BN902")
    assert f"it runs in {project / 'env'}" in finding["message"]


@pytest.mark.slow
def test_there_is_no_torch_there(run: Run, project: Path) -> None:
    environment(project / "env", torch=False)
    (project / "bnlint.toml").write_text(f'python = "env/{SCRIPTS}/python"\ntargets = ["net.py:make"]\n')
    code, out, _ = run("check", "--output-format", "concise")
    assert (code, "BN901" in out, f"env/{SCRIPTS}/python" in out) == (2, True, True)


@pytest.mark.parametrize("options", [("--python", "no/such/python"), ("--python", "x", "--no-isolate")])
def test_mistakes(run: Run, options: tuple[str, ...]) -> None:
    code, out, error = run("check", "net.py:make", *options)
    assert code == 2
    assert ("BN901" in out) != error.startswith("Error: ")


def test_the_projects_environment_is_found_only_without_torch_here(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    assert interpreter() == sys.executable
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert interpreter() == sys.executable
    for name in (".venv", "other", "root/.venv"):
        venv.create(project / name, with_pip=False)
    assert Path(interpreter()) == Path(".venv") / SCRIPTS / "python"
    assert Path(interpreter(root="root")) == Path("root", ".venv", SCRIPTS, "python")
    monkeypatch.setenv("VIRTUAL_ENV", "other")
    assert Path(interpreter()) == Path("other", SCRIPTS, "python")
    assert interpreter("python-that-is-not-there") == "python-that-is-not-there"
