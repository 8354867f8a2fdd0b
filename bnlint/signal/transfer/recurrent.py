"""Recurrent layers and transformer layers that are one node of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from bnlint.graph.ops import Kind, argument
from bnlint.signal.transfer.attention import attend
from bnlint.signal.transfer.base import Unknown, data, transfer
from bnlint.signal.transfer.layers import weighted
from bnlint.signal.value import POINTS, WEIGHTS, Value, collapsed, gaussian

if TYPE_CHECKING:
    from bnlint.signal.predict import Walk

_STEPS = 32  # after these a recurrent state has forgotten where it started, or never will


@dataclass
class _Moments:
    """Mean and variance of every unit of a state or gate."""

    mean: torch.Tensor
    variance: torch.Tensor

    def through(self, function: Any) -> _Moments:
        """After a nonlinearity."""
        grid = function(self.mean + self.variance.sqrt() * POINTS[:, None])
        mean = WEIGHTS @ grid
        return _Moments(mean, WEIGHTS @ (grid - mean).square())

    def __mul__(self, other: _Moments) -> _Moments:
        variance = self.variance * other.variance + self.variance * other.mean**2 + self.mean**2 * other.variance
        return _Moments(self.mean * other.mean, variance)

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(self.mean + other.mean, self.variance + other.variance)


@transfer(Kind.RNN)
def recurrent(walk: Walk, node: fx.Node) -> Any:
    """Runs the moments of the state over time steps, gates independent of each other."""
    value, module = data(walk, node), walk.graph.module(node)
    if isinstance(module, nn.RNNBase):
        return _layers(walk, node, module, value)
    if isinstance(module, nn.RNNCellBase):
        return _cell(walk, node, module, value)
    raise Unknown


def _layers(walk: Walk, node: fx.Node, module: nn.RNNBase, value: Value) -> Any:
    if module.proj_size:
        raise Unknown
    value = collapsed(value, range(len(value.features) - 1))
    x = _Moments(*(t.reshape(-1).expand(module.input_size) for t in (value.mean, value.variance)))
    time = 0 if len(value.shape) == 2 or not module.batch_first else 1
    steps = min(value.shape[time], _STEPS)
    for layer in range(module.num_layers):
        found = []
        for suffix in ("", "_reverse")[: 2 if module.bidirectional else 1]:
            weights = [getattr(module, f"{name}_l{layer}{suffix}") for name in ("weight_ih", "weight_hh")]
            biases = (
                [getattr(module, f"{name}_l{layer}{suffix}") for name in ("bias_ih", "bias_hh")] if module.bias else []
            )
            found.append(_run(module.mode, x, weights, biases, steps)[0])
        x = _Moments(torch.cat([f.mean for f in found]), torch.cat([f.variance for f in found]))
    out = node.meta["val"][0]
    shape = tuple(out.shape) if isinstance(out, torch.Tensor) else (*value.shape[:-1], len(x.mean))
    made = gaussian(
        x.mean.reshape(*(1,) * (len(shape) - 1), -1), x.variance.reshape(*(1,) * (len(shape) - 1), -1), shape
    )
    made.certain = value.certain
    state = gaussian(
        x.mean.mean().reshape(1, 1, 1), x.variance.mean().reshape(1, 1, 1), (1, shape[0], module.hidden_size)
    )
    state.certain = value.certain
    return made, (state, state) if module.mode == "LSTM" else state


def _cell(walk: Walk, node: fx.Node, module: nn.RNNCellBase, value: Value) -> Any:
    value = collapsed(value, range(len(value.features) - 1))
    x = _Moments(*(t.reshape(-1).expand(module.input_size) for t in (value.mean, value.variance)))
    biases = [module.bias_ih, module.bias_hh] if module.bias else []
    mode = {nn.LSTMCell: "LSTM", nn.GRUCell: "GRU"}.get(type(module), "RNN_TANH")
    if mode == "RNN_TANH" and getattr(module, "nonlinearity", "tanh") == "relu":
        mode = "RNN_RELU"
    h, c = _run(mode, x, [module.weight_ih, module.weight_hh], biases, 1, *_states(walk, node, module.hidden_size))
    shape = (*value.shape[:-1], module.hidden_size)
    layout = (*(1,) * (len(shape) - 1), -1)
    made = gaussian(h.mean.reshape(layout), h.variance.reshape(layout), shape)
    made.certain = value.certain
    cell = gaussian(c.mean.reshape(layout), c.variance.reshape(layout), shape)
    cell.certain = value.certain
    return (made, cell) if mode == "LSTM" else made


def _states(walk: Walk, node: fx.Node, size: int) -> list[_Moments]:
    """The state a cell is given: zero when it is given none."""
    given: Any = argument(node, 1, "hx")
    found = [walk.value(n) for n in (given if isinstance(given, (tuple, list)) else (given,))]
    zero = torch.zeros(size, dtype=torch.float64)
    states = []
    for v in found:
        v = collapsed(v, range(len(v.features) - 1)) if v is not None else None
        states.append(
            _Moments(*(t.reshape(-1) + zero for t in (v.mean, v.variance))) if v is not None else _Moments(zero, zero)
        )
    return (states * 2)[:2] if len(states) == 1 else states


def _run(
    mode: str,
    x: _Moments,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    steps: int,
    *states: _Moments,
) -> tuple[_Moments, _Moments]:
    zero = torch.zeros(weights[1].shape[1], dtype=torch.float64)
    h, c = states or (_Moments(zero, zero), _Moments(zero, zero))
    into = _Moments(*weighted(weights[0], x.mean, x.variance))
    shift = [b.detach().double() for b in biases]
    into = _Moments(into.mean + sum(shift[:1], zero.new_zeros(())), into.variance)
    for _ in range(steps):
        back = _Moments(*weighted(weights[1], h.mean, h.variance))
        back = _Moments(back.mean + sum(shift[1:], zero.new_zeros(())), back.variance)
        if mode == "LSTM":
            i, f, g, o = (
                _Moments(m, v)
                for m, v in zip((into + back).mean.chunk(4), (into + back).variance.chunk(4), strict=True)
            )
            c = f.through(torch.sigmoid) * c + i.through(torch.sigmoid) * g.through(torch.tanh)
            h = o.through(torch.sigmoid) * c.through(torch.tanh)
        elif mode == "GRU":
            xr, xz, xn = (_Moments(m, v) for m, v in zip(into.mean.chunk(3), into.variance.chunk(3), strict=True))
            hr, hz, hn = (_Moments(m, v) for m, v in zip(back.mean.chunk(3), back.variance.chunk(3), strict=True))
            z = (xz + hz).through(torch.sigmoid)
            new = (xn + (xr + hr).through(torch.sigmoid) * hn).through(torch.tanh)
            h = _Moments(1 - z.mean, z.variance) * new + z * h
        else:
            h = (into + back).through(torch.relu if mode == "RNN_RELU" else torch.tanh)
    return h, c


@transfer(Kind.TRANSFORMER)
def transformer(walk: Walk, node: fx.Node) -> Any:
    """Encoder layers: attention and feed-forward branches on a residual stream."""
    value, module = data(walk, node), walk.graph.module(node)
    layers: list[Any] = [module] if isinstance(module, nn.TransformerEncoderLayer) else []
    if isinstance(module, nn.TransformerEncoder):
        layers = list(module.layers)
    if not layers:
        raise Unknown
    for layer in layers:
        value = _encoder_layer(walk, node, layer, value)
    final = module.norm if isinstance(module, nn.TransformerEncoder) else None
    value = _normed(final, value) if isinstance(final, nn.LayerNorm) else value
    walk.factors.pop(node, None)
    return value


def _encoder_layer(walk: Walk, node: fx.Node, layer: nn.TransformerEncoderLayer, x: Value) -> Value:
    x = collapsed(x, range(len(x.features) - 1))

    def feed(value: Value) -> Value:
        mean, variance = weighted(layer.linear1.weight, value.mean, value.variance)
        hidden = value.like(mean + _bias(layer.linear1), variance)
        activation: Any = layer.activation
        grid = activation(hidden.grid)
        middle = Value(grid, hidden.shape, object())
        mean, variance = weighted(layer.linear2.weight, middle.mean, middle.variance)
        return value.like(mean + _bias(layer.linear2), variance)

    def look(value: Value) -> Value:
        return attend(walk, node, layer.self_attn, value, value, value)

    if layer.norm_first:
        x = _sum(x, look(_normed(layer.norm1, x)))
        return _sum(x, feed(_normed(layer.norm2, x)))
    x = _normed(layer.norm1, _sum(x, look(x)))
    return _normed(layer.norm2, _sum(x, feed(x)))


def _bias(layer: nn.Linear) -> torch.Tensor:
    bias: Any = layer.bias
    return bias.detach().double() if bias is not None else torch.zeros(1, dtype=torch.float64)


def _sum(a: Value, b: Value) -> Value:
    return a.like(a.mean + b.mean, a.variance + b.variance)


def _normed(norm: nn.LayerNorm, value: Value) -> Value:
    mean = value.mean.mean(-1, keepdim=True)
    power = (value.variance + (value.mean - mean).square()).mean(-1, keepdim=True)
    weight = norm.weight.detach().double() if norm.weight is not None else torch.ones(1, dtype=torch.float64)
    bias = norm.bias.detach().double() if norm.bias is not None else torch.zeros(1, dtype=torch.float64)
    factor = weight * (power + norm.eps).rsqrt()
    made = value.like((value.mean - mean) * factor + bias, value.variance * factor.square())
    made.certain = True
    return made
