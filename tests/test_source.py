"""Construction lines: the log while a model is built, and the syntax of its source when it was built elsewhere."""

from __future__ import annotations

import gc
import importlib.util
import linecache
import sys
import textwrap
import time
import weakref
from collections import OrderedDict

import pytest
from torch import nn

from bnlint.graph.source import ConstructionLog, locate
from bnlint.graph.syntax import call_on_line

HEAD = """import copy
from collections import OrderedDict
from dataclasses import dataclass
from torch import nn
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Writes a module, imports it and gives (module, text of a location)."""
    monkeypatch.chdir(tmp_path)
    names = []

    def write(source, name="net_under_test", encode=lambda text: text.encode(), head=HEAD):
        path = tmp_path / f"{name}.py"
        text = head + textwrap.dedent(source)
        path.write_bytes(encode(text))
        linecache.checkcache(str(path))
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        names.append(name)
        spec.loader.exec_module(module)

        def span(location):
            assert location is not None
            assert location.file == f"{name}.py"
            lines = text.splitlines()
            if location.end_line == location.line:
                return lines[location.line - 1][location.column - 1 : location.end_column - 1]
            return lines[location.line - 1][location.column - 1 :] + " …"

        return module, span

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(params=["log", "syntax"])
def located(request):
    """Builds `module.Net()` with and without a log; both ways must name the same place."""

    def build(make):
        if request.param == "syntax":
            return locate(make())
        with ConstructionLog() as log:
            model = make()
        return locate(model, log)

    return build


def test_attributes_and_containers(load, located):
    module, span = load(
        """
        class Block(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.conv = nn.Conv2d(n, n, 3)
                self.act: nn.Module = nn.ReLU()
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), Block(4))
                self.named = nn.Sequential(OrderedDict([("a", nn.Linear(3, 3)), ("b", nn.Tanh())]))
                self.items = nn.ModuleList([nn.Linear(5, 5), nn.Linear(6, 6)])
                self.many = nn.ModuleList([nn.Linear(7, 7) for _ in range(3)])
                self.table = nn.ModuleDict({"x": nn.Linear(8, 8), "y": nn.Tanh()})
                self.left, self.right = nn.Linear(1, 1), nn.Linear(2, 2)
                self.add_module("added", nn.Linear(9, 9))
                setattr(self, "set", nn.Linear(10, 10))
                self.plain = [nn.Linear(11, 11)]
        """
    )
    source = located(module.Net)
    assert span(source.location("body")) == "nn.Sequential(nn.Linear(1, 2), nn.ReLU(), Block(4))"
    assert span(source.location("body.0")) == "nn.Linear(1, 2)"
    assert span(source.location("body.2")) == "Block(4)"
    assert span(source.location("body.2.conv")) == "nn.Conv2d(n, n, 3)"
    assert span(source.location("body.2.act")) == "nn.ReLU()"
    assert span(source.location("named.a")) == "nn.Linear(3, 3)"
    assert span(source.location("named.b")) == "nn.Tanh()"
    assert span(source.location("items.1")) == "nn.Linear(6, 6)"
    assert span(source.location("many.2")) == "nn.Linear(7, 7)"
    assert span(source.location("table.x")) == "nn.Linear(8, 8)"
    assert span(source.location("left")) == "nn.Linear(1, 1)"
    assert span(source.location("right")) == "nn.Linear(2, 2)"
    assert span(source.location("added")) == "nn.Linear(9, 9)"
    assert span(source.location("set")) == "nn.Linear(10, 10)"
    assert span(source.location("plain[0]")) == "nn.Linear(11, 11)"
    assert span(source.location("")) == "class Net(nn.Module)"
    assert source.location("missing") is None


def test_subclass_of_sequential_and_base_classes(load, located):
    module, span = load(
        """
        class ConvRelu(nn.Sequential):
            def __init__(self, n):
                super().__init__(nn.Conv1d(n, n, 1), nn.ReLU())
        class Base(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem = nn.Linear(1, 1)
                self.head = nn.Linear(1, 1)
        class Net(Base):
            def __init__(self):
                super().__init__()
                self.block = ConvRelu(3)
                self.head = nn.Linear(1, 5)
        """
    )
    source = located(module.Net)
    assert span(source.location("block.0")) == "nn.Conv1d(n, n, 1)"
    assert span(source.location("block.1")) == "nn.ReLU()"
    assert span(source.location("stem")) == "nn.Linear(1, 1)"
    assert span(source.location("head")) == "nn.Linear(1, 5)"
    assert span(source.class_location(module.Base)) == "class Base(nn.Module)"
    assert source.class_location(nn.Linear) is None


