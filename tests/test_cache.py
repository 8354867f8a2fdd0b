"""Answers from earlier runs: when they count, when they do not, and that nothing breaks on a bad one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnlint.cache import Cache
from bnlint.job import Job, TargetReport
from bnlint.rule import engine_finding

ROOT = Path(__file__).resolve().parents[1]
NET = """\
import json
from pathlib import Path
from torch import nn
from layers import Block

WIDTH = json.loads(Path("width.json").read_text())


class Net(nn.Module):
    def __init__(self, depth=1):
        super().__init__()
        self.block = Block(WIDTH)

    def forward(self, x):
        return self.block(x)


class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()
"""
LAYERS = """\
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(width, 2)

    def forward(self, x):
        return self.fc(x)
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {"net.py": NET, "layers.py": LAYERS, "width.json": "4", "unused.py": ""}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def report(*files: str, **values: Any) -> TargetReport:
    return TargetReport("net.py:Net", files=[str(Path(name).resolve()) for name in files], **values)


JOB = Job("net.py:Net", select=("BN101",))


class TestEntries:
    @pytest.fixture
    def cache(self, tmp_path: Path) -> Cache:
        return Cache(tmp_path / "cache")

    def test_a_report_comes_back_as_it_was(self, cache: Cache) -> None:
        kept = report("net.py", findings=[engine_finding("BN904", "m", evidence={"x": float("inf")})], ops=3)
        assert cache.report(JOB) is None
        cache.keep_report(JOB, kept)
        found = cache.report(JOB)
        assert found is not None
        assert (found.cached, found.findings, found.ops) == (True, kept.findings, 3)

    @pytest.mark.parametrize("name", ["net.py", "layers.py", "width.json"])
    def test_not_when_a_file_changed(self, cache: Cache, name: str) -> None:
        cache.keep_report(JOB, report("net.py", "layers.py", "width.json"))
        before = Path(name).read_text()
        Path(name).write_text("")
        assert cache.report(JOB) is None
        Path(name).unlink()
        assert cache.report(JOB) is None
        Path(name).write_text(before)
        assert cache.report(JOB) is not None

    @pytest.mark.parametrize(
        "other",
        [
            Job("net.py:Other", select=("BN101",)),
            Job("net.py:Net", select=("BN102",)),
            Job("net.py:Net", select=("BN101",), seed=1),
            Job("net.py:Net", select=("BN101",), device="cuda"),
            Job("net.py:Net", select=("BN101",), rule_options={"BN101": {"x": 1}}),
        ],
    )
    def test_not_for_another_question(self, cache: Cache, other: Job) -> None:
        cache.keep_report(JOB, report("net.py"))
        assert cache.report(other) is None

    def test_not_when_a_rule_of_the_projects_own_changed(self, cache: Cache) -> None:
        job = Job("net.py:Net", rule_paths=("layers.py",))
        cache.keep_report(job, report("net.py"))
        assert cache.report(job) is not None
        Path("layers.py").write_text("")
        assert cache.report(job) is None

    @pytest.mark.parametrize(
        "kept",
        [
            report("net.py", status="failed"),
            report("net.py", findings=[engine_finding("BN909", "a rule crashed")]),
            report(),
            report("gone.py"),
        ],
        ids=["failed", "crashed", "no files", "a file that is gone"],
    )
    def test_what_is_not_kept(self, cache: Cache, kept: TargetReport) -> None:
        kept.files = [str(Path(name).name) for name in kept.files]
        cache.keep_report(JOB, kept)
        assert cache.report(JOB) is None

    @pytest.mark.parametrize(
        "text", ["", "[", "[]", "{}", '{"version": 1, "files": {}, "answer": {"x": 1}}', "\0", "[" * 9**5]
    )
    def test_a_bad_entry_is_ignored_and_replaced(self, cache: Cache, text: str) -> None:
        cache.keep_report(JOB, report("net.py"))
        (entry,) = cache.folder.iterdir()
        entry.write_text(text)
        assert cache.report(JOB) is None
        cache.keep_report(JOB, report("net.py"))
        assert cache.report(JOB) is not None

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "net.py" / "cache")
        cache.keep_report(JOB, report("net.py"))
        assert (cache.report(JOB), cache.clean()) == (None, 0)

    def test_only_answers_are_removed_and_old_ones_by_themselves(self, cache: Cache) -> None:
        cache.keep_report(JOB, report("net.py"))
        old, other = cache.folder / f"{'0' * 64}.json", cache.folder / "other.json"
        for file in (old, other):
            file.write_text("{}")
            os.utime(file, (0, time.time() - 40 * 24 * 3600))
        cache.keep_report(JOB, report("net.py"))
        assert (old.exists(), other.exists()) == (False, True)
        assert cache.clean() == 1
        assert list(cache.folder.iterdir()) == [other]


Run = Callable[..., dict[str, Any]]


@pytest.mark.slow
class TestCommand:
    @pytest.fixture
    def command(self, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("BNLINT_")}
        env = kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "xdg")}

        def run(*args: str) -> subprocess.CompletedProcess[str]:
            words = [sys.executable, "-m", "bnlint", *args]
            return subprocess.run(words, capture_output=True, text=True, env=env, timeout=120, check=False)

        return run

    def test_what_a_run_reads_is_what_counts(self, command: Any, project: Path) -> None:
        def cached(*options: str) -> bool:
            done = command("check", "net.py:Net", "--input", "8x4", "--output-format", "json", *options)
            return bool(json.loads(done.stdout)["targets"][0]["cached"])

        assert (cached(), cached()) == (False, True)
        (project / "unused.py").write_text("x = 1\n")
        assert cached()
        (project / "layers.py").write_text(LAYERS + "\n")
        assert (cached(), cached()) == (False, True)
        (project / "width.json").write_text(" 4")
        assert (cached(), cached()) == (False, True)
        assert not cached("--no-cache")
        assert not cached("--seed", "3")
        (project / "bnlint.toml").write_text("[rules.BN102]\nmin_values = 4\n")
        assert (cached(), cached()) == (False, True)
        assert "removed 3 answers" in command("clean").stderr
        assert not cached()

    def test_the_report_is_the_same(self, command: Any, project: Path) -> None:
        (project / "layers.py").write_text(
            LAYERS.replace("nn.Linear(width, 2)", "nn.Sequential(nn.Linear(width, 2), nn.Linear(2, 2))")
        )
        first, second = (command("check", "net.py", "--output-format", "json") for _ in range(2))
        one, two = (json.loads(done.stdout) for done in (first, second))
        assert (one["targets"][0]["cached"], two["targets"][0]["cached"]) == (False, True)
        assert (one["findings"], first.returncode, first.stderr) == (two["findings"], second.returncode, second.stderr)
        assert [row["code"] for row in one["findings"]] == ["BN401"]
