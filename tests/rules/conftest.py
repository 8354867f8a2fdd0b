"""What the rule tests share: check a model here, on fake tensors, and look at codes, severities and places."""

import pytest

import bnlint


@pytest.fixture
def found():
    """`found(model, inputs, **options)` gives {(code, module path): finding} for errors and warnings."""

    def run(model, inputs=None, *, info=False, static=True, **options):
        report = bnlint.check(model, inputs, static=static, **options)
        rows = report.findings if info else [f for f in report.findings if f.severity is not bnlint.Severity.INFO]
        return {(f.code, f.module_path): f for f in rows}

    return run
