"""When the device has too little memory for the batch: half of it, and so on."""

import weakref

import pytest
import torch
from torch import nn

import bnlint


class Greedy(nn.Module):
    """Runs out of memory beyond a number of samples."""

    def __init__(self, most):
        super().__init__()
        self.layer, self.most = nn.Linear(16, 4), most

    def forward(self, x):
        x = self.layer(x)
        if not isinstance(x, torch._subclasses.FakeTensor) and len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return x


@pytest.mark.parametrize(("most", "left"), [(8, None), (7, 4), (3, 2), (1, 1)])
def test_the_batch_is_halved(most, left):
    report = bnlint.check(Greedy(most), torch.randn(8, 16), select=["BN6", "BN7"])
    notes = report.targets[0].notes
    assert notes == ([] if left is None else [f"out of memory with 8 samples: probed with {left}"])
    assert not report.targets[0].skipped_rules


def test_not_even_one_sample_fits():
    report = bnlint.check(Greedy(0), torch.randn(8, 16), select=["BN6", "BN7"])
    (target,) = report.targets
    assert any("runs out of memory" in note for note in target.notes)
    assert {row["code"] for row in target.skipped_rules} >= {"BN601", "BN701"}


class Watched(Greedy):
    """Remembers its inputs, weakly."""

    def forward(self, x):
        if not isinstance(x, torch._subclasses.FakeTensor):
            SEEN.append((weakref.ref(x), [reference() is None for reference, _ in SEEN]))
        return super().forward(x)


SEEN = []


def test_a_failed_attempt_leaves_no_tensors():
    bnlint.check(Watched(2), torch.randn(8, 16), select=["BN607", "BN701"])
    *_, (_, gone) = SEEN
    assert len(gone) == 2 and all(gone)  # eight samples, four, and now two
