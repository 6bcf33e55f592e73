"""Boundary F1 and trimaps against slow, obvious loops, on random and on real maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from evaluation_scenes import VILLAS, demo_cut
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from geodeform.evaluation import boundaries
from geodeform.evaluation.boundaries import (
    BoundaryScore,
    Trimap,
    add_boundaries,
    boundary_pixels,
    diagonal_tolerance,
    trimap_bands,
)

MAPS = array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: st.tuples(
        *(arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 255])) for _ in range(2))
    )
)


def edges(labels: np.ndarray) -> list[tuple[int, int]]:
    """Pixels with a neighbour of another known class, one by one."""
    H, W = labels.shape
    found = []
    for y in range(H):
        for x in range(W):
            differs = False
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < H and 0 <= u < W and 255 not in (labels[y, x], labels[v, u]):
                    differs |= bool(labels[y, x] != labels[v, u])
            if differs:
                found.append((y, x))
    return found


def near(point: tuple[int, int], others: list[tuple[int, int]], tolerance: float) -> bool:
    return any(math.dist(point, other) <= tolerance for other in others)


def slow_scores(labels: np.ndarray, prediction: np.ndarray, n: int, tolerance: float) -> list[list]:
    """(predicted, labelled, predicted_hits, labelled_hits) of each class."""
    prediction = np.where(labels == 255, 255, prediction)
    counts = []
    for value in range(n):
        wanted = [p for p in edges(labels) if labels[p] == value]
        found = [p for p in edges(prediction) if prediction[p] == value]
        counts.append(
            [
                len(found),
                len(wanted),
                sum(near(p, wanted, tolerance) for p in found),
                sum(near(p, found, tolerance) for p in wanted),
            ]
        )
    return counts


def slow_trimap(labels: np.ndarray, prediction: np.ndarray, width: int) -> tuple[int, int]:
    """Known pixels less than ``width`` from an edge, and the right ones among them."""
    border = edges(labels)
    pixels = right = 0
    for point in np.ndindex(*labels.shape):
        if labels[point] != 255 and any(math.dist(point, other) < width for other in border):
            pixels += 1
            right += int(labels[point] == prediction[point])
    return pixels, right


def counts_of(score: BoundaryScore) -> list[list]:
    return np.stack([getattr(score, name) for name in boundaries.COUNTS], 1).tolist()


def real_maps() -> tuple[np.ndarray, np.ndarray]:
    """A small piece of hand-drawn labels with a hole, and the same shifted and torn."""
    labels = demo_cut(VILLAS)[1][320:368, 280:340].copy()
    labels[5:12, 30:44] = 255
    prediction = np.roll(labels, (1, 2), (0, 1))
    prediction[20:24] = 1
    return labels, prediction


@given(MAPS, st.sampled_from([0.0, 1.0, 1.5, 3.0]))
def test_boundary_counts_are_those_of_the_loops(maps, tolerance):
    labels, prediction = maps
    assert np.argwhere(boundary_pixels(labels)).tolist() == [list(p) for p in edges(labels)]
    scores = [BoundaryScore(3), BoundaryScore(3)]
    add_boundaries(labels, prediction, scores, [tolerance, 2.0])
    assert counts_of(scores[0]) == slow_scores(labels, prediction, 3, tolerance)
    assert counts_of(scores[1]) == slow_scores(labels, prediction, 3, 2.0)


def test_boundary_f1_of_real_maps():
    labels, prediction = real_maps()
    score = BoundaryScore(5)
    add_boundaries(labels, prediction, [score], [2.0])
    slow = np.array(slow_scores(labels, prediction, 5, 2.0))
    assert counts_of(score) == slow.tolist()
    assert (slow[:, 1] > 0).sum() >= 3
    expected = []
    for predicted, labelled, predicted_hits, labelled_hits in slow:
        if labelled:
            precision, recall = predicted_hits / max(predicted, 1), labelled_hits / labelled
            expected.append(2 * precision * recall / (precision + recall))
    assert score.mean_f1() == pytest.approx(np.mean(expected))


def test_boundary_counts_are_pooled_over_images():
    labels, prediction = real_maps()
    both, once, other = BoundaryScore(5), BoundaryScore(5), BoundaryScore(5)
    add_boundaries(labels, prediction, [both, once], [2.0, 2.0])
    for score in (both, other):
        add_boundaries(prediction, labels, [score], [2.0])
    assert (np.array(counts_of(both)) == np.add(counts_of(once), counts_of(other))).all()


def test_a_class_without_any_predicted_boundary_counts_as_zero():
    labels = np.zeros((6, 6), np.uint8)
    labels[:, 3:] = 1
    score = BoundaryScore(3)
    add_boundaries(labels, np.zeros_like(labels), [score], [2.0])
    assert score.f1()[:2].tolist() == [0, 0]
    assert np.isnan(score.f1()[2])
    assert score.mean_f1() == 0
    assert math.isnan(BoundaryScore(2).mean_f1())


def test_the_tolerance_of_csurka():
    assert diagonal_tolerance((300, 400)) == pytest.approx(3.75)


@given(MAPS)
def test_trimaps_are_those_of_the_loops(maps):
    labels, prediction = maps
    trimap = Trimap((1, 2, 4))
    trimap.add(trimap_bands(labels, trimap.widths), labels, prediction)
    slow = [slow_trimap(labels, prediction, width) for width in trimap.widths]
    assert list(zip(trimap.pixels, trimap.right, strict=True)) == slow


def test_trimaps_of_real_maps_whatever_the_tile(monkeypatch):
    labels, prediction = real_maps()
    widths = (1, 3, 8, 100)
    whole = trimap_bands(labels, widths)
    monkeypatch.setattr(boundaries, "_TILE", 7)
    assert np.array_equal(trimap_bands(labels, widths), whole)
    trimap = Trimap(widths)
    trimap.add(whole, labels, prediction)
    assert list(zip(trimap.pixels, trimap.right, strict=True)) == [
        slow_trimap(labels, prediction, width) for width in widths
    ]
    assert trimap.pixels[-1] == (labels != 255).sum()
    assert trimap.accuracy() == pytest.approx(trimap.right / trimap.pixels)


def test_a_map_of_one_class_has_no_border():
    labels = np.full((5, 5), 2, np.uint8)
    labels[2, 2] = 255
    trimap = Trimap()
    trimap.add(trimap_bands(labels), labels, labels)
    assert trimap.pixels.tolist() == [0, 0, 0, 0]
    assert np.isnan(trimap.accuracy()).all()


def test_wrong_input_is_refused():
    flat = np.zeros((3, 3), np.uint8)
    with pytest.raises(ValueError, match="differ in shape"):
        add_boundaries(flat, flat[1:], [BoundaryScore(1)], [1])
    for widths in ((), (0, 1), (4, 4)):
        with pytest.raises(ValueError, match="positive and rising"):
            trimap_bands(flat, widths)
