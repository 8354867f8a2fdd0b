"""A forward that runs on fake tensors and raises on real ones: the model's own failure, at the user's line."""

import textwrap

import pytest
import torch
from torch import nn

import bnlint
from bnlint import Severity, audit
from bnlint.job import Job, Report

HEAD = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n"
BODY = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 2)

    def forward(self, x):
        x = self.a(x).relu()
        {line}
        return self.b(x)
"""
LINE = 13  # of what is put in


def check(line, tmp_path, **options):
    path = tmp_path / "net.py"
    path.write_text(HEAD + textwrap.dedent(BODY).lstrip().format(line=line))
    return audit.run(Job(f"{path.as_posix()}:Net", inputs=("4x8",), **options), lambda stage: None)


RAISING = (
    "x = self.b.half()(x)",
    "x = x.gather(1, torch.full((x.size(0), 8), 9))",
    "x = x + F.cross_entropy(x, torch.full((x.size(0),), 8))",
    "x = F.linear(F.one_hot(x.argmax(1), 8), self.a.weight)",
    "x = x + torch.linalg.cholesky(-x.T @ x - torch.eye(8))[0]",
    "x = x + torch.from_numpy(x.detach().numpy() / [])",
)


@pytest.mark.parametrize("line", RAISING)
def test_it_is_bn903_at_the_users_line(line, tmp_path):
    report = check(line, tmp_path)
    findings = [(f.code, f.location.line) for f in report.findings if f.severity is Severity.ERROR]
    assert (report.status, findings) == ("failed", [("BN903", LINE)])
    assert Report([report]).exit_code() == 2


def test_it_is_not_looked_for_where_no_values_are_computed(tmp_path):
    report = check(RAISING[1], tmp_path, static=True)
    assert "BN903" not in {f.code for f in report.findings}


def test_what_a_rule_explains_is_not_said_twice(tmp_path):
    report = check("x = torch.linalg.cholesky(torch.eye(8, dtype=x.dtype))[0] + x", tmp_path, dtype="bfloat16")
    errors = [(f.code, f.location.line) for f in report.findings if f.severity is Severity.ERROR]
    assert errors == [("BN804", LINE)]


def test_a_backward_pass_that_fails_is_a_note(tmp_path):
    report = check("h = x.register_hook(lambda g: 1 / 0); x = x * 1", tmp_path)
    assert (report.status, {f.code for f in report.findings}) == ("partial", {"BN904"})


def test_out_of_memory_names_the_line(tmp_path):
    report = check("x = x + (torch.ones(2**40).sum() if type(x) is torch.Tensor else 0)", tmp_path)
    (partial,) = (f for f in report.findings if f.code == "BN904")
    assert (report.status, partial.location.line) == ("partial", LINE)
    assert "--input" in partial.help


class FailsWhenWatched(nn.Module):
    """Fails only where torch functions are overridden, as they are while bnlint records."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, x):
        if type(x) is torch.Tensor and torch._C._len_torch_function_stack():
            raise ValueError
        return self.layer(x)


def test_what_only_fails_under_bnlint_is_not_the_models_fault():
    (report,) = bnlint.check(FailsWhenWatched(), torch.randn(4, 8)).targets
    assert "BN903" not in {f.code for f in report.findings}
    assert "BN904" in {f.code for f in report.findings}
