"""What README, CONTRIBUTING and the examples promise."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import bnlint
from bnlint.registry import load_rules
from bnlint.testing import check_examples

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CLEAN = ["seed_net_repaired.py:Net", "resnet50.py:ResNet50", "tiny_gpt.py:GPT", "unet.py:UNet"]


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("target", CLEAN)
def test_good_examples_are_clean(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    report = bnlint.check(f"examples/{target}", isolate=False)
    assert [(f.code, f.module_path) for f in report.findings if f.severity.rank > 0] == []
    assert [row.status for row in report.targets] == ["ok"]


def test_repaired_seed_net_trains(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng():
        example("seed_net_repaired").main(steps=40)
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) == 3
    assert losses[-1] < 0.2 * losses[0]


def test_resnet50_is_the_published_one() -> None:
    model = example("resnet50").ResNet50()
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 1000)


def test_the_rule_of_the_contributing_guide_works(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- example rule -->\n````python\n(.*?)^````", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    (tmp_path / "large_dropout.py").write_text(found[1], encoding="utf-8")
    check_examples(load_rules([str(tmp_path)])["LAB001"], [str(tmp_path)])


@pytest.mark.parametrize("marker", ["main", "test"])
def test_readme_commands_are_one_line_and_bring_their_environment(marker: str) -> None:
    block = re.search(rf"<!-- ci: {marker} -->\n```\n(.*?)```", README, re.DOTALL)
    assert block is not None
    (command,) = block[1].splitlines()
    assert command.startswith("python3 -m venv .venv && .venv/bin/python -m pip install -c constraints.txt ")


@pytest.mark.skipif(shutil.which("awk") is None, reason="needs awk")
def test_ci_takes_its_test_command_from_the_readme() -> None:
    program = re.search(r"awk '(.*)' README.md", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert program is not None
    found = subprocess.run(["awk", program[1], "README.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    command = found.stdout.strip()
    assert ".venv/bin/python -m pytest" in command
    assert command in README


def test_readme_shows_what_the_command_prints() -> None:
    shown = README.split("<!-- seed-output -->")[1].strip().removeprefix("```").removesuffix("```").strip()
    command = [sys.executable, "-m", "bnlint", "check", "examples/seed_net.py:Net", "--no-cache", "--isolated"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    seconds = re.compile(r"[\d.]+ s\)")
    assert seconds.sub("", found.stdout.strip()) == seconds.sub("", shown)
