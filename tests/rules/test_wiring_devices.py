"""BN504 and BN507: tensors that do not follow the model to its device."""

import pytest
import torch
from torch import nn

from bnlint import Severity, check


class Fn(nn.Module):
    def __init__(self, function, **attributes):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.function(self, x)


class MovesItself(Fn):
    def _apply(self, fn, recurse=True):
        self.table = fn(self.table)
        return super()._apply(fn, recurse)


class Derived(nn.Module):
    """A tensor computed from a parameter, as the older weight norm keeps one."""

    def __init__(self):
        super().__init__()
        self.direction = nn.Parameter(torch.randn(8, 8))
        self.weight = self.direction / self.direction.norm()

    def forward(self, x):
        return x @ self.weight


def paths(found, model, code, inputs="4x8"):
    return [path for (_, path), f in found(model, inputs, select=[code]).items() if f.severity is Severity.WARNING]


@pytest.mark.parametrize(
    ("function", "attributes", "path"),
    [
        (lambda m, x: m.fc(x + m.table), {"table": torch.zeros(8)}, "table"),
        (lambda m, x: m.fc(x) * m.table[:4].repeat(2), {"table": torch.ones(8)}, "table"),
        (lambda m, x: m.fc(x) + m.table, {"table": torch.zeros(8, requires_grad=True)}, "table"),
        (lambda m, x: m.fc(x) + m.tables[0] + m.tables[1], {"tables": [torch.zeros(8), torch.ones(8)]}, "tables"),
        (lambda m, x: m.fc(x) + m.scales[0], {"scales": [nn.Parameter(torch.ones(8))]}, "scales"),
    ],
)
def test_plain_tensor(found, function, attributes, path):
    assert paths(found, Fn(function, **attributes), "BN504") == [path]


def test_a_cast_is_no_move(found):
    def anchors(m, x):
        steps = torch.arange(8).to(x.dtype) / 8
        return m.fc(x) + torch.stack([steps, m.table]).sum(0).to(x.device)

    assert paths(found, Fn(anchors, table=torch.zeros(8)), "BN504") == []
    for cast in ({"dtype": torch.float32}, {"dtype": torch.float32, "copy": True}):
        assert paths(
            found, Fn(lambda m, x, cast=cast: m.fc(x) + m.table.to(**cast), table=torch.zeros(8)), "BN504"
        ) == ["table"]


@pytest.mark.parametrize(
    "model",
    [
        Fn(lambda m, x: m.fc(x + m.table.to(x.device)), table=torch.zeros(8)),
        Fn(lambda m, x: m.fc(x + m.table[:8].type_as(x)), table=torch.zeros(16)),
        Fn(lambda m, x: m.fc(x + torch.as_tensor(m.table, device=x.device)), table=torch.zeros(8)),
        Fn(lambda m, x: m.fc(x * m.scale), scale=torch.tensor(0.5)),  # no axes: mixes with any device
        Fn(lambda m, x: m.fc(x[:, m.order]), order=torch.arange(8)),  # an index
        Fn(lambda m, x: m.fc(x * m.scale), scale=0.5),
        Fn(lambda m, x: m.fc(x), table=torch.zeros(8)),  # not used
        Fn(lambda m, x: m.fc(x + m.table), table=nn.Parameter(torch.zeros(8))),
        MovesItself(lambda m, x: m.fc(x + m.table), table=torch.zeros(8)),
        Derived(),
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)),
    ],
)
def test_tensors_that_follow(found, model):
    assert paths(found, model, "BN504") == []


def test_place_is_the_assignment(found):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.zeros(8)
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            return self.fc(x + self.table)

    (finding,) = found(Net(), "4x8", select=["BN504"]).values()
    assert finding.location.line == Net.__init__.__code__.co_firstlineno + 2


class Computed(nn.Module):
    def __init__(self, stray):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        start = nn.Parameter(torch.ones(8)) if stray else self.weight
        self.scale = start * 2
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x * self.scale * self.weight)


def test_a_tensor_computed_from_a_stray_parameter_is_not_trained(found):
    (finding,) = found(Computed(True), "4x8", select=["BN504"]).values()
    assert finding.module_path == "scale" and finding.location.line == Computed.__init__.__code__.co_firstlineno + 4
    assert found(Computed(False), "4x8", select=["BN504"]) == {}


class Recurrent(nn.Module):
    def __init__(self, like):
        super().__init__()
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.like = like

    def forward(self, x):
        return self.rnn(x, torch.zeros(1, len(x), 8, device=x.device if self.like else None))[0]


