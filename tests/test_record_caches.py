"""What the model's code caches during a run on fake tensors is gone afterwards; what it cached before stays."""

import functools

import pytest
import torch
from torch import nn

import bnlint
from bnlint.graph.record import record

MASKS = {}
SEEN = []
LATEST = None
SETTING = {"scale": 2.0}


@functools.lru_cache(maxsize=8)
def bounded(size):
    return torch.tril(torch.ones(size, size))


@functools.cache
def unbounded(size):
    return {"mask": [torch.tril(torch.ones(size, size))]}


def in_dict(size):
    if size not in MASKS:
        MASKS[size] = torch.tril(torch.ones(size, size))
    return MASKS[size]


def in_list(size):
    if not SEEN:
        SEEN.append((size, torch.tril(torch.ones(size, size))))
    return SEEN[0][1]


def in_global(size):
    global LATEST
    if LATEST is None:
        LATEST = torch.tril(torch.ones(size, size))
    return LATEST


class Attention(nn.Module):
    tables = {}  # noqa: RUF012
    table = None

    def __init__(self, mask=None):
        super().__init__()
        self.qk, self.out = nn.Linear(4, 8), nn.Linear(4, 4)
        self.mask = mask or self.in_class

    @classmethod
    @functools.cache
    def in_method(cls, size):
        return torch.tril(torch.ones(size, size))

    def in_class(self, size):
        if Attention.table is None:
            Attention.table = self.tables[size] = torch.tril(torch.ones(size, size))
        return self.tables[size]

    def forward(self, x):
        q, k = self.qk(x).chunk(2, -1)
        scores = (q @ k.transpose(1, 2) / 2).masked_fill(self.mask(x.shape[1]) == 0, -1e9)
        return self.out(scores.softmax(-1) @ x)


WAYS = {
    "lru_cache": bounded,
    "cache of a container": lambda size: unbounded(size)["mask"][0],
    "dict": in_dict,
    "list": in_list,
    "global": in_global,
    "class": None,
    "class method": lambda size: Attention.in_method(size),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_cached_tensor_does_not_survive_the_recording(name):
    model, x = Attention(WAYS[name]), torch.randn(2, 5, 4)
    recording = record(model, (x,))
    assert recording.error is None and recording.errors == []
    assert type(model.mask(5)) is torch.Tensor
    assert type(model(x)) is torch.Tensor


@pytest.mark.parametrize("name", WAYS)
def test_a_model_with_a_cache_is_checked_to_the_end(name):
    report = bnlint.check(Attention(WAYS[name]), "2x5x4")
    assert report.targets[0].status == "ok"


def test_a_cache_of_the_models_own_module():
    model = Attention()
    model.mask = functools.lru_cache(lambda size: torch.tril(torch.ones(size, size)))
    record(model, (torch.randn(2, 5, 4),))
    assert type(model.mask(5)) is torch.Tensor


def test_what_was_cached_before_stays():
    bounded.cache_clear()
    MASKS.clear()
    kept = bounded(7), in_dict(7)
    for mask in (bounded, in_dict):
        record(Attention(mask), (torch.randn(2, 7, 4),))
    assert bounded(7) is kept[0] and MASKS[7] is kept[1]
    record(Attention(in_dict), (torch.randn(2, 8, 4),))
    assert list(MASKS) == [7] and MASKS[7] is kept[1]


def test_other_globals_that_the_run_changes_are_the_users_business():
    def forward(size):
        SETTING["scale"] = 3.0
        return torch.ones(size, size)

    record(Attention(forward), (torch.randn(2, 5, 4),))
    assert SETTING == {"scale": 3.0}