def test_layers_of_torch_point_at_the_users_line(load, located):
    module, span = load(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.TransformerEncoderLayer(8, 2, 16)
                self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        """
    )
    source = located(module.Net)
    assert span(source.location("layer.self_attn.out_proj")) == "nn.TransformerEncoderLayer(8, 2, 16)"
    assert "nn.Linear(4, 4)" in span(source.location("normed"))
    assert "weight_norm(nn.Linear(4, 4))" in span(source.location("normed.parametrizations.weight"))


def test_append_in_a_loop(load, located):
    module, span = load(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                layers = []
                for n in range(1, 4):
                    layers += [nn.Linear(n, n + 1), nn.ReLU()]
                self.body = nn.Sequential(*layers)
        """
    )
    source = located(module.Net)
    assert span(source.location("body.2")) == "nn.Linear(n, n + 1)"
    assert span(source.location("body.5")) == "nn.ReLU()"


def test_several_lines_unicode_and_crlf(load, located):
    module, span = load(
        """
        class Réseau(nn.Module):
            def __init__(self):
                super().__init__()
                self.été = nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 3))  # ünïcödé
                self.long = nn.Linear(
                    4,
                    4,
                )
        Net = Réseau
        """,
        encode=lambda text: text.replace("\n", "\r\n").encode(),
    )
    source = located(module.Net)
    assert span(source.location("été.1")) == "nn.Linear(3, 3)"
    long = source.location("long")
    assert (long.end_line - long.line, long.end_column) == (3, 10)
    assert span(source.location("")) == "class Réseau(nn.Module)"


def test_source_with_an_encoding_cookie(load, located):
    module, span = load(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.é = nn.Linear(2, 2)
        """,
        head="# -*- coding: latin-1 -*-\nfrom torch import nn\n",
        encode=lambda text: text.encode("latin-1"),
    )
    assert span(located(module.Net).location("é")) == "nn.Linear(2, 2)"


# -- what only the log can know ----------------------------------------------------------------------------------------


def test_deep_copies(load):
    module, span = load(
        """
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(2, 2)
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = Block()
                self.second = copy.deepcopy(self.first)
                layer = nn.TransformerEncoderLayer(8, 2, 16)
                self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        """
    )
    with ConstructionLog() as log:
        model = module.Net()
    source = locate(model, log)
    assert span(source.location("second")) == "copy.deepcopy(self.first)"
    assert span(source.location("second.fc")) == "nn.Linear(2, 2)"
    assert "nn.TransformerEncoder(" in span(source.location("encoder.layers.1"))
    assert "nn.TransformerEncoderLayer(" in span(source.location("encoder.layers.1.linear1"))


def test_factories_wrappers_and_dataclasses(load):
    module, span = load(
        """
        import functools
        def wrapped(init):
            @functools.wraps(init)
            def wrapper(*args, **kwargs):
                return init(*args, **kwargs)
            return wrapper
        class Wrapped(nn.Module):
            @wrapped
            def __init__(self):
                super().__init__()
        @dataclass(eq=False)
        class Data(nn.Module):
            n: int = 3
            def __post_init__(self):
                super().__init__()
        class Meta(type):
            def __call__(cls, *args):
                return super().__call__(*args)
        class WithMeta(nn.Module, metaclass=Meta):
            pass
        def conv(n):
            return nn.Conv1d(n, n, 1)
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.wrapped = Wrapped()
                self.data = Data()
                self.meta = WithMeta()
                self.conv = conv(3)
                self.again = nn.Linear(1, 1)
                self.again.__init__(2, 2)
        def make():
            return Net()
        """
    )
    with ConstructionLog() as log:
        model = module.make()
    source = locate(model, log)
    assert span(source.location("wrapped")) == "Wrapped()"
    assert span(source.location("data")) == "Data()"
    assert span(source.location("meta")) == "WithMeta()"
    assert span(source.location("conv")) == "nn.Conv1d(n, n, 1)"
    assert span(source.location("again")) == "nn.Linear(1, 1)"
    assert span(source.location("")) == "Net()"


def test_shared_modules_by_every_name(load, located):
    module, span = load(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.one = nn.Linear(2, 2)
                self.two = nn.Sequential(nn.ReLU(), self.one)
        """
    )
    source = located(module.Net)
    assert span(source.location("one")) == "nn.Linear(2, 2)"
    assert source.location("two.1") is not None


