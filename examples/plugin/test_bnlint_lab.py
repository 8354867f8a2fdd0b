"""The bad example is found and the good one is clean, under all rules."""

from bnlint.registry import load_rules
from bnlint.testing import check_examples


def test_examples() -> None:
    check_examples(load_rules()["LAB101"])
