"""What models do beside calling layers: each is followed, with eager's shapes, and left as it was."""

import dataclasses
import functools
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import bnlint
from bnlint.graph.follow import follow
from bnlint.graph.frames import resolve
from bnlint.graph.nest import tensors
from bnlint.graph.ops import op_name
from tests.rules.conftest import Fn

X = torch.randn(4, 6)


def linear():
    return nn.Linear(6, 6)


def shapes(value):
    return [(tuple(t.shape), t.dtype) for _, t in tensors(value)]


def followed(model, *args, fake=True, **kwargs):
    """The recording, made on fake tensors if `fake`; its output and every leaf have eager's shapes."""
    expected = shapes(model(*args, **kwargs))
    recording, reason = follow(model, args, kwargs)
    assert recording.error is None and recording.errors == []
    assert recording.fake is fake and (reason is None) is fake
    assert shapes(recording.output) == expected
    assert all(type(p) is not torch._subclasses.FakeTensor for p in model.parameters())
    return recording


def called(recording):
    return [str(node.target) for node in recording.graph.nodes if node.op == "call_module"]


def ops(recording):
    return [op_name(node) for node in recording.graph.nodes if node.op.startswith("call_")]


# -- calls and containers ----------------------------------------------------------------------------------------------


def test_a_forward_that_is_a_partial():
    model = nn.Module()
    model.fc = linear()
    model.forward = functools.partial(lambda scale, x: model.fc(x) * scale, 2.0)
    assert ops(followed(model, X)) == ["fc", "mul"]


def test_star_arguments_are_inputs_of_their_own():
    model = Fn(lambda m, *xs, **more: m.fc(torch.stack(xs).sum(0) + more["bias"]), fc=linear())
    recording = followed(model, X, X, bias=torch.zeros(6))
    assert [n.target for n in recording.graph.nodes if n.op == "placeholder"] == ["args_0", "args_1", "bias"]


def test_keyword_only_inputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = linear()

        def forward(self, *, left, right=None):
            return self.fc(left if right is None else left + right)

    recording = followed(Net(), right=X, left=X)
    assert [n.target for n in recording.graph.nodes if n.op == "placeholder"] == ["left", "right"]


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@dataclasses.dataclass
class Data:
    logits: torch.Tensor
    hidden: tuple = ()


class Output(OrderedDict):
    """As transformers' ModelOutput: attributes and items are the same, and it has no tensors but those given."""

    def __init__(self, **given):
        super().__init__((k, v) for k, v in given.items() if v is not None)

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a, b: Pair(a, b),
        lambda a, b: Data(a, (b,)),
        lambda a, b: Output(logits=a, loss=None, hidden=(b,)),
        lambda a, b: {"a": [a, {"b": (b,)}]},
        lambda a, b: [(a, None), "text", 3, b],
    ],
    ids=["named tuple", "dataclass", "model output", "nested", "mixed"],
)
def test_containers_between_modules_and_as_outputs(wrap):
    inner = Fn(lambda m, x: wrap(m.a(x), m.b(x)), a=linear(), b=linear())
    model = Fn(lambda m, x: m.inner(x), inner=inner)
    recording = followed(model, X)
    assert [n.target for n in list(recording.graph.nodes)[-1].all_input_nodes] == ["inner.a", "inner.b"]
    (call,) = (call for call in recording.calls if call.path == "inner")
    assert len(call.outputs) == 2


def test_nested_containers_as_inputs():
    model = Fn(lambda m, batch, extra: m.fc(batch["x"][0] + batch["x"][1]) * extra.first, fc=linear())
    recording = followed(model, {"x": [X, X]}, Pair(X, X))
    assert called(recording) == ["fc"]


