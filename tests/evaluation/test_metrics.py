"""Metrics against counting by hand and pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geodeform.evaluation import metrics
from geodeform.evaluation.metrics import Confusion, confusion_matrix

LABELS = arrays(np.uint8, (5, 7), elements=st.sampled_from([0, 1, 2, 255]))


@given(LABELS, LABELS)
def test_confusion_matrix_counts_each_known_pixel(labels, prediction):
    expected = np.zeros((3, 4), int)
    for truth, guess in zip(labels.ravel(), prediction.ravel(), strict=True):
        if truth != 255:
            expected[truth, min(guess, 3)] += 1
    assert np.array_equal(confusion_matrix(labels, prediction, 3), expected)


def test_large_maps_are_counted_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    labels, prediction = rng.integers(0, 3, (2, 9, 11), np.uint8)
    whole = confusion_matrix(labels, prediction, 3)
    monkeypatch.setattr(metrics, "_CHUNK", 10)
    assert np.array_equal(confusion_matrix(labels.T, prediction.T, 3), whole)
    assert np.array_equal(Confusion.of(whole.tolist()).counts, whole)
    with pytest.raises(ValueError, match="must be"):
        Confusion.of(whole[:, 1:])


def test_iou_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 255], np.uint8)
    prediction = np.array([0, 0, 1, 1, 255, 0], np.uint8)
    confusion = Confusion(4)
    confusion.add(labels, prediction)
    # class 0: 2 hits of 3, no false alarm (the one at 255 is not evaluated); class 1: 1 of 2 + 1
    assert confusion.iou()[:2] == pytest.approx([2 / 3, 1 / 3])
    assert np.isnan(confusion.iou()[2:]).all()
    assert confusion.miou() == pytest.approx(0.5)
    assert confusion.miou([0, 3]) == pytest.approx(2 / 3)
    assert confusion.accuracy() == pytest.approx(3 / 5)
    assert confusion.frequencies() == pytest.approx([3 / 5, 2 / 5, 0, 0])
    assert confusion.precision()[:2] == pytest.approx([1, 1 / 2])
    assert confusion.recall()[:2] == pytest.approx([2 / 3, 1 / 2])
    assert confusion.f1()[:2] == pytest.approx([4 / 5, 1 / 2])
    assert np.isnan([*confusion.precision()[2:], *confusion.recall()[2:]]).all()
    # chance: 3/5 · 2/5 of class 0 and 2/5 · 2/5 of class 1; "no class" is never right
    assert confusion.kappa() == pytest.approx((3 / 5 - 10 / 25) / (1 - 10 / 25))


def test_a_predicted_class_that_the_labels_lack_is_zero_but_not_averaged():
    confusion = Confusion(3)
    confusion.add(np.array([0, 0]), np.array([0, 2]))
    assert confusion.iou()[2] == 0
    assert confusion.miou() == pytest.approx(0.5)
    assert confusion.miou([0, 2]) == pytest.approx(0.25)


def test_counts_are_pooled_over_images_not_averaged():
    confusion = Confusion(2)
    confusion.add(np.zeros(90, int), np.zeros(90, int))
    confusion.add(np.zeros(10, int), np.ones(10, int))
    assert confusion.iou()[0] == pytest.approx(0.9)


def test_nothing_evaluated_is_nan():
    confusion = Confusion(2)
    confusion.add(np.full(4, 255), np.zeros(4, int))
    assert np.isnan(confusion.miou())
    assert np.isnan([confusion.accuracy(), confusion.kappa()]).all()
    confusion.add(np.zeros(3, int), np.zeros(3, int))
    assert np.isnan(confusion.kappa())  # one class, always right: there was no choice
    confusion = Confusion(2)
    assert np.isnan(confusion.frequencies()).all()


def test_strange_labels_and_shapes_are_errors():
    with pytest.raises(ValueError, match="label 7"):
        confusion_matrix(np.array([0, 7]), np.array([0, 0]), 3)
    with pytest.raises(ValueError, match="differ in shape"):
        confusion_matrix(np.zeros(3, int), np.zeros(4, int), 3)
