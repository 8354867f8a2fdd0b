"""What the recording writes down: ops, modules, errors and how the run goes on after them."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from bnlint.graph.fake import Unfollowable
from bnlint.graph.follow import follow
from bnlint.graph.frames import resolve
from bnlint.graph.model import Graph
from bnlint.graph.nest import tensors
from bnlint.graph.ops import Kind, op_name
from bnlint.graph.record import record
from bnlint.graph.recorder import is_leaf
from bnlint.graph.untouched import untouched
from tests.rules.conftest import Fn


def recorded(forward, *inputs, **layers):
    model = Fn(forward, **layers)
    with untouched(model):
        return record(model, tuple(torch.zeros(i) if isinstance(i, tuple) else i for i in inputs))


def names(recording):
    return [op_name(node) for node in recording.graph.nodes if node.op.startswith("call_")]


def test_operators_methods_and_functions_share_one_vocabulary():
    recording = recorded(lambda m, x: torch.add(x, 1) + x.add(2).add_(3) - (x + 4), (2, 3))
    assert names(recording) == ["add", "add", "add", "add", "add", "sub"]


def test_an_in_place_op_on_a_view_reaches_the_tensor_it_is_a_view_of():
    def forward(m, x):
        y = x * 1
        y[:, 0].mul_(2)
        return y

    recording = recorded(forward, (2, 3))
    assert names(recording) == ["mul", "getitem", "mul", "view_write"]
    assert list(recording.graph.nodes)[-1].all_input_nodes[0].name == "view_write"


def test_a_custom_autograd_function_is_one_node_on_the_path():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2

    recording = recorded(lambda m, x: Double.apply(m.a(x)), (2, 3), a=nn.Linear(3, 3))
    assert names(recording) == ["a", "Double"]
    assert list(recording.graph.nodes)[-1].all_input_nodes[0].all_input_nodes[0].target == "a"


def test_checkpointed_layers_are_followed():
    for reentrant in (True, False):
        recording = recorded(
            lambda m, x, r=reentrant: checkpoint(m.b, checkpoint(m.a, x, use_reentrant=r), use_reentrant=r),
            (2, 3),
            a=nn.Linear(3, 4),
            b=nn.Linear(4, 5),
        )
        assert [node.target for node in recording.graph.nodes if node.op == "call_module"] == ["a", "b"]


def test_parameters_used_directly_are_named():
    recording = recorded(lambda m, x: nn.functional.linear(x, m.a.weight), (2, 3), a=nn.Linear(3, 4))
    weight = next(node for node in recording.graph.nodes if node.op == "get_attr")
    assert weight.target == "a.weight" and weight.meta["registered"]


def test_a_plain_tensor_attribute_is_named_and_marked():
    model = Fn(lambda m, x: x + m.offset)
    model.offset = torch.ones(3)
    recording = record(model, (torch.zeros(2, 3),))
    constant = next(node for node in recording.graph.nodes if node.op == "get_attr")
    assert constant.target == "offset" and not constant.meta["registered"]


def test_one_run_finds_every_mismatch():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(9, 8, 3), nn.BatchNorm1d(8), nn.Conv2d(4, 2, 3), nn.ReLU())
    recording = record(model, (torch.zeros(2, 3, 16, 16),))
    assert recording.error is None
    assert [node.target for node in recording.errors] == ["1", "2", "3"]
    assert tuple(recording.output.shape) == (2, 2, 10, 10)


def test_an_impossible_view_keeps_the_batch():
    recording = recorded(lambda m, x: m.a(x.view(-1, 7)), (5, 4), a=nn.Linear(7, 2))
    (failed,) = recording.errors
    assert failed.meta["error"].repair == "guess" and tuple(failed.meta["val"].shape) == (5, 7)


def test_an_error_of_the_users_own_ends_the_run_with_its_line():
    def forward(m, x):
        raise ValueError("no")

    recording = recorded(forward, (2, 3))
    assert isinstance(recording.error, ValueError)
    assert resolve(recording.error_call).line == forward.__code__.co_firstlineno + 1


def test_data_dependent_code_says_where_it_stopped():
    def forward(m, x):
        return x if x.sum() > 0 else -x

    try:
        recorded(forward, (2, 3))
    except Unfollowable as stop:
        assert resolve(stop.call).line == forward.__code__.co_firstlineno + 1
    else:
        raise AssertionError("fake tensors cannot know the sum")
    real = record(Fn(forward), (torch.ones(2, 3),), fake=False)
    assert names(real) == ["sum", "gt"]


def test_a_layer_from_a_plain_list_is_named_by_its_place():
    model = Fn(lambda m, x: m.layers[1](x))
    model.layers = [nn.Linear(3, 3), nn.Linear(3, 4)]
    recording = record(model, (torch.zeros(2, 3),))
    assert list(recording.unregistered) == ["layers[1]"]
    assert [node.target for node in recording.graph.nodes if node.op == "call_module"] == ["layers[1]"]


def test_a_layer_made_in_forward_is_named_by_its_class():
    recording = recorded(lambda m, x: nn.Linear(3, 2)(x), (2, 3))
    assert "Linear()" in recording.unregistered


def test_call_lines_are_the_users():
    recording = recorded(lambda m, x: m.a(x), (2, 3), a=nn.Linear(3, 3))
    node = next(node for node in recording.graph.nodes if node.op == "call_module")
    assert resolve(node.meta["call"]).file.endswith("test_record.py")


def test_leaves_are_torchs_own_layers_only():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return x

    class Subclass(nn.BatchNorm2d):
        pass

    assert is_leaf(nn.BatchNorm2d(2)) and is_leaf(Subclass(2))
    assert not is_leaf(Own(2)) and not is_leaf(nn.Sequential())


def test_residual_branch_and_skip():
    model = Fn(
        lambda m, x: (lambda y: y + m.b(torch.relu(m.a(y))))(m.s(x)), a=nn.Linear(4, 4), b=nn.Linear(4, 4), s=nn.Linear(4, 4)
    )  # fmt: skip
    graph = Graph(record(model, (torch.zeros(2, 4),)), model)
    (add,) = graph.of_kind(Kind.ADD)
    branch, skip = graph.residual_branch(add)
    assert [node.name for node in branch] == ["a", "relu", "b"] and skip == []
    assert not graph.is_last_layer(graph.of_kind(Kind.LINEAR)[0])
    assert graph.is_last_layer(graph.of_kind(Kind.LINEAR)[2])


class Deep(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.body = nn.Sequential(*(nn.ReLU() for _ in range(depth)))

    def forward(self, x):
        return x + self.body(x)


class Unrolled(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.steps, self.read, self.step = steps, nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        state = torch.zeros_like(x)
        for _ in range(self.steps):
            state = torch.tanh(self.read(x) + self.step(state))
        return state


def test_a_residual_branch_of_any_length_is_found():
    model = Deep(10_000)
    graph = Graph(record(model, (torch.zeros(2, 4),)), model)
    (add,) = graph.of_kind(Kind.ADD)
    branch, skip = graph.residual_branch(add)
    assert len(branch) == 10_000 and skip == []


def test_the_branches_of_a_recurrence_cost_in_proportion_to_it():
    model = Unrolled(400)
    graph = Graph(record(model, (torch.zeros(2, 4),)), model)
    found = [graph.residual_branch(add) for add in graph.of_kind(Kind.ADD)]
    assert sum(len(branch) + len(skip) for branch, skip in filter(None, found)) < 400 * 100
    assert found[10] is not None and graph.residual_branch(graph.of_kind(Kind.ADD)[10]) is found[10]


_LAYERS = {
    "linear": lambda width: nn.Linear(width, width),
    "norm": nn.LayerNorm,
    "batch norm": nn.BatchNorm1d,
    "relu": lambda width: nn.ReLU(inplace=True),
    "gelu": lambda width: nn.GELU(),
    "dropout": lambda width: nn.Dropout(0.3),
    "identity": lambda width: nn.Identity(),
    "nested": lambda width: nn.Sequential(nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, width)),
}


_STACKS = st.lists(st.sampled_from(list(_LAYERS)), min_size=1, max_size=8), st.integers(1, 9), st.integers(2, 5)


@settings(max_examples=40, deadline=None)
@given(*_STACKS)
def test_a_random_stack_is_recorded_with_eagers_shapes_and_left_as_it_was(stack, width, batch):
    model = nn.Sequential(*(_LAYERS[name](width) for name in stack))
    recording = _left_as_it_was(model, torch.randn(batch, width))
    assert recording.fake and _shapes(recording) == _eager_shapes(model, torch.randn(batch, width))


class Branch(nn.Module):
    """Takes a side by the data, and writes down what it saw."""

    def __init__(self, taken, other):
        super().__init__()
        self.taken, self.other, self.seen = taken, other, []

    def forward(self, x):
        self.seen.append(x.shape)
        return self.taken(x) if x.sum().isfinite() else self.other(x)


@settings(max_examples=25, deadline=None)
@given(*_STACKS, st.data())
def test_a_random_stack_with_a_branch_on_data_is_recorded_on_real_tensors(stack, width, batch, data):
    model = nn.Sequential(*(_LAYERS[name](width) for name in stack))
    at = data.draw(st.integers(0, len(stack) - 1))
    model[at] = Branch(model[at], nn.Linear(width, width))
    x = torch.randn(batch, width)
    recording = _left_as_it_was(model, x)
    assert not recording.fake and model[at].seen == []
    assert _shapes(recording) == _eager_shapes(model, x)


@settings(max_examples=25, deadline=None)
@given(*_STACKS)
def test_a_random_stack_on_meta_is_recorded_with_eagers_shapes_and_left_there(stack, width, batch):
    eager = nn.Sequential(*(_LAYERS[name](width) for name in stack))
    with torch.device("meta"):
        model = nn.Sequential(*(_LAYERS[name](width) for name in stack))
    held = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    recording, reason = follow(model, (torch.randn(batch, width),), {})
    assert reason is None and recording.error is None and recording.errors == []
    assert _shapes(recording) == _eager_shapes(eager, torch.randn(batch, width))
    assert {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()} == held
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def _left_as_it_was(model, x):
    """The recording, after which parameters, buffers, gradients and random state are what they were."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    recording, _ = follow(model, (x,), {})
    assert recording.error is None and recording.errors == []
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    return recording


def _shapes(recording):
    calls = [node for node in recording.graph.nodes if node.op == "call_module"]
    return [tuple(tensor.shape) for node in calls for _, tensor in tensors(node.meta["val"])]


def _eager_shapes(model, x):
    shapes = []
    leaves = [module for module in model.modules() if is_leaf(module)]
    for leaf in leaves:
        leaf.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape)))
    model(x)
    return shapes