def test_packed_sequences():
    def forward(m, x, lengths):
        packed = pack_padded_sequence(m.e(x), lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(m.rnn(packed)[0], batch_first=True)[0]

    model = Fn(forward, e=nn.Embedding(9, 5), rnn=nn.GRU(5, 7, batch_first=True))
    recording, _ = follow(model, (torch.randint(0, 9, (3, 4)), torch.tensor([4, 2, 1])), {})
    assert recording.error is None and recording.errors == []
    assert called(recording) == ["e", "rnn"] and tuple(recording.output.shape) == (3, 4, 7)


def test_a_packed_sequence_as_the_input():
    packed = pack_padded_sequence(torch.randn(3, 4, 5), torch.tensor([4, 2, 1]), batch_first=True)
    model = Fn(lambda m, x: m.fc(m.rnn(x)[1][0]), rnn=nn.LSTM(5, 7, batch_first=True), fc=nn.Linear(7, 2))
    recording, _ = follow(model, (packed,), {})
    assert recording.error is None and recording.errors == []
    assert called(recording) == ["rnn", "fc"] and tuple(recording.output.shape[1:]) == (3, 2)


def test_attention_with_masks():
    def forward(m, x, padding):
        causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        x = m.layer(x, src_mask=causal, src_key_padding_mask=padding.float())
        return m.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]

    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    model = Fn(forward, layer=layer, attention=nn.MultiheadAttention(6, 3, batch_first=True))
    followed(model, torch.randn(2, 5, 6), torch.arange(5) > torch.tensor([[3], [4]]))


def test_complex_and_integer_inputs_and_weights():
    model = Fn(lambda m, z, index: m.fc((z @ m.mix)[index].abs()), fc=linear())
    model.mix = nn.Parameter(torch.randn(6, 6, dtype=torch.complex64))
    recording = followed(model, torch.complex(X, X), torch.tensor([0, 2]))
    assert called(recording) == ["fc"] and tuple(recording.output.shape) == (2, 6)


def test_masks_integers_and_complex_numbers():
    def forward(m, x):
        mask = torch.ones(6, 6, dtype=torch.bool).triu(1)
        y = torch.fft.rfft(m.fc(x).masked_fill(mask[:4], 0.0))
        order = y.abs().argsort(-1)
        return torch.view_as_complex(torch.view_as_real(y)).gather(-1, order).angle(), order

    recording = followed(Fn(forward, fc=linear()), X)
    assert {"triu", "masked_fill", "rfft", "argsort", "view_as_complex", "gather"} <= {
        name.removeprefix("fft_") for name in ops(recording)
    }


# -- what wraps and changes modules ------------------------------------------------------------------------------------


def test_branches_on_scripting_take_the_eager_side():
    def forward(m, x):
        if torch.jit.is_scripting() or torch.jit.is_tracing():
            return m.b(x)
        return m.a(x)

    assert called(followed(Fn(forward, a=linear(), b=linear()), X)) == ["a"]


def test_a_scripted_part_is_one_opaque_layer():
    part = torch.jit.script(nn.Sequential(nn.Linear(6, 3), nn.ReLU()))
    recording = followed(nn.Sequential(linear(), part, nn.Linear(3, 2)), X, fake=False)
    assert called(recording) == ["0", "1", "2"]


def test_a_scripted_function_is_one_opaque_op():
    @torch.jit.script
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x + x

    model = Fn(lambda m, x: m.b(twice(m.a(x))), a=linear(), b=linear())
    recording, _ = follow(model, (X,), {})
    assert recording.error is None and called(recording) == ["a", "b"]
    assert model(X).shape == X.shape


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, torch.compile, lambda m: torch.compile(nn.DataParallel(m))],
    ids=["DataParallel", "compile", "both"],
)
def test_wrapped_models_are_checked_inside(wrap):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(9, 2))
    report = bnlint.check(wrap(model), "4x6", static=True)
    assert [(f.code, f.module_path) for f in report.findings] == [("BN201", "2")]


def test_a_traced_part_is_followed_on_real_tensors():
    traced = torch.jit.trace(nn.Sequential(linear(), nn.ReLU()), X)
    assert called(followed(nn.Sequential(linear(), traced), X, fake=False)) == ["0", "1"]


