from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnlint.target import TargetError, expand, parse

NET = "from torch import nn\nclass Net(nn.Module):\n    pass\n"


def test_class_in_a_file():
    target = parse("models/net.py:Net")
    assert (target.path, target.module, target.attribute) == (Path("models/net.py"), None, "Net")
    assert (target.args, target.kwargs, target.called) == ((), {}, False)
    assert target.place == "models/net.py"


@pytest.mark.parametrize("text", ["./models/net.py:Net(1)", "models//net.py:Net(1)", "models\\net.py:Net(1)"])
def test_one_file_has_one_text(text):
    assert parse(text).text == "models/net.py:Net(1)"
    assert parse("./net.py").text == "net.py"


def test_literal_arguments():
    target = parse("net.py:Net(10, num_classes=-3, widths=[16, 32], name='a:b.py:c', pair=(1, None), on={'x': True})")
    assert target.args == (10,)
    assert target.kwargs == {
        "num_classes": -3,
        "widths": [16, 32],
        "name": "a:b.py:c",
        "pair": (1, None),
        "on": {"x": True},
    }
    assert target.called


def test_empty_call_is_a_call():
    assert parse("net.py:make_model()").called


@pytest.mark.parametrize("text", [r"C:\x.py:Net", r"C:\my models\x.py:Net(n=1)", r"C:x.py:Net", "C:/x.py:Net"])
def test_windows_drive_letters(text):
    target = parse(text)
    assert target.path is not None and target.path.as_posix() == text.split(".py")[0].replace("\\", "/") + ".py"
    assert target.attribute == "Net"
    assert "\\" not in target.text


def test_backslashes_in_arguments_stay():
    assert parse(r"a\net.py:Net(p='x\\y')").kwargs == {"p": r"x\y"}


def test_modules_and_dotted_attributes():
    target = parse("pkg.mod:zoo.Net(depth=3)")
    assert (target.path, target.module, target.attribute, target.kwargs) == (None, "pkg.mod", "zoo.Net", {"depth": 3})
    assert parse("pkg.mod:Net(path='x.py:y')").module == "pkg.mod"
    assert parse("net.py:models.Net").attribute == "models.Net"


def test_parentheses_and_spaces_in_the_path():
    assert parse("my work (1)/net.py:Net(2)").path == Path("my work (1)/net.py")


def test_unicode_names():
    target = parse("modèles/réseau.py:Réseau(taille=3)")
    assert (target.attribute, target.kwargs) == ("Réseau", {"taille": 3})


def test_file_alone_and_folder(tmp_path):
    assert parse("net.py").attribute is None
    assert parse(str(tmp_path)).path == tmp_path


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("net.py:Net(block=nn.ReLU)", "block=nn.ReLU"),
        ("net.py:Net(__import__('os').system('true'))", "__import__('os').system('true')"),
        ("net.py:Net(*[1, 2])", "*[1, 2]"),
        ("net.py:Net(**{'a': 1})", "**{'a': 1}"),
        ("net.py:Net(n=2 ** 8)", "n=2 ** 8"),
        ("net.py:Net(", "Net("),
        ("net.py:", "net.py:"),
        ("net.py:Net[0]", "Net[0]"),
        ("net.py:Net()()", "Net()"),
        ("net.py:1", "1"),
        ("pkg.mod", "pkg.mod"),
        ("", "``"),
        ("notebook.ipynb:Net", "notebook.ipynb"),
    ],
)
def test_bad_targets_name_the_offence(text, named):
    with pytest.raises(TargetError) as error:
        parse(text)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@given(
    args=st.lists(
        st.integers() | st.text() | st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
    ),
    kwargs=st.dictionaries(st.from_regex(r"[a-z]{4}[0-9]", fullmatch=True), st.lists(st.integers()), max_size=3),
)
def test_any_literals_survive(args, kwargs):
    words = [repr(value) for value in args] + [f"{key}={value!r}" for key, value in kwargs.items()]
    target = parse(f"dir/net.py:Net({', '.join(words)})")
    assert (target.args, target.kwargs) == (tuple(args), kwargs)


@given(st.text(max_size=40))
def test_any_text_is_a_target_or_a_target_error(text):
    with contextlib.suppress(TargetError):
        parse(text)


def test_expand_keeps_what_is_not_a_folder():
    long = f"b.py:Net(widths={list(range(300))})"
    assert expand(["b.py:Net", "pkg.mod:Net", "missing.py", long, "b.py:Net"]) == [
        "b.py:Net",
        "pkg.mod:Net",
        "missing.py",
        long,
    ]


def test_expand_finds_module_classes_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "zoo/net.py": NET,
        "zoo/deep/light.py": "class Net(pl.LightningModule): pass\n",
        "zoo/deep/odd.py": "class Net(Base):\n    def forward(self, x): return x\n",
        "zoo/plain.py": "class Config:\n    pass\n",
        "zoo/broken.py": "class Net(nn.Module:\n",
        "zoo/binary.py": "class \0",
        "zoo/.hidden/net.py": NET,
        "zoo/__pycache__/net.py": NET,
        "zoo/my_env/pyvenv.cfg": "",
        "zoo/my_env/net.py": NET,
        "empty/plain.py": "x = 1\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert expand(["zoo"]) == ["zoo/deep/light.py", "zoo/deep/odd.py", "zoo/net.py"]
    assert expand(["empty"]) == []
