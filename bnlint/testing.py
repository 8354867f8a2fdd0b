"""Runs the examples in a rule's docstring; for bnlint's own tests and for authors of plugins.

>>> from bnlint.testing import check_examples
>>> check_examples(MyRule)          # raises AssertionError when the bad block is not found or the good one is not clean
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bnlint.job import Job, TargetReport
from bnlint.registry import load_rules
from bnlint.rule import Rule, Severity

_BLOCK = re.compile(r"^(Example \(bad\)|Use instead \(good\)):\s*\n+```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r"^# bnlint check (.*)$", re.MULTILINE)
_FLAG = re.compile(r"--(\S+)(?: +(?!--)(\S+))?")
_ALSO = re.compile(r"^# also (BN\d+|[A-Z]{2,5}\d{3,4})$", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A code block of a rule's docstring.

    A line `# bnlint check --input 8x3x32x32` in it sets how it is run; `# also BN202` names a second rule that a bad
    block cannot but break as well.
    """

    bad: bool
    source: str

    def job(self, path: str) -> Job:
        """How the block is checked."""
        options: dict[str, Any] = {"inputs": ()}
        for name, text in (found for line in _OPTION.findall(self.source) for found in _FLAG.findall(line)):
            key, value = name.replace("-", "_"), text or True
            value = f"{path}:{value}" if key == "input_fn" else value  # a function of the block
            options |= {"inputs": (*options["inputs"], value)} if key == "input" else {key: value}
        return Job(f"{path}:Net", **options)


def examples(rule: type[Rule]) -> list[Example]:
    """The bad and good blocks of a rule's docstring, in order."""
    return [Example(title.startswith("Example"), code) for title, code in _BLOCK.findall(rule.doc() + "\n")]


def run_example(example: Example, rule_paths: Sequence[str] = (), without: Sequence[str] = ()) -> TargetReport:
    """Checks one block under all default rules but those in `without`, in this process."""
    from bnlint import audit

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "example.py"
        path.write_text(example.source, encoding="utf-8")
        codes = tuple(code for code in load_rules(rule_paths) if code not in without)
        job = replace(example.job(path.as_posix()), rule_paths=tuple(rule_paths), select=codes)
        return audit.run(job, lambda stage: None)


def check_examples(rule: type[Rule], rule_paths: Sequence[str] = ()) -> None:
    """Raises AssertionError unless bad blocks give this code at a line of theirs, and good blocks nothing at all.

    A bad block may also give findings at info level; anything else at warning level or above must be this rule's. It
    is checked without the rules that this one yields to.
    """
    blocks = examples(rule)
    assert any(b.bad for b in blocks), f"{rule.code} has no bad example"
    assert any(not b.bad for b in blocks), f"{rule.code} has no good example"
    for block in blocks:
        report = run_example(block, rule_paths, rule.yields_to if block.bad else ())
        found = {f.code for f in report.findings if f.severity is not Severity.INFO or f.code == rule.code}
        if block.bad:
            assert found == {rule.code, *_ALSO.findall(block.source)}, (
                f"the bad example of {rule.code} gives {sorted(found)}: {report.findings}"
            )
            assert all(f.location for f in report.findings if f.code == rule.code), f"{rule.code} names no line"
        else:
            assert not report.findings, f"the good example of {rule.code} gives {report.findings}"
            assert report.status == "ok", f"the good example of {rule.code} is {report.status}: {report}"
