"""The pipeline: what becomes of a model that fails, of a rule that crashes, of a wrapped model."""

import textwrap

import pytest
import torch
from torch import nn

import bnlint
from bnlint import Severity, audit
from bnlint.job import Job, Report


def check(source, tmp_path, **options):
    path = tmp_path / "net.py"
    path.write_text("import torch\nfrom torch import nn\n\n" + textwrap.dedent(source).lstrip())
    return audit.run(Job(f"{path.as_posix()}:Net", static=True, **options), lambda stage: None)


def test_a_failure_no_rule_explains_is_bn903_at_the_users_line(tmp_path):
    report = check(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(4, 4)

            def forward(self, x):
                x = torch.relu(self.fc(x))
                raise KeyError("table")
        """,
        tmp_path,
        inputs=("2x4",),
    )
    (finding,) = report.findings
    assert (report.status, finding.code, finding.location.line) == ("failed", "BN903", 11)
    assert Report([report]).exit_code() == 2


def test_a_failure_a_rule_names_is_a_normal_result(tmp_path):
    report = check(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Linear(4, 8)
                self.b = nn.Linear(9, 4)

            def forward(self, x):
                return self.b(torch.relu(self.a(x)))
        """,
        tmp_path,
        inputs=("2x4",),
    )
    assert [(f.code, f.module_path, f.location.line) for f in report.findings] == [("BN201", "b", 8)]
    assert report.status == "ok" and Report([report]).exit_code() == 1


def test_the_probe_is_skipped_with_the_reason_when_forward_fails(tmp_path):
    path = tmp_path / "net.py"
    path.write_text("from torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
                    "        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(9, 4))\n")  # fmt: skip
    report = audit.run(Job(f"{path.as_posix()}:Net", inputs=("2x4",)), lambda stage: None)
    assert any("probe skipped" in note for note in report.notes)
    assert "BN601" in {row["code"] for row in report.skipped_rules}
    (partial,) = (f for f in report.findings if f.code == "BN904")
    assert report.status == "partial" and (partial.severity, partial.module_path) == (Severity.INFO, "2")
    assert set(partial.evidence["skipped"]) == {row["code"] for row in report.skipped_rules}


def test_a_recording_that_ends_early_is_partial_even_when_a_rule_names_the_cause(tmp_path):
    report = check(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Linear(4, 8)
                self.b = nn.Linear(9, 4)
                self.c = nn.Linear(4, 4)

            def forward(self, x):
                x = self.b(self.a(x))
                if x.shape[1] == 4:
                    raise ValueError("width")
                return self.c(x)
        """,
        tmp_path,
        inputs=("2x4",),
    )
    assert {(f.code, f.location.line) for f in report.findings if f.code in ("BN201", "BN904")} == {
        ("BN201", 8),
        ("BN904", 14),
    }
    assert report.status == "partial"


def test_a_probe_that_stops_is_partial():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x).detach()

    report = bnlint.check(Net(), "8x4")
    (partial,) = (f for f in report.findings if f.code == "BN904")
    assert report.targets[0].status == "partial" and "BN701" in partial.evidence["skipped"]
    assert bnlint.check(Net(), "8x4", static=True).targets[0].status == "ok"


def test_equal_layers_are_one_finding_with_a_list(tmp_path):
    report = check(
        """
        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.norm = nn.BatchNorm1d(width)
                self.conv = nn.Conv2d(width, width, 3, padding=1)

            def forward(self, x):
                return torch.relu(self.norm(self.conv(x)))

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.blocks = nn.ModuleList([Block(8) for _ in range(5)])

            def forward(self, x):
                for block in self.blocks:
                    x = block(x)
                return x
        """,
        tmp_path,
        inputs=("2x8x6x6",),
    )
    (finding,) = report.findings
    assert finding.code == "BN101" and finding.location.line == 7
    assert finding.modules == tuple(f"blocks.{i}.norm" for i in range(5))


@pytest.mark.parametrize("debug", [False, True])
def test_a_rule_that_crashes_hides_nothing(tmp_path, debug):
    (tmp_path / "rule.py").write_text(
        textwrap.dedent(
            """
            from bnlint.rule import Phase, Rule, Severity

            class Broken(Rule):
                \"\"\"Always crashes.\"\"\"

                code, name, severity, phase = "XY101", "broken", Severity.INFO, Phase.MODULES

                def check(self, model):
                    raise RuntimeError("oops")
                    yield
            """
        )
    )
    report = check(
        """
        class Net(nn.Sequential):
            def __init__(self):
                super().__init__(nn.Linear(4, 8), nn.Linear(8, 4))
        """,
        tmp_path,
        inputs=("2x4",),
        rule_paths=(str(tmp_path / "rule.py"),),
        debug=debug,
    )
    assert {f.code for f in report.findings} == {"BN401", "BN909"}
    assert ["rule.py" in f.note for f in report.findings if f.code == "BN909"] == [debug]
    assert Report([report]).exit_code() == 2


def test_data_dependent_code_is_recorded_on_real_tensors(tmp_path):
    report = check(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(4, 4)

            def forward(self, x):
                x = torch.relu(self.fc(x))
                return x if x.sum() > 1e9 else 2 * x
        """,
        tmp_path,
        inputs=("2x4",),
    )
    assert report.status == "ok" and report.findings == []
    assert any("real tensors" in note and note.endswith("net.py:11") for note in report.notes)


