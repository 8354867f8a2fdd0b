"""What every test leaves behind of imports: nothing that another test could see."""

import os
import signal
import sys
import tempfile

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # run in the background: what the tests start would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: a core each
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="bnlint-tests-")  # not the user's


@pytest.fixture(autouse=True)
def import_state():
    """The search path as before, and no module of a model that a test wrote."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in ("net", "net_", "example"):
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def weights():
    """The same weights in whatever order the tests run."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(1234)  # not the seed that bnlint itself draws with


@pytest.fixture
def run(capsys):
    """Runs `bnlint` with these words in this process: exit code, stdout, stderr, and never a traceback."""
    from bnlint.cli import main

    def call(*args):
        code = main(args)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return call


@pytest.fixture
def jobs(request, monkeypatch):
    """The jobs the worker was given, one after the other; each is answered by the FINDING of the test's module."""
    from bnlint import parallel, worker
    from bnlint.job import TargetReport

    given = []

    def check(job, **options):
        given.append(job)
        return TargetReport(job.target, findings=[request.module.FINDING])

    monkeypatch.setattr(worker, "check", check)
    monkeypatch.setattr(parallel, "_cores", lambda: 1)
    return given
