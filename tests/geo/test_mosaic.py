"""The mosaic leaves no seam, forgets no pixel and holds few windows."""

from __future__ import annotations

import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.windows import Window

from geodeform.geo.mosaic import Mosaic
from geodeform.geo.windows import WindowPlan, plan_windows

Span = tuple[int, int]


@dataclass
class DenseScores:
    """A window's prediction that is simply an array (C, h, w)."""

    array: NDArray[np.float32]
    fused: bool = True

    @property
    def n_classes(self) -> int:
        return len(self.array)

    def scores(self, rows: Span, cols: Span) -> NDArray[np.float32]:
        h, w = self.array.shape[1:]
        assert 0 <= rows[0] < rows[1] <= h
        assert 0 <= cols[0] < cols[1] <= w
        return self.array[:, slice(*rows), slice(*cols)]

    def labels(self, rows: Span, cols: Span) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        assert self.fused, "the fused path was taken where windows overlap"
        part = self.scores(rows, cols)
        return part.argmax(0).astype(np.uint8), to_confidence(part.max(0))


def to_confidence(probability: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.floor(255 * probability + 0.5).astype(np.uint8)


def slices(window: Window) -> tuple[slice, slice]:
    return (
        slice(window.row_off, window.row_off + window.height),
        slice(window.col_off, window.col_off + window.width),
    )


def cut(field: NDArray[np.float32], window: Window) -> DenseScores:
    return DenseScores(np.ascontiguousarray(field[(slice(None), *slices(window))]))


def linear_field(shape: tuple[int, int], n_classes: int = 4) -> NDArray[np.float32]:
    """Class probabilities (C, H, W) that are linear in y and x."""
    y = (np.arange(shape[0]) + 0.5)[:, None] / shape[0]
    x = (np.arange(shape[1]) + 0.5)[None, :] / shape[1]
    corners = np.random.default_rng(n_classes).dirichlet(np.ones(n_classes), size=3)
    field = (
        corners[0][:, None, None] * (1 - (y + x) / 2)
        + corners[1][:, None, None] * y / 2
        + corners[2][:, None, None] * x / 2
    )
    return field.astype(np.float32)


def assemble(
    plan: WindowPlan,
    mosaic: Mosaic,
    predictions: dict[int, DenseScores],
    order: list[int] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int]:
    """Feed in order, collect the blocks; return labels, confidence and the most live windows."""
    labels = np.full(plan.shape, 99, np.uint8)
    confidence = np.full(plan.shape, 99, np.uint8)
    most = 0
    below = 0

    def collect(blocks: object) -> None:
        nonlocal below
        for window, block_labels, block_confidence in blocks:  # type: ignore[attr-defined]
            assert (window.col_off, window.width) == (0, plan.shape[1])
            assert window.row_off == below
            below += window.height
            assert mosaic.rows_done == below
            labels[slices(window)] = block_labels
            confidence[slices(window)] = block_confidence

    for number in order if order is not None else range(len(plan)):
        if number in predictions:
            mosaic.feed(number, predictions[number])
        else:
            mosaic.skip(number)
        most = max(most, mosaic.live_windows)
        assert mosaic.rows_done <= mosaic.rows_ready
        collect(mosaic.finished())
    collect(mosaic.close())
    assert below == mosaic.rows_done == plan.shape[0]
    assert mosaic.live_windows == 0
    return labels, confidence, most


@st.composite
def plans(draw: st.DrawFn) -> WindowPlan:
    window = (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    overlap = (draw(st.integers(0, window[0] - 1)), draw(st.integers(0, window[1] - 1)))
    # few windows an axis, or a heavy overlap would make thousands of them
    shape = [draw(st.integers(1, w + 5 * (w - o))) for w, o in zip(window, overlap, strict=True)]
    return plan_windows((shape[0], shape[1]), window, overlap=overlap)


@settings(deadline=None, max_examples=60)
@given(plan=plans(), block_rows=st.integers(1, 50), n_classes=st.integers(1, 5))
def test_windows_cut_from_one_field_give_it_back(
    plan: WindowPlan, block_rows: int, n_classes: int
) -> None:
    field = linear_field(plan.shape, n_classes)
    mosaic = Mosaic(plan, n_classes=n_classes, block_rows=block_rows)
    labels, confidence, _ = assemble(plan, mosaic, {i: cut(field, w) for i, w in enumerate(plan)})
    best = field.max(0)
    # blending sums float32 weights, so only ties within their rounding may fall either way
    chosen = np.take_along_axis(field, labels[None].astype(int), 0)[0]
    assert (chosen >= best - 1e-6).all()
    assert np.abs(confidence - 255 * best).max() <= 0.5 + 1e-3


@settings(deadline=None, max_examples=40)
@given(plan=plans(), label=st.integers(0, 4))
def test_a_mosaic_of_constants_is_constant(plan: WindowPlan, label: int) -> None:
    probability = np.full((5, *plan.window), 0.05, np.float32)
    probability[label] = 0.8
    predictions = {i: DenseScores(probability) for i in range(len(plan))}
    labels, confidence, _ = assemble(plan, Mosaic(plan, n_classes=5, block_rows=16), predictions)
    assert (labels == label).all()
    assert (confidence == 204).all()


def expected_weights(plan: WindowPlan) -> NDArray[np.float64]:
    """(n windows, H, W): the documented ramps, pixel by pixel, divided by their sum."""
    axes = []
    for starts, length, size in zip(
        (plan.row_starts, plan.col_starts), plan.window, plan.shape, strict=True
    ):
        ramps = np.zeros((len(starts), size))
        for i, start in enumerate(starts):
            for p in range(start, start + length):
                rise = fall = 1.0
                if i > 0 and starts[i - 1] + length > start:
                    rise = min(1, (p + 0.5 - start) / (starts[i - 1] + length - start))
                if i + 1 < len(starts) and starts[i + 1] < start + length:
                    end = start + length
                    fall = min(1, (end - p - 0.5) / (end - starts[i + 1]))
                ramps[i, p] = rise * fall
        axes.append(ramps)
    raw = (axes[0][:, None, :, None] * axes[1][None, :, None, :]).reshape(-1, *plan.shape)
    return raw / raw.sum(0)


@pytest.mark.parametrize(
    ("shape", "window", "overlap"),
    [
        ((50, 61), (32, 32), (8, 12)),  # the last windows are shifted inward: three overlap
        ((64, 64), (20, 24), (15, 3)),  # more than half a window of overlap
        ((30, 70), (30, 32), (0, 0)),
    ],
)
def test_each_window_weighs_as_documented(
    shape: tuple[int, int], window: tuple[int, int], overlap: tuple[int, int]
) -> None:
    plan = plan_windows(shape, window, overlap=overlap)
    weights = expected_weights(plan)
    np.testing.assert_allclose(weights.sum(0), 1)
    # one window votes 1 for class 1, all others vote 0: the probability of class 1 is its weight
    against = np.stack([np.ones(window), np.zeros(window)]).astype(np.float32)
    for voter in range(len(plan)):
        predictions = {i: DenseScores(against) for i in range(len(plan))}
        predictions[voter] = DenseScores(against[::-1].copy())
        labels, confidence, _ = assemble(plan, Mosaic(plan, n_classes=2), predictions)
        share = np.where(labels == 1, confidence, 255.0 - confidence) / 255
        assert np.abs(share - weights[voter]).max() <= 0.5 / 255 + 1e-6


def test_weights_change_by_less_than_a_step_from_pixel_to_pixel() -> None:
    plan = plan_windows((10, 150), (10, 64), overlap=(0, 32))
    steps = np.abs(np.diff(expected_weights(plan), axis=2)).max()
    assert steps <= 1 / 20  # a hard seam would be a step of 1/2 or 1


def test_skipped_windows_leave_their_part_to_the_neighbours() -> None:
    plan = plan_windows((60, 90), (30, 40), overlap=(10, 10))
    field = linear_field(plan.shape)
    skipped = {1, 5, 6}
    predictions = {i: cut(field, w) for i, w in enumerate(plan) if i not in skipped}
    covered = np.zeros(plan.shape, bool)
    for number in predictions:
        covered[slices(plan[number])] = True
    assert not covered.all()
    labels, confidence, _ = assemble(plan, Mosaic(plan, n_classes=4), predictions)
    np.testing.assert_array_equal(labels[covered], field.argmax(0)[covered])
    assert np.abs(confidence[covered] - 255 * field.max(0)[covered]).max() <= 0.5 + 1e-3
    assert (labels[~covered] == 255).all()
    assert (confidence[~covered] == 0).all()


def test_never_fed_windows_count_as_skipped_once_a_later_row_comes() -> None:
    plan = plan_windows((60, 40), (20, 40))
    field = linear_field(plan.shape)
    mosaic = Mosaic(plan, n_classes=4, block_rows=20)
    mosaic.feed(plan[1], cut(field, plan[1]))
    (_, first, _), (_, second, _) = mosaic.finished()
    assert (first == 255).all()
    np.testing.assert_array_equal(second, field.argmax(0)[20:40])
    ((window, last, confidence),) = mosaic.close()
    assert window == Window(0, 40, 40, 20)
    assert (last == 255).all()
    assert (confidence == 0).all()


def test_nothing_fed_gives_nodata_everywhere() -> None:
    plan = plan_windows((33, 21), (16, 16), overlap=(4, 4))
    labels, confidence, most = assemble(plan, Mosaic(plan, n_classes=3), {})
    assert (labels == 255).all()
    assert (confidence == 0).all()
    assert most == 0


def test_the_order_inside_a_row_and_the_blocks_do_not_matter() -> None:
    plan = plan_windows((75, 110), (32, 32), overlap=(9, 7))
    rng = np.random.default_rng(11)
    predictions = {
        i: DenseScores(
            rng.dirichlet(np.ones(3), size=plan.window).transpose(2, 0, 1).astype(np.float32)
        )
        for i in range(len(plan))
    }
    reference = assemble(plan, Mosaic(plan, n_classes=3), predictions)
    for seed, block_rows in itertools.product(range(3), (1, 13, 500)):
        order = []
        for row in range(plan.grid_shape[0]):
            columns = list(range(plan.grid_shape[1]))
            random.Random(seed).shuffle(columns)
            order += [row * plan.grid_shape[1] + c for c in columns]
        mosaic = Mosaic(plan, n_classes=3, block_rows=block_rows)
        labels, confidence, _ = assemble(plan, mosaic, predictions, order)
        np.testing.assert_array_equal(labels, reference[0])
        np.testing.assert_array_equal(confidence, reference[1])


def test_an_executor_changes_nothing() -> None:
    plan = plan_windows((300, 400), (128, 128), overlap=(32, 32))
    field = linear_field(plan.shape)
    predictions = {i: cut(field, w) for i, w in enumerate(plan)}
    plain = assemble(plan, Mosaic(plan, n_classes=4), predictions)
    with ThreadPoolExecutor(3) as pool:
        pooled = assemble(plan, Mosaic(plan, n_classes=4, executor=pool), predictions)
    np.testing.assert_array_equal(pooled[0], plain[0])
    np.testing.assert_array_equal(pooled[1], plain[1])


def test_errors_inside_executors_reach_the_caller() -> None:
    plan = plan_windows((32, 32), (32, 32))
    broken = DenseScores(np.ones((1, 32, 32), np.float32), fused=False)
    with ThreadPoolExecutor(1) as pool:
        mosaic = Mosaic(plan, n_classes=1, executor=pool)
        mosaic.feed(0, broken)
        with pytest.raises(AssertionError, match="fused path"):
            list(mosaic.finished())


def test_two_window_rows_are_live_and_a_third_only_where_the_last_is_shifted_inward() -> None:
    plan = plan_windows((6000, 700), (512, 512), overlap=(64, 64))
    rows, columns = plan.grid_shape
    assert rows > 10
    mosaic = Mosaic(plan, n_classes=2)
    flat = DenseScores(np.broadcast_to(np.float32(0.5), (2, 512, 512)))
    for number in range(len(plan)):
        mosaic.feed(number, flat)
        assert mosaic.live_windows <= (2 if number // columns < rows - 1 else 3) * columns
        list(mosaic.finished())


@settings(deadline=None, max_examples=40)
@given(plan=plans())
def test_live_windows_are_those_that_later_rows_still_need(plan: WindowPlan) -> None:
    mosaic = Mosaic(plan, n_classes=1, block_rows=1)
    window = DenseScores(np.ones((1, *plan.window), np.float32))
    for number, box in enumerate(plan):
        mosaic.feed(number, window)
        list(mosaic.finished())
        fed_row, needed = box.row_off, 0
        for earlier in plan[: number + 1]:
            needed += earlier.row_off + earlier.height > mosaic.rows_done
        assert mosaic.live_windows == needed
        assert mosaic.rows_done >= min(fed_row, plan.shape[0])


def test_blocks_start_at_multiples_of_their_height() -> None:
    plan = plan_windows((1000, 64), (300, 64), overlap=(40, 0))
    mosaic = Mosaic(plan, n_classes=1, block_rows=256)
    flat = DenseScores(np.ones((1, 300, 64), np.float32))
    blocks = []
    for number in range(len(plan)):
        mosaic.feed(number, flat)
        blocks += [(w.row_off, w.height) for w, _, _ in mosaic.finished()]
    assert blocks == [(0, 256), (256, 256), (512, 256), (768, 232)]


def test_lone_windows_take_the_fused_path_and_overlaps_do_not() -> None:
    plan = plan_windows((20, 50), (20, 30), overlap=(0, 10))
    calls: list[tuple[str, Span, Span]] = []

    class Spy(DenseScores):
        def scores(self, rows: Span, cols: Span) -> NDArray[np.float32]:
            calls.append(("scores", rows, cols))
            return super().scores(rows, cols)

        def labels(self, rows: Span, cols: Span) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            calls.append(("labels", rows, cols))
            part = self.array[:, slice(*rows), slice(*cols)]
            return part.argmax(0).astype(np.uint8), to_confidence(part.max(0))

    mosaic = Mosaic(plan, n_classes=2)
    for number in range(2):
        mosaic.feed(number, Spy(np.full((2, 20, 30), 0.5, np.float32)))
    list(mosaic.finished())
    assert sorted(calls) == [
        ("labels", (0, 20), (0, 20)),
        ("labels", (0, 20), (10, 30)),
        ("scores", (0, 20), (0, 10)),
        ("scores", (0, 20), (20, 30)),
    ]


def test_a_scene_of_one_pixel() -> None:
    plan = plan_windows((1, 1), (512, 512), overlap=(64, 64))
    prediction = DenseScores(np.array([0.25, 0.75], np.float32)[:, None, None])
    labels, confidence, _ = assemble(plan, Mosaic(plan, n_classes=2), {0: prediction})
    assert labels.tolist() == [[1]]
    assert confidence.tolist() == [[191]]


def test_misuse_is_refused() -> None:
    plan = plan_windows((60, 60), (30, 30))
    good = DenseScores(np.ones((2, 30, 30), np.float32))
    mosaic = Mosaic(plan, n_classes=2)
    with pytest.raises(ValueError, match="2 classes, the window 3"):
        mosaic.feed(0, DenseScores(np.ones((3, 30, 30), np.float32)))
    with pytest.raises(ValueError, match="not a window of the plan"):
        mosaic.feed(Window(1, 0, 30, 30), good)
    mosaic.feed(0, good)
    with pytest.raises(ValueError, match="fed or skipped already"):
        mosaic.skip(0)
    mosaic.feed(2, good)
    with pytest.raises(ValueError, match="row is closed"):
        mosaic.feed(1, good)
    with pytest.raises(ValueError, match="n_classes must be 1 to 255"):
        Mosaic(plan, n_classes=256)
    with pytest.raises(ValueError, match="block_rows must be positive"):
        Mosaic(plan, n_classes=2, block_rows=0)
