"""What the tests of the commands share; the fixtures `run` and `jobs` are in `conftest.py`."""

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]  # the words of a command to its exit code, stdout and stderr
OWN_RULE = '''\
from bnlint.rule import Phase, Rule, Severity


class Own(Rule):
    """Finds what the test wants found.

    Why it matters: it does not.
    """

    code = "XX101"
    name = "own-rule"
    severity = Severity.WARNING
    phase = Phase.MODULES

    limit: float = 2.5

    def check(self, model):
        return iter(())
'''
