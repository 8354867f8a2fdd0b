"""`pytest --bnlint` in a project of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
NETS = """\
from torch import nn


class Good(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x)


class Bad(Good):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
"""


def pytest_run(folder: Path, *options: str) -> tuple[int, str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "pytest", "-p", "bnlint.pytest_plugin", "-p", "no:cacheprovider", *options]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def test_each_target_is_a_test(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    (tmp_path / "bnlint.toml").write_text('select = ["BN401"]\ntargets = ["nets.py:Good", "nets.py:Bad"]\n')
    code, text = pytest_run(tmp_path)
    assert (code, "1 passed" in text) == (0, True)
    code, text = pytest_run(tmp_path, "--bnlint", "-v")
    assert (code, "1 failed, 2 passed" in text, "warning[BN401]" in text, "Traceback" in text) == (1, True, True, False)
    assert "FAILED ::bnlint::nets.py:Bad" in text
    code, text = pytest_run(tmp_path, "--bnlint", "-k", "Good", "--collect-only", "-q")
    assert (code, [line for line in text.splitlines() if "nets.py" in line]) == (0, ["::bnlint::nets.py:Good"])


@pytest.mark.parametrize(("text", "hint"), [("seeed = 1", "did you mean `seed`"), ("seed = 1", "no targets")])
def test_mistakes(tmp_path: Path, text: str, hint: str) -> None:
    (tmp_path / "bnlint.toml").write_text(text)
    code, out = pytest_run(tmp_path, "--bnlint")
    assert (code, hint in out, "Traceback" in out) == (4, True, False)
