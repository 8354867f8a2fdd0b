"""The command as a user starts it: real processes, real models, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bnlint.report import FORMATS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
RULES = '''\
from bnlint.rule import Phase, Rule, Severity


class Own(Rule):
    """Reports every module called `bad`, `fishy` or `odd`."""

    code = "XX101"
    name = "own-rule"
    severity = Severity.WARNING
    phase = Phase.MODULES

    def check(self, model):
        levels = {"bad": Severity.ERROR, "fishy": Severity.WARNING, "odd": Severity.INFO}
        for name, _ in model.module.named_children():
            if name in levels:
                yield self.finding(model.place(path=name), f"`{name}` is {name}", severity=levels[name])


class Crashing(Rule):
    """Raises on a module called `trap`."""

    code = "XX102"
    name = "crashing-rule"
    severity = Severity.WARNING
    phase = Phase.MODULES

    def check(self, model):
        if hasattr(model.module, "trap"):
            raise KeyError("trap")
        yield from ()


class Running(Rule):
    """Finds nothing, but needs the forward pass."""

    code = "XX103"
    name = "running-rule"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model):
        yield from ()
'''
MODEL = """\
from torch import nn


class Net(nn.Module):
    def __init__(self{arguments}):
        super().__init__()
        self.{name} = nn.Linear(4, 2)

    def forward(self, x):
        {forward}
        return self.{name}(x)
"""
SOURCES = {
    "clean": MODEL.format(arguments="", name="fine", forward=""),
    "info": MODEL.format(arguments="", name="odd", forward=""),
    "warning": MODEL.format(arguments="", name="fishy", forward=""),
    "error": MODEL.format(arguments="", name="bad", forward=""),
    "arguments": MODEL.format(arguments=", width", name="fine", forward=""),
    "forward": MODEL.format(arguments="", name="fine", forward="raise LookupError('no')"),
    "crash": MODEL.format(arguments="", name="trap", forward=""),
    "syntax": "class Net(:\n",
    "exit": "import os\nos._exit(0)\n",
}
EXPECTED = {
    "clean": (0, None),
    "info": (0, "XX101"),
    "warning": (1, "XX101"),
    "error": (1, "XX101"),
    "arguments": (2, "BN902"),
    "forward": (2, "BN903"),
    "crash": (2, "BN909"),
    "syntax": (2, "BN901"),
    "exit": (2, "BN906"),
    "missing": (2, "BN901"),
}
OPTIONS = ("--rule-path", "rules.py", "--select", "XX", "--input", "3x4", "--static")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "rules.py").write_text(RULES)
    for name, source in SOURCES.items():
        (folder / f"{name}.py").write_text(source)
    return folder


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BNLINT_")}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}


def bnlint(project: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bnlint", *args]
    done = subprocess.run(
        command, cwd=project, env=environment(), capture_output=True, encoding="utf-8", timeout=120, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize("name", EXPECTED)
def test_exit_codes(project: Path, name: str) -> None:
    done = bnlint(project, "check", f"{name}.py:Net", *OPTIONS, "--output-format", "json")
    code, finding = EXPECTED[name]
    found = json.loads(done.stdout)["findings"]
    assert done.returncode == code
    assert [row["code"] for row in found] == ([finding] if finding else [])
    assert done.stderr == ""


def test_the_exit_code_is_the_same_in_every_format(project: Path) -> None:
    """One process for all, so that torch is imported once."""
    calls, expected = [], []
    for name, (code, _) in EXPECTED.items():
        if name == "exit":  # it would end that process
            continue
        for output_format in FORMATS:
            call = ["check", f"{name}.py:Net", *OPTIONS, "--no-isolate", "--output-format", output_format]
            calls += [call, [*call, "--exit-zero"]]
            expected += [code, 0 if code == 1 else code]
    program = (
        "import io, json, sys\n"
        "from bnlint.cli import main\n"
        "codes, real = [], sys.stdout\n"
        "for call in json.load(sys.stdin):\n"
        "    sys.stdout = io.TextIOWrapper(io.BytesIO(), 'utf-8')\n"
        "    codes.append(main(call))\n"
        "json.dump(codes, real)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project,
        env=environment(),
        input=json.dumps(calls),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


def test_findings_are_at_their_lines(project: Path) -> None:
    done = bnlint(project, "check", "warning.py:Net", *OPTIONS, "--output-format", "concise")
    assert done.stdout.startswith("warning.py:7:")
    assert done.stdout.rstrip().endswith("[fishy]")


def test_two_runs_print_the_same(project: Path) -> None:
    documents = []
    for _ in range(2):
        done = bnlint(project, "check", "warning.py:Net", *OPTIONS, "--output-format", "json")
        document = json.loads(done.stdout)
        for target in document["targets"]:
            target.pop("seconds")
        documents.append(json.dumps(document))
    assert documents[0] == documents[1]


def test_one_failure_hides_no_other_target(project: Path) -> None:
    done = bnlint(project, "check", "syntax.py:Net", "warning.py:Net", *OPTIONS, "--output-format", "concise")
    assert done.returncode == 2
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["BN901", "XX101"]


def test_a_folder(project: Path) -> None:
    (project / "folder").mkdir(exist_ok=True)
    (project / "folder" / "net.py").write_text(SOURCES["warning"])
    (project / "folder" / "other.py").write_text("x = 1\n")
    done = bnlint(project, "check", "folder", *OPTIONS, "--output-format", "json")
    assert [row["target"] for row in json.loads(done.stdout)["targets"]] == ["folder/net.py:Net"]


def test_a_folder_without_models_is_one_quiet_line(project: Path) -> None:
    (project / "empty").mkdir(exist_ok=True)
    (project / "empty" / "other.py").write_text("x = 1\n")
    done = bnlint(project, "check", "empty", *OPTIONS)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (0, "", 1)


def test_a_class_that_cannot_be_built_is_named(project: Path) -> None:
    done = bnlint(project, "check", "arguments.py", *OPTIONS)
    assert "arguments.py:Net" in done.stderr
    assert "width" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_interrupt_is_130_and_leaves_no_process(project: Path) -> None:
    (project / "sleepy.py").write_text("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "bnlint", "check", "sleepy.py:Net", *OPTIONS],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    waited = time.monotonic() + 60
    while not ((project / "pid").exists() and (project / "pid").read_text()) and time.monotonic() < waited:
        time.sleep(0.05)
    worker = int((project / "pid").read_text())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.strip()) == (130, "", "interrupted")
    for _ in range(100):
        if not _alive(worker):
            break
        time.sleep(0.05)
    assert not _alive(worker)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
@pytest.mark.parametrize(
    ("redirect", "code"), [("rules >&-", 2), ("rules >/dev/full", 2), ("rules >/dev/null 2>&-", 0), ("nosuch 2>&-", 2)]
)
def test_a_stream_that_cannot_be_written_to(redirect, code, tmp_path):
    command = f"'{sys.executable}' -m bnlint {redirect}"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == ("2>" not in redirect)
    assert "itself" not in done.stderr
