"""BN307: parameters in memory that nobody wrote to, and memory that may stay so."""

import textwrap

import pytest

import bnlint
from bnlint import Severity


@pytest.fixture
def unwritten(tmp_path):
    """`unwritten(lines of __init__, forward)` gives {(code, path): finding} of a model with these."""

    def run(init, forward="x @ self.w", codes=("BN306", "BN307"), more=""):
        file = tmp_path / "net.py"
        body = textwrap.indent(textwrap.dedent(init).strip(), " " * 8)
        file.write_text(
            "import copy, math, torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n"
            f"        super().__init__()\n{body}\n\n    def forward(self, x):\n{textwrap.indent(more, ' ' * 8)}\n"
            f"        return {forward}\n"
        )
        report = bnlint.check(f"{file}:Net", "4x8", select=codes, static=True, isolate=False)
        assert report.exit_code() < 2, report
        return {(f.code, f.module_path): f for f in report.findings}

    return run


@pytest.mark.parametrize(
    "made", ["torch.empty(8, 3)", "torch.Tensor(8, 3)", "torch.FloatTensor(8, 3)", "torch.ones(1).new_empty(8, 3)"]
)
def test_never_written(unwritten, made):
    rows = unwritten(f"self.w = nn.Parameter({made})")
    assert rows.keys() == {("BN307", "")}
    finding = rows["BN307", ""]
    assert finding.severity is Severity.ERROR
    assert (finding.evidence["unwritten"], finding.evidence["entries"]) == (24, 24)


def test_written_in_part(unwritten):
    rows = unwritten("self.w = nn.Parameter(torch.empty(8, 3))\nself.w.data[:2].normal_()")
    assert rows["BN307", ""].evidence["unwritten"] == 18


def test_names_the_layer_that_holds_it(unwritten):
    rows = unwritten("self.layer = nn.Linear(8, 3)\nself.layer.bias = nn.Parameter(torch.empty(3))", "self.layer(x)")
    assert rows.keys() == {("BN307", "layer")}


def test_16_bits(unwritten):
    assert unwritten(
        "self.w = nn.Parameter(torch.empty(8, 3))\nself.to(torch.bfloat16)", "x.bfloat16() @ self.w"
    ).keys() == {("BN307", "")}


def test_computed_nan_is_another_matter(unwritten):
    rows = unwritten("self.w = nn.Parameter(torch.zeros(8, 3) / torch.zeros(8, 3))")
    assert len(rows) == 1  # which of the two depends on the processor


@pytest.mark.parametrize(
    ("init", "forward", "more"),
    [
        ("self.w = nn.Parameter(torch.empty(8, 3))\nnn.init.xavier_uniform_(self.w)", "x @ self.w", ""),
        ("self.w = nn.Parameter(torch.empty(8, 3))\nself.w.data.copy_(torch.randn(8, 3))", "x @ self.w", ""),
        ("self.w = nn.Parameter(torch.empty(8, 3).normal_())", "x @ self.w", ""),
        ("self.spare = nn.Parameter(torch.empty(8, 3))\nself.layer = nn.Linear(8, 3)", "self.layer(x)", ""),
        (
            "self.register_buffer('cache', torch.empty(8, 3))\nself.layer = nn.Linear(8, 3)",
            "self.layer(x) + self.cache.sum()",
            "",
        ),
        (
            "self.w = nn.Parameter(torch.empty(8, 3))",
            "x @ self.w",
            "with torch.no_grad():\n    self.w.copy_(x.mean(0)[:, None])",
        ),
        ("self.scratch = torch.empty(3)\nself.layer = nn.Linear(8, 3)", "self.layer(x) + 0 * self.scratch", ""),
        (
            "self.register_buffer('at', torch.empty(2, dtype=torch.long))\nself.layer = nn.Linear(8, 3)",
            "self.layer(x)[self.at]",
            "",
        ),
    ],
)
def test_memory_that_is_written_or_may_stay(unwritten, init, forward, more):
    assert unwritten(init, forward, ("BN306", "BN307", "BN607"), more) == {}


def test_the_users_own_choice_stays(tmp_path):
    import torch

    file = tmp_path / "net.py"
    file.write_text(
        "import torch\n\n\ndef net():\n    torch.use_deterministic_algorithms(True)\n    return torch.nn.Linear(8, 3)\n"
    )
    try:
        assert bnlint.check(f"{file}:net", "4x8", isolate=False, static=True).exit_code() == 0
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    before = torch.empty(3)
    assert bnlint.check(f"{file}:net", "4x8", isolate=True, static=True).exit_code() == 0
    assert not torch.are_deterministic_algorithms_enabled(), before
