"""Inputs that are told: how they are written, bound to forward's parameters, made and resized."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bnlint.inputs import InputError, from_values, resized, resolve
from bnlint.job import Job
from bnlint.spec import DTYPES, INTEGERS, InputSpec, SpecError, TensorSpec, parse

# -- how an input is written -------------------------------------------------------------------------------------------

SPECS: dict[str, InputSpec] = {
    "8x3x32x32": InputSpec(TensorSpec((8, 3, 32, 32))),
    "8": InputSpec(TensorSpec((8,))),
    " 8x3 ": InputSpec(TensorSpec((8, 3))),
    "8x3<10": InputSpec(TensorSpec((8, 3), "int64", 10)),
    "float32[8,3,32,32]": InputSpec(TensorSpec((8, 3, 32, 32), "float32")),
    "float32[]": InputSpec(TensorSpec((), "float32")),
    "int64[8,128]<1000": InputSpec(TensorSpec((8, 128), "int64", 1000)),
    "long[ 4 , 5 ] < 9": InputSpec(TensorSpec((4, 5), "int64", 9)),
    "half[2]": InputSpec(TensorSpec((2,), "float16")),
    "bool[4,7]": InputSpec(TensorSpec((4, 7), "bool")),
    "mask=bool[4,7]": InputSpec(TensorSpec((4, 7), "bool"), "mask"),
    "x = 8x3": InputSpec(TensorSpec((8, 3)), "x"),
    "x=8": InputSpec(8, "x"),
    "x=-1": InputSpec(-1, "x"),
    "x=None": InputSpec(None, "x"),
    "x=True": InputSpec(True, "x"),
    "x=3.5": InputSpec(3.5, "x"),
    "x='a=b'": InputSpec("a=b", "x"),
}


@pytest.mark.parametrize("text", SPECS)
def test_parse(text: str) -> None:
    assert parse(text) == SPECS[text]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("foo", "`foo`"),
        ("8x0x3", "positive"),
        ("float32[8,-1]", "positive"),
        ("float32[a]", "positive"),
        ("flot32[3]", "did you mean `float32`?"),
        ("float32[3]<5", "bound"),
        ("uint8[3]<300", "255"),
        ("int64[3]<x", "`<x`"),
        ("int64[3]<0", "`<0`"),
        ("8,3,32,32", "did you mean `8x3x32x32`?"),
        ("(8, 3)", "did you mean `8x3`?"),
        ("x=8*3", "did you mean `x=8x3`?"),
        ("8X3", "did you mean `8x3`?"),
        ("8 x 3 x 2", "did you mean `8x3x2`?"),
        ("8 3", "did you mean `8x3`?"),
        ("x=(8X3)", "did you mean `x=8x3`?"),
        ("int64[8x3]", "did you mean `int64[8,3]`?"),
        ("Int64[8,3]<9", "did you mean `int64`?"),
        ("long(8, 3) < 9", "did you mean `int64[8,3]<9`?"),
        ("8x3:int64", "did you mean `int64[8,3]`?"),
        ("int64:8x3", "did you mean `int64[8,3]`?"),
        ("torch.int64[8,3]", "did you mean `int64[8,3]`?"),
        ("None", "without a name"),
        ("3.5", "without a name"),
        ("x=", "cannot be read"),
        ("x=[1]", "cannot be read"),
        ("x={}", "cannot be read"),
        ("x=__import__('os')", "cannot be read"),
        ("9" * 5000, "large"),
    ],
)
def test_parse_says_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert words in str(caught.value) and caught.value.help
    assert "\n" not in str(caught.value)


names = st.none() | st.from_regex(r"[A-Za-z_]\w{0,8}", fullmatch=True)
shapes = st.lists(st.integers(1, 10**6), max_size=6).map(tuple)
tensor_specs = st.one_of(
    st.builds(TensorSpec, shapes, st.sampled_from(DTYPES)),
    st.builds(TensorSpec, shapes, st.sampled_from(INTEGERS), st.integers(1, 127)),
    st.builds(TensorSpec, shapes.filter(lambda shape: len(shape) > 1)),
)
literals = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
specs = st.builds(InputSpec, tensor_specs, names) | st.builds(InputSpec, literals, names.filter(bool))


@given(specs)
def test_parse_reads_what_a_spec_prints(spec: InputSpec) -> None:
    assert parse(str(spec)) == spec


@given(st.text(alphabet="0123456789x,[]()<>=. int64floab\n", max_size=24))
def test_parse_reads_or_raises_a_spec_error(text: str) -> None:
    try:
        parse(text)
    except SpecError as error:
        assert str(error)


# -- from specs to arguments -------------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.proj = nn.Linear(6, 4)

    def forward(self, ids: Tensor, x: Tensor, scale: float = 1.0, *, flag: bool = False, mask: Any = None) -> Tensor:
        return self.embed(ids).sum(1) + self.proj(x) * scale


def told(*specs: str, model: nn.Module | None = None, **job: Any) -> Any:
    return resolve(model or Two(), Job("net.py:Two", inputs=specs, **job))


def test_specs_become_arguments_by_position_and_name() -> None:
    found = told("int64[5,3]<7", "5x6", "scale=2.5", "flag=True", "mask=bool[5,3]")
    assert [tuple(a.shape) for a in found.args] == [(5, 3), (5, 6)]
    assert found.kwargs["scale"] == 2.5 and found.kwargs["flag"] is True
    assert found.rows == [
        {"name": "ids", "shape": [5, 3], "dtype": "int64", "from": "--input"},
        {"name": "x", "shape": [5, 6], "dtype": "float32", "from": "--input"},
        {"name": "mask", "shape": [5, 3], "dtype": "bool", "from": "--input"},
    ]
    assert not found.inferred and found.batch_size == 5 and found.batch_axes == [0, 0, 0]


def test_values_depend_on_the_seed_alone_and_leave_the_global_generator() -> None:
    model, before = Two(), torch.get_rng_state()
    one, same, other = (told("int64[5,3]<7", "5x6", seed=seed, model=model) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.tensors, same.tensors, strict=True))
    assert not torch.equal(one.args[1], other.args[1])


def test_values_have_the_asked_range_and_dtype() -> None:
    def made(text: str) -> Tensor:
        value = told(f"mask={text}", "ids=int64[2,3]", "x=2x6").kwargs["mask"]
        assert isinstance(value, Tensor)
        return value

    ids, normal, coins = made("int32[100,100]<9"), made("float64[100,100]"), made("bool[100,100]")
    assert ids.dtype is torch.int32 and ids.unique().tolist() == list(range(9))
    assert normal.dtype is torch.float64 and abs(normal.mean()) < 0.1 and abs(normal.std() - 1) < 0.1
    assert 0.4 < coins.float().mean() < 0.6
    assert made("complex64[3]").is_complex() and made("float16[3]").dtype is torch.float16


def test_integers_without_a_bound_stay_below_the_table_they_index() -> None:
    ids = told("int64[200,9]", "200x6").args[0]
    assert ids.max() == 6 and ids.min() == 0


def test_the_short_form_has_the_dtype_of_the_model() -> None:
    assert told("int64[2,3]", "2x6", model=Two().double()).args[1].dtype is torch.float64


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        (["int64[5,3]<7"], "also needs `x`"),
        ([], "also needs `ids` and `x`"),
        (["1x2", "1x2", "1x2", "1x2", "1x2"], "takes 3 inputs, and 5 were given"),
        (["ids=1x2", "x=1x2", "maks=1x2"], "no input `maks` (did you mean `mask`?)"),
        (["1x2", "1x2", "x=1x2"], "`x` twice"),
    ],
)
def test_inputs_that_do_not_fit_the_signature(specs: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        told(*specs, "flag=True")
    assert caught.value.finding.code == "BN903" and words in caught.value.finding.message


def test_missing_inputs_are_written_out() -> None:
    with pytest.raises(InputError) as caught:
        told("int64[5,3]<7")
    assert "--input 'x=" in caught.value.finding.help


def test_a_tensor_too_large_to_make() -> None:
    with pytest.raises(InputError, match="cannot be made"):
        told("ids=int64[1,3]", f"x=float32[{2**40},{2**20}]")


# -- from a function or the model's own example ------------------------------------------------------------------------

FUNCTIONS = """
import torch

