"""Importing and building what a target names, and the one finding for each way it can go wrong."""

from __future__ import annotations

import random
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from bnlint.build import BuildError, build, discover
from bnlint.target import parse

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10, widths=(4,)):
        super().__init__()
        self.fc = nn.Linear(2, num_classes)
        self.widths = widths

    def forward(self, x):
        return self.fc(x)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes files into an empty working directory; the import state is as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "net", raising=False)  # another test's
    before = dict(sys.modules)

    def write(**files):
        for name, text in files.items():
            put(tmp_path, f"{name}.py", text)

    write.root = tmp_path
    yield write
    for name in sys.modules.keys() - before.keys():
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")) or name in ("repo", "src", "lib"):
            del sys.modules[name]


def put(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")


def finding(text):
    with pytest.raises(BuildError) as error:
        build(parse(text))
    found = error.value.finding
    assert "\n" not in found.message
    return found


# -- what can be built -------------------------------------------------------------------------------------------------


def test_class_with_arguments(project):
    project(net=NET)
    built = build(parse("net.py:Net(3, widths=[16, 32])"))
    assert isinstance(built.model, nn.Module)
    assert (built.model.fc.out_features, built.model.widths, built.name) == (3, [16, 32], "Net")
    assert built.module.__name__ == "net"
    location = built.source.location("fc")
    assert (location.file, location.line, location.column) == ("net.py", 7, 19)
    assert built.source.location("").line == 4


def test_factory_instance_and_dotted_names(project):
    project(
        net=NET
        + """
def make(n=5):
    return Net(n)

model = Net(6)
broken = None

class Zoo:
    Net = Net
    @classmethod
    def big(cls):
        return cls.Net(100)
"""
    )
    assert build(parse("net.py:make")).model.fc.out_features == 5
    assert build(parse("net.py:make(n=7)")).model.fc.out_features == 7
    built = build(parse("net.py:model"))
    assert built.model.fc.out_features == 6
    assert built.source.location("").line == 16
    assert build(parse("net.py:Zoo.Net(2)")).model.fc.out_features == 2
    assert build(parse("net.py:Zoo.big")).model.fc.out_features == 100


def test_module_target_uses_the_working_directory(project):
    put(project.root, "pkg/__init__.py", "")
    put(project.root, "pkg/net.py", NET)
    assert build(parse("pkg.net:Net")).name == "Net"


def test_stages_are_announced(project):
    project(net=NET)
    stages = []
    build(parse("net.py:Net"), 0, stages.append)
    assert stages == ["import", "construct"]


def test_the_seed_decides_the_weights(project):
    project(net=NET)
    one, same, other = (build(parse("net.py:Net"), seed).model.fc.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    build(parse("net.py:Net"), 5)
    assert random.random() == random.Random(5).random()


# -- importing like `python file.py` -----------------------------------------------------------------------------------


def test_neighbours_and_the_working_directory_are_importable(project):
    put(project.root, "lib/shared.py", "WIDTH = 3\n")
    put(project.root, "models/blocks.py", "from torch import nn\nBlock = nn.ReLU\n")
    put(project.root, "models/net.py", "from blocks import Block\nfrom lib.shared import WIDTH\nmodel = Block()\n")
    assert isinstance(build(parse("models/net.py:model")).model, nn.ReLU)


def test_main_guard_and_arguments(project):
    project(
        net=NET
        + """
import argparse, sys
args = argparse.ArgumentParser().parse_args()
script = sys.argv
if __name__ == "__main__":
    raise SystemExit(3)
"""
    )
    before = list(sys.argv)
    assert build(parse("net.py:Net")).module.script == ["net.py"]
    assert sys.argv == before


def test_relative_imports_in_a_package(project):
    put(project.root, "repo/__init__.py", "")
    put(project.root, "repo/parts/__init__.py", "")
    put(project.root, "repo/parts/blocks.py", "from torch import nn\nfrom ..settings import N\nBlock = nn.ReLU\n")
    put(project.root, "repo/settings.py", "N = 1\n")
    put(project.root, "repo/parts/net.py", "from .blocks import Block\nfrom ..settings import N\nmodel = Block()\n")
    built = build(parse("repo/parts/net.py:model"))
    assert built.module.__name__ == "repo.parts.net"
    assert built.module is sys.modules["repo.parts.net"]


def test_relative_imports_without_init_files(project):
    put(project.root, "src/models/blocks.py", "from torch import nn\nfrom ..common import Block\n")
    put(project.root, "src/common.py", "from torch import nn\nBlock = nn.ReLU\n")
    put(project.root, "src/models/net.py", "from .blocks import Block\nmodel = Block()\n")
    assert isinstance(build(parse("src/models/net.py:model")).model, nn.ReLU)


def test_relative_imports_beside_the_working_directory(project, monkeypatch):
    put(project.root, "my-app/blocks.py", "from torch import nn\nBlock = nn.ReLU\n")
    put(project.root, "my-app/my-net.py", "from .blocks import Block\nmodel = Block()\n")
    monkeypatch.chdir(project.root / "my-app")
    assert isinstance(build(parse("my-net.py:model")).model, nn.ReLU)


def test_a_package_file_that_its_package_imports(project):
    put(project.root, "repo/__init__.py", "from .net import Net\n")
    put(project.root, "repo/base.py", "from torch import nn\n")
    put(project.root, "repo/net.py", "from .base import nn\n" + NET)
    built = build(parse("repo/net.py:Net"))
    assert type(built.model) is sys.modules["repo"].Net
    assert build(parse("repo/__init__.py:Net")).name == "Net"


def test_without_relative_imports_the_package_is_not_run(project):
    put(project.root, "repo/__init__.py", "raise RuntimeError('needs a GPU')\n")
    put(project.root, "repo/net.py", NET)
    assert build(parse("repo/net.py:Net")).name == "Net"


@pytest.mark.parametrize("name", ["torch.py", "json.py", "my-net.py", "3net.py", "class.py", "bnlint.py", "réseau.py"])
def test_awkward_file_names(project, name):
    real = sys.modules.get(name.removesuffix(".py"))
    put(project.root, name, NET)
    built = build(parse(f"{name}:Net"))
    assert sys.modules.get(name.removesuffix(".py")) in (real, built.module)
    assert built.source.location("fc").file == name
    assert sys.modules["torch"] is torch


def test_a_file_saved_again_is_read_again(project):
    for n in range(2, 6):
        project(net=NET.replace("nn.Linear(2,", f"nn.Linear({n},"))
        assert build(parse("net.py:Net")).model.fc.in_features == n


# -- BN901 -------------------------------------------------------------------------------------------------------------


def test_missing_file(project):
    project(model=NET)
    found = finding("modle.py:Net")
    assert found.code == "BN901"
    assert "model.py" in found.help
    assert finding("nowhere/net.py:Net").code == "BN901"
    (project.root / "folder.py").mkdir()
    assert finding("folder.py:Net").code == "BN901"


def test_import_error_points_at_the_users_line(project):
    project(net="import helper\n", helper="import json\n\ndef f():\n    return json.loads('{')\n\nf()\n")
    found = finding("net.py:Net")
    assert found.code == "BN901"
    assert (found.location.file, found.location.line) == ("helper.py", 4)
    assert "JSONDecodeError" in found.message
    assert "net.py" in found.note and "helper.py" in found.note
    assert "json/decoder.py" not in found.note and "importlib" not in found.note


def test_syntax_error(project):
    project(net="x = 1\nclass Net(:\n    pass\n")
    found = finding("net.py:Net")
    assert found.code == "BN901"
    assert (found.location.file, found.location.line, found.location.column) == ("net.py", 2, 11)
    project(net="import other\n", other="é = (\n")
    assert finding("net.py:Net").location.file == "other.py"


def test_null_bytes(project):
    (project.root / "net.py").write_bytes(b"x = 1\0\n")
    assert finding("net.py:Net").code == "BN901"


def test_missing_package_and_missing_local_file(project):
    project(net="\nimport no_such_package_anywhere.sub\n")
    found = finding("net.py:Net")
    assert (found.code, found.location.line) == ("BN901", 2)
    assert "no_such_package_anywhere" in found.message
    assert sys.executable in found.help
    put(project.root, "elsewhere/own_helper.py", "")
    project(net="import own_helper\n")
    assert "elsewhere/own_helper.py" in finding("net.py:Net").help
    project(net="import torch.no_such_part\n")
    assert "no_such_part" in finding("net.py:Net").help
    found = finding("no_such_package_anywhere.mod:Net")
    assert (found.code, found.location) == ("BN901", None)


def test_exit_while_importing(project):
    project(net="import sys\nsys.exit(0)\n")
    found = finding("net.py:Net")
    assert (found.code, found.location.line) == ("BN901", 2)
    assert "__main__" in found.help


# -- BN902 -------------------------------------------------------------------------------------------------------------


def test_missing_attribute(project):
    project(net=NET + "\ndef make_net(): pass\nclass Zoo: pass\n")
    assert "`net.py:Net`" in finding("net.py:Nett").help
    assert "`net.py:Net`" in finding("net.py:net").help
    far = finding("net.py:Transformer")
    assert far.code == "BN902"
    assert far.help.startswith("it has: Net, make_net, Zoo")
    assert "`Zoo` in `net.py`" in finding("net.py:Zoo.inner").message
    assert finding("net.py").code == "BN902"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Config", "a class, not"),
        ("number", "an int"),
        ("zoo", "a module"),
        ("pair", "returned a tuple"),
        ("nothing", "returned a NoneType"),
        ("model()", "a model already"),
        ("Abstract", "`head`"),
    ],
)
def test_not_a_model(project, name, what):
    project(
        net=NET
        + """
import abc
import json as zoo
class Config: pass
number = 3
def pair(): return Net(), 1
def nothing(): Net()
model = Net()
class Abstract(nn.Module, abc.ABC):
    @abc.abstractmethod
    def head(self): ...
"""
    )
    found = finding(f"net.py:{name}")
    assert found.code == "BN902"
    assert what in found.message


