"""Whatever the user's code does, the worker comes back with a report: right code, right line, nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bnlint import worker
from bnlint.ending import last_line
from bnlint.job import Job, TargetReport
from bnlint.rule import engine_finding
from bnlint.worker import TargetFailed

ROOT = Path(__file__).parents[1]
HOSTILE = Path("tests/hostile")
LIMIT = 4 * 2**30
posix = pytest.mark.skipif(os.name != "posix", reason="forks and signals")

FAILS = {  # case: (code, the file whose line is marked `# here: case`, words of the message)
    "hang_import.py:Net": ("BN905", "import", "importing"),
    "models.py:HangInit": ("BN905", "HangInit", "building"),
    "models.py:HangForward": ("BN905", "HangForward", ""),
    "models.py:LeavesOrphanAndHangs": ("BN905", "LeavesOrphanAndHangs", "building"),
    "exit_import.py:Net": ("BN901", "import", "exits"),
    "models.py:ExitInit": ("BN902", "ExitInit", "exits"),
    "models.py:ExitForward": ("BN903", "ExitForward", ""),
    "models.py:InterruptForward": ("BN903", "InterruptForward", "KeyboardInterrupt"),
    "models.py:InterruptInit": ("BN902", "InterruptInit", "KeyboardInterrupt"),
    "models.py:OsExit": ("BN906", None, "exit code 3"),
    "crash_import.py:Net": ("BN906", "import", "SIGSEGV"),
    "models.py:Segfault": ("BN906", "Segfault", "SIGSEGV"),
    "models.py:Killed": ("BN906", None, "SIGKILL"),
    "models.py:Recursion": ("BN903", None, "RecursionError"),
    "models.py:ClosesEverything": ("BN906", None, "exit code"),
    "models.py:PythonMemory": ("BN906", "PythonMemory", "4 GiB"),
    "models.py:TorchMemory": ("BN906", "TorchMemory", "4 GiB"),
    "models.py:MemoryInForward": ("BN906", "MemoryInForward", "ran out of memory"),
}
WORKS = ["Healthy", "Forks", "Noisy", "LeavesOrphan"]
HANGS = [case for case, row in FAILS.items() if row[0] == "BN905"]


def run(target, **options):
    return worker.check(Job(target, inputs=("2x4",)), **{"timeout": 60, "memory_limit": LIMIT, **options})


@pytest.fixture(scope="module")
def orphans(tmp_path_factory):
    """The folder into which processes that are meant to be orphans write their ids."""
    return tmp_path_factory.mktemp("orphans")


@pytest.fixture(scope="module")
def reports(orphans):
    """Every case in a process of its own, a few at a time: most of their time is the import of torch."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(5) as pool:
        patch.chdir(ROOT)
        patch.setenv("BNLINT_TEST_ORPHANS", str(orphans))
        started = {
            case: pool.submit(run, f"{HOSTILE}/{case}", timeout=20 if case in HANGS else 90)
            for case in [
                *HANGS,
                *(case for case in FAILS if case not in HANGS),
                *(f"models.py:{name}" for name in WORKS),
            ]
        }
        yield started
        for future in started.values():
            future.cancel()


def marked(case, label):
    path = HOSTILE / case.partition(":")[0]
    lines = (ROOT / path).read_text().splitlines()
    return path.as_posix(), next(n for n, line in enumerate(lines, 1) if line.endswith(f"# here: {label}"))


@posix
@pytest.mark.parametrize("case", FAILS)
def test_the_finding_names_the_cause_and_the_line(reports, case):
    code, label, words = FAILS[case]
    if words.endswith(("GiB", "memory")) and sys.platform != "linux":
        pytest.skip("only Linux limits memory")
    report = reports[case].result()
    assert report.status == "failed"
    assert [f.code for f in report.findings] == [code]
    found = report.findings[0]
    assert words in found.message
    assert "\n" not in found.message
    assert found.target == report.target == f"{HOSTILE}/{case}"
    if label is not None:
        assert (found.location.file, found.location.line) == marked(case, label)


