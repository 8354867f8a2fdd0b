"""`--meta`: a model of any size, built without memory for its values."""

from __future__ import annotations

from dataclasses import replace

import pytest

import bnlint
from bnlint import audit
from bnlint.job import Job
from bnlint.registry import load_rules
from bnlint.rule import Phase
from bnlint.testing import examples
from bnlint.untraced import NO_VALUES

RULES = load_rules()
SHAPES_ONLY = [code for code, rule in RULES.items() if not rule.values and rule.phase in (Phase.MODULES, Phase.GRAPH)]
HEAD = "import torch\nfrom torch import nn\n"


def check(tmp_path, source, name="Net", **options):
    path = tmp_path / "net.py"
    path.write_text(HEAD + source, encoding="utf-8")
    return audit.run(Job(f"{path.as_posix()}:{name}", meta=True, **options), lambda stage: None)


def codes(report):
    return [finding.code for finding in report.findings]


def line_of(report, code):
    (finding,) = (f for f in report.findings if f.code == code)
    return (finding.location or finding.call).line


@pytest.mark.parametrize("code", SHAPES_ONLY)
def test_rules_that_read_no_values_find_their_bad_example(code, tmp_path):
    example = next(block for block in examples(RULES[code]) if block.bad)
    path = tmp_path / "net.py"
    path.write_text(example.source, encoding="utf-8")
    report = audit.run(replace(example.job(path.as_posix()), meta=True), lambda stage: None)
    assert code in codes(report) and not {"BN902", "BN909"} & set(codes(report))
    assert {row["reason"] for row in report.skipped_rules} == {NO_VALUES}


HUGE = """
class Net(nn.Module):
    def __init__(self, width=400_000):
        super().__init__()
        self.embed = nn.Embedding(128_000, width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width + 1, width)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("scale", torch.ones(width))

    def forward(self, ids):
        x = self.norm(self.embed(ids)) * self.scale + torch.arange(ids.shape[1], device=ids.device)[:, None]
        return self.down(torch.relu(self.up(x)))
"""


def test_a_model_larger_than_the_machine(tmp_path):
    report = check(tmp_path, HUGE, inputs=("int64[2,8]<128000",))
    assert report.parameters > 3e11 and report.status == "partial"
    assert codes(report) == ["BN201", "BN904"] and line_of(report, "BN201") == 8
    skipped = {row["code"] for row in report.skipped_rules}
    assert {"BN301", "BN306", "BN601", "BN701"} <= skipped and not skipped & set(SHAPES_ONLY)


READS = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rates = [float(r) for r in torch.linspace(0, 0.5, 4)]
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x)

def given_a_device():
    rates = [r.item() for r in torch.linspace(0, 0.5, 4, device="cpu")]
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(rates[1]), nn.Linear(4, 2))

model = nn.Linear(4, 2)
"""


def test_a_constructor_that_reads_values_cannot_be_built(tmp_path):
    report = check(tmp_path, READS, inputs=("2x4",))
    assert codes(report) == ["BN902"] and line_of(report, "BN902") == 7 and "device='cpu'" in report.findings[0].help
    assert check(tmp_path, READS, "given_a_device", inputs=("2x4",)).ops == 3


def test_a_model_that_exists_already_cannot_be_built(tmp_path):
    report = check(tmp_path, READS, "model", inputs=("2x4",))
    assert codes(report) == ["BN902"] and "leave --meta out" in report.findings[0].help


BRANCHES = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 4), nn.Linear(4, 5)]
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.layers[0](x)
        if x.sum() > 0:
            x = self.fc(x)
        return x

class Listed(Net):
    def forward(self, x):
        return self.fc(self.layers[1](x))

def bnlint_inputs():
    return torch.ones(3, 4)
"""


def test_a_branch_on_data_ends_the_recording_and_is_named(tmp_path):
    report = check(tmp_path, BRANCHES)
    assert report.status == "partial" and report.ops == 3 and line_of(report, "BN904") == 12
    assert "BN501" in codes(report) and "BN903" not in codes(report)


def test_layers_in_a_plain_list_and_the_models_own_inputs(tmp_path):
    report = check(tmp_path, BRANCHES, "Listed")
    assert report.input[0]["shape"] == [3, 4]
    assert {"BN201", "BN501"} <= set(codes(report)) and "BN903" not in codes(report)


def test_a_rule_that_does_not_say_that_it_reads_values_does_not_run(tmp_path):
    rule = tmp_path / "lab001.py"
    rule.write_text(
        "from bnlint.rule import Phase, Rule, Severity\n"
        "class Reads(Rule):\n"
        '    """Reads."""\n'
        '    code, name, severity, phase = "LAB001", "reads", Severity.INFO, Phase.MODULES\n'
        "    def check(self, model):\n"
        "        if model.module.weight.sum() > 0:\n"
        "            yield\n"
    )
    report = check(tmp_path, "Net = lambda: nn.Linear(4, 2)", inputs=("2x4",), rule_paths=(str(tmp_path),))
    assert "BN909" not in codes(report)
    assert {"code": "LAB001", "reason": NO_VALUES} in report.skipped_rules


def test_a_file_without_a_name_is_looked_through_without_memory(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(HEAD + HUGE, encoding="utf-8")
    report = bnlint.check(path, "int64[2,8]<128000", meta=True, memory_limit="2G", cache=False)
    assert [row.parameters > 3e11 for row in report.targets] == [True]


def test_a_model_on_the_meta_device_passed_as_an_object():
    import torch

    with torch.device("meta"):
        model = torch.nn.Linear(4, 2)
    report = bnlint.check(model, "2x4").targets[0]
    assert report.status == "partial" and [f.code for f in report.findings] == ["BN904"]
    assert model.weight.is_meta


EVALUATES = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = nn.functional.dropout(self.fc(x), 0.5)
        return x if self.training or float(x.sum()) > 0 else -x
"""


def test_a_rule_that_compares_with_a_run_that_cannot_be_made_is_named(tmp_path):
    report = check(tmp_path, EVALUATES, inputs=("2x4",))
    (finding,) = (f for f in report.findings if f.code == "BN904")
    assert "BN406" in finding.evidence["skipped"] and "eval" in finding.note