def test_arguments(project):
    project(
        net="""
from torch import nn
class Net(nn.Module):
    def __init__(self, depth, num_classes, *, width, drop=0.1):
        super().__init__()
"""
    )
    found = finding("net.py:Net")
    assert found.message == "`Net` needs arguments: depth, num_classes, width"
    assert "`net.py:Net(depth=…, num_classes=…, width=…)`" in found.help
    assert "`net.py:Net(3, width='x', num_classes=…)`" in finding("net.py:Net(3, width='x')").help
    assert "`num_classes`" in finding("net.py:Net(3, num_clases=2, width=1)").help
    assert finding("net.py:Net(1, 2, 3, 4)").code == "BN902"


def test_constructor_raises(project):
    project(
        net="""
import torch
from torch import nn
def check(n):
    return nn.Linear(-n, 3)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = check(2)
class Exits(nn.Module):
    def __init__(self):
        raise SystemExit("bye")
class Deep(nn.Module):
    def __init__(self):
        Deep()
"""
    )
    found = finding("net.py:Net")
    assert (found.code, found.location.file, found.location.line) == ("BN902", "net.py", 5)
    assert "torch/nn" not in found.note
    assert found.note.count("net.py") == 2
    assert finding("net.py:Exits").location.line == 12
    deep = finding("net.py:Deep")
    assert "RecursionError" in deep.message
    assert len(deep.note.splitlines()) < 30


