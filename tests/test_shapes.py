"""The rules for shapes on fake tensors give what torch gives, or leave it to torch."""

from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from bnlint.graph import shapes
from bnlint.graph.fake import FakeMode, to_fake

ERRORS = (RuntimeError, ValueError, IndexError)
SIZES = st.integers(1, 7)


def agrees(compute, *made):
    """`compute` on fake tensors and on real ones: the same shapes, types and strides, or both fail."""
    mode, plain = FakeMode(allow_non_fake_inputs=True), FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [to_fake(mode, t) for t in made]
    try:
        expected = compute(*made)
    except ERRORS:
        with suppress(*ERRORS), plain:
            compute(*(plain.from_tensor(t) for t in made))
            return  # torch's own fake tensors do not see it
        with pytest.raises(ERRORS), mode:
            compute(*fakes)
        return
    with mode:
        found = compute(*fakes)
    pairs = zip(*((x if isinstance(x, tuple) else (x,)) for x in (found, expected)), strict=True)
    for fake, real in pairs:
        assert (fake.shape, fake.dtype, fake.device) == (real.shape, real.dtype, real.device)
        if real.numel():  # of an axis of one element the stride says nothing
            kept = [axis for axis, size in enumerate(real.shape) if size > 1]
            assert [fake.stride(axis) for axis in kept] == [real.stride(axis) for axis in kept]
        assert fake.requires_grad == real.requires_grad


@given(
    dims=st.integers(1, 3),
    sizes=st.tuples(SIZES, *[st.integers(1, 12)] * 3),
    groups=st.integers(1, 3),
    channels=st.tuples(SIZES, SIZES),
    options=st.fixed_dictionaries(
        {"stride": st.integers(1, 4), "padding": st.integers(0, 3), "dilation": st.integers(1, 3)}
    ),
    kernel=st.integers(1, 4),
    wrong=st.sampled_from([0, 0, 0, 1]),
    bias=st.booleans(),
    transposed=st.booleans(),
    extra=st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_convolution(dims, sizes, groups, channels, options, kernel, wrong, bias, transposed, extra):
    read, made = channels[0] * groups, channels[1] * groups
    x = torch.empty(sizes[0], read + wrong, *sizes[1 : 1 + dims], requires_grad=True)
    planes = (read, channels[1]) if transposed else (made, channels[0])
    weight, offset = torch.empty(*planes, *[kernel] * dims), torch.empty(made) if bias else None
    if transposed:
        op = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        agrees(lambda x, w: op(x, w, groups=groups, output_padding=extra, **options), x, weight)
    else:
        op = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
        made = [x, weight] if offset is None else [x, weight, offset]
        agrees(lambda x, w, *b: op(x, w, *b, groups=groups, **options), *made)


@given(shape=st.lists(SIZES, min_size=1, max_size=4), other=st.lists(SIZES, max_size=4), data=st.data())
@settings(max_examples=60, deadline=None)
def test_arithmetic(shape, other, data):
    kinds = st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool])
    x = torch.ones(shape, dtype=data.draw(kinds))
    y = torch.ones(data.draw(st.sampled_from([other, shape, [1] * len(shape), shape[-1:]])), dtype=data.draw(kinds))
    name = data.draw(st.sampled_from(["add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_"]))
    number = data.draw(st.sampled_from([None, 2, 2.5]))
    if number is None:
        agrees(lambda a, b: getattr(a, name)(b), x, y)
    else:
        agrees(lambda a: getattr(a, name)(number), x)


@given(shape=st.lists(SIZES, min_size=1, max_size=4), order=st.randoms(), name=st.sampled_from(sorted(shapes._RULES)))
@settings(max_examples=60, deadline=None)
def test_elementwise_ops_in_any_memory_format(shape, order, name):
    axes = list(range(len(shape)))
    order.shuffle(axes)
    x = torch.ones(shape).permute(axes)
    if name.rstrip("_") in (*shapes._SAME.split(), "relu", "silu") and name != "_softmax":
        agrees(getattr(torch.ops.aten, name), x)
    agrees(lambda t: t.softmax(-1), x)
    agrees(lambda t: t.mean(dim=axes[: len(axes) // 2 + 1], keepdim=len(axes) > 2), x)


@given(sizes=st.tuples(*[SIZES] * 5), swap=st.booleans(), wrong=st.sampled_from([0, 0, 1]))
@settings(max_examples=60, deadline=None)
def test_products(sizes, swap, wrong):
    b, n, k, m, _ = sizes
    y = torch.ones(m, k + wrong).T if swap else torch.ones(k + wrong, m)
    agrees(torch.mm, torch.ones(n, k), y)
    agrees(torch.addmm, torch.ones(m), torch.ones(n, k), y)
    agrees(torch.addmm, torch.ones(m + 1), torch.ones(n, k), y)
    agrees(torch.bmm, torch.ones(b, n, k), torch.ones(b, k + wrong, m))
    agrees(F.linear, torch.ones(b, n, k), torch.ones(m, k + wrong), torch.ones(m))


@given(
    shape=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    pool=st.tuples(st.integers(1, 4), st.sampled_from([None, 1, 2, 3]), st.integers(0, 2), st.integers(1, 2)),
    ceil=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_pooling(shape, pool, ceil):
    kernel, stride, padding, dilation = pool
    x = torch.ones(shape)
    agrees(lambda t: F.max_pool2d(t, kernel, stride, padding, dilation, ceil, return_indices=True), x)
    agrees(lambda t: F.max_pool2d(t, kernel, stride, padding, dilation, ceil), x)


@given(shape=st.lists(SIZES, min_size=2, max_size=4), training=st.booleans(), wrong=st.sampled_from([0, 0, 1]))
@settings(max_examples=60, deadline=None)
def test_norms(shape, training, wrong):
    x, channels, last = torch.ones(shape), torch.ones(shape[1] + wrong), torch.ones(shape[-1] + wrong)
    if not training or x.numel() > shape[1]:
        agrees(lambda t, c: F.batch_norm(t, c, c, c, c, training), x, channels)
    agrees(lambda t, w: F.layer_norm(t, [t.shape[-1]], w), x, last)


@given(shape=st.lists(SIZES, min_size=1, max_size=4), data=st.data())
@settings(max_examples=60, deadline=None)
def test_views(shape, data):
    x = torch.ones(shape)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    other = data.draw(st.integers(-len(shape), len(shape) - 1))
    agrees(lambda t: t.transpose(axis, other).unsqueeze(axis), x)
    agrees(lambda t: t.transpose(axis, other).view(-1), x)
    agrees(lambda t: t.select(axis, 0), x)
    agrees(lambda t: t.split(2, axis), x)
    agrees(lambda t: t.flatten(axis % len(shape)).squeeze(0), x)
    wanted = data.draw(st.sampled_from([[-1], [2, -1], [7, 7], [1, *shape]]))
    agrees(lambda t: t.view(wanted), x)


def test_a_residual_net_needs_no_symbolic_shapes(tmp_path):
    """What makes the rules worth having: a second of imports."""
    import subprocess
    import sys
    from pathlib import Path

    root = Path(__file__).parents[1]
    code = (
        "import sys; from bnlint import check; check('examples/resnet50.py:ResNet50', inputs=['2x3x64x64'], "
        "isolate=False, static=True); sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
