"""Statistics of one value, against numbers computed by hand and against a plain formula in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlint.signal.statistics import NodeStats, extremes, measurable, moments, norm, summary
from bnlint.signal.watch import on_host


def stats_of(value: torch.Tensor, batch: int | None = 0, channel: int | None = None) -> NodeStats:
    numbers, layout = moments(value, batch, channel)
    return summary(on_host({**extremes(value), **numbers}), layout)


def plain(value: torch.Tensor, batch: int, channel: int | None) -> tuple[float, float, float, float]:
    """Mean, std, spread and similarity straight from their definitions, in float64."""
    x = value.double()
    mean, std = float(x.mean()), float(x.std(correction=0))
    if channel is None:
        rows = x.movedim(batch, 0).flatten(1)
    else:
        rows = x.movedim(channel, -1).flatten(0, -2)
    spread = float(rows.var(0).mean().sqrt())
    samples = x.movedim(batch, 0).flatten(1)
    n = len(samples)
    products = samples @ samples.T
    between = (products.sum() - products.trace()) / (n * (n - 1))
    return mean, std, spread, float(between / (products.trace() / n))


def test_two_samples_of_two_features() -> None:
    found = stats_of(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert (found.minimum, found.maximum, found.mean) == (1, 6, 3)
    assert found.std == pytest.approx(math.sqrt(3.5))
    assert found.second_moment == pytest.approx(12.5)
    assert found.spread == pytest.approx(math.sqrt((2 + 8) / 2))
    assert found.similarity == pytest.approx(15 / 25)


def test_positions_of_a_map_count_into_the_spread_of_its_channel() -> None:
    x = torch.randn(4, 3, 5, 6) * torch.tensor([1.0, 2.0, 3.0])[:, None, None] + 7
    found = stats_of(x, 0, 1)
    assert found.spread == pytest.approx(float(x.var((0, 2, 3)).mean().sqrt()), rel=1e-5)


def test_a_constant_map_has_no_spread_but_a_std_across_channels() -> None:
    x = torch.tensor([1.0, 5.0])[None, :, None].expand(3, 2, 4)
    found = stats_of(x, 0, 1)
    assert (found.spread, found.std, found.similarity) == (0, pytest.approx(2), 1)


@pytest.mark.parametrize(("batch", "channel"), [(0, 1), (0, 2), (1, 2), (2, 0), (1, None)])
def test_axes_may_be_anywhere(batch: int, channel: int | None) -> None:
    x = torch.randn(4, 5, 6) + torch.randn(5, 1)
    found = stats_of(x, batch, channel)
    assert (found.mean, found.std, found.spread, found.similarity) == pytest.approx(plain(x, batch, channel), rel=1e-4)


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_a_mean_far_above_the_spread(offset: float) -> None:
    x = torch.randn(64, 128) + offset
    _, _, spread, similarity = plain(x, 0, None)
    found = stats_of(x)
    assert found.spread == pytest.approx(spread, rel=1e-3)
    assert 1 - found.similarity == pytest.approx(1 - similarity, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    x = (torch.randn(32, 64) * 100 + 30000).to(dtype)  # squares and sums overflow float16
    mean, std, spread, _ = plain(x, 0, None)
    found = stats_of(x)
    assert (found.mean, found.std, found.spread) == pytest.approx((mean, std, spread), rel=1e-4)
    assert float(norm(x)) == pytest.approx(float(x.double().norm()), rel=1e-5)


def test_one_sample_has_a_spread_over_its_positions_only() -> None:
    x = torch.randn(1, 3, 8)
    assert stats_of(x, 0, 1).spread == pytest.approx(float(x[0].var(1).mean().sqrt()), rel=1e-5)
    assert stats_of(x, 0, 1).similarity is None
    assert stats_of(torch.randn(1, 8), 0, 1).spread is None
    assert stats_of(torch.randn(8), None, 0).spread is None


def test_values_that_are_not_finite() -> None:
    nan, inf = torch.tensor([[1.0, math.nan], [2.0, 3.0]]), torch.tensor([[1.0, math.inf], [2.0, 3.0]])
    assert (stats_of(nan).has_nan, stats_of(nan).finite) == (True, False)
    assert (stats_of(inf).has_nan, stats_of(inf).finite) == (False, False)
    assert stats_of(torch.ones(2, 2)).finite


def test_a_scale_beyond_float32_gives_infinity_not_an_exception() -> None:
    found = stats_of(torch.tensor([[1e200, -1e200], [-1e200, 1e200]], dtype=torch.float64))
    assert (found.spread, found.second_moment) == (math.inf, math.inf)


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(3, dtype=torch.int64),
        torch.ones(3, dtype=torch.complex64),
        torch.empty(0, 4),
        torch.ones(3, device="meta"),
        torch.eye(3).to_sparse(),
        "text",
    ],
)
def test_what_is_not_measured(value: object) -> None:
    assert not measurable(value)


def test_values_inside_vmap_are_not_measured() -> None:
    seen = []

    def double(x: torch.Tensor) -> torch.Tensor:
        seen.append(measurable(x))
        return 2 * x

    torch.vmap(double)(torch.ones(3, 2))
    assert seen == [False]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(2, 6), min_size=2, max_size=4),
    data=st.data(),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    shift=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_agrees_with_the_definitions(shape: list[int], data: st.DataObject, scale: float, shift: float) -> None:
    batch = data.draw(st.integers(0, len(shape) - 1))
    channel = data.draw(st.sampled_from([None, *(d for d in range(len(shape)) if d != batch)]))
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) + shift) * scale
    found = stats_of(x, batch, channel)
    assert (found.mean, found.std, found.spread, found.similarity) == pytest.approx(
        plain(x, batch, channel), rel=1e-3, abs=1e-5 * scale
    )
