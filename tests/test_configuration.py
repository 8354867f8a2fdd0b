"""Configuration files, `--config`, variables and options: what of them reaches the check. The worker is replaced."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from bnlint import worker
from bnlint.config.globs import module_pattern, path_pattern
from bnlint.config.schema import schema
from bnlint.docgen import generated
from bnlint.job import Job, TargetReport
from bnlint.registry import load_rules
from bnlint.rule import Finding, Location, Severity
from tests.commands import Run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
RULE = '''\
from bnlint.rule import Phase, Rule, Severity, State


class Own(Rule):
    """Finds what the test wants found."""

    code = "XX101"
    name = "own-rule"
    severity = Severity.WARNING
    phase = Phase.MODULES

    limit: float = 2.5
    depth: int = 3
    strict: bool = False
    style: str = "plain"

    def check(self, model):
        return iter(())


class Other(Own):
    """Finds nothing."""

    code = "XX102"
    name = "other-rule"


class New(Own):
    """Is in preview."""

    code = "XX103"
    name = "new-rule"
    state = State.PREVIEW
'''
pytestmark = pytest.mark.usefixtures("jobs")
FINDING = Finding(
    code="XX101",
    name="own-rule",
    severity=Severity.WARNING,
    message="something is off",
    module_path="backbone.conv1",
    modules=("backbone.conv1",),
    location=Location("models/net.py", 2, 1),
)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("BNLINT_")]:
        monkeypatch.delenv(name)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "net.py").write_text("import torch\nfc = 1\n")
    (tmp_path / "own.py").write_text(RULE)
    return tmp_path


def configure(text: str, file: str = "bnlint.toml") -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text('rule-paths = ["own.py"]\n' + text if Path(file).name == "bnlint.toml" else text)


class TestFiles:
    def test_pyproject(self, run: Run, jobs: list[Job]) -> None:
        configure('[tool.bnlint]\nseed = 4\n[[tool.bnlint.targets]]\ntarget = "models/net.py:Net"\n', "pyproject.toml")
        assert run("check")[0] == 0
        assert [(job.target, job.seed) for job in jobs] == [("models/net.py:Net", 4)]

    def test_bnlint_toml_comes_first_and_a_project_without_the_table_does_not_count(
        self, run: Run, jobs: list[Job]
    ) -> None:
        configure("seed = 1\n")
        configure("[tool.bnlint]\nseed = 2\n", "pyproject.toml")
        configure("[project]\nname = 'x'\n", "models/pyproject.toml")
        run("check", "models/net.py:Net")
        assert jobs[0].seed == 1

    def test_the_nearest_wins_and_nothing_is_merged(self, run: Run, jobs: list[Job]) -> None:
        configure("seed = 1\ndevice = 'cuda'\n")
        configure("[tool.bnlint]\nseed = 2\n", "models/pyproject.toml")
        run("check", "models/net.py:Net")
        run("check", "models/net.py:Net", "shop:Net")
        run("check", "shop:Net")
        assert [(job.seed, job.device) for job in jobs] == [(2, "cpu"), (2, "cpu"), (2, "cpu"), (1, "cuda")]

    def test_several_targets_share_the_configuration_above_all(self, run: Run, jobs: list[Job]) -> None:
        configure("seed = 1\n")
        configure("[tool.bnlint]\nseed = 2\n", "models/pyproject.toml")
        configure("", "other/net.py")
        run("check", "models/net.py:Net", "other/net.py:Net")
        assert [job.seed for job in jobs] == [1, 1]

    def test_a_configuration_that_is_not_read_is_named(self, run: Run) -> None:
        configure("[tool.bnlint]\nseed = 2\n", "models/pyproject.toml")
        configure("", "other/net.py")
        words = ("check", "models/net.py:Net", "other/net.py:Net")
        assert "models/pyproject.toml" in run(*words)[2]
        assert [run(*words, *more)[2] for more in (["-q"], ["--isolated"])] == ["", ""]
        assert "models" not in run(*words, "--config", "models/pyproject.toml")[2]

    def test_another_file_or_none(self, run: Run, jobs: list[Job]) -> None:
        configure("seed = 1\n")
        configure("seed = 2\n", "ci/strict.toml")
        run("check", "models/net.py:Net", "--config", "ci/strict.toml")
        run("check", "models/net.py:Net", "--isolated")
        run("check", "models/net.py:Net", "--isolated", "--config", "seed=5")
        assert [job.seed for job in jobs] == [2, 0, 5]

    def test_paths_start_at_the_file(self, run: Run, jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
        configure(
            '[[targets]]\ntarget = "models/net.py:Net"\ninput-fn = "batches.py:make"\n[[targets]]\ntarget = "shop:Net"\n'
        )
        root = Path.cwd()
        monkeypatch.chdir("models")
        assert run("check")[0] == 1
        assert [(job.target, job.input_fn) for job in jobs] == [
            ("net.py:Net", "../batches.py:make"),
            ("shop:Net", None),
        ]
        assert (jobs[0].rule_paths, jobs[1].root) == (("../own.py",), str(root))


class TestTargets:
    def test_arguments_inputs_and_settings(self, run: Run, jobs: list[Job]) -> None:
        configure(
            """
            loss = "mse"
            [[targets]]
            target = "models/net.py:Net"
            args = [3]
            kwargs = { width = 1.5, names = ["a", 'b"'], deep = { on = true } }
            inputs = [
                "8x3x32x32",
                { shape = [8, 4], dtype = "bool", name = "mask" },
                { shape = [2, 16], high = 1000, name = "ids" },
                { shape = [] },
                { shape = [4, 5] },
                { name = "flag", value = true },
                { name = "image", shape = [8, 3] },
                { name = "weight", shape = [8] },
            ]
            loss = "cross_entropy"
            device = "cuda:1"
            batch-size = 4
            [[targets]]
            target = "shop.models:build"
            input-fn = "make"
            """
        )
        run("check")
        first, second = jobs
        assert first.target == "models/net.py:Net(3, width=1.5, names=['a', 'b\"'], deep={'on': True})"
        assert first.inputs == (
            "8x3x32x32",
            "mask=bool[8,4]",
            "ids=int64[2,16]<1000",
            "float32[]",
            "4x5",
            "flag=True",
            "image=8x3",
            "weight=float32[8]",
        )
        assert (first.loss, first.device, first.batch_size) == ("cross_entropy", "cuda:1", 4)
        assert (second.target, second.loss, second.device, second.input_fn) == (
            "shop.models:build",
            "mse_loss",
            "cpu",
            "make",
        )

    def test_a_target_named_by_hand_uses_its_entry(self, run: Run, jobs: list[Job]) -> None:
        configure('[[targets]]\ntarget = "models/net.py:Net"\nkwargs = { width = 2 }\ninputs = "8x3"\nseed = 7\n')
        run("check", "models/../models/net.py:Net")
        run("check", "models/net.py:Net(width=5)", "--seed", "9")
        run("check", "models/net.py:Other")
        run("check", "models/net.py:Net", "--input", "2x2")
        assert [(job.target, job.inputs, job.seed) for job in jobs] == [
            ("models/net.py:Net(width=2)", ("8x3",), 7),
            ("models/net.py:Net(width=5)", ("8x3",), 9),
            ("models/net.py:Other", (), 0),
            ("models/net.py:Net(width=2)", ("2x2",), 7),
        ]

    def test_a_file_brings_its_configured_targets(
        self, run: Run, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        configure(
            '[[targets]]\ntarget = "models/net.py:Wide"\nkwargs = { width = 2 }\n[[targets]]\ntarget = "models/net.py:Net"\nseed = 3\n'
        )
        found = (["models/net.py:Net", "models/net.py:Small"], [("Wide", "it needs `width`"), ("Part", "no")])
        monkeypatch.setattr(worker, "discover", lambda path, **options: found)
        _, _, err = run("check", "models/net.py")
        assert [(job.target, job.seed) for job in jobs] == [
            ("models/net.py:Net", 3),
            ("models/net.py:Small", 0),
            ("models/net.py:Wide(width=2)", 0),
        ]
        assert err == "skipped models/net.py:Part: no\n"

    def test_a_folder_can_be_configured(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        configure('targets = ["models"]\nselect = ["XX101"]\n')
        Path("models/net.py").write_text("class Net(nn.Module): ...\n")
        assert run("check", "--show-targets")[1] == "models/net.py\n"


class TestPrecedence:
    def test_option_variable_target_file(self, run: Run, jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
        configure('seed = 1\nmode = "eval"\n[[targets]]\ntarget = "models/net.py:Net"\nseed = 2\n')
        run("check")
        monkeypatch.setenv("BNLINT_SEED", "3")
        run("check")
        run("check", "--seed", "4")
        run("check", "--mode", "train")
        assert [(job.seed, job.mode) for job in jobs] == [(2, "eval"), (3, "eval"), (4, "eval"), (3, "train")]

    def test_key_value(self, run: Run, jobs: list[Job]) -> None:
        configure("seed = 1\n[rules.XX101]\nlimit = 1\ndepth = 5\n")
        assert run("check", "models/net.py:Net", "--config", "fail-on=error", "--config", "rules.XX101.limit=8")[0] == 0
        assert run("check", "models/net.py:Net", "--config", "fail-on = 'error'", "--fail-on", "info")[0] == 1
        assert jobs[0].rule_options == {"XX101": {"limit": 8.0, "depth": 5}}

    @pytest.mark.parametrize(
        ("file", "target", "options", "expected"),
        [
            ("", "", "", {"XX101", "XX102"}),
            ('ignore = ["XX101"]', "", "", {"XX102"}),
            ('ignore = ["XX101"]', "", "--select XX101", {"XX101"}),  # a stronger select replaces a weaker ignore
            ('select = ["XX101"]', "", "--extend-select XX102", {"XX101", "XX102"}),
            ('select = ["XX101"]', "", "--select other-rule", {"XX102"}),
            ('select = ["XX101"]', 'select = ["XX102"]', "", {"XX102"}),
            ("", 'ignore = ["XX102"]', "", {"XX101"}),
            ('ignore = ["XX101"]', 'extend-select = ["XX101"]', "", {"XX101", "XX102"}),
            ('extend-select = ["XX101"]\nignore = ["XX1"]', "", "", {"XX101"}),
            ("", "", "--preview", {"XX101", "XX102", "XX103"}),
            ("preview = true", "", "--select XX103", {"XX103"}),
            ("preview = true", "", "--no-preview", {"XX101", "XX102"}),
        ],
    )
    def test_selection(
        self, run: Run, jobs: list[Job], file: str, target: str, options: str, expected: set[str]
    ) -> None:
        configure(f'{file}\n[[targets]]\ntarget = "models/net.py:Net"\n{target}\n')
        run("check", *options.split())
        assert {code for code in jobs[0].select if code.startswith("XX")} == expected


class TestRules:
    @pytest.mark.parametrize(
        ("text", "code", "shown"),
        [
            ('severity = { own-rule = "info" }', 0, "info"),
            ('severity = { XX = "info", XX101 = "error" }', 1, "error"),
            ('severity = { XX101 = "error", XX = "info" }', 1, "error"),
            ('severity = { ALL = "info" }\nfail-on = "info"', 1, "info"),
            ('per-file-ignores = { "models/**" = ["XX101"] }', 0, None),
            ('per-file-ignores = { "net.py" = ["own-rule"] }', 0, None),
            ('per-file-ignores = { "other/**" = ["XX101"] }', 1, "warning"),
            ('per-file-ignores = { "models/**" = ["XX102"] }', 1, "warning"),
            ('per-module-ignores = { "backbone.**" = ["ALL"] }', 0, None),
            ('per-module-ignores = { "backbone" = ["ALL"] }', 1, "warning"),
        ],
    )
    def test_severity_and_ignores(self, run: Run, text: str, code: int, shown: str | None) -> None:
        configure(text)
        found, out, _ = run("check", "models/net.py:Net", "--output-format", "json")
        (row,) = json.loads(out)["findings"]
        assert (found, row["severity"] if row["suppressed"] is None else None) == (code, shown)

    def test_a_finding_about_several_modules_is_ignored_when_all_are(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        both = dataclasses.replace(FINDING, modules=("backbone.conv1", "head.conv"))
        monkeypatch.setattr(worker, "check", lambda job, **options: TargetReport(job.target, findings=[both]))
        for text, code in (("backbone.**", 1), ("**", 0)):
            configure(f'per-module-ignores = {{ "{text}" = ["XX101"] }}')
            assert run("check", "models/net.py:Net")[0] == code


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            ("seeed = 1", "did you mean `seed`?"),
            ("fail_on = 'error'", "did you mean `fail-on`?"),
            ("seed = 'x'", '`seed` must be a whole number, not "x"'),
            ("seed = true", "`seed` must be a whole number, not true"),
            ("timeout = 0", "above zero"),
            ("timeout = inf", "above zero"),
            ("seed = 18446744073709551616", "seed"),
            ("memory-limit = '9999999999T'", "9999999999T"),
            ("select = []", "no rule to run"),
            ("[tool.bnlint]\nseed = 1", "without `tool.bnlint`"),
            ("ignore = ['BN901']", "cannot be ignored"),
            ("per-module-ignores = { '**' = ['crashed'] }", "cannot be ignored"),
            ("rules = { XX101 = { limit = 1 }, own-rule = { depth = 1 } }", "configured twice"),
            ("loss = 'cross_entrpy'", "did you mean `cross_entropy`?"),
            ("memory-limit = 'lots'", "2G"),
            ("select = 'BN1'", "list of strings"),
            ("select = ['XX10l']", "did you mean `XX10"),
            ("ignore = ['own-rul']", "did you mean `own-rule`?"),
            ("ignore = ['ALL']", "no rule to run"),
            ("select = ['XX103']", "preview"),
            ("severity = { XX101 = 'eror' }", "did you mean `error`?"),
            ("severity = { XX10l = 'error' }", "did you mean `XX10"),
            ("severity = { BN901 = 'info' }", "stays an error"),
            ("per-file-ignores = { a = ['own-rul'] }", "did you mean `own-rule`?"),
            ("per-module-ignores = { a = 'XX101' }", "list of strings"),
            ("rules = { XX10l = { limit = 1 } }", "did you mean `XX10"),
            ("rules = { own-rul = { limit = 1 } }", "did you mean `own-rule`?"),
            ("rules = { XX101 = { limt = 1 } }", "did you mean `limit`?"),
            ("rules = { XX101 = { limit = 'x' } }", "must be a number"),
            ("rules = { XX101 = { depth = 1.5 } }", "must be a whole number"),
            ("rules = { XX101 = { depth = true } }", "must be a whole number"),
            ("rules = { XX101 = { strict = 1 } }", "true or false"),
            ("rules = { XX101 = { limit = -1 } }", "negative"),
            ("targets = [{ targt = 'x:Net' }]", "did you mean `target`?"),
            ("targets = [{ seed = 1 }]", "needs the key `target`"),
            ("targets = ['models']\n[[x]]", "unknown key `x`"),
            ("targets = ['models/net']", "models/net"),
            ("targets = ['x:Net(os.sep)']", "literal"),
            ("targets = ['x:Net', 'x:Net']", "repeats"),
            ("targets = ['a.py:Net', './a.py:Net']", "repeats"),
            ("targets = [{ target = 'x:Net', kwargs = { 'a b' = 1 } }]", "`a b` is not the name"),
            ("targets = [{ target = 'x:Net', kwargs = { class = 1 } }]", "`class` is not the name"),
            ("targets = [{ target = 'x:Net(1)', args = [2] }]", "arguments already"),
            ("targets = [{ target = 'x.py', args = [2] }]", "names no class"),
            ("targets = [{ target = 'x:Net', kwargs = { a = nan } }]", "kwargs"),
            ("targets = [{ target = 'x:Net', kwargs = { a = 2020-01-01 } }]", "kwargs"),
            ("targets = [{ target = 'x:Net', inputs = [{ shap = [1] }] }]", "did you mean `shape`?"),
            ("targets = [{ target = 'x:Net', inputs = [{ shape = [0] }] }]", "above zero"),
            ("targets = [{ target = 'x:Net', inputs = [{ shape = [1], dtype = 'float23' }] }]", "float32"),
            ("targets = [{ target = 'x:Net', inputs = [{ dtype = 'bool' }] }]", "needs `shape`"),
            ("targets = [{ target = 'x:Net', inputs = [{ value = 1 }] }]", "needs a `name`"),
            ("targets = [{ target = 'x:Net', inputs = [{ name = 'a', value = [1] }] }]", "a string, number or boolean"),
            ("targets = [{ target = 'x:Net', inputs = '2x3', input-fn = 'f' }]", "one is enough"),
            ("seed = \n", "not valid TOML"),
        ],
    )
    def test_in_the_file(self, run: Run, jobs: list[Job], text: str, hint: str) -> None:
        configure(text)
        code, out, err = run("check", "models/net.py:Net")
        assert (code, out, jobs) == (2, "", [])
        assert err.startswith("Error: ")
        assert hint in err
        assert len(err.strip().split("\n")) == 1

    @pytest.mark.parametrize(
        ("options", "hint"),
        [
            (["--config", "gone.toml"], "gone.toml"),
            (["--config", "sed=1"], "did you mean `seed`?"),
            (["--config", "seed=x"], "whole number"),
            (["--config", "pyproject.toml"], "no [tool.bnlint]"),
            (["--config", "own.py"], "not valid TOML"),
            (["--config", "a.toml", "--config", "b.toml"], "two files"),
            (["--config", "bnlint.toml", "--isolated"], "exclude each other"),
            (["--config", 'rules."x=1'], "rules"),
        ],
    )
    def test_in_the_option(self, run: Run, options: list[str], hint: str) -> None:
        configure("[project]\n", "pyproject.toml")
        configure("")
        code, out, err = run("check", "models/net.py:Net", *options)
        assert (code, out) == (2, "")
        assert hint in err
        assert err.startswith("Error: ")

    def test_what_stands_in_the_file_cannot_steer_the_terminal(self, run: Run) -> None:
        configure('"\\u001b[31m" = 1')
        code, _, err = run("check", "models/net.py:Net")
        assert (code, "\x1b" in err) == (2, False)

    def test_a_byte_order_mark_is_none(self, run: Run) -> None:
        Path("bnlint.toml").write_bytes(b"\xef\xbb\xbfseed = 1\r\n")
        assert run("check", "models/net.py:Net", "--show-settings")[0] == 0

    def test_nothing_configured_names_the_file(self, run: Run) -> None:
        configure("seed = 1")
        code, _, err = run("check")
        assert (code, "bnlint.toml configures none" in err) == (2, True)


class TestShow:
    def test_targets(self, run: Run, jobs: list[Job]) -> None:
        configure('[[targets]]\ntarget = "models/net.py:Net"\ninputs = "8x3"\n[[targets]]\ntarget = "shop:Net"\n')
        assert run("check", "--show-targets") == (0, "models/net.py:Net  (8x3)\nshop:Net\n", "")
        assert jobs == []

    def test_settings_without_targets_are_those_of_any_other(self, run: Run) -> None:
        configure("seed = 5\n")
        code, out, _ = run("check", "--show-settings")
        assert (code, tomllib.loads(out)["seed"], "targets" in out) == (0, 5, False)
        configure("severity = { XX10l = 'error' }")
        assert run("check", "--show-settings")[0] == 2

    def test_settings_are_toml(self, run: Run, jobs: list[Job]) -> None:
        configure(
            'seed = 5\nignore = ["XX102"]\n[rules.XX101]\nlimit = 4\n[[targets]]\ntarget = "models/net.py:Net"\nloss = "mse"\n'
        )
        code, out, _ = run("check", "--show-settings", "--seed", "6")
        (target,) = tomllib.loads(out)["targets"]
        assert (code, jobs, out.split("\n")[0]) == (0, [], "# configuration: bnlint.toml")
        assert (target["seed"], target["loss"], target["rules"]) == (6, "mse", {"XX101": {"limit": 4}})
        assert "XX101" in target["rules-on"]
        assert "XX102" in target["rules-off"]


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("backbone.**", ["backbone", "backbone.a", "backbone.a.b"], ["backbones", "head.backbone", ""]),
        ("*.bn1", ["a.bn1"], ["bn1", "a.b.bn1", "a.bn11"]),
        ("**.bn1", ["bn1", "a.bn1", "a.b.bn1"], ["a.xbn1"]),
        ("layer?.*", ["layer1.x"], ["layer10.x", "layer1"]),
        ("**", ["", "a", "a.b"], []),
        ("a[0]", ["a[0]"], ["a0"]),
    ],
)
def test_module_patterns(glob: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in yes + no if module_pattern(glob).fullmatch(path)] == yes


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("tests/**", ["tests/a.py", "tests/x/a.py"], ["tests", "src/tests/a.py"]),
        ("net.py", ["net.py", "a/net.py", "a/b/net.py"], ["subnet.py", "net.pyi"]),
        ("*_old.py", ["a_old.py", "x/a_old.py"], ["a_older.py"]),
        ("src/*.py", ["src/a.py"], ["src/x/a.py"]),
        ("src/**/a.py", ["src/a.py", "src/x/y/a.py"], ["a.py"]),
        ("/abs/**", ["/abs/x.py"], ["abs/x.py"]),
    ],
)
def test_path_patterns(glob: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in yes + no if path_pattern(glob).fullmatch(path)] == yes


class TestSchema:
    def test_generated_files_are_fresh(self) -> None:
        stale = [path.name for path, text in generated(ROOT).items() if path.read_text(encoding="utf-8") != text]
        assert stale == []

    def test_it_is_a_schema_and_takes_the_documented_example(self) -> None:
        document = schema(load_rules())
        jsonschema.Draft7Validator.check_schema(document)
        text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
        example = text.partition("```toml\n")[2].partition("```")[0]
        jsonschema.validate(tomllib.loads(example)["tool"]["bnlint"], document)

    @pytest.mark.parametrize(
        "text",
        [
            "seeed = 1",
            "seed = 'x'",
            "loss = 'mes'",
            "fail-on = 'fatal'",
            "targets = [{ seed = 1 }]",
            "targets = [{ target = 'a', inputs = [{ shape = [0] }] }]",
            "severity = { BN101 = 'off' }",
            "rules = { BN102 = { min_values = 'x' } }",
            "per-module-ignores = { a = 'b' }",
        ],
    )
    def test_it_rejects_what_the_reader_rejects(self, run: Run, text: str) -> None:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(tomllib.loads(text), schema(load_rules()))
        configure(text)
        assert run("check", "models/net.py:Net")[0] == 2


@pytest.mark.slow
class TestProcess:
    def command(self, *args: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "bnlint", *args], capture_output=True, text=True, env=env, timeout=120, check=False
        )

    def test_init_config_then_check(self) -> None:
        Path("models/net.py").write_text(
            "from torch import nn\n\n\nclass Block(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.fc = nn.Linear(4, 4)\n\n    def forward(self, x):\n        return self.fc(x)\n\n\n"
            "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.block = Block()\n\n"
            "    def forward(self, x):\n        return self.block(x)\n\n\n"
            "class Wide(nn.Module):\n    def __init__(self, width):\n        super().__init__()\n"
        )
        Path("pyproject.toml").write_bytes(b"[project]\r\nname = 'x'\r\n")
        dry = self.command("init-config", "--dry-run")
        assert (dry.returncode, Path("pyproject.toml").read_text()) == (0, "[project]\nname = 'x'\n")
        Path(".pre-commit-config.yaml").write_text("repos:\n")
        done = self.command("init-config")
        (hook,) = yaml.safe_load("repos:\n" + done.stderr.partition("\n\n")[2])["repos"]
        assert hook["hooks"][0]["entry"] == "bnlint check --changed"
        text = Path("pyproject.toml").read_text()
        assert (done.returncode, done.stdout, dry.stdout in text) == (0, "", True)
        assert [row["target"] for row in tomllib.loads(text)["tool"]["bnlint"]["targets"]] == ["models/net.py:Net"]
        assert '# target = "models/net.py:Wide"' in text
        assert tomllib.loads(text)["project"] == {"name": "x"}
        assert Path("pyproject.toml").read_bytes().count(b"\r\n") == text.count("\n")
        again = self.command("init-config")
        assert (again.returncode, "already" in again.stderr, Path("pyproject.toml").read_text()) == (2, True, text)
        checked = self.command("check", "--output-format", "json")
        assert [row["target"] for row in json.loads(checked.stdout)["targets"]] == ["models/net.py:Net"]

    def test_a_package_is_found_from_the_configurations_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("shop").mkdir()
        Path("shop/models.py").write_text("from torch import nn\n\n\ndef build(n):\n    return nn.Linear(4, n)\n")
        configure('[[targets]]\ntarget = "shop.models:build"\nkwargs = { n = 3 }\ninputs = ["2x4"]\n')
        monkeypatch.chdir("models")
        done = self.command("check", "--output-format", "json")
        assert (done.returncode, json.loads(done.stdout)["targets"][0]["input"][0]["shape"]) == (0, [2, 4])

    def test_a_package_is_found_in_src(self) -> None:
        Path("src/shop").mkdir(parents=True)
        Path("src/shop/models.py").write_text("from torch import nn\n\n\ndef build():\n    return nn.Linear(4, 3)\n")
        assert self.command("check", "shop.models:build", "--isolated").returncode == 0
        configure('[[targets]]\ntarget = "shop.models:build"\n')
        done = self.command("check", "--config", "bnlint.toml", "--output-format", "json")
        assert (done.returncode, len(json.loads(done.stdout)["targets"])) == (0, 1)

    def test_no_project_means_a_file_of_its_own(self) -> None:
        done = self.command("init-config", "models")
        assert (done.returncode, Path("bnlint.toml").exists(), "no model" in done.stderr) == (0, False, True)
