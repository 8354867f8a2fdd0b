"""The hooks in the real pre-commit, the action's steps in the real bash, and which targets a change concerns."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bnlint.changed import changed_since, concerned
from bnlint.cli import main
from bnlint.config import Check, ConfigError, Plan, find_config

ROOT = Path(__file__).resolve().parents[1]
GOOD = "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.fc = nn.Linear(4, 2)\n\n    def forward(self, x):\n        return self.fc(x)\n"
BAD = GOOD.replace("nn.Linear(4, 2)", "nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))")
CONFIG = '[tool.bnlint]\nselect = ["BN401"]\n[[tool.bnlint.targets]]\ntarget = "models/net.py:Net"\ninputs = ["8x4"]\n'


def git(folder: Path, *args: str) -> str:
    settings = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main", "-c", "core.hooksPath=")
    done = subprocess.run(["git", *settings, *args], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def shim(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A `bnlint` on the path that runs this tree, and nothing of the user's settings."""
    shim(tmp_path / "bin", "bnlint", f'exec "{sys.executable}" -m bnlint "$@"')
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("BNLINT_", "GIT_", "GITHUB_"))}
    return kept | {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PRE_COMMIT_HOME": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }


class TestConcerned:
    @pytest.fixture(autouse=True)
    def project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        write(
            tmp_path,
            {
                "models/net.py": "import torch\nfrom layers import Block\nfrom .deep.part import x\n",
                "models/layers.py": "import models.base\n",
                "models/base.py": "",
                "models/deep/part.py": "from .. import other\n",
                "models/other.py": "from . import net\n",
                "models/__init__.py": "",
                "src/shop/__init__.py": "from shop import init_only\n",
                "src/shop/init_only.py": "",
                "src/shop/models.py": "def f():\n    import late\n",
                "late.py": "",
                "batches.py": "import helper\n",
                "helper.py": "",
                "broken.py": "import (\n",
                "unused.py": GOOD,
                "bnlint.toml": '[[targets]]\ntarget = "models/net.py:Net"\n[[targets]]\ntarget = "shop.models:build"\n'
                'input-fn = "batches.py:make"\n[[targets]]\ntarget = "broken.py:Net"\nweights = "best.pt"\n',
            },
        )

    @pytest.mark.parametrize(
        ("file", "targets"),
        [
            ("models/net.py", "models/net.py:Net"),
            ("models/layers.py", "models/net.py:Net"),
            ("models/base.py", "models/net.py:Net"),
            ("models/deep/part.py", "models/net.py:Net"),
            ("models/other.py", "models/net.py:Net"),
            ("models/__init__.py", "models/net.py:Net"),
            ("src/shop/models.py", "shop.models:build"),
            ("src/shop/init_only.py", "shop.models:build"),
            ("late.py", "shop.models:build"),
            ("helper.py", "shop.models:build"),
            ("broken.py", "broken.py:Net"),
            ("best.pt", "broken.py:Net"),
            ("unused.py", ""),
            ("gone.py", ""),
            ("bnlint.toml", "models/net.py:Net shop.models:build broken.py:Net"),
        ],
    )
    def test_by_imports(self, file: str, targets: str) -> None:
        plan = Plan(find_config(Path.cwd()))
        assert [row.target for row in concerned(plan, [file])] == targets.split()

    def test_without_configured_targets_the_files_with_models(self) -> None:
        files = ["unused.py", "helper.py", "broken.py", "gone.py", "README.md"]
        assert [row.target for row in concerned(Plan(), files)] == ["unused.py"]


class TestDiffBase:
    @pytest.fixture(autouse=True)
    def project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A branch with a change of `layers.py`, while `main` has one of `other.py`."""
        monkeypatch.chdir(tmp_path)
        git(tmp_path, "init", "-q")
        write(tmp_path, {"models/net.py": "import layers\n", "models/layers.py": "", "models/other.py": GOOD})
        configured = "".join(f'[[targets]]\ntarget = "models/{name}.py:Net"\n' for name in ("net", "other"))
        write(tmp_path, {"bnlint.toml": configured})
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-qm", "start")
        git(tmp_path, "branch", "work")
        write(tmp_path, {"models/other.py": GOOD + "\n"})
        git(tmp_path, "commit", "-qam", "on main")
        git(tmp_path, "checkout", "-q", "work")
        write(tmp_path, {"models/layers.py": "WIDTH = 3\n"})
        git(tmp_path, "commit", "-qam", "on the branch")
        return tmp_path

    def targets(self, *named: Check) -> list[str]:
        return [row.target for row in concerned(Plan(find_config(Path.cwd())), changed_since("main"), named)]

    def test_what_the_branch_changed_and_not_the_other(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert changed_since("main") == ["models/layers.py"]
        assert self.targets() == ["models/net.py:Net"]
        monkeypatch.chdir(project / "models")
        assert changed_since("main") == ["layers.py"]

    def test_what_is_not_committed_counts(self, project: Path) -> None:
        write(project, {"models/new.py": GOOD, "models/net.py": ""})
        assert sorted(changed_since("HEAD")) == ["models/net.py", "models/new.py"]

    def test_of_named_targets_those_that_are_concerned(self) -> None:
        rows = [Check(f"models/{name}.py:Net", Plan().default) for name in ("other", "net")]
        assert self.targets(*rows) == ["models/net.py:Net"]
        assert self.targets(rows[0]) == []

    @pytest.mark.parametrize("revision", ["nope", "-x", "--output=x", ""])
    def test_a_revision_that_is_none(self, revision: str) -> None:
        with pytest.raises(ConfigError, match="--diff-base"):
            changed_since(revision)

    def test_without_a_repository(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        monkeypatch.chdir(tmp_path_factory.mktemp("bare"))
        with pytest.raises(ConfigError, match="--diff-base: this is no git repository"):
            changed_since("main")

    @pytest.mark.parametrize("revision", ["main", "origin/main", "FETCH_HEAD", "HEAD~1"])
    def test_a_clone_without_its_history(self, project: Path, monkeypatch: pytest.MonkeyPatch, revision: str) -> None:
        git(project, "clone", "-q", "--depth=1", f"file://{project}", "clone")
        monkeypatch.chdir(project / "clone")
        git(Path.cwd(), "fetch", "-q", "--depth=1", "origin", "main")
        with pytest.raises(ConfigError, match="`git fetch --unshallow`"):
            changed_since(revision)

    def test_what_would_be_checked(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", "--diff-base", "main", "--show-targets"]) == 0
        assert capsys.readouterr().out == "models/net.py:Net\n"
        assert main(["check", "--changed", "models/other.py", "--show-targets"]) == 0
        assert capsys.readouterr().out == "models/other.py:Net\n"
        assert main(["check", "--changed", "models/other.py", "--show-settings"]) == 0
        assert "models/net.py" not in capsys.readouterr().out

    def test_the_option(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", "--diff-base", "HEAD"]) == 0
        assert capsys.readouterr().err == "nothing to check: the changes since HEAD concern no target\n"
        assert main(["check", "--diff-base", "nope"]) == 2
        assert "nope" in capsys.readouterr().err
        assert main(["check", "--diff-base", "HEAD", "--changed"]) == 2


@pytest.mark.slow
class TestPreCommit:
    @pytest.fixture
    def project(self, tmp_path: Path, environment: dict[str, str]) -> Path:
        hooks, project = tmp_path / "hooks", tmp_path / "project"
        for folder in (hooks, project):
            folder.mkdir()
            git(folder, "init", "-q")
        shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooks)
        git(hooks, "add", ".")
        git(hooks, "commit", "-qm", "hooks")
        rows = [{"id": "bnlint"}, {"id": "bnlint-changed"}]
        config = {"repos": [{"repo": str(hooks), "rev": git(hooks, "rev-parse", "HEAD"), "hooks": rows}]}
        write(
            project, {".pre-commit-config.yaml": yaml.safe_dump(config), "pyproject.toml": CONFIG, "README.md": "x\n"}
        )
        write(project, {"models/net.py": GOOD, "models/layers.py": "", "tool.py": "print()\n"})
        git(project, "add", ".")
        git(project, "commit", "-qm", "start")
        return project

    def hook(self, project: Path, environment: dict[str, str], name: str, **files: str) -> tuple[int, str]:
        write(
            project,
            {key.replace("__", "/").replace("_py", ".py").replace("_md", ".md"): text for key, text in files.items()},
        )
        git(project, "add", ".")
        command = [sys.executable, "-m", "pre_commit", "run", "--color=never", name]
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def test_configured_targets(self, project: Path, environment: dict[str, str]) -> None:
        code, text = self.hook(project, environment, "bnlint", models__net_py=BAD)
        assert (code, "BN401" in text, "models/net.py:7" in text) == (1, True, True)
        code, text = self.hook(project, environment, "bnlint", models__net_py=GOOD, tool_py="print(1)\n")
        assert (code, "Passed" in text) == (0, True)
        git(project, "commit", "-qm", "next")
        code, text = self.hook(project, environment, "bnlint", README_md="y\n")
        assert (code, "Skipped" in text) == (0, True)

    def test_changed_models(self, project: Path, environment: dict[str, str]) -> None:
        code, text = self.hook(project, environment, "bnlint-changed", models__net_py=BAD)
        assert (code, "BN401" in text) == (1, True)
        git(project, "commit", "-qm", "next")
        broken = environment | {"PYTHONPATH": f"{project / 'no-torch'}{os.pathsep}{ROOT}"}
        write(project, {"no-torch/torch.py": "raise RuntimeError('torch was imported')\n"})
        code, text = self.hook(project, broken, "bnlint-changed", tool_py="print(2)\n")
        assert (code, "Passed" in text) == (0, True)  # the bad model is not concerned, and torch not imported
        code, text = self.hook(project, broken, "bnlint-changed", models__layers_py="x = 1\n")
        assert (code, "Passed" in text) == (0, True)

    def test_an_environment_without_torch(self, project: Path, tmp_path: Path, environment: dict[str, str]) -> None:
        code = "import sys; sys.modules['torch'] = None; from bnlint.cli import main; sys.exit(main())"
        shim(tmp_path / "bin", "bnlint", f'exec "{sys.executable}" -c "{code}" "$@"')
        status, text = self.hook(project, environment, "bnlint", models__net_py=BAD)
        assert (status, "torch is not installed in the environment" in text, "Traceback" in text) == (1, True, False)
        assert "exit code: 2" in text


def step(name: str) -> str:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (row,) = [row for row in action["runs"]["steps"] if row.get("name") == name]
    return str(row["run"])


def bash(script: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


class TestAction:
    def test_install(self, tmp_path: Path, environment: dict[str, str]) -> None:
        log = tmp_path / "log"
        shim(tmp_path / "bin", "python", f'echo "$@" >> {log}; test "$1" != -c')
        told = {
            "INSTALL": f"echo own >> {log}",
            "INSTALL_TORCH": "python -m pip install torch",
            "ACTION_PATH": "/the/action",
        }
        assert bash(step("Install"), tmp_path, environment | told).returncode == 0
        assert log.read_text().splitlines() == [
            "own",
            "-c import torch",
            "-m pip install torch",
            "-m pip install /the/action",
        ]
        assert bash(step("Install"), tmp_path, environment | told | {"INSTALL": "false"}).returncode == 1

    @pytest.mark.slow
    def test_check(self, tmp_path: Path, environment: dict[str, str]) -> None:
        shim(tmp_path / "bin", "python", f'exec "{sys.executable}" "$@"')
        write(tmp_path, {"models/net.py": BAD, "pyproject.toml": CONFIG})
        told = {"TARGETS": "", "ARGS": "--seed 3\n--exit-zero\n", "SARIF_FILE": "out.sarif"}
        told |= {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"), "GITHUB_WORKSPACE": str(tmp_path)}
        done = bash(step("Check"), tmp_path, environment | told)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("::warning title=BN401 missing-activation,file=models/net.py,line=7,")
        assert json.loads((tmp_path / "out.sarif").read_text())["runs"][0]["results"][0]["ruleId"] == "BN401"
        assert "BN401" in (tmp_path / "summary.md").read_text()
        (tmp_path / "out.sarif").unlink()
        more = {"TARGETS": "models/net.py:Net", "ARGS": "", "SARIF_FILE": "", "GITHUB_STEP_SUMMARY": ""}
        assert bash(step("Check"), tmp_path, environment | told | more).returncode == 1
        assert not (tmp_path / "out.sarif").exists()
