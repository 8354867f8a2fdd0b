"""The prediction against the probe, op by op, and against published numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnlint.graph.fake import Unfollowable
from bnlint.graph.lazy import materialised
from bnlint.graph.model import Graph
from bnlint.graph.ops import WEIGHT_LAYERS
from bnlint.graph.record import record
from bnlint.graph.untouched import training_mode, untouched
from bnlint.inputs.values import Inputs
from bnlint.signal.predict import Prediction
from bnlint.signal.probe import ProbeFacts, probe
from bnlint.signal.statistics import NodeStats
from bnlint.signal.value import comparable, gaussian

from .zoo import ENTRIES, Entry

INPUT = torch.Generator().manual_seed(7)
ROWS = torch.randn(256, 128, generator=INPUT)
IMAGES = torch.randn(16, 8, 16, 16, generator=INPUT)
WIDE = torch.randn(128, 256, generator=INPUT)
TOKENS = torch.randn(16, 32, 128, generator=INPUT)
WORDS = torch.randint(0, 500, (32, 12), generator=INPUT)


class Apply(nn.Module):
    """A model from layers and a function of them and the input."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x, *self.layers)


def recorded(model: nn.Module, *args: Any) -> Graph:
    with untouched(model):
        return Graph(record(model, args, {}), model)


def both(model: nn.Module, *args: Any) -> tuple[Graph, Prediction, ProbeFacts]:
    with untouched(model, values=True), training_mode(model, True):
        graph = recorded(model, *args)
        return graph, Prediction(graph, model), probe(model, Inputs(args, {}), graph)


def pairs(model: nn.Module, *args: Any) -> list[tuple[str, NodeStats, NodeStats]]:
    """Name, predicted and measured numbers of every node that has both."""
    _, predicted, measured = both(model, *args)
    assert measured.failed is None
    return [
        (name, predicted.stats[name], found)
        for name, found in measured.stats.items()
        if found.spread is not None and name in predicted.stats
    ]


def last(model: nn.Module, *args: Any) -> tuple[NodeStats, NodeStats]:
    _, predicted, measured = pairs(model, *args)[-1]
    return predicted, measured


def conv(*args: Any, **options: Any) -> nn.Module:
    torch.manual_seed(3)
    return nn.Conv2d(*args, **options)


def attend(x: torch.Tensor, qkv: nn.Module, out: nn.Module) -> torch.Tensor:
    q, k, v = qkv(x).reshape(*x.shape[:2], 3, 4, -1).permute(2, 0, 3, 1, 4).unbind(0)
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    y: torch.Tensor = out((weights @ v).transpose(1, 2).flatten(2))
    return y


