"""Resampling weights and hole filling against slow, obvious references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geodeform.geo.resample import axis_weights, fill_invalid, resample, source_range


def shared_length(cell: tuple[float, float], pixel: int) -> float:
    return max(0.0, min(cell[1], pixel + 1) - max(cell[0], pixel))


@settings(deadline=None)
@given(
    n_src=st.integers(1, 40),
    n_out=st.integers(1, 60),
    start=st.floats(0, 0.4),
    cut=st.floats(0, 0.4),
)
def test_average_weighs_by_shared_length(n_src: int, n_out: int, start: float, cut: float) -> None:
    stop = n_src - cut
    weights = axis_weights(n_out, start, stop, n_src, "average").toarray()
    cell = (stop - start) / n_out
    for j in range(n_out):
        span = (start + j * cell, start + (j + 1) * cell)
        expected = np.array([shared_length(span, p) for p in range(n_src)]) / cell
        np.testing.assert_allclose(weights[j], expected, atol=2e-6 / min(cell, 1))


@settings(deadline=None)
@given(
    n_src=st.integers(1, 40),
    n_out=st.integers(1, 60),
    kind=st.sampled_from(["average", "nearest", "bilinear"]),
)
def test_rows_sum_to_one_and_stay_in_the_source_range(n_src: int, n_out: int, kind: str) -> None:
    weights = axis_weights(n_out, 0, n_src, n_src, kind).toarray()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    assert weights.min() >= 0
    for j in range(n_out):
        lo, hi = source_range(j, j + 1, n_out, 0, n_src, kind)
        used = np.flatnonzero(weights[j] > 1e-6)
        assert lo <= used[0]
        assert used[-1] < hi


def test_nearest_takes_the_pixel_under_the_centre() -> None:
    weights = axis_weights(3, 0.0, 10.0, 10, "nearest").toarray()
    assert weights.argmax(axis=1).tolist() == [1, 5, 8]  # centres at 1.67, 5, 8.33


def test_bilinear_enlarges_a_ramp_without_bias() -> None:
    ramp = (np.arange(16) + 0.5)[None, None].astype(np.float32)
    rows = axis_weights(1, 0, 1, 1, "bilinear")
    wide, _ = resample(ramp, None, rows, axis_weights(64, 0, 16, 16, "bilinear"))
    centres = (np.arange(64) + 0.5) / 4
    np.testing.assert_allclose(wide[0, 0, 2:-2], centres[2:-2], atol=1e-5)


def test_constants_survive_every_resampling_and_mask() -> None:
    rng = np.random.default_rng(3)
    valid = rng.random((31, 47)) < 0.3
    data = np.where(valid, 7, 250).astype(np.uint8)[None]
    for kind in ("average", "nearest", "bilinear"):
        for shape in ((5, 9), (31, 47), (50, 90), (1, 1)):
            rows = axis_weights(shape[0], 0, 31, 31, kind)
            cols = axis_weights(shape[1], 0, 47, 47, kind)
            out, some = resample(data, valid, rows, cols)
            np.testing.assert_allclose(out[0][some], 7, rtol=1e-5)
            assert (out[0][~some] == 0).all()


def test_masked_mean_is_numpys_nanmean_on_whole_cells() -> None:
    rng = np.random.default_rng(4)
    data = rng.normal(size=(2, 24, 36)).astype(np.float32)
    valid = rng.random((24, 36)) < 0.2
    out, some = resample(
        data,
        valid,
        axis_weights(6, 0, 24, 24, "average"),
        axis_weights(12, 0, 36, 36, "average"),
    )
    cells = np.where(valid, data, np.nan).reshape(2, 6, 4, 12, 3).transpose(0, 1, 3, 2, 4)
    cells = cells.reshape(2, 6, 12, 12)
    known = np.isfinite(cells[0]).any(axis=-1)
    assert 0 < (~known).sum() < known.size  # the case holds cells with and without data
    np.testing.assert_array_equal(some, known)
    np.testing.assert_allclose(out[:, known], np.nanmean(cells[:, known], axis=-1), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (13, 1), (16, 16), (21, 34)])
def test_fill_keeps_the_data_and_stays_inside_its_range(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    plane = rng.random((2, *shape)).astype(np.float32)
    valid = rng.random(shape) < 0.1
    valid[-1, -1] = True
    filled = plane.copy()
    filled[:, ~valid] = np.nan  # what lies in invalid pixels must not matter
    fill_invalid(filled, valid)
    np.testing.assert_array_equal(filled[:, valid], plane[:, valid])
    for before, after in zip(plane, filled, strict=True):
        assert before[valid].min() - 1e-6 <= after.min()
        assert after.max() <= before[valid].max() + 1e-6


def test_fill_has_no_edges() -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 256, dtype=np.float32), (1, 256, 256)).copy()
    valid = np.arange(256)[:, None] + np.zeros(256) < 120.5
    filled = np.where(valid, ramp, 77).astype(np.float32)
    fill_invalid(filled, valid)
    # along the border of the data, and inside the hole: copied blocks would step by 1/4 and more
    assert np.abs(np.diff(filled[0], axis=0)).max() < 0.05
    assert np.abs(np.diff(filled[0], axis=1)).max() < 0.05
    # beside the border the colours are those across it
    assert np.abs(filled[0, 121] - filled[0, 120]).max() < 0.02


def test_fill_without_any_valid_pixel_is_zero() -> None:
    plane = np.full((2, 5, 6), np.nan, np.float32)
    fill_invalid(plane, np.zeros((5, 6), bool))
    assert (plane == 0).all()
