"""`pytest --bnlint` checks the configured targets, each as a test."""

from __future__ import annotations

from typing import Any

import pytest

from bnlint.api import check_targets, wanted
from bnlint.baseline import in_use
from bnlint.config import Check, ConfigError, Plan, find_config
from bnlint.registry import RegistryError
from bnlint.rule import Severity


class _Found(Exception):
    """Something at or above `fail-on`; the message is the report."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option."""
    parser.getgroup("bnlint").addoption("--bnlint", action="store_true", help="also check the targets of bnlint")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds a test for each configured target."""
    if not config.getoption("bnlint"):
        return
    try:
        plan = Plan(find_config(config.rootpath))
        rows = wanted((), plan)
    except (ConfigError, RegistryError) as error:
        raise pytest.UsageError(f"bnlint: {error}") from error
    if not rows:
        raise pytest.UsageError(f"bnlint: {plan.config.name} has no targets to check")
    items += [Model.from_parent(session, name=f"bnlint::{row.target}", check=row, plan=plan) for row in rows]


class Model(pytest.Item):
    """One target."""

    def __init__(self, *, check: Check, plan: Plan, **rest: Any) -> None:
        super().__init__(**rest)
        self._check, self._plan = check, plan

    def runtest(self) -> None:
        """Fails when bnlint finds something that would make `bnlint check` fail."""
        values = self._plan.config.values
        report = check_targets((), self._plan, only=[self._check], known=in_use(self._plan.config))
        if report.exit_code(Severity(values.get("fail_on", "warning"))):
            raise _Found(str(report))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The report in place of a traceback."""
        told = isinstance(excinfo.value, (_Found, ConfigError, RegistryError))
        return str(excinfo.value) if told else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Where pytest says that the test is."""
        return self._plan.config.file or self.path, None, self.name