@pytest.fixture
def process_group(tmp_path):
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("torch is built without distributed")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("wrapper", ["DDP", "FSDP", "fully_shard"])
def test_models_wrapped_for_training_on_many_devices(wrapper, process_group):
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    if wrapper == "DDP":
        model = nn.parallel.DistributedDataParallel(model)
    elif wrapper == "FSDP":
        from torch.distributed.fsdp import FullyShardedDataParallel

        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    else:
        from torch.distributed.fsdp import fully_shard

        fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
    for static in (True, False, True):
        report = bnlint.check(model, "64x6", static=static)
        assert report.targets[0].status == "ok"
        assert wrapper == "FSDP" or "BN105" in {f.code for f in report.findings}  # FSDP hides what is a layer's own
    assert model(torch.randn(8, 6)).shape == (8, 2)


def test_parametrisations_are_followed():
    class Symmetric(nn.Module):
        def forward(self, w):
            return w.triu() + w.triu(1).transpose(-1, -2)

    layers = [linear() for _ in range(4)]
    parametrize.register_parametrization(layers[0], "weight", Symmetric())
    parametrizations.weight_norm(layers[1])
    parametrizations.spectral_norm(layers[2])
    parametrizations.orthogonal(layers[3])
    model = nn.Sequential(*layers)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    recording, _ = follow(model, (X,), {})
    assert recording.error is None and recording.errors == []
    assert called(recording) == ["0", "1", "2", "3"]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_hooks_that_change_what_goes_in_and_out():
    seen = []
    model = Fn(lambda m, x: m.b(m.a(x)), a=nn.Linear(5, 6), b=nn.Linear(7, 2))
    model.a.register_forward_pre_hook(lambda module, args: (args[0][:, :5],))
    model.a.register_forward_hook(lambda module, args, out: torch.cat([out, out[:, :1]], 1))
    model.b.register_full_backward_hook(lambda module, grads, outs: seen.append(module))
    model.register_forward_hook(lambda module, args, kwargs, out: out * 2, with_kwargs=True)
    recording = followed(model, X)
    assert called(recording) == ["a", "b"]
    shape = {str(n.target): tuple(n.meta["val"].shape) for n in recording.graph.nodes if n.op == "call_module"}
    assert shape == {"a": (4, 7), "b": (4, 2)}
    assert seen == [] and len(model.b._backward_hooks) == 1


def test_global_module_hooks_stay_and_are_called():
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: seen.append(type(module)))
    try:
        followed(nn.Sequential(linear()), X)
    finally:
        handle.remove()
    assert seen.count(nn.Linear) == 2


def test_a_module_called_many_times_is_a_node_each_time():
    def forward(m, x):
        for _ in range(50):
            x = m.cell(x)
        return x

    recording = followed(Fn(forward, cell=Fn(lambda m, x: torch.tanh(m.fc(x)), fc=linear())), X)
    assert called(recording) == ["cell.fc"] * 50
    assert len([call for call in recording.calls if call.path == "cell"]) == 50


def test_a_module_that_calls_itself():
    def forward(m, x, depth=3):
        return m.fc(x) if depth == 0 else m(x * 0.5, depth - 1) + m(x * 2, depth - 1)

    recording = followed(Fn(forward, fc=linear()), X)
    assert called(recording) == ["fc"] * 8 and len(recording.calls) == 15


def test_endless_recursion_ends_with_the_users_line():
    def forward(m, x):
        return m(m.fc(x))

    recording, _ = follow(Fn(forward, fc=linear()), (X,), {})
    assert isinstance(recording.error, RecursionError)
    assert resolve(recording.error_call).file.endswith("test_record_robust.py")


# -- ops that torch does not know --------------------------------------------------------------------------------------


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        return (x * scale).round(), x.sign()

    @staticmethod
    def backward(ctx, gradient, _):
        return gradient, None


def test_a_custom_autograd_function_with_two_results():
    model = Fn(lambda m, x: m.b(Straight.apply(m.a(x), 2.0)[0]), a=linear(), b=linear())
    assert ops(followed(model, X)) == ["a", "Straight", "getitem", "b"]


@torch.library.custom_op("bnlint_tests::halve", mutates_args=())
def halve(x: torch.Tensor) -> torch.Tensor:
    return x[:, ::2].clone()


