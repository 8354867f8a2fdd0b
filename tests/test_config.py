from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnlint.config import FAMILIES, LOSS_ALIASES, LOSSES, ConfigError, Selection, Settings, parse_size, selected_codes
from bnlint.rule import ENGINE_CODES, Phase, Rule, Severity


def rule(code: str, name: str) -> type[Rule]:
    return type(name, (Rule,), {"code": code, "name": name, "severity": Severity.ERROR, "phase": Phase.GRAPH})


CODES = ("BN101", "BN102", "BN110", "BN201", "XX101", "XXY100")
RULES = {code: rule(code, f"rule-{code.lower()}") for code in CODES}


def layer(select: list[str], ignore: list[str]) -> list[Selection]:
    return [Selection(tuple(select) or None, ignore=tuple(ignore))]


def chosen(select: list[str], ignore: list[str]) -> set[str]:
    return set(selected_codes(RULES, layer(select, ignore))) - set(ENGINE_CODES)


@pytest.mark.parametrize(
    ("select", "ignore", "expected"),
    [
        ([], [], set(CODES)),
        (["ALL"], [], set(CODES)),
        (["all"], [], set(CODES)),
        (["BN"], [], {"BN101", "BN102", "BN110", "BN201"}),
        (["BN1"], [], {"BN101", "BN102", "BN110"}),
        (["BN10"], [], {"BN101", "BN102"}),
        (["bn10"], [], {"BN101", "BN102"}),
        (["norm"], [], {"BN101", "BN102", "BN110"}),
        (["shape"], [], {"BN201"}),
        (["rule-bn101"], [], {"BN101"}),
        (["BN101,BN201", "XX"], [], {"BN101", "BN201", "XX101"}),
        ([], ["BN1"], {"BN201", "XX101", "XXY100"}),
        ([], ["BN101", "rule-bn201"], {"BN102", "BN110", "XX101", "XXY100"}),
        # the more specific one wins, whichever list it is in
        (["ALL"], ["BN1"], {"BN201", "XX101", "XXY100"}),
        (["ALL", "BN101"], ["BN1"], {"BN101", "BN201", "XX101", "XXY100"}),
        (["BN10"], ["BN1"], {"BN101", "BN102"}),
        (["BN1"], ["BN10"], {"BN110"}),
        (["BN1", "BN101"], ["BN10"], {"BN101", "BN110"}),
        (["BN101"], ["ALL"], {"BN101"}),
        (["BN101", "BN201"], ["BN101"], {"BN201"}),  # between equals ignore wins
        (["rule-bn101", "BN201"], ["BN101"], {"BN201"}),  # a name is as specific as a code
        (["norm", "BN201"], ["BN1"], {"BN201"}),  # a family is as specific as its prefix
    ],
)
def test_selection(select: list[str], ignore: list[str], expected: set[str]) -> None:
    assert chosen(select, ignore) == expected


@given(st.lists(st.sampled_from(["ALL", "BN1", "BN10", "BN101", "norm", "XX"])), st.randoms())
def test_the_order_of_selectors_does_not_matter(selectors: list[str], random: object) -> None:
    shuffled = sorted(selectors, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert chosen(["BN201", *selectors], ["BN102"]) == chosen([*shuffled, "BN201"], ["BN102"])


@pytest.mark.parametrize(
    ("selector", "near"), [("BN19", "BN1"), ("BM101", "BN101"), ("nrom", "norm"), ("rule-bn11", "rule-bn110")]
)
def test_an_unknown_selector_suggests(selector: str, near: str) -> None:
    for select, ignore in (([selector], []), ([], [selector])):
        with pytest.raises(ConfigError, match="unknown rule selector") as caught:
            selected_codes(RULES, layer(select, ignore))
        assert f"`{near}" in str(caught.value)


@pytest.mark.parametrize("ignore", [["ALL"], ["BN", "XX", "XXY"]])
def test_a_selection_without_rules_is_an_error(ignore: list[str]) -> None:
    with pytest.raises(ConfigError, match="no rule to run"):
        selected_codes(RULES, layer([], ignore))


def test_a_family_without_rules_yet_is_not_unknown() -> None:
    assert chosen(["gradient", "BN101"], ["BN8"]) == {"BN101"}


def test_that_a_check_did_not_happen_cannot_be_ignored() -> None:
    codes = selected_codes(RULES, layer(["BN101"], ["BN9", "BN904"]))
    assert {code for code in ENGINE_CODES if code not in codes} == {
        code for code, row in ENGINE_CODES.items() if row.severity is not Severity.ERROR
    }


def test_selecting_rules_keeps_what_bnlint_says_itself() -> None:
    assert selected_codes(RULES, layer(["BN101"], [])) == {"BN101", *ENGINE_CODES}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024", 1024),
        ("2K", 2048),
        ("512M", 512 << 20),
        ("2G", 2 << 30),
        ("2GB", 2 << 30),
        ("2GiB", 2 << 30),
        ("1.5g", 3 << 29),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-2G", "0", "2X", "2G2", "lots"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("option", "near"),
    [
        ({"loss": "cros_entropy"}, "cross_entropy"),
        ({"loss": "bce_with_logit"}, "bce_with_logits"),
        ({"dtype": "flaot32"}, "float32"),
        ({"mode": "trian"}, "train"),
    ],
)
def test_unknown_words_suggest(option: dict[str, str], near: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean `{near}`"):
        Settings(**option)  # type: ignore[arg-type]


def test_every_loss_is_a_function_of_torch() -> None:
    functional = pytest.importorskip("torch.nn.functional")
    jobs = [Settings(loss=name).job("t", []) for name in (*LOSSES, *LOSS_ALIASES)]
    assert all(callable(getattr(functional, str(job.loss))) for job in jobs)


def test_a_job_carries_every_setting() -> None:
    settings = Settings(inputs=("8x3",), batch_size=4, seed=3, static=True, rule_paths=("rules",), input_fn="f.py:g")
    job = settings.job("net.py:Net", ["BN101"])
    assert (job.target, job.inputs, job.batch_size, job.seed, job.static) == ("net.py:Net", ("8x3",), 4, 3, True)
    assert (job.select, job.rule_paths, job.input_fn) == (("BN101",), ("rules",), "f.py:g")


def test_families_are_the_hundreds() -> None:
    assert list(FAMILIES.values()) == [f"BN{digit}" for digit in range(1, 10)]