def test_the_same_bytes_on_two_runs(tmp_path):
    import json

    def once():
        text = bnlint.check("examples/seed_net.py:Net", "8x3x32x32", static=True).to_json()
        document = json.loads(text)
        for target in document["targets"]:
            del target["seconds"], target["cached"]  # about the run, not the model
        return json.dumps(document)

    assert once() == once()


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 8)
        self.b = nn.Linear(9, 4)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_a_wrapped_model_is_looked_into(wrap):
    report = bnlint.check(wrap(Small()), "2x4", static=True)
    assert [(f.code, f.module_path) for f in report.findings] == [("BN201", "b")]


def test_lazy_layers_are_sized_in_a_copy():
    model = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Linear(8, 2))
    report = bnlint.check(model, "16x5", static=True)
    assert report.ok and report.targets[0].status == "ok"
    assert isinstance(model[0], nn.LazyLinear)


def test_a_missing_device_is_told_before_anything_runs():
    report = bnlint.check(nn.Linear(4, 2), "2x4", device="tpu9")
    assert report.exit_code() == 2 and "available: cpu" in report.findings[0].message


def test_severity_order_is_by_rank():
    assert [s.rank for s in (Severity.INFO, Severity.WARNING, Severity.ERROR)] == [0, 1, 2]


def test_the_signal_is_predicted_only_for_a_rule_that_asks(tmp_path):
    (tmp_path / "asks.py").write_text(
        "from bnlint.rule import Phase, Rule, Severity\n\n\n"
        "class Asks(Rule):\n"
        '    """Reports the spread that is expected of the output."""\n\n'
        '    code, name, severity, phase = "XY001", "asks", Severity.INFO, Phase.GRAPH\n\n'
        "    def check(self, model):\n"
        "        node = model.graph.outputs[0]\n"
        '        yield self.finding(model.place(node), "asked", evidence={"spread": model.prediction.spread(node)})\n'
    )
    source = """
        class Net(nn.Sequential):
            def __init__(self):
                super().__init__(nn.Linear(64, 64))
        """
    options = {"inputs": ("8x64",), "rule_paths": (str(tmp_path / "asks.py"),)}
    report = check(source, tmp_path, select=("XY001",), **options)
    (finding,) = report.findings
    assert finding.evidence["spread"] == pytest.approx(3**-0.5, rel=0.05)
    assert "weights" in report.seconds
    assert "weights" not in check(source, tmp_path, select=("BN101",), **options).seconds


class OwnAttributes(nn.Module):
    """Looks names up in a dict of its own, so that those it lacks raise KeyError."""

    def __init__(self, inner=None):
        super().__init__()
        self.table = {"width": 8}
        self.layer = inner if inner is not None else nn.Linear(4, 8)
        self.weight = nn.Parameter(torch.randn(8))

    def __getattr__(self, name):
        known = ("layer", "weight")
        return super().__getattr__(name) if name in known else self.__dict__["table"][name]

    def forward(self, x):
        return self.layer(x)[:, : self.width] * self.weight


def test_an_attribute_that_bnlint_looks_for_may_raise_anything():
    (report,) = bnlint.check(OwnAttributes(OwnAttributes())).targets
    assert (report.status, {f.code for f in report.findings if f.code.startswith("BN9")}) == ("ok", set())


def _small():
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2))


@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.randn(3, 10))])
def test_a_model_in_torchscript_is_checked_as_far_as_it_shows(make):
    (report,) = bnlint.check(make(_small())).targets
    ((code, severity),) = {(f.code, f.severity) for f in report.findings}
    assert (report.status, code, severity) == ("partial", "BN904", Severity.INFO)
    assert report.input[0]["shape"][-1] == 10


@pytest.mark.parametrize(("init", "help"), [("super().__init__()", "`fc1`"), ("pass", "`super().__init__()`")])
def test_the_help_names_what_was_forgotten_or_misspelt(init, help, tmp_path):
    report = check(
        f"""
        class Net(nn.Module):
            def __init__(self):
                {init}
                self.fc1 = nn.Linear(4, 4)

            def forward(self, x):
                return self.fcl(x)
        """,
        tmp_path,
        inputs=("2x4",),
    )
    (finding,) = report.findings
    assert finding.code == ("BN903" if "fc1" in help else "BN902")
    assert help in finding.help
