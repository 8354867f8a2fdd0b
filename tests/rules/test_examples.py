"""The docstring of every built-in rule: its shape, and its examples executed."""

import re
import shutil

import pytest

from bnlint.registry import load_rules
from bnlint.testing import check_examples, examples

RULES = load_rules()


@pytest.mark.parametrize("code", RULES)
def test_examples_do_what_they_say(code):
    if "--compile" in RULES[code].doc() and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler")
    check_examples(RULES[code])


@pytest.mark.parametrize("code", RULES)
def test_docstring_has_every_section(code):
    doc = RULES[code].doc()
    wanted = ["Why it matters:", "Example (bad):", "Use instead (good):", "References:"]
    places = [doc.find(title) for title in wanted]
    assert -1 not in places and places == sorted(places)
    assert RULES[code].summary().endswith(".") and len(RULES[code].summary()) < 160
    assert len(examples(RULES[code])) >= 2


@pytest.mark.parametrize("code", RULES)
def test_file_is_named_after_the_rule(code):
    rule = RULES[code]
    stem = rule.__module__.rpartition(".")[2]
    assert stem == f"{code.lower()}_{rule.name.replace('-', '_')}"
    assert rule.__name__ == "".join(word.capitalize() for word in rule.name.split("-"))


def test_family_folder_matches_the_hundred():
    families = {"1": "norm", "2": "shape", "3": "init", "4": "activation"}
    families |= {"5": "wiring", "6": "forward", "7": "gradient", "8": "precision"}
    for code, rule in RULES.items():
        assert rule.__module__.split(".")[2] == families[re.match(r"BN(\d)", code)[1]]
