"""Schemes are recognised over seeds, shapes, dtypes and kinds of layers; trained weights are no scheme."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn import init

from bnlint.signal.fans import fans_of
from bnlint.signal.schemes import recognise
from bnlint.signal.survey import Survey

LAYERS = {
    "square": lambda: nn.Linear(8, 8),
    "linear": lambda: nn.Linear(64, 256),
    "wide": lambda: nn.Linear(4096, 1000),
    "conv": lambda: nn.Conv2d(16, 32, 3),
    "depthwise": lambda: nn.Conv2d(96, 96, 3, groups=96),
    "grouped": lambda: nn.Conv1d(64, 64, 5, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(64, 16, 4, 2),
}
SCHEMES = {
    "PyTorch default": lambda layer: layer.reset_parameters(),
    "Xavier uniform": lambda layer: init.xavier_uniform_(layer.weight),
    "Xavier normal": lambda layer: init.xavier_normal_(layer.weight),
    "He uniform": lambda layer: init.kaiming_uniform_(layer.weight, nonlinearity="relu"),
    "He normal": lambda layer: init.kaiming_normal_(layer.weight, nonlinearity="relu"),
    "He normal (fan_out)": lambda layer: init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu"),
    "LeCun normal": lambda layer: init.kaiming_normal_(layer.weight, nonlinearity="linear"),
    "Xavier uniform (gain for tanh)": lambda layer: init.xavier_uniform_(layer.weight, 5 / 3),
    "N(0, 0.01²)": lambda layer: init.normal_(layer.weight, 0, 0.01),
    "N(0, 0.02²)": lambda layer: init.normal_(layer.weight, 0, 0.02),
    "U(±0.05)": lambda layer: init.uniform_(layer.weight, -0.05, 0.05),
    "truncated N(0, 0.02²)": lambda layer: init.trunc_normal_(layer.weight, 0, 0.02, -0.04, 0.04),
    "orthogonal": lambda layer: init.orthogonal_(layer.weight),
}


def recognised(layer, name="weight"):
    return recognise(getattr(layer, name), fans_of(layer, name), layer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_own_scheme_is_named(scheme, layer, dtype):
    if scheme.startswith("truncated") and layer == "square":
        pytest.skip("64 entries of a truncated normal can look uniform")
    for seed in range(2):
        torch.manual_seed(seed)
        module = LAYERS[layer]()
        SCHEMES[scheme](module)
        found = recognised(module.to(dtype))
        assert scheme in [row.label for row in found.schemes], found
        row = next(row for row in found.schemes if row.label == scheme)
        assert row.std == pytest.approx(float(module.weight.detach().double().std()), rel=0.4)


def test_large_tensors_are_not_ambiguous():
    torch.manual_seed(0)
    for scheme, fill in SCHEMES.items():
        layer = nn.Linear(784, 500)
        fill(layer)
        assert recognised(layer).schemes[0].label == scheme
        assert len(recognised(layer).schemes) <= 3


def test_equal_fans_give_a_set_with_the_plainest_first():
    torch.manual_seed(0)
    layer = nn.Linear(256, 256)
    init.xavier_normal_(layer.weight)
    labels = [row.label for row in recognised(layer).schemes]
    assert {"LeCun normal", "Xavier normal"} <= set(labels[:2]) and "N(0, 0.02²)" not in labels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layers_built_in_16_bits(dtype):
    """Their draws come from a grid of 256 or 2048 values."""
    for seed in range(5):
        torch.manual_seed(seed)
        assert recognised(nn.Linear(300, 200, dtype=dtype)).is_default
        layer = nn.Linear(300, 200, dtype=dtype)
        init.normal_(layer.weight, 0, 0.02)
        assert recognised(layer).schemes[0].label == "N(0, 0.02²)"


@pytest.mark.parametrize(
    ("tensor", "law"),
    [
        (torch.zeros(20, 20), "zeros"),
        (torch.full((20, 20), 0.3), "constant"),
        (torch.eye(20), "identity"),
        (init.dirac_(torch.empty(16, 16, 3, 3)), "dirac"),
        (init.dirac_(torch.empty(16, 8, 3, 3), groups=2), "dirac"),
        (init.sparse_(torch.empty(64, 64), 0.9), "sparse"),
        (torch.randn(5, 5), "too few"),
        (torch.full((20, 20), torch.nan), "non-finite"),
        (torch.rand(200, 10), "uniform"),
        (torch.linspace(-1, 1, 4096).reshape(64, 64), "unknown"),
        (torch.randn(64, 64) * torch.linspace(0.1, 2, 64)[:, None], "unknown"),
        (torch.randn(64, 64) + 2 * torch.randn(64, 1), "unknown"),
        (torch.randn(128, 128) + 0.3 * torch.randn(128, 1) @ torch.randn(1, 128), "unknown"),
        (torch.distributions.Laplace(0.0, 1.0).sample((64, 64)), "unknown"),
    ],
)
def test_laws(tensor, law):
    assert recognise(tensor).law == law


def test_shifted_weights_have_a_law_but_no_scheme():
    found = recognise(torch.rand(64, 64))
    assert (found.law, found.schemes) == ("uniform", ()) and found.mean == pytest.approx(0.5, abs=0.02)
    found = recognise(torch.randn(64, 64) + 3)
    assert (found.law, found.schemes) == ("normal", ())


def test_no_values_no_answer():
    assert recognise(torch.empty(20, 20, device="meta")) is None
    assert recognise(torch.arange(400)) is None
    assert recognise(torch.empty(0, 20)) is None


def test_embedding_default_and_padding_row():
    torch.manual_seed(0)
    assert recognised(nn.Embedding(1000, 64, padding_idx=0)).scheme.label == "PyTorch default"


def test_fans_of_transposed_and_grouped_layers():
    fans = fans_of(nn.ConvTranspose2d(64, 16, 4, 2))
    assert (fans.real_in, fans.torch_in, fans.real_out, fans.torch_out) == (256, 256, 256, 1024)
    fans = fans_of(nn.ConvTranspose2d(64, 16, 4, 1))
    assert (fans.real_in, fans.torch_in) == (1024, 256)
    fans = fans_of(nn.Conv2d(96, 96, 3, groups=96))
    assert (fans.real_in, fans.real_out, fans.torch_out) == (9, 9, 864)


def test_recurrent_default():
    torch.manual_seed(0)
    layer = nn.LSTM(20, 64)
    assert recognised(layer, "weight_ih_l0").is_default and recognised(layer, "weight_hh_l0").is_default


def test_answers_are_deterministic():
    torch.manual_seed(0)
    layer = nn.Linear(3000, 2000)
    state = torch.get_rng_state()
    assert recognised(layer) == recognised(layer)
    assert torch.equal(state, torch.get_rng_state())


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0)
        self.out = nn.Linear(32, 50)

    def forward(self, x):
        return self.out(self.block(self.embedding(x)))


def mlp():
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn():
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.Conv2d(32, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )


def batch(model):
    if isinstance(model, Sequence):
        x = torch.randint(50, (32, 12))
        return x, x.roll(1, 1)
    if isinstance(model[0], nn.Linear):
        x = torch.randn(64, 20)
        return x, x[:, :10].argmax(1)
    x, y = torch.randn(32, 1, 16, 16) * 0.3, torch.randint(10, (32,))
    x[torch.arange(32), 0, y, :] += 1
    return x, y


@pytest.mark.parametrize("make", [mlp, cnn, Sequence])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_trained_weights_are_no_scheme(make, optimizer):
    for seed in range(2):
        torch.manual_seed(seed)
        model = make()
        fresh = Survey(model)
        assert not fresh.trained
        assert all(fresh.of(n).law != "unknown" for n, p in model.named_parameters() if p.ndim > 1)
        options = {"lr": 0.1, "momentum": 0.9} if optimizer is torch.optim.SGD else {"lr": 0.01}
        steps = optimizer(model.parameters(), **options)
        for _ in range(200):
            x, y = batch(model)
            loss = F.cross_entropy(model(x).flatten(0, -2) if isinstance(model, Sequence) else model(x), y.flatten())
            steps.zero_grad()
            loss.backward()
            steps.step()
        survey = Survey(model)
        found = {n: survey.of(n).law for n, p in model.named_parameters() if p.ndim > 1}
        assert set(found.values()) == {"unknown"}, found
        assert survey.trained


def test_loaded_weights_are_trained():
    assert Survey(mlp(), loaded=True).of("0.weight").law == "unknown"


def test_a_fresh_head_on_a_trained_body():
    torch.manual_seed(0)
    body = nn.Linear(256, 256)
    body.weight.data += 0.2 * torch.randn(256, 1) @ torch.randn(1, 256)
    body.bias.data += 0.5 * torch.randn(256)
    survey = Survey(nn.Sequential(body, nn.ReLU(), nn.Linear(256, 100)))
    assert survey.of("0.weight").law == "unknown"
    assert survey.of("2.weight").is_default


def biased(draw, width):
    model = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 10))
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.kaiming_normal_(p, nonlinearity="relu")
        else:
            draw(p)
    return model


@pytest.mark.parametrize("start", [nn.init.zeros_, lambda b: b])
def test_a_short_training_shows_in_the_biases(start):
    """A hundred steps of Adam leave the weights' histogram as it was; 64 biases look like some round law."""
    for seed in range(3):
        torch.manual_seed(seed)
        model = biased(start, 64)
        assert Survey(model).of("0.weight").schemes
        steps = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(100):
            x, y = batch(model)
            F.cross_entropy(model(x), y).backward()
            steps.step()
            steps.zero_grad()
        assert Survey(model).of("0.weight").law == "unknown"


def test_biases_drawn_from_the_weights_law_or_a_usual_one_are_fresh():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
    for p in model.parameters():
        nn.init.normal_(p, std=0.02)
    assert Survey(model).of("0.weight").scheme.name == "N(0, 0.02²)"
    assert Survey(biased(lambda b: nn.init.normal_(b, std=0.01), 1024)).of("0.weight").schemes
    assert (
        Survey(biased(lambda b: nn.init.normal_(b, std=1e-6), 64)).of("0.weight").schemes
    )  # as in vision transformers
