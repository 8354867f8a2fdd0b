"""How a real bug, retold in a few lines, is checked: found at its line with the bug, silent without it.

A class takes one argument, `right`, and differs only in what the public report changed; the line to be found ends in
`# bug`. The ids are those of the collection of cases that the rules were written against.
"""

from dataclasses import dataclass, field

import torch

import bnlint
from bnlint import Severity

from .nets import line_of

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR


@dataclass(frozen=True)
class Case:
    """A class with its bug, the input it gets, and the finding that it must give."""

    net: type
    inputs: object
    code: str
    path: str
    severity: Severity
    also: tuple[str, ...] = ()  # codes of other warnings that the bug gives
    static: bool = True
    options: dict[str, object] = field(default_factory=dict)
    repaired: type | None = None  # another class, where the repair adds a method
    repaired_inputs: object = None

    def check(self, right, static):
        torch.manual_seed(0)
        net = (self.repaired or self.net) if right else self.net
        inputs = (self.repaired_inputs or self.inputs) if right else self.inputs
        return bnlint.check(net(right), inputs, static=static, **self.options).findings

    def caught(self):
        """Asserts that the bug is found at its line, and that nothing else is reported as one."""
        rows = self.check(False, self.static)
        found = [(f.path_and_line, f.severity) for f in map(_Row, rows) if f.code == self.code]
        assert found == [((self.path, line_of(self.net, "# bug")), self.severity)]
        assert {f.code for f in rows if f.severity is not INFO} - {self.code, *self.also} == set()

    def silent(self, static):
        """Asserts that the repaired class gives neither an error nor a warning, nor this code at all."""
        rows = self.check(True, static)
        assert [(f.code, f.message) for f in rows if f.severity is not INFO or f.code == self.code] == []


class _Row:
    def __init__(self, finding):
        self.code, self.severity = finding.code, finding.severity
        self.path_and_line = finding.module_path, finding.location.line if finding.location else None


def summary(model, inputs, **options):
    """Codes and severities of all errors and warnings of a model."""
    torch.manual_seed(0)
    rows = bnlint.check(model, inputs, **{"static": True, **options}).findings
    return sorted((f.code, f.severity) for f in rows if f.severity is not INFO)
