from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bnlint import registry
from bnlint.registry import RegistryError, load_rules, resolve
from bnlint.rule import Phase, Rule, Severity

RULE = '''\
from __future__ import annotations

from bnlint.rule import Phase, Rule, Severity


class {class_name}(Rule):
    """{doc}"""

    code = "{code}"
    name = "{name}"
    severity = Severity.{severity}
    phase = Phase.MODULES

    limit: float = 2.0

    def check(self, model):
        return iter(())
'''


def write_rule(folder: Path, **changes: str) -> Path:
    values = {
        "class_name": "Own",
        "doc": "A rule.",
        "code": "XX101",
        "name": "own-rule",
        "severity": "WARNING",
    } | changes
    folder.mkdir(exist_ok=True)
    file = folder / f"{values['code'].lower()}.py"
    file.write_text(RULE.format(**values))
    return file


def test_did_you_mean_looks_at_the_beginning() -> None:
    assert registry.did_you_mean("BN1O1", ["BN611", "BN101", "BN901"]) == "; did you mean `BN101`?"
    assert (
        registry.did_you_mean("missing-nrom", ["missing-norm", "missing-activation"])
        == "; did you mean `missing-norm`?"
    )
    assert registry.did_you_mean("zzz", ["BN101"]) == ""


def test_the_code_or_name_of_a_removed_rule_is_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("XX101", "own-rule"):
        monkeypatch.setattr(registry, "REMOVED", {key: "was removed in 0.2.0"})
        with pytest.raises(RegistryError, match=r"removed in 0\.2\.0"):
            load_rules([str(write_rule(tmp_path / key))])


class _Entry:
    """What importlib.metadata gives for an entry point."""

    def __init__(self, value: object, package: str = "some-plugin") -> None:
        self.name, self.value, self._loaded = "rules", "some_plugin:rules", value
        self.dist = type("Dist", (), {"name": package})()

    def load(self) -> object:
        if isinstance(self._loaded, BaseException):
            raise self._loaded
        return self._loaded


def with_plugin(monkeypatch: pytest.MonkeyPatch, value: object) -> None:
    monkeypatch.setattr("bnlint.registry._may_offer_rules", lambda place: True)
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [_Entry(value)] if group == "bnlint.rules" else []
    )


class Plugin(Rule):
    """A plugin's rule."""

    code = "XX201"
    name = "plugin-rule"
    severity = Severity.INFO
    phase = Phase.GRAPH

    def check(self, model):  # type: ignore[no-untyped-def]
        return iter(())


class TestBuiltIn:
    def test_every_file_with_rules_is_reached(self) -> None:
        package = sys.modules.get("bnlint.rules") or registry.importlib.import_module("bnlint.rules")
        for folder in (path for root in package.__path__ for path in Path(root).rglob("*.py")):
            assert (folder.parent / "__init__.py").is_file(), f"{folder.parent} is not a package, so its rules are lost"

    def test_codes_are_sorted_and_key_their_rule(self) -> None:
        rules = load_rules()
        assert list(rules) == sorted(rules)
        assert all(code == rule.code and code.startswith("BN") for code, rule in rules.items())