def fills(m, x):
    out = torch.zeros(len(x), 8)
    out[:, :4] = x[:, :4]
    return m.fc(out)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Recurrent(False), "4x5x8"),
        (Fn(lambda m, x: m.fc(x) + torch.randn(4, 8)), "4x8"),
        (Fn(lambda m, x: m.fc(x).masked_fill(torch.ones(8).triu(0) > 0, 0)), "4x8x8"),
        (Fn(lambda m, x: m.fc(x) + m.table(torch.arange(4)), table=nn.Embedding(4, 8)), "4x8"),
        (Fn(lambda m, x: torch.cat([m.fc(x), torch.zeros(4, 1).expand(-1, 8)])), "4x8"),
        (Fn(lambda m, x: m.fc(x) + torch.zeros(8, device="cpu")), "4x8"),
        (Fn(lambda m, x: m.fc(m.fc(x).cpu() * 2)), "4x8"),
        (Fn(fills), "4x8"),
    ],
)
def test_left_on_the_cpu(found, model, inputs):
    assert len(found(model, inputs, select=["BN507"])) == 1


def zero_pads(m, x):
    """A shortcut without weights, as in 3D ResNets: moved where it has to be."""
    pads = torch.zeros(
        len(x),
        8,
    )
    if x.is_cuda:
        pads = pads.cuda()
    return torch.cat([m.fc(x), pads], dim=1)


def grid(n, is_cuda):
    """ACmix: one line for each kind of device."""
    if is_cuda:
        row = torch.linspace(-1.0, 1.0, n).cuda()
    else:
        row = torch.linspace(-1.0, 1.0, n)
    return row.unsqueeze(0)


def to_a_variable(m, x):
    return m.fc(x.to(m.device))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Recurrent(True), "4x5x8"),
        (Fn(lambda m, x: m.fc(x) + torch.zeros(8).to(x.device)), "4x8"),
        (Fn(lambda m, x: m.fc(x) + torch.zeros(8).to(x)), "4x8"),
        (Fn(lambda m, x: m.fc(x) + torch.zeros_like(x)), "4x8"),
        (Fn(lambda m, x: m.fc(x) + x.new_ones(8)), "4x8"),
        (Fn(lambda m, x: m.fc(x) * torch.tensor(2.0)), "4x8"),
        (Fn(lambda m, x: m.fc(x)[:, torch.arange(4)]), "4x8"),
        (Fn(lambda m, x: (m.fc(x), torch.arange(8.0))), "4x8"),
        (Fn(lambda m, x: m.fc(x).cpu()), "4x8"),
        (Fn(lambda m, x: m.fc(torch.from_numpy(x.detach().cpu().numpy()).to(x.device))), "4x8"),
        (Fn(to_a_variable, device="cpu"), "4x8"),
        (Fn(zero_pads), "4x8"),
        (Fn(lambda m, x: m.fc(x + grid(8, x.is_cuda))), "4x8"),
        (Fn(lambda m, x: torch.cat([m.fc(x).flatten(), torch.empty([0])])), "4x8"),  # WavLM: an argument left empty
    ],
)
def test_follows_the_model(found, model, inputs):
    assert found(model, inputs, select=["BN507"]) == {}


class Positions(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.table, self.fc, self.make = nn.Embedding(9, 8), nn.Linear(8, 8), make

    def forward(self, ids):
        return self.fc(self.table(ids) + self.make(ids))


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (lambda ids: torch.ones(8).cpu(), "make it with `device=x.device` and leave it there"),
        (None, "pass `device=ids.device`"),
    ],
)
def test_the_cure_names_a_tensor_that_is_there(found, make, cure):
    class Inline(Positions):
        def forward(self, ids):
            return self.fc(self.table(ids) + torch.ones(8))

    model = Positions(make) if make else Inline(None)
    (finding,) = found(model, "int64[4,5]<9", select=["BN507"]).values()
    assert finding.help == cure


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without it")
@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.fc(x.cuda()),
        lambda m, x: m.fc(x.to("cuda:0")),
        lambda m, x: m.fc(x.to(torch.device("cuda"), torch.float32)),
        lambda m, x: m.fc(x) + torch.ones(8, device="cuda"),
        lambda m, x: m.fc(x) + x.new_ones(8, device="cuda"),
        lambda m, x: m.fc(x + torch.cuda.FloatTensor(8)),
    ],
)
def test_a_device_that_is_not_there_is_one_error(function):
    report = check(Fn(function), inputs="4x8")
    errors = [(f.code, f.call or f.location) for f in report.findings if f.severity is Severity.ERROR]
    assert [code for code, _ in errors] == ["BN507"]
    assert errors[0][1].line == function.__code__.co_firstlineno
    assert report.exit_code(Severity.WARNING) == 1


def test_the_rest_of_a_model_that_goes_to_a_device_is_checked(found):
    def forward(m, x):
        return m.fc(x.cuda()).softmax(0)

    assert {code for code, _ in found(Fn(forward), "4x8")} >= {"BN507", "BN403"}