def pair(batch=2): return torch.zeros(batch, 3, dtype=torch.long), torch.randn(batch, 6)
def listed(): return list(pair())
def named(): return dict(zip(("ids", "x"), pair()))
def both(): return (pair()[0],), {"x": pair()[1]}
def broken():
    raise ValueError("no data")  # here
def empty(): return None
value = 3
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    (tmp_path / "make_inputs_here.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    model = Two()
    return lambda name: resolve(model, Job("net.py:Two", input_fn=f"make_inputs_here.py:{name}"))


@pytest.mark.parametrize("name", ["pair", "listed", "named", "both", "pair(batch=4)"])
def test_input_function(functions: Callable[[str], Any], name: str) -> None:
    before = torch.get_rng_state()
    found = functions(name)
    assert torch.equal(torch.get_rng_state(), before)
    assert [(r["name"], r["from"]) for r in found.rows] == [("ids", "--input-fn"), ("x", "--input-fn")]
    assert found.batch_size == (4 if "4" in name else 2)
    assert all(torch.equal(a, b) for a, b in zip(found.tensors, functions(name).tensors, strict=True))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pairs", "no `pairs`"),
        ("value", "not a function"),
        ("broken", "ValueError: no data"),
        ("empty", "no tensor"),
        ("pair(1, 2)", "TypeError"),
    ],
)
def test_input_function_that_fails(functions: Callable[[str], Any], name: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        functions(name)
    assert words in caught.value.finding.message


def test_a_failing_input_function_is_shown_at_its_line(functions: Callable[[str], Any]) -> None:
    with pytest.raises(InputError) as caught:
        functions("broken")
    finding = caught.value.finding
    line = FUNCTIONS.splitlines().index('    raise ValueError("no data")  # here') + 1
    assert finding.location is not None and finding.location.line == line
    assert "bnlint" not in finding.note


@pytest.mark.parametrize("text", ["make_inputs_here.py", "missing.py:pair", "no colon"])
def test_input_function_that_cannot_be_named(functions: Callable[[str], Any], text: str) -> None:
    with pytest.raises(InputError):
        resolve(Two(), Job("net.py:Two", input_fn=text))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def test_bnlint_inputs_beside_the_model() -> None:
    beside: Any = SimpleNamespace(bnlint_inputs=lambda: torch.ones(3, 6))
    found = resolve(Mlp(), Job("net.py:Mlp"), beside)
    assert found.rows == [{"name": "x", "shape": [3, 6], "dtype": "float32", "from": "bnlint_inputs()"}]
    assert not found.inferred and found.batch_size == 3


def test_bnlint_inputs_of_the_model_come_first() -> None:
    class Own(Mlp):
        example_input_array = torch.ones(2, 6)

        def bnlint_inputs(self) -> dict[str, Tensor]:
            return {"x": torch.ones(5, 6)}

    beside: Any = SimpleNamespace(bnlint_inputs=lambda: torch.ones(3, 6))
    assert resolve(Own(), Job("net.py:Own"), beside).rows[0]["shape"] == [5, 6]


@pytest.mark.parametrize("batch", [None, 1, 5])
def test_example_input_array_and_batch_size(batch: int | None) -> None:
    model = Mlp()
    model.example_input_array = torch.arange(12.0).reshape(2, 6)
    found = resolve(model, Job("net.py:Mlp", batch_size=batch))
    assert found.rows[0]["from"] == "example_input_array"
    assert found.args[0].shape == (batch or 2, 6) and torch.equal(found.args[0][0], torch.arange(6.0))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_example_of_one_number_means_its_shape(value: float) -> None:
    model = Mlp()
    model.example_input_array = torch.full((3, 6), value)
    found = [resolve(model, Job("net.py:Mlp")).args[0] for _ in range(2)]
    assert found[0].shape == (3, 6) and found[0].std() > 0.5
    assert torch.equal(*found)
    assert torch.equal(model.example_input_array, torch.full((3, 6), value))


def test_a_hint_that_raises_is_no_hint() -> None:
    class Raises(Mlp):
        @property
        def dummy_inputs(self) -> Any:
            raise RuntimeError("no config")

    assert resolve(Raises(), Job("net.py:Raises")).rows[0]["shape"] == [8, 6]


def test_dummy_inputs_are_used_when_they_run() -> None:
    class Good(Two):
        dummy_inputs: ClassVar[Any] = {"ids": torch.zeros(3, 2, dtype=torch.long), "x": torch.ones(3, 6)}

    class Stale(Two):
        dummy_inputs: ClassVar[Any] = {"ids": torch.zeros(3, 2, dtype=torch.long), "x": torch.ones(3, 9)}

    assert resolve(Good(), Job("net.py:Good")).rows[1] == {
        "name": "x",
        "shape": [3, 6],
        "dtype": "float32",
        "from": "dummy_inputs",
    }
    assert resolve(Stale(), Job("net.py:Stale")).rows[1]["shape"] == [8, 6]


def test_default_cfg() -> None:
    class Timm(nn.Sequential):
        default_cfg: ClassVar[Any] = {"input_size": (3, 40, 48)}

    found = resolve(Timm(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)), Job("net.py:Timm"))
    assert found.rows[0]["shape"] == [8, 1, 40, 48] and found.rows[0]["from"] == "default_cfg"


