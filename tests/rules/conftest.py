"""What the rule tests share: check a model here, on fake tensors, and look at codes, severities and places."""

import pytest
from torch import nn

import bnlint

pytest.register_assert_rewrite("tests.rules.cases")


class Fn(nn.Module):
    """A model whose forward is the function given; what else is given becomes its attributes."""

    def __init__(self, forward, **attributes):
        super().__init__()
        self.function = forward
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


@pytest.fixture
def found():
    """`found(model, inputs, **options)` gives {(code, module path): finding} for errors and warnings."""

    def run(model, inputs=None, *, info=False, static=True, **options):
        report = bnlint.check(model, inputs, static=static, **options)
        rows = report.findings if info else [f for f in report.findings if f.severity is not bnlint.Severity.INFO]
        return {(f.code, f.module_path): f for f in rows}

    return run


@pytest.fixture
def severities(found):
    """`severities(code, model, inputs)` gives {module path: severity} of one rule's findings."""

    def run(code, model, inputs, **options):
        rows = found(model, inputs, info=True, select=[code], **options)
        return {path: finding.severity for (_, path), finding in rows.items()}

    return run
