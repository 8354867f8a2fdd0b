"""Several targets at once: the same report whatever the number of processes, and an interrupt ends them all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bnlint import parallel
from bnlint.config import Settings

ROOT = Path(__file__).resolve().parents[1]
NET = """
import time
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        time.sleep({delay})
        super().__init__(nn.Linear(4, {width}), nn.ReLU(), nn.Linear(8, 4))
"""


def bnlint(*arguments, cwd, **options):
    command = [sys.executable, "-m", "bnlint", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture
def models(tmp_path):
    """Four files: the first takes longest, the third cannot be imported, the fourth holds two models."""
    for index, delay in enumerate((2, 0, 0, 1)):
        text = NET.format(delay=delay, width=8 + index)
        if index == 2:
            text = "raise ValueError('no')\n"
        if index == 3:
            text += text.replace("Net", "Second")
        (tmp_path / f"net{index}.py").write_text(text)
    return tmp_path


def test_the_output_does_not_depend_on_the_number_of_processes(models):
    files = ["net1.py:Net", "net0.py", "net2.py", "net3.py", "net1.py:Net"]
    options = ["--static", "--isolated", "--no-cache", "--input", "2x4", "--output-format"]
    for output_format in ("concise", "json"):
        runs = [bnlint("check", *files, *options, output_format, "--jobs", jobs, cwd=models) for jobs in "14"]
        texts = []
        for run in runs:
            assert run.returncode == 2, run.stderr
            if output_format == "json":
                document = json.loads(run.stdout)
                names = [target["target"] for target in document["targets"]]
                assert names == ["net1.py:Net", "net0.py:Net", "net2.py", "net3.py:Net", "net3.py:Second"]
                for target in document["targets"]:
                    target.pop("seconds")
                texts.append(json.dumps(document))
            else:
                texts.append(run.stdout)
        assert texts[0] == texts[1]


def test_targets_are_checked_at_the_same_time(tmp_path):
    """Each model waits, as it is built, for the other one to be built."""
    for mine, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{mine}.py").write_text(
            f"""
import pathlib, time
from torch import nn

class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        pathlib.Path("{mine}.here").touch()
        while not pathlib.Path("{other}.here").exists():
            time.sleep(0.05)
"""
        )
    options = ["--static", "--isolated", "--no-cache", "--input", "2x4", "--timeout", "60", "-j", "2"]
    assert bnlint("check", "a.py:Net", "b.py:Net", *options, cwd=tmp_path).returncode in (0, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="looks for processes the POSIX way")
def test_an_interrupt_ends_every_worker(tmp_path):
    text = "import os, pathlib, time\npathlib.Path(f'{os.getpid()}.pid').touch()\ntime.sleep(600)\n"
    for name in "abcd":
        (tmp_path / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "bnlint", "check", *(f"{n}.py:Net" for n in "abcd"), "--isolated", "-j", "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("*.pid"))) < 3 and time.monotonic() < end:
        time.sleep(0.1)
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(workers) == 3
    run.send_signal(signal.SIGINT)
    _, error = run.communicate(timeout=30)
    assert run.returncode == 130 and error.strip().splitlines()[-1] == "interrupted"
    assert len(list(tmp_path.glob("*.pid"))) == 3
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_results_come_in_the_order_of_the_rows():
    started = threading.Barrier(3, timeout=30)

    def work(row):
        started.wait()
        time.sleep(row / 50)
        return row * 10

    assert parallel.in_order(work, [3, 2, 1], 3) == [30, 20, 10]
    assert parallel.in_order(lambda row: row + 1, [], 3) == []


def test_an_exception_in_one_ends_all():
    def work(row):
        if row == 1:
            raise ValueError("one")
        return row

    with pytest.raises(ValueError, match="one"):
        parallel.in_order(work, list(range(20)), 2)


def test_how_many_at_once(monkeypatch):
    monkeypatch.setattr(parallel, "_cores", lambda: 8)
    monkeypatch.setattr(parallel, "_free_memory", lambda: 6 * 2**30)
    plain = Settings()
    assert parallel.jobs_for([plain] * 20) == 6
    assert parallel.jobs_for([plain] * 3) == 3
    assert parallel.jobs_for([Settings(memory_limit=3 * 2**30)] * 20) == 2
    assert parallel.jobs_for([Settings(memory_limit=2**40)] * 20) == 1
    assert parallel.jobs_for([plain] * 20, 12) == 12
    assert parallel.jobs_for([Settings(device="cuda")] * 20) == 1
    assert parallel.jobs_for([Settings(device="cuda")] * 20, 2) == 2
    assert parallel.jobs_for([plain, Settings(isolate=False)], 4) == 1
    assert parallel.jobs_for([]) == 1
    monkeypatch.setattr(parallel, "_free_memory", lambda: None)
    assert parallel.jobs_for([plain] * 20) == 8
