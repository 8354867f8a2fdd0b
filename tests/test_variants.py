"""The model recorded once more, in another mode or on another size, where fake tensors cannot follow it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bnlint
from bnlint.graph.fake import Unfollowable
from bnlint.inputs import from_values
from bnlint.inputs.variants import record_variant
from bnlint.rule import Variant


class Reads(nn.Module):
    """Looks at a value, which only a run on real tensors has, and fixes the batch or drops in both modes."""

    def __init__(self, batch=-1):
        super().__init__()
        self.batch, self.norm, self.fc = batch, nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x):
        if float(x.abs().sum()) < 0:
            return x
        return self.fc(self.norm(x)).reshape(self.batch, 3)


@pytest.mark.parametrize(("variant", "batch"), [(Variant.EVAL, 6), (Variant.LARGER_BATCH, 7)])
def test_a_variant_on_real_tensors(variant, batch):
    model = Reads()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = record_variant(variant, model, from_values(model, torch.randn(6, 4)))
    assert graph.runs and not graph.recording.fake
    assert graph.shape(graph.outputs[0]) == (batch, 3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_no_variant_of_a_model_without_values():
    with torch.device("meta"):
        model = Reads()
    with pytest.raises(Unfollowable):
        record_variant(Variant.EVAL, model, from_values(model, torch.randn(6, 4)))


@pytest.mark.parametrize(("batch", "found"), [(6, ["BN213"]), (-1, [])])
def test_a_fixed_batch_is_found_on_real_tensors(batch, found):
    report = bnlint.check(Reads(batch), torch.randn(6, 4), static=True).targets[0]
    assert any("real tensors" in note for note in report.notes) and report.status == "ok"
    assert [f.code for f in report.findings if f.code == "BN213"] == found