@posix
@pytest.mark.parametrize("name", WORKS)
def test_odd_but_harmless_models_are_checked(reports, name):
    report = reports[f"models.py:{name}"].result()
    assert report.status == "ok"
    assert {f.code for f in report.findings}.isdisjoint({row[0] for row in FAILS.values()})
    assert report.parameters == 20


@posix
def test_a_full_c_stack_is_a_finding():
    report = run(f"{ROOT / HOSTILE}/models.py:DeepStack")
    assert report.status == "failed"
    assert report.findings[0].code in ("BN902", "BN906")  # later Pythons turn it into a RecursionError


def test_stages_and_output():
    stages = []
    report = run(f"{ROOT / HOSTILE}/models.py:OsExit", on_stage=lambda target, stage: stages.append((target, stage)))
    assert stages == [(report.target, "import"), (report.target, "construct")]
    assert "about to leave" in report.findings[0].note


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "\nState:\tZ" in status.read_text())


def gone(pid, seconds=5.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and is_running(pid):
        time.sleep(0.05)
    return not is_running(pid)


@posix
@pytest.mark.parametrize("name", ["LeavesOrphan", "LeavesOrphanAndHangs"])
def test_nothing_that_the_model_started_outlives_the_check(reports, orphans, name):
    reports[f"models.py:{name}"].result()
    assert gone(int((orphans / name).read_text()))


@posix
def test_interrupting_the_command_line_leaves_no_process(tmp_path):
    pid_file = tmp_path / "pid"
    net = tmp_path / "net.py"
    net.write_text(f"import os, time\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
    code = f"from bnlint import worker; from bnlint.job import Job; worker.check(Job({f'{net}:Net'!r}))"
    for sent, status in ((signal.SIGINT, 1), (signal.SIGTERM, -signal.SIGTERM)):
        if sent == signal.SIGTERM and sys.platform != "linux":
            continue
        pid_file.unlink(missing_ok=True)
        parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        parent.send_signal(sent)
        error = parent.communicate(timeout=20)[1]
        assert gone(int(pid_file.read_text())), error
        assert parent.returncode in (status, -sent)


def test_the_parent_half_imports_no_torch(tmp_path):
    (tmp_path / "net.py").write_text("import time\nraise ValueError\n")
    code = (
        "import sys; from bnlint import worker; from bnlint.job import Job; "
        "report = worker.check(Job('net.py:Net')); print(report.findings[0].code, 'torch' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["BN901", "False"], done.stderr


@posix
def test_a_read_only_folder_whose_files_are_called_like_pythons_own(tmp_path, monkeypatch):
    for name in ("json", "signal", "torch", "pathlib", "bnlint"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module')\n")
    (tmp_path / "blocks.py").write_text("from torch import nn\nBlock = nn.ReLU\n")
    (tmp_path / "net.py").write_text("from blocks import Block\n")
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert worker.check(Job("net.py:Nothing")).findings[0].code == "BN902"
    finally:
        tmp_path.chmod(0o755)


def test_import_and_syntax_errors_unicode_and_crlf(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "# réseau\nfrom torch import nn\nclass Réseau(nn.Module):\n    é = 1; raise KeyError('ü')\n"
    (tmp_path / "réseau.py").write_bytes(text.replace("\n", "\r\n").encode())
    found = worker.check(Job("réseau.py:Réseau")).findings[0]
    assert (found.code, found.location.file, found.location.line, found.location.column) == (
        "BN901",
        "réseau.py",
        4,
        12,
    )
    (tmp_path / "bad.py").write_text("é = 'ü' +\n")
    found = worker.check(Job("bad.py:Net")).findings[0]
    assert (found.code, found.location.file, found.location.line) == ("BN901", "bad.py", 1)


def test_the_line_of_a_hang_is_the_users_innermost(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = ascii(str(tmp_path / "réseau.py"))[1:-1]
    (tmp_path / "réseau.py").touch()
    frames = (
        f'  File "{os.__file__}", line 1 in sleep\n  File "{name}", line 7 in forward\n  File "{name}", line 3 in f\n'
    )
    other = 'Thread 0x1 (most recent call first):\n  File "/home/me/other.py", line 9 in run\n\n'
    main = f'Thread 0x2 (most recent call first):\n{frames}  File "{worker.__file__}", line 5 in main\n'
    stacks = tmp_path / "stacks"
    for text in (f"Timeout (0:00:03)!\n{other}{main}", f"Timeout (0:00:03)!\n{main}{other}"):
        stacks.write_text(text)
        location = last_line(stacks).location
        assert (location.file, location.line) == ("réseau.py", 7)
    stacks.write_text("")
    assert last_line(stacks).location is None


def test_discover(tmp_path, monkeypatch):
    found = worker.discover(ROOT / "examples/seed_net.py")
    assert found == ([f"{(ROOT / 'examples/seed_net.py').as_posix()}:Net"], [("BNLayer", "is a part of Net")])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("import os\nos._exit(4)\n")
    with pytest.raises(TargetFailed) as failure:
        worker.discover(Path("net.py"))
    report = failure.value.report
    assert (report.target, report.status, report.findings[0].code) == ("net.py", "failed", "BN906")


# -- in this process, for a debugger -----------------------------------------------------------------------------------


def in_process(monkeypatch, run):
    from bnlint import audit

    monkeypatch.setattr(audit, "run", run)
    return worker.check(Job("net.py:Net"), isolate=False)


@pytest.mark.parametrize(
    ("version", "old"), [("2.3.1+cu121", True), ("1.13.0", True), ("2.4.0a0+nv24.07", False), ("2.13.0", False)]
)
def test_an_old_torch_is_told_apart(monkeypatch, version, old):
    import torch

    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
    report = in_process(monkeypatch, lambda job, emit: TargetReport(job.target))
    assert [finding.code for finding in report.findings] == ["BN901"] * old
    assert report.status == ("failed" if old else "ok")


@pytest.mark.parametrize(
    ("stage", "code"), [("import", "BN901"), ("construct", "BN902"), ("trace", "BN903"), ("probe", "BN903")]
)
def test_without_isolation_exceptions_are_findings(tmp_path, monkeypatch, stage, code):
    users = {}
    path = tmp_path / "net.py"
    source = "import sys\ndef leave():\n    sys.exit(1)\n"
    path.write_text(source)
    exec(compile(source, str(path), "exec"), users)

    def audited(job, emit):
        emit(stage)
        users["leave"]()

    report = in_process(monkeypatch, audited)
    assert report.status == "failed"
    assert report.findings[0].code == code
    assert report.findings[0].location.line == 3


def test_without_isolation_an_interrupt_is_an_interrupt(monkeypatch):
    def audited(job, emit):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_process(monkeypatch, audited)


def test_a_fault_of_bnlint_is_called_one(monkeypatch):
    def audited(job, emit):
        engine_finding("BN000", "no such code")

    found = in_process(monkeypatch, audited).findings[0]
    assert found.code == "BN906"
    assert "bug in bnlint" in found.help
    assert "rule.py" in found.note


def test_in_process_discover(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    targets, _ = worker.discover(ROOT / "examples/seed_net.py", isolate=False)
    assert targets == [f"{(ROOT / 'examples/seed_net.py').as_posix()}:Net"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
def test_a_limit_below_what_torch_takes(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\nnet = nn.Linear(4, 2)\n")
    (finding,) = worker.check(Job(f"{tmp_path}/net.py:net"), timeout=60, memory_limit=1).findings
    assert finding.code == "BN906" and "leaves no room" in finding.message and not finding.note
