"""What other people's programs read of ours: the action, the hooks, and the snippets that docs/ci.md offers."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

pytest.importorskip("pre_commit")
from pre_commit import clientlib

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
MARKS = {  # what tells a snippet from the others, by the schema it follows
    "github-workflows": "uses: actions/checkout",
    "gitlab-ci": "codequality:",
    "azure-pipelines": "vmImage:",
}


def problems(document: Any, schema: str) -> list[str]:
    """What the published schema, as the package check-jsonschema has it, says of the document."""
    pytest.importorskip("check_jsonschema")
    text = files("check_jsonschema").joinpath("builtin_schemas", "vendor", f"{schema}.json").read_text(encoding="utf-8")
    rules = json.loads(text)
    return [error.message for error in jsonschema.validators.validator_for(rules)(rules).iter_errors(document)]


def loaded(text: str) -> Any:
    """A document of YAML 1.2, where `on` is a word; PyYAML reads 1.1, where it is true."""
    return {"on" if key is True else key: value for key, value in yaml.safe_load(text).items()}


def test_the_action() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert problems(action, "github-actions") == []
    assert problems({**action, "runs": {"using": "composit", "steps": []}}, "github-actions") != []


@pytest.mark.parametrize("schema", MARKS)
def test_a_snippet_for_a_pipeline(schema: str) -> None:
    (text,) = [row for row in SNIPPETS if MARKS[schema] in row]
    assert problems(loaded(text), schema) == []
    broken = loaded(text.replace("runs-on:", "run-on:").replace("script:", "scrpt:").replace("pool:", "pol:"))
    assert problems(broken, schema) != []


def test_the_hooks() -> None:
    assert [row["id"] for row in clientlib.load_manifest(ROOT / ".pre-commit-hooks.yaml")] == [
        "bnlint",
        "bnlint-changed",
    ]


def test_the_snippets_for_pre_commit(tmp_path: Path) -> None:
    rows = [row for row in SNIPPETS if row.startswith("repos:")]
    assert rows
    for number, row in enumerate(rows):
        file = tmp_path / f"{number}.yaml"
        file.write_text(row)
        assert clientlib.load_config(file)["repos"]


def test_every_snippet_is_checked_here() -> None:
    marks = (*MARKS.values(), "repos:")
    assert [row for row in SNIPPETS if not any(mark in row for mark in marks)] == []