# -- values from the Python API, and resizing --------------------------------------------------------------------------


def test_from_values() -> None:
    ids, x = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 6)
    for value in ((ids, x), [ids, x], {"ids": ids, "x": x}, ((ids,), {"x": x})):
        assert [row["name"] for row in from_values(Two(), value).rows] == ["ids", "x"]
    assert from_values(Mlp(), x).args[0] is x


def test_a_dict_that_is_the_argument_itself() -> None:
    class Batch(nn.Module):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return batch["x"]

    found = from_values(Batch(), {"x": torch.ones(2, 6), "more": [torch.ones(2)]})
    assert [row["name"] for row in found.rows] == ["batch.x", "batch.more[0]"]


def test_resized_repeats_and_drops_samples() -> None:
    found = told("int64[5,3]<7", "5x6", "flag=True")
    larger, smaller = resized(found, batch=7), resized(found, batch=1)
    assert larger is not None and smaller is not None
    assert torch.equal(larger.args[0], found.args[0][[0, 1, 2, 3, 4, 0, 1]]) and larger.kwargs == {"flag": True}
    assert torch.equal(smaller.args[1], found.args[1][:1])
    assert larger.batch_size == 7 and larger.rows[1]["shape"] == [7, 6] and found.rows[1]["shape"] == [5, 6]
    assert resized(found, batch=5) is None and resized(found, scale=2.0) is None


def test_resized_scales_maps() -> None:
    found = from_values(Mlp(), torch.arange(8.0 * 3 * 6 * 4).reshape(8, 3, 6, 4))
    larger = resized(found, scale=1.5)
    assert larger is not None and larger.rows[0]["shape"] == [8, 3, 9, 6]
    assert torch.equal(larger.args[0][..., :6, :4], found.args[0])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_resizing_back_gives_the_same(batch: int, other: int) -> None:
    found = from_values(Two(), (torch.arange(batch * 2).reshape(batch, 2), torch.randn(batch, 6)))
    there = resized(found, batch=max(batch, other)) or found
    back = resized(there, batch=batch) or there
    assert all(torch.equal(a, b) for a, b in zip(back.tensors, found.tensors, strict=True))
