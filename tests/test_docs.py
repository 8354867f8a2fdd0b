"""The guides in docs/: their links lead somewhere, their commands exist, their YAML and TOML can be read."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bnlint.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted(path for path in (ROOT / "docs").glob("*.md"))


def blocks(language: str) -> Iterator[str]:
    for path in GUIDES:
        yield from re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    text = "\n".join(path.read_text(encoding="utf-8") for path in GUIDES)
    found = re.findall(r"\bbnlint check(?: [^\n`'|#,;]*)?", text)
    return sorted({command.strip() for command in found if "--" in command and "…" not in command})


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_links(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("http") or (path.parent / target).exists(), target
    headings = {
        re.sub(r"[^\w -]", "", row).strip().lower().replace(" ", "-")
        for row in re.findall(r"^#+ (.*)", text, re.MULTILINE)
    }
    for name in re.findall(r"\]\(#([^)]+)\)", text):
        assert name in headings


def test_the_index_leads_to_every_page() -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", text)) == {path.name for path in GUIDES} - {"README.md"}


def test_what_the_guide_tells_to_ask_can_be_asked() -> None:
    guide = (ROOT / "docs" / "writing-a-rule.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "queries.md").read_text(encoding="utf-8")
    calls = re.findall(r"(?:graph|model|prediction|survey|Norms\(graph\))\.(\w+)\(", guide)
    calls += re.findall(r"`(roles|is_batch|holds_batch)`", guide)
    assert len(calls) > 18
    assert [name for name in calls if f"| `{name}(" not in page] == []


@pytest.mark.parametrize("command", commands())
def test_commands(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bnlint.commands.check.changed_since", lambda revision: [])  # there is no repository here
    (tmp_path / "models").mkdir()
    words = [word for word in shlex.split(command)[1:] if word not in ("FILE", "KEY=VALUE")]
    if words[-1] in ("--config", "--baseline", "--output"):
        words.append("seed=1")
    code = main([*words, "--show-targets"])
    assert code == 0, capsys.readouterr().err


def test_there_are_commands_to_test() -> None:
    assert len(commands()) > 5


@pytest.mark.parametrize("text", list(blocks("yaml")))
def test_yaml(text: str) -> None:
    assert yaml.safe_load(text)


@pytest.mark.parametrize("text", list(blocks("toml")))
def test_toml(text: str) -> None:
    assert tomllib.loads(text)
