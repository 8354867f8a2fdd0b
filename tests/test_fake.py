"""What runs on fake tensors must look as it does on real ones."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from bnlint.graph.fake import FakeMode, fake_state, to_fake

SHAPES = {
    (8, 4): nn.BatchNorm1d,
    (8, 4, 5): nn.BatchNorm1d,
    (8, 4, 5, 6): nn.BatchNorm2d,
    (8, 4, 3, 5, 6): nn.BatchNorm3d,
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def facts(tensor):
    return tensor.shape, tensor.dtype, tensor.stride(), tensor.device, tensor.requires_grad, type(tensor.grad_fn)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm_is_as_eager(shape, train):
    for dtype, affine, track in product(DTYPES, (True, False), (True, False)):
        norm = SHAPES[shape](4, affine=affine, track_running_stats=track).to(dtype).train(train)
        x = torch.randn(shape).to(dtype).requires_grad_()
        if len(shape) == 4:
            x = x.to(memory_format=torch.channels_last)
        mode = FakeMode(allow_non_fake_inputs=True)
        with fake_state(norm, mode):
            fake = to_fake(mode, x)
            with mode:
                found = norm(fake)
        assert facts(found) == facts(norm(x))


def test_batch_norm_of_other_channels_still_fails():
    norm, mode = nn.BatchNorm2d(3), FakeMode(allow_non_fake_inputs=True)
    x = torch.randn(2, 4, 5, 5)
    with pytest.raises(RuntimeError):
        norm(x)
    with fake_state(norm, mode), pytest.raises(RuntimeError):
        fake = to_fake(mode, x)
        with mode:
            norm(fake)


@pytest.mark.parametrize(
    "tensor",
    [
        nn.Parameter(torch.randn(3, 4)),
        nn.Parameter(torch.randn(3, 4), requires_grad=False),
        torch.randn(4, 3).t(),
        torch.randn(6, 4)[::2],
        torch.zeros(2, 3, dtype=torch.int64),
        torch.randn(2, 3, dtype=torch.complex64).conj(),
        torch.eye(3).to_sparse(),
        torch.empty(2, 3, device="meta"),
        torch.randn(3).expand(2, 3),
    ],
    ids=["parameter", "frozen", "transposed", "strided", "integer", "conjugate", "sparse", "meta", "expanded"],
)
def test_fakes_look_like_the_tensor(tensor):
    fake = to_fake(FakeMode(allow_non_fake_inputs=True), tensor)
    assert (fake.shape, fake.dtype, fake.device, fake.layout) == (
        tensor.shape,
        tensor.dtype,
        torch.device("cpu"),  # also for one on the meta device
        tensor.layout,
    )
    assert fake.requires_grad == tensor.requires_grad
    assert isinstance(fake, nn.Parameter) == isinstance(tensor, nn.Parameter)
    if tensor.layout is torch.strided:
        assert fake.stride() == tensor.stride()