def squeeze_excite(x: torch.Tensor, first: nn.Module, down: nn.Module, up: nn.Module, after: nn.Module) -> Any:
    x = first(x).relu()
    gate = up(down(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
    return after(x * gate)


MODELS: dict[str, tuple[nn.Module, torch.Tensor]] = {}


def model(name: str, data: torch.Tensor, function: Callable[..., Any], *layers: nn.Module) -> None:
    MODELS[name] = (Apply(function, *layers), data)


torch.manual_seed(0)
lin = nn.Linear
model(
    "conv, zero padding", IMAGES, lambda x, a, b: b(a(x).relu()), conv(8, 64, 3, padding=1), conv(64, 64, 5, padding=2)
)
model("conv, grouped", IMAGES, lambda x, a, b: b(a(x).relu()), conv(8, 64, 3), conv(64, 64, 3, groups=8))
model("conv, depthwise", IMAGES, lambda x, a, b: b(a(x).relu()), conv(8, 64, 1), conv(64, 64, 3, groups=64, stride=2))
model("conv, dilated", IMAGES, lambda x, a: a(x), conv(8, 64, 3, dilation=2, padding=2))
model(
    "conv, circular",
    IMAGES,
    lambda x, a, b: b(a(x)),
    conv(8, 32, 3),
    conv(32, 64, 3, padding=1, padding_mode="circular"),
)
model(
    "conv, transposed", IMAGES, lambda x, a, b: b(a(x).relu()), conv(8, 64, 3), nn.ConvTranspose2d(64, 32, 3, stride=2)
)
model("conv, transposed groups", IMAGES, lambda x, a: a(x), nn.ConvTranspose2d(8, 64, 4, stride=2, padding=1, groups=4))
model("functional conv", IMAGES, lambda x, a: F.conv2d(x, a.weight, padding=1), conv(8, 64, 3))
model(
    "standardised weights",
    IMAGES,
    lambda x, a: F.conv2d(x, (a.weight - a.weight.mean()) / a.weight.std()),
    conv(8, 64, 3),
)
model("flatten", IMAGES, lambda x, a, b: b(a(x).relu().flatten(1)), conv(8, 16, 3, padding=1), lin(16 * 256, 64))
model("view", IMAGES, lambda x, a, b: b(a(x).relu().view(x.shape[0], -1)), conv(8, 16, 3), lin(16 * 196, 64))
model("channels last", IMAGES, lambda x, a, b: b(a(x).relu().permute(0, 2, 3, 1)), conv(8, 64, 3), lin(64, 64))
model("max pool", IMAGES, lambda x, a, b: b(F.max_pool2d(a(x), 2)), conv(8, 64, 3), conv(64, 64, 3))
model("max pool, overlapping", IMAGES, lambda x, a, b: b(F.max_pool2d(a(x), 3, 2, 1)), conv(8, 64, 3), conv(64, 64, 3))
model("average pool", IMAGES, lambda x, a, b: b(F.avg_pool2d(a(x).relu(), 2)), conv(8, 64, 3), conv(64, 64, 3))
model(
    "global pool",
    IMAGES,
    lambda x, a, b: b(F.adaptive_avg_pool2d(a(x).relu(), 1).flatten(1)),
    conv(8, 64, 1),
    lin(64, 64),
)
model("mean", IMAGES, lambda x, a, b: b(a(x).relu().mean((2, 3))), conv(8, 64, 1), lin(64, 64))
model("upsample", IMAGES, lambda x, a, b: b(F.interpolate(a(x), scale_factor=2)), conv(8, 64, 3), conv(64, 64, 3))
model("pixel shuffle", IMAGES, lambda x, a, b: b(F.pixel_shuffle(a(x), 2)), conv(8, 128, 3), conv(32, 64, 3))
model("batch norm", IMAGES, lambda x, a, b, c: c(b(a(x)).relu()), conv(8, 64, 3), nn.BatchNorm2d(64), conv(64, 64, 3))
model(
    "group norm",
    IMAGES,
    lambda x, a, b, c: c(b(a(x) * 3 + 5).relu()),
    conv(8, 64, 3),
    nn.GroupNorm(4, 64),
    conv(64, 64, 3),
)
model(
    "instance norm",
    IMAGES,
    lambda x, a, b, c: c(b(a(x)).relu()),
    conv(8, 64, 3),
    nn.InstanceNorm2d(64),
    conv(64, 64, 3),
)
model(
    "layer norm", TOKENS, lambda x, a, b, c: c(b(a(x) * 3 + 5).relu()), lin(128, 256), nn.LayerNorm(256), lin(256, 128)
)
model(
    "norm by hand",
    ROWS,
    lambda x, a, b: b(a(x) * (a(x).pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()),
    lin(128, 256),
    lin(256, 128),
)
model("normalize", ROWS, lambda x, a, b: b(F.normalize(a(x), dim=-1)), lin(128, 256), lin(256, 128))
model("residual", ROWS, lambda x, a, b: x + b(a(x).relu()), lin(128, 128), lin(128, 128))
model("scaled add", ROWS, lambda x, a, b: torch.sub(a(x), b(x), alpha=3), lin(128, 128), lin(128, 128))
model("one variable twice", ROWS, lambda x, a, b: b((lambda y: y + y.tanh())(a(x) * 4)), lin(128, 128), lin(128, 128))
model("concatenation", ROWS, lambda x, a, b: b(torch.cat([a(x).relu(), x * 5], 1)), lin(128, 128), lin(256, 128))
model(
    "chunks gated",
    ROWS,
    lambda x, a, b: b((lambda p, q: p * q.sigmoid())(*a(x).chunk(2, 1))),
    lin(128, 256),
    lin(128, 64),
)
model("glu", ROWS, lambda x, a, b: b(F.glu(a(x) * 3)), lin(128, 256), lin(128, 64))
model("swish by hand", ROWS, lambda x, a, b: b((lambda y: y * y.sigmoid())(a(x * 3))), lin(128, 256), lin(256, 64))
model("squeeze-excite", IMAGES, squeeze_excite, conv(8, 64, 1), conv(64, 16, 1), conv(16, 64, 1), conv(64, 64, 1))
model("attention by hand", TOKENS, attend, lin(128, 384), lin(128, 128))
model("prelu", IMAGES, lambda x, a, b, c: c(b(a(x))), conv(8, 64, 3), nn.PReLU(64), conv(64, 64, 1))
model("embedding", WORDS, lambda x, a, b: b(a(x)), nn.Embedding(500, 128), lin(128, 64))
model(
    "positions added",
    WORDS,
    lambda x, a, p, b: b(a(x) + p(torch.arange(12))),
    nn.Embedding(500, 128),
    nn.Embedding(12, 128),
    lin(128, 64),
)
model("matmul with a parameter", ROWS, lambda x, a: x @ a.weight.t(), lin(128, 128))
model("lstm", TOKENS, lambda x, a, b: b(a(x)[0]), nn.LSTM(128, 128, 2, batch_first=True), lin(128, 64))
model("gru", TOKENS, lambda x, a, b: b(a(x)[0]), nn.GRU(128, 128, batch_first=True, bidirectional=True), lin(256, 64))
model("rnn", TOKENS, lambda x, a, b: b(a(x)[0]), nn.RNN(128, 128, batch_first=True), lin(128, 64))
model("gru cell", ROWS, lambda x, a, b: b(a(x)), nn.GRUCell(128, 128), lin(128, 64))
model(
    "multi-head layer",
    TOKENS,
    lambda x, a, b: b(a(x, x, x)[0]),
    nn.MultiheadAttention(128, 4, batch_first=True),
    lin(128, 64),
)
model(
    "encoder layer",
    TOKENS,
    lambda x, a, b: b(a(x)),
    nn.TransformerEncoderLayer(128, 4, 256, 0.0, batch_first=True),
    lin(128, 64),
)


@pytest.mark.parametrize("name", MODELS)
def test_spread_and_power_are_what_the_probe_measures(name: str) -> None:
    net, data = MODELS[name]
    rows = pairs(net, data)
    assert rows
    for node, expected, measured in rows:
        assert expected.spread is not None and measured.spread is not None, node
        assert expected.second_moment is not None and measured.second_moment is not None, node
        assert expected.spread == pytest.approx(measured.spread, rel=0.35), node
        assert expected.second_moment == pytest.approx(measured.second_moment, rel=0.3), node


# Mean, second moment and E[slope^2] under a standard normal input: evidence for the whole field's gains.
TABLE = {
    "identity": (nn.Identity(), 0, 1, 1),
    "relu": (nn.ReLU(), 0.3989, 0.5, 0.5),
    "leaky_relu .01": (nn.LeakyReLU(), 0.3950, 0.5, 0.5),
    "leaky_relu .2": (nn.LeakyReLU(0.2), 0.3192, 0.52, 0.52),
    "elu": (nn.ELU(), 0.1605, 0.6449, 0.6681),
    "selu": (nn.SELU(), 0, 1, 1.0716),
    "gelu": (nn.GELU(), 0.2821, 0.4252, 0.4559),
    "silu": (nn.SiLU(), 0.2066, 0.3558, 0.3795),
    "mish": (nn.Mish(), 0.2404, 0.4523, 0.4791),
    "hardswish": (nn.Hardswish(), 0.1662, 0.3316, 0.3585),
    "tanh": (nn.Tanh(), 0, 0.3943, 0.4644),
    "sigmoid": (nn.Sigmoid(), 0.5, 0.2934, 0.0448),
    "softplus": (nn.Softplus(), 0.8061, 0.9212, 0.2934),
}


@pytest.mark.parametrize("name", TABLE)
def test_activations_have_their_known_moments(name: str) -> None:
    layer, mean, second, slope = TABLE[name]
    model = nn.Sequential(layer)
    graph = recorded(model, torch.randn(4, 8))
    found = Prediction(graph, model)
    start, end = graph.nodes[0], graph.outputs[0]
    assert found.stats[end.name].mean == pytest.approx(mean, abs=4e-4)
    assert found.second_moment(end) == pytest.approx(second, abs=4e-4)
    assert (found.backward(start) or 0) ** 2 == pytest.approx(slope, abs=2e-3)


def mlp(depth: int, activation: Callable[[], nn.Module], init: Callable[[torch.Tensor], Any] | None) -> nn.Module:
    torch.manual_seed(1)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(256, 256), activation())]
    for layer in layers:
        if init is not None and isinstance(layer, nn.Linear):
            init(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers, nn.Linear(256, 10))


def he(weight: torch.Tensor) -> Any:
    return nn.init.kaiming_normal_(weight, nonlinearity="relu")


# Ratio of the spread across samples, last hidden layer to first, of evidence tables 2.4 and 2.5, with their bands.
TRENDS: list[tuple[Callable[[], nn.Module], Callable[[torch.Tensor], Any] | None, int, float, float]] = [
    (nn.ReLU, None, 6, 3e-3, 1.4e-2),
    (nn.ReLU, None, 10, 5e-5, 6e-4),
    (nn.ReLU, None, 20, 1e-9, 3e-7),
    (nn.ReLU, he, 6, 0.35, 0.7),
    (nn.ReLU, he, 20, 0.1, 0.5),
    (nn.ReLU, nn.init.xavier_normal_, 10, 5e-3, 4e-2),
    (nn.Tanh, None, 10, 2e-3, 1.2e-2),
    (nn.Tanh, lambda w: nn.init.xavier_normal_(w, 5 / 3), 20, 0.5, 0.8),
    (nn.Tanh, nn.init.xavier_normal_, 20, 0.1, 0.25),
    (nn.Sigmoid, None, 6, 1e-5, 2.5e-4),
    (nn.SiLU, he, 20, 5e-4, 2e-2),
    (nn.ReLU, lambda w: nn.init.normal_(w, std=1.0), 6, 1e4, 1e6),
]


@pytest.mark.parametrize(("activation", "init", "depth", "low", "high"), TRENDS)
def test_depth_does_what_was_measured(
    activation: Callable[[], nn.Module], init: Any, depth: int, low: float, high: float
) -> None:
    graph, predicted, measured = both(mlp(depth, activation, init), WIDE)
    layers = [node for node in graph.nodes if node.meta.get("class") == "Linear"][:-1]
    first, end = layers[0], layers[-1]
    expected = (predicted.spread(end) or 0) / (predicted.spread(first) or 1)
    found = (measured.stats[end.name].spread or 0) / (measured.stats[first.name].spread or 1)
    assert low < expected < high
    assert expected == pytest.approx(found, rel=0.5)


@pytest.mark.parametrize(("activation", "init"), [(nn.ReLU, None), (nn.ReLU, he), (nn.Tanh, None), (nn.GELU, he)])
def test_gradients_are_what_the_probe_measures(activation: Callable[[], nn.Module], init: Any) -> None:
    graph, predicted, measured = both(mlp(8, activation, init), WIDE)
    for node in [n for n in graph.nodes if n.meta.get("class") == "Linear"]:
        assert predicted.backward(node) == pytest.approx(measured.stats[node.name].gradient, rel=0.3)


def test_batch_norm_makes_gradients_grow_with_depth() -> None:
    layers = [layer for _ in range(20) for layer in (nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU())]
    graph, predicted, measured = both(nn.Sequential(*layers), ROWS)
    first = next(n for n in graph.nodes if n.meta.get("class") == "Linear")
    growth = (predicted.backward(first) or 0) / (measured.stats[first.name].gradient or 1)
    assert 0.2 < growth < 5


def test_a_residual_stream_doubles_per_block() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(128, 128)
            he(self.inner.weight)
            nn.init.zeros_(self.inner.bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.inner(x.relu())

    graph, predicted, _ = both(nn.Sequential(*(Block() for _ in range(8))), ROWS)
    assert predicted.second_moment(graph.outputs[0]) == pytest.approx(2**8, rel=0.6)


def test_an_unknown_op_makes_the_rest_a_guess_until_a_norm() -> None:
    def forward(x: torch.Tensor, a: nn.Module, b: nn.Module, norm: nn.Module, c: nn.Module) -> torch.Tensor:
        y: torch.Tensor = c(norm(b(torch.fft.fft(a(x)).real)))
        return y

    layers = nn.Linear(128, 128), nn.Linear(128, 128), nn.BatchNorm1d(128), nn.Linear(128, 128)
    graph, predicted, _ = both(Apply(forward, *layers), ROWS)
    names = {str(n.target): predicted.certain(n) for n in graph.nodes if n.op == "call_module"}
    assert names == {"layers.0": True, "layers.1": False, "layers.2": True, "layers.3": True}


def test_the_model_does_not_run() -> None:
    model = mlp(3, nn.ReLU, None)
    graph = recorded(model, WIDE)
    ran: list[Any] = []
    for module in model.modules():
        module.register_forward_hook(lambda *_: ran.append(1))
    state = torch.get_rng_state()
    before = [p.clone() for p in model.parameters()]
    Prediction(graph, model)
    assert not ran
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_spread_and_similarity_part_where_samples_become_one() -> None:
    """The global deviation of a default ReLU net looks healthy while all samples map to one vector."""
    graph, predicted, _ = both(mlp(20, nn.ReLU, None), WIDE)
    end = [n for n in graph.nodes if n.meta.get("class") == "Linear"][-2]
    assert (predicted.similarity(end) or 0) > 0.9999
    assert (predicted.stats[end.name].std or 0) > 1e3 * (predicted.spread(end) or math.inf)


def test_the_gradient_of_a_concatenation_is_shared_by_its_parts() -> None:
    layers = nn.Linear(128, 192), nn.Linear(128, 64), nn.Linear(256, 128)
    graph, predicted, measured = both(Apply(lambda x, a, b, c: c(torch.cat([a(x), b(x)], 1)), *layers), ROWS)
    for node in (n for n in graph.nodes if n.op == "call_module"):
        assert predicted.backward(node) == pytest.approx(measured.stats[node.name].gradient, rel=0.1)


def test_the_gradient_before_a_mask_that_differs_by_position() -> None:
    layers = nn.Linear(64, 64), nn.Linear(64, 64)
    layers[0].register_buffer("mask", torch.randn(5, 1))
    model = Apply(lambda x, first, second: second(first(x) + first.mask), *layers)
    graph, predicted, measured = both(model, torch.randn(32, 5, 64))
    first = next(n for n in graph.nodes if n.op == "call_module")
    assert predicted.backward(first) == pytest.approx(measured.stats[first.name].gradient, rel=0.1)


def test_a_token_before_many_others_changes_little() -> None:
    """As in a vision transformer, and too many numbers to keep every position apart."""

    def forward(x: torch.Tensor, table: nn.Module, out: nn.Module) -> torch.Tensor:
        y: torch.Tensor = out(torch.cat([table.weight[:1].expand(len(x), 1, -1), x], 1) + table.weight)
        return y

    tokens = torch.randn(8, 300, 128, generator=torch.Generator().manual_seed(2))
    net = Apply(forward, nn.Embedding(301, 128), nn.Linear(128, 64))
    expected, measured = last(net, tokens)
    assert expected.spread == pytest.approx(measured.spread, rel=0.1)
    assert expected.similarity == pytest.approx(measured.similarity, abs=0.1)


def test_no_gradient_is_promised_across_an_unknown_op() -> None:
    layers = nn.Linear(128, 128), nn.Linear(128, 128)
    graph, predicted, _ = both(Apply(lambda x, a, b: b(torch.fft.fft(a(x)).real), *layers), ROWS)
    first, second = (n for n in graph.nodes if n.op == "call_module")
    assert predicted.backward(first) is None
    assert predicted.backward(second) == pytest.approx(1.0)


def test_layer_norm_from_var_mean() -> None:
    def forward(x: torch.Tensor, a: nn.Module, b: nn.Module) -> torch.Tensor:
        x = a(x) * 3 + 5
        variance, mean = torch.var_mean(x, -1, keepdim=True)
        y: torch.Tensor = b((x - mean) / (variance + 1e-5).sqrt())
        return y

    expected, measured = last(Apply(forward, nn.Linear(128, 256), nn.Linear(256, 64)), TOKENS)
    assert expected.spread == pytest.approx(measured.spread, rel=0.1)


def test_rows_of_a_table_by_given_indices() -> None:
    net = Apply(lambda x, a, b: b(a.weight[x]), nn.Embedding(500, 128), nn.Linear(128, 64))
    expected, measured = last(net, WORDS)
    assert expected.spread == pytest.approx(measured.spread, rel=0.1)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_every_zoo_model_has_a_prediction(entry: Entry) -> None:
    model, args, kwargs = entry.make()
    model = materialised(model, args, kwargs)
    with untouched(model, values=True), training_mode(model, True):
        try:
            with untouched(model):
                recording = record(model, args, kwargs)
        except Unfollowable:
            recording = record(model, args, kwargs, fake=False)
        graph = Graph(recording, model)
        found = Prediction(graph, model)
    layers = [n for n in graph.of_kind(*WEIGHT_LAYERS) if graph.weight(n) is not None]
    assert all((found.spread(n) or 0) >= 0 and n.name in found.stats for n in layers)


@pytest.mark.parametrize(("activation", "stride"), [(nn.SiLU, 1), (nn.ReLU, 1), (nn.SiLU, 2), (nn.ReLU, 2)])
def test_depthwise_neighbours_share_large_inputs(activation: Callable[[], nn.Module], stride: int) -> None:
    """Heavy tails before a depthwise conv make its neighbours alike, and that outlives pooling and striding."""
    torch.manual_seed(5)

    def depthwise(stride: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(512, 512, 5, stride, padding=2, groups=512, padding_mode="circular", bias=False)
        return [conv, nn.BatchNorm2d(512), activation()]

    layers = nn.Conv2d(32, 512, 1), nn.BatchNorm2d(512), activation(), *depthwise(), nn.Conv2d(512, 512, 1)
    end = nn.BatchNorm2d(512), activation(), *depthwise(stride), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    net = nn.Sequential(*layers, *end)
    expected, measured = last(net, torch.randn(32, 32, 16, 16, generator=torch.Generator().manual_seed(2)))
    assert expected.spread == pytest.approx(measured.spread, rel=0.06)


def test_positions_times_features_are_not_all_told_apart():
    positions = gaussian(torch.linspace(0.5, 1.5, 512)[:, None], torch.zeros(512, 1), (512, 1))
    features = gaussian(torch.zeros(1, 4096), torch.linspace(1, 2, 4096), (512, 4096))
    some, others = comparable((positions, features), 2)
    assert (some.features, others.features) == ((1, 1), (1, 4096))
    assert float(some.mean) == pytest.approx(1.0) and some.noise == pytest.approx(1 / 12, rel=0.01)
    assert [v.features for v in comparable((features, features), 2)] == [(1, 4096), (1, 4096)]


def test_a_long_sequence_of_many_features():
    scale = torch.linspace(0.5, 1.5, 512)[:, None]
    model, x = Apply(lambda x, layer: layer(x) * scale, nn.Linear(64, 4096)), torch.randn(4, 512, 64)
    graph = recorded(model, x)
    predicted = Prediction(graph, model).stats[graph.outputs[0].name]
    with torch.no_grad():
        assert math.sqrt(predicted.second_moment) == pytest.approx(float(model(x).square().mean().sqrt()), rel=0.05)