def test_running_out_of_memory_is_not_the_targets_fault(project):
    project(net="from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        raise MemoryError\n")
    with pytest.raises(MemoryError):
        build(parse("net.py:Net"))


# -- a file alone ------------------------------------------------------------------------------------------------------


def test_discover(project):
    project(
        other=NET.replace("Net", "Imported"),
        net="""
import abc
from torch import nn
from other import Imported
class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.n = self.width
    def forward(self, x): return x
class Derived(Base):
    width = 3
class Part(nn.Module):
    def forward(self, x): return x
class Hidden(Part): pass
class NeedsPart(nn.Module):
    def __init__(self, n): super().__init__()
    def forward(self, x): return x
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(Part(), NeedsPart(3))
        self.hidden = [Hidden()]
    def forward(self, x): return x
Alias = Net
class Needs(nn.Module):
    def __init__(self, num_classes, *, width): super().__init__()
    def forward(self, x): return x
def tiny_needs(): return Needs(1, width=2)
class Container(nn.Module): pass
class Abstract(nn.Module, abc.ABC):
    @abc.abstractmethod
    def forward(self, x): ...
class Raises(nn.Module):
    def __init__(self): raise ValueError("always")
    def forward(self, x): return x
class ByConvention(nn.Module):
    def __init__(self): raise NotImplementedError
    def forward(self, x): return x
""",
    )
    targets, skipped = discover(Path("net.py"))
    assert targets == ["net.py:Derived", "net.py:Net", "net.py:Raises"]
    assert dict(skipped) == {
        "Base": "is the base of Derived",
        "Part": "is a part of Net",
        "Hidden": "is a part of Net",
        "NeedsPart": "is a part of Net",
        "Needs": "needs arguments: num_classes, width; `tiny_needs` builds one",
        "Container": "forward not defined",
        "Abstract": "abstract",
        "ByConvention": "abstract",
    }


def test_discover_the_seed_net():
    root = Path(__file__).parents[1]
    targets, skipped = discover(root / "examples/seed_net.py")
    assert [text.rpartition(":")[2] for text in targets] == ["Net"]
    assert skipped == [("BNLayer", "is a part of Net")]


def test_discover_fails_like_build(project):
    project(net="import no_such_package_anywhere\n")
    with pytest.raises(BuildError) as error:
        discover(Path("net.py"))
    assert error.value.finding.code == "BN901"


def test_a_name_that_is_not_there_is_taken_for_a_model_before_a_module(tmp_path):
    (tmp_path / "net_.py").write_text(
        "import os\nimport torch\nfrom torch import nn\n\n\nclass N(nn.Linear):\n    pass\n\n\ndef make():\n    return N(2, 2)\n"
    )
    place = (tmp_path / "net_.py").as_posix()
    for name, help in (("n", f"did you mean `{place}:N`?"), ("other", "it has: N, make")):
        with pytest.raises(BuildError) as caught:
            build(parse(f"{place}:{name}"))
        assert caught.value.finding.help == help