def test_the_log_leaves_torch_as_it_was_and_holds_nothing():
    before = nn.Module.__init__, nn.Module.__setstate__
    log = ConstructionLog()
    with pytest.raises(ZeroDivisionError), log:
        assert nn.Module.__init__ is not before[0]
        raise ZeroDivisionError
    assert (nn.Module.__init__, nn.Module.__setstate__) == before
    with log:
        layer = (lambda: nn.Linear(1, 1))()
    assert log.call(layer).code.co_name == "<lambda>"
    alive = weakref.ref(layer)
    del layer
    gc.collect()
    assert alive() is None


def test_a_library_that_wraps_the_constructor_meanwhile_keeps_its_wrapper(monkeypatch):
    monkeypatch.setattr(nn.Module, "__init__", nn.Module.__init__)

    def wrapper(self, *args, **kwargs):
        inner(self, *args, **kwargs)

    with ConstructionLog():
        inner = nn.Module.__init__
        nn.Module.__init__ = wrapper
    assert nn.Module.__init__ is wrapper
    nn.Linear(1, 1)


def test_nothing_outside_the_log_is_a_construction_line():
    def outer():
        with ConstructionLog() as log:
            return log, make()

    def make():
        return nn.Linear(1, 1)

    log, layer = outer()
    assert log.call(layer).code is make.__code__
    with ConstructionLog() as log:
        layer = eval("nn.Linear(1, 1)", {"nn": nn})
    assert log.call(layer) is None


# -- no source ---------------------------------------------------------------------------------------------------------


def test_classes_without_source_have_no_line():
    space = {"nn": nn, "__name__": "nowhere"}
    exec(
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.a = nn.ReLU()", space
    )
    source = locate(space["Net"]())
    assert source.location("a") is None
    assert source.location("") is None
    assert locate(nn.Sequential(nn.ReLU())).location("0") is None


def test_notebook_cells():
    text = "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.a = nn.ReLU()\n"
    name = "/tmp/ipykernel_1/123.py"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space = {"nn": nn, "__name__": "notebook"}
    exec(compile(text, name, "exec"), space)
    found = locate(space["Net"]()).location("a")
    assert (found.file, found.line, found.column, found.end_column) == (name, 4, 18, 27)


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_a_module_that_holds_its_parent(load, located):
    module, span = load(
        """
        class Child(nn.Module):
            def __init__(self, parent):
                super().__init__()
                self.parent = parent
                self.fc = nn.Linear(1, 1)
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.child = Child(self)
        """
    )
    assert span(located(module.Net).location("child.fc")) == "nn.Linear(1, 1)"


def test_without_columns_the_call_is_found_by_its_line(load):
    module, span = load("x = nn.Sequential(nn.Linear(1, 2), nn.ReLU())\n")
    line = HEAD.count("\n") + 1
    assert span(call_on_line(module.__file__, line, "ReLU").location()) == "nn.ReLU()"
    assert span(call_on_line(module.__file__, line, "Other").location()).startswith("nn.Sequential(")
    assert call_on_line(module.__file__, 1, "ReLU") is None


def test_ten_thousand_layers_cost_little():
    def build():
        started = time.perf_counter()
        model = nn.Sequential(OrderedDict((f"l{i}", nn.ReLU()) for i in range(10_000)))
        return model, time.perf_counter() - started

    build()
    bare = min(build()[1] for _ in range(3))
    with ConstructionLog() as log:
        model, logged = build()
    started = time.perf_counter()
    source = locate(model, log)
    assert source.location("l9999").line == build.__code__.co_firstlineno + 2
    assert logged + time.perf_counter() - started < 30 * bare  # linear: quadratic would be thousands
