"""Fixed-point streams: adding can be undone exactly, and nothing wraps round unseen."""

import pytest
import torch

from reformer.nn.streams import ExactStreams, FloatStreams, StreamRangeError

DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_thousand_additions_are_undone_bit_for_bit(dtype: torch.dtype) -> None:
    streams = ExactStreams(dtype)
    generator = torch.Generator().manual_seed(0)
    stream = streams.open(torch.randn(50, generator=generator, dtype=dtype))
    start = stream.clone()
    branches = [torch.randn(50, generator=generator, dtype=dtype) for _ in range(1000)]
    for branch in branches:
        streams.add(stream, branch, "a layer")
    assert not torch.equal(stream, start)
    for branch in reversed(branches):
        streams.subtract(stream, branch)
    assert torch.equal(stream, start)


def test_float_streams_drift_where_fixed_point_does_not() -> None:
    streams = FloatStreams(torch.float32)
    stream = streams.open(torch.full((1,), 1e-3))
    streams.add(stream, torch.full((1,), 1e3), "a layer")
    streams.subtract(stream, torch.full((1,), 1e3))
    assert float(stream) != pytest.approx(1e-3, rel=1e-6)
    assert float(stream) == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 2.0**-20), (torch.float64, 2.0**-44)])
def test_values_are_kept_to_half_a_grid_step(dtype: torch.dtype, unit: float) -> None:
    streams = ExactStreams(dtype)
    x = torch.linspace(-7, 7, 1001, dtype=dtype)
    found = streams.read(streams.open(x))
    assert found.dtype == dtype
    # Half a step of the grid, and half a unit in the last place of a value below 8.
    assert (found - x).abs().max() <= unit / 2 + 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e20, -1e20])
def test_values_that_do_not_fit_are_refused_and_named(dtype: torch.dtype, value: float) -> None:
    streams = ExactStreams(torch.float32 if dtype == torch.bfloat16 else dtype)
    stream = streams.open(torch.zeros(3, dtype=dtype))
    bad = torch.tensor([0.0, value, 0.0]).to(dtype)
    with pytest.raises(StreamRangeError, match="the attention of layer 7"):
        streams.add(stream, bad, "the attention of layer 7")
    with pytest.raises(StreamRangeError, match="the embedding"):
        streams.open(bad)


def test_a_stream_that_grows_step_by_step_stops_before_it_wraps_round() -> None:
    streams = ExactStreams(torch.float32)
    stream = streams.open(torch.zeros(1))
    step = torch.full((1,), 500.0)
    streams.add(stream, step, "layer 0")
    streams.add(stream, step, "layer 1")
    with pytest.raises(StreamRangeError, match="layer 2 reaches 1500"):
        streams.add(stream, step, "layer 2")


def test_empty_streams_are_fine() -> None:
    streams = ExactStreams(torch.float32)
    assert streams.read(streams.open(torch.zeros(0, 4))).shape == (0, 4)