@halve.register_fake
def _(x):
    return x.new_empty(x.shape[0], (x.shape[1] + 1) // 2)


@torch.library.custom_op("bnlint_tests::bare", mutates_args=())
def bare(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.detach().numpy()[:, :3].copy())


def test_a_custom_op_with_a_fake_kernel_is_an_opaque_node():
    for call in (halve, torch.ops.bnlint_tests.halve, torch.ops.bnlint_tests.halve.default):
        model = Fn(lambda m, x, call=call: m.b(call(m.a(x))), a=linear(), b=nn.Linear(3, 2))
        recording = followed(model, X)
        assert called(recording) == ["a", "b"]
        first, op, second = (n for n in recording.graph.nodes if n.op.startswith("call_"))
        assert op.all_input_nodes == [first] and second.all_input_nodes == [op]
        assert "halve" in op_name(op)


def test_a_custom_op_without_one_is_followed_on_real_tensors():
    model = Fn(lambda m, x: m.b(bare(m.a(x))), a=linear(), b=nn.Linear(3, 2))
    assert called(followed(model, X, fake=False)) == ["a", "b"]


class Tagged(torch.Tensor):
    """A tensor that carries a name through every op."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(out, Tagged):
            out.tag = next((a.tag for a in args if isinstance(a, Tagged) and hasattr(a, "tag")), "none")
        return out


def test_subclasses_of_tensor():
    x = X.clone().as_subclass(Tagged)
    x.tag = "input"
    recording, _ = follow(Fn(lambda m, x: m.b(torch.relu(m.a(x))), a=linear(), b=linear()), (x,), {})
    assert recording.error is None and recording.errors == []
    assert ops(recording) == ["a", "relu", "b"]


def test_subclassed_parameters():
    model = Fn(lambda m, x: m.fc(x) + m.offset, fc=linear())
    model.offset = nn.Parameter(torch.zeros(6).as_subclass(Tagged))
    recording, _ = follow(model, (X,), {})
    assert recording.error is None and ops(recording) == ["fc", "add"]
    assert isinstance(model.offset, nn.Parameter)


# -- chance and data ---------------------------------------------------------------------------------------------------


def test_randomness_of_the_models_own():
    import random

    def forward(m, x):
        for layer in m.layers:
            if not m.training or random.random() < 0.5 or torch.rand(()) < 0.5:
                x = layer(x)
        return x * torch.bernoulli(torch.full_like(x, 0.9))

    model = Fn(forward, layers=nn.ModuleList(linear() for _ in range(6)))
    state, other = torch.get_rng_state(), random.getstate()
    recording, reason = follow(model, (X,), {})
    assert recording.error is None and reason is not None and not recording.fake
    assert torch.equal(torch.get_rng_state(), state) and random.getstate() == other


def test_stochastic_depth_needs_no_values():
    def forward(m, x):
        keep = torch.empty(x.shape[0], 1).bernoulli_(0.8)
        return x + m.fc(x) * keep / 0.8

    assert called(followed(Fn(forward, fc=linear()), X)) == ["fc"]


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.fc(x) if x.sum() > 0 else x,
        lambda m, x: m.fc(x) * x.mean().item(),
        lambda m, x: m.fc(x)[x[:, 0] > 0],
        lambda m, x: m.fc(torch.from_numpy(x.detach().numpy() * 2)),
        lambda m, x: m.fc(x)[: int(x.argmax())],
        lambda m, x: m.fc(x) * float(x.tolist()[0][0]),
        lambda m, x: m.fc(torch.nonzero(x).float().repeat(1, 3)),
    ],
    ids=["if", "item", "boolean index", "numpy", "int", "tolist", "nonzero"],
)
def test_code_that_depends_on_data_is_followed_on_real_tensors_with_the_line(forward):
    torch.manual_seed(0)
    model = Fn(forward, fc=linear())
    recording, reason = follow(model, (X,), {})
    assert recording.error is None and not recording.fake and called(recording) in (["fc"], [])
    line = forward.__code__.co_firstlineno
    assert reason.endswith(f"test_record_robust.py:{line}")


def test_ten_thousand_layers():
    model = nn.Sequential(*(m for _ in range(5000) for m in (nn.Linear(4, 4), nn.ReLU())))
    report = bnlint.check(model, "2x4", static=True)
    assert report.targets[0].status == "ok" and report.targets[0].ops == 10_000
