"""`--batch`: loaders, functions and files, and what of a batch is the target."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bnlint import audit
from bnlint.inputs import InputError
from bnlint.inputs.batch import from_batch
from bnlint.job import Job

X, Y = torch.randn(6, 16, generator=torch.Generator().manual_seed(0)) + 3, torch.arange(6) % 4
SOURCE = """
import torch
from torch.utils.data import DataLoader, TensorDataset
X, Y = torch.randn(6, 16, generator=torch.Generator().manual_seed(0)) + 3, torch.arange(6) % 4
loader = DataLoader(TensorDataset(X, Y), batch_size=4)
def function(): return X, Y
def stream():
    while True: yield {"x": X, "label": Y}
def make(size): return DataLoader(TensorDataset(X, Y), batch_size=size)
pair, named, alone, number, empty = (X, Y), {"image": X, "label": Y}, X, 3, iter(())
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(16, 4)
    def forward(self, x):
        return self.head(x)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.py"
    path.write_text(SOURCE)
    return path


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, x, mask=None):
        return self.head(x)


@pytest.mark.parametrize(
    ("name", "size", "has_target"),
    [
        ("loader", 4, True),
        ("function", 6, True),
        ("stream", 6, True),
        ("make(size=2)", 2, True),
        ("pair", 6, True),
        ("named", 6, True),
        ("alone", 6, False),
    ],
)
def test_first_batch_of_code(file, name, size, has_target):
    found = from_batch(Net(), f"{file}:{name}", None, 0)
    assert torch.equal(found.tensors[0], X[:size]) and found.batch_size == size and found.is_data
    assert (found.targets is not None) == has_target


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("batch.pt", lambda path: torch.save((X, Y), path)),
        ("batch.pth", lambda path: torch.save({"x": X, "y": Y}, path)),
        ("batch.npz", lambda path: np.savez(path, x=X.numpy(), y=Y.numpy())),
        ("batch.safetensors", lambda path: save_file({"x": X, "y": Y}, path)),
    ],
)
def test_first_batch_of_a_file(tmp_path, name, save):
    save(tmp_path / name)
    found = from_batch(Net(), str(tmp_path / name), None, 0)
    (target,) = found.targets.values() if isinstance(found.targets, dict) else found.targets
    assert torch.equal(found.tensors[0], X) and torch.equal(target, Y)


def _damaged(save, path):
    """An archive with a byte that is not as it was."""
    save(path, x=np.zeros(999))
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)


class Marker:
    """A pickle with this inside would run code."""


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("batch.pt", lambda path: torch.save({"x": Marker()}, path)),
        ("batch.npz", lambda path: np.savez(path, x=np.array([Marker()], dtype=object))),
        ("batch.npz", lambda path: path.write_bytes(b"nothing")),
        ("batch.npz", lambda path: _damaged(np.savez, path)),
        ("batch.safetensors", lambda path: path.write_bytes(b"nothing")),
        ("batch.pt", lambda path: torch.save({"a": 1}, path)),
        ("batch.pt", lambda path: torch.save({"a": X, "b": X, "c": X}, path)),  # none is forward's
        ("absent.pt", lambda path: None),
    ],
)
def test_files_that_are_no_batch(tmp_path, name, make):
    make(tmp_path / name)
    with pytest.raises(InputError):
        from_batch(Net(), str(tmp_path / name), None, 0)


@pytest.mark.parametrize("name", ["loder", "number", "data"])
def test_names_that_are_no_batch(file, name):
    with pytest.raises(InputError):
        from_batch(Net(), f"{file}:{name}", None, 0)


def test_a_loader_without_a_batch(file):
    with pytest.raises(InputError, match="gives no batch"):
        from_batch(Net(), f"{file}:empty", None, 0)


def test_other_files_name_no_batch():
    with pytest.raises(InputError) as raised:
        from_batch(Net(), "data.csv", None, 0)
    assert str(raised.value) == "`data.csv` names no batch"


def test_targets_of_the_batch_make_the_loss(file):
    job = Job(f"{file}:Net", batch=f"{file}:pair", loss="cross_entropy", select=("BN611",))
    report = audit.run(job, lambda stage: None)
    assert report.status == "ok" and [row["from"] for row in report.input] == ["--batch"]

    from bnlint.graph.model import Graph
    from bnlint.graph.record import record
    from bnlint.signal.probe import probe

    model = Net()
    inputs = from_batch(model, f"{file}:pair", None, 0)
    facts = probe(model, inputs, Graph(record(model, inputs.args), model), loss="cross_entropy")
    assert facts.initial_loss.real_targets
    assert facts.initial_loss.value == pytest.approx(float(nn.functional.cross_entropy(model(X), Y)), rel=1e-4)


def test_a_batch_that_is_not_there_ends_the_check(file):
    report = audit.run(Job(f"{file}:Net", batch=f"{file}:absent", select=("BN611",)), lambda stage: None)
    assert report.status == "failed" and [f.code for f in report.findings] == ["BN903"]


def test_loader_is_one():
    assert isinstance(next(iter(DataLoader(TensorDataset(X, Y)))), list)


@pytest.mark.parametrize("kind", [np.float64, np.uint8])
def test_numbers_of_another_dtype(file, kind):
    np.savez(file.parent / "d.npz", x=X.numpy().astype(kind))
    report = audit.run(Job(f"{file}:Net", batch=str(file.parent / "d.npz")), lambda stage: None)
    (finding,) = (f for f in report.findings if f.code == "BN903")
    assert np.dtype(kind).name in finding.help and "float32" in finding.help