class TestRulePaths:
    def test_a_file(self, tmp_path: Path) -> None:
        rule = load_rules([str(write_rule(tmp_path))])["XX101"]
        assert (rule.name, rule.options()["limit"][1]) == ("own-rule", 2.0)

    def test_a_folder_with_folders(self, tmp_path: Path) -> None:
        write_rule(tmp_path)
        write_rule(tmp_path / "deep", code="XX102", name="other-rule")
        write_rule(tmp_path / "_private", code="XX103", name="third-rule")
        assert {"XX101", "XX102"} == {code for code in load_rules([str(tmp_path)]) if code.startswith("XX")}

    def test_only_classes_defined_there_count(self, tmp_path: Path) -> None:
        file = write_rule(tmp_path)
        file.write_text(file.read_text() + "\n\nclass _Base(Rule):\n    pass\n")
        assert [code for code in load_rules([str(file)]) if code.startswith("XX")] == ["XX101"]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"code": "X1"}, "code"),
            ({"code": "xx101"}, "code"),
            ({"code": "XX10101"}, "code"),
            ({"code": "BN999"}, "built-in"),
            ({"code": "BNX101"}, "built-in"),
            ({"name": "OwnRule"}, "name"),
            ({"name": "own_rule"}, "name"),
            ({"name": "own--rule"}, "name"),
            ({"doc": " "}, "docstring"),
            ({"name": "rule-crashed"}, "BN909"),
        ],
    )
    def test_a_broken_rule_is_one_sentence_with_the_file(
        self, tmp_path: Path, changes: dict[str, str], words: str
    ) -> None:
        file = write_rule(tmp_path, **changes)
        with pytest.raises(RegistryError) as caught:
            load_rules([str(file)])
        assert words in str(caught.value)
        assert file.as_posix() in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("    severity = Severity.WARNING\n", "", "severity"),
            ("Phase.MODULES", "'modules'", "phase"),
            ("    def check", "    def other", "check"),
            ("    limit: float = 2.0\n", "    limit: float\n", "option"),
            ("    limit: float", "    limit: Nowhere", "option"),
            ('    code = "XX101"\n', "", "code"),
            ("from bnlint.rule", "from bnlint.nowhere", "ModuleNotFoundError"),
            ("class Own", "class Own(", "SyntaxError"),
            ("class Own", "raise SystemExit(3)\n\n\nclass Own", "SystemExit"),
        ],
    )
    def test_an_incomplete_rule(self, tmp_path: Path, old: str, new: str, words: str) -> None:
        file = write_rule(tmp_path)
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
        with pytest.raises(RegistryError, match=words):
            load_rules([str(file)])

    def test_what_a_file_prints_is_not_in_the_report(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = write_rule(tmp_path)
        file.write_text(file.read_text() + "\nprint('loaded')\n")
        load_rules([str(file)])
        assert capsys.readouterr() == ("", "loaded\n")

    def test_codes_and_names_are_unique(self, tmp_path: Path) -> None:
        write_rule(tmp_path / "a")
        write_rule(tmp_path / "b", name="other-name")
        write_rule(tmp_path / "c", code="XX102")
        for other in ("b", "c"):
            with pytest.raises(RegistryError, match="XX101 own-rule"):
                load_rules([str(tmp_path / "a"), str(tmp_path / other)])

    def test_a_missing_path(self, tmp_path: Path) -> None:
        with pytest.raises(RegistryError, match="does not exist"):
            load_rules([str(tmp_path / "gone")])

    def test_a_file_that_is_not_python(self, tmp_path: Path) -> None:
        (tmp_path / "rule.txt").write_text("")
        with pytest.raises(RegistryError, match="not a Python file"):
            load_rules([str(tmp_path / "rule.txt")])


class TestEntryPoints:
    @pytest.mark.parametrize("form", ["class", "list", "module"])
    def test_a_class_a_list_or_a_module(self, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
        module = ModuleType(Plugin.__module__)
        module.Plugin = Plugin  # type: ignore[attr-defined]
        with_plugin(monkeypatch, {"class": Plugin, "list": [Plugin], "module": module}[form])
        assert load_rules()["XX201"] is Plugin

    @pytest.mark.parametrize("value", [ImportError("no torch_geometric\nmore"), SystemExit(3), 7, [Plugin, 7], "text"])
    def test_a_broken_plugin_is_one_sentence_with_the_package(
        self, monkeypatch: pytest.MonkeyPatch, value: object
    ) -> None:
        with_plugin(monkeypatch, value)
        with pytest.raises(RegistryError, match="some-plugin") as caught:
            load_rules()
        assert "\n" not in str(caught.value)

    def test_plugins_may_not_take_built_in_codes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_plugin(monkeypatch, type("Intruder", (Plugin,), {"__doc__": "A rule.", "code": "BN150"}))
        with pytest.raises(RegistryError, match="BN150"):
            load_rules()


RULES: dict[str, type[Rule]] = {"XX201": Plugin}


class TestResolve:
    @pytest.mark.parametrize("text", ["XX201", "xx201", "plugin-rule", "Plugin-Rule"])
    def test_codes_and_names(self, text: str) -> None:
        assert resolve(text, RULES) == "XX201"

    @pytest.mark.parametrize("text", ["BN904", "untraced-part"])
    def test_engine_codes(self, text: str) -> None:
        assert resolve(text, {}) == "BN904"

    @pytest.mark.parametrize(
        ("text", "near"), [("XX210", "XX201"), ("plugin-rul", "plugin-rule"), ("tmed-out", "timed-out")]
    )
    def test_unknown_ones_suggest(self, text: str, near: str) -> None:
        with pytest.raises(RegistryError, match=f"did you mean `{near}`"):
            resolve(text, RULES)

    def test_nothing_near(self) -> None:
        with pytest.raises(RegistryError) as caught:
            resolve("qqqqqqq", RULES)
        assert "did you mean" not in str(caught.value)


def test_rules_that_yield_to_each_other(tmp_path: Path) -> None:
    head = "from bnlint.rule import Phase, Rule, Severity\n"
    row = (
        "class {0}(Rule):\n    'A rule.'\n    code, name, severity, phase = '{0}', '{1}', Severity.INFO, Phase.GRAPH\n"
        "    yields_to = ('{2}',)\n    def check(self, model):\n        return iter(())\n"
    )
    (tmp_path / "own.py").write_text(
        head + row.format("ZZ001", "one-way", "ZZ002") + row.format("ZZ002", "back", "ZZ001")
    )
    with pytest.raises(RegistryError, match="`ZZ001` yields to a rule that yields to it"):
        load_rules([str(tmp_path / "own.py")])


def test_an_installed_package_offers_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "some_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bnlint.rules]\nown = some_plugin_rules\n")
    (tmp_path / "some_plugin_rules.py").write_text(
        "from bnlint.rule import Phase, Rule, Severity\n\n\nclass Own(Rule):\n"
        '    """Finds nothing."""\n\n    code = "XX301"\n    name = "own-of-plugin"\n'
        "    severity = Severity.INFO\n    phase = Phase.MODULES\n\n    def check(self, model):\n        return iter(())\n"
    )
    assert "XX301" not in load_rules()
    monkeypatch.syspath_prepend(tmp_path)
    assert "XX301" in load_rules()
