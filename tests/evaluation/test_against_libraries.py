"""Metrics against torchmetrics and scikit-learn, on real predictions of the packaged model."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as tm
import xarray as xr
from evaluation_scenes import VILLAS, demo_cut

import geodeform
from geodeform.evaluation.calibration import Calibration
from geodeform.evaluation.metrics import Confusion

N = 5


@pytest.fixture(scope="module")
def maps() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with an unknown corner, classes, and confidence 0…255."""
    pixels, labels = demo_cut(VILLAS)
    labels = labels.copy()
    labels[:90, :70] = 255
    scene = xr.DataArray(np.moveaxis(pixels, -1, 0), dims=("band", "y", "x"), name="villas")
    result = geodeform.segment_scene(scene, bands=(1, 2, 3), gsd=1.0, budget="2%")
    confidence = np.rint(255 * result.confidence.to_numpy()).astype(np.uint8)
    return labels, result.labels.to_numpy(), confidence


def test_iou_accuracy_and_frequencies(maps):
    labels, predicted, _ = maps
    confusion = Confusion(N)
    confusion.add(labels, predicted)
    known = labels != 255
    truth, guess = labels[known], predicted[known]
    ids = list(range(N))
    assert np.array_equal(
        confusion.counts[:, :N], sklearn.metrics.confusion_matrix(truth, guess, labels=ids)
    )
    assert len(np.unique(truth)) >= 4
    assert confusion.iou() == pytest.approx(
        sklearn.metrics.jaccard_score(truth, guess, labels=ids, average=None)
    )
    assert confusion.accuracy() == pytest.approx(sklearn.metrics.accuracy_score(truth, guess))
    assert confusion.kappa() == pytest.approx(sklearn.metrics.cohen_kappa_score(truth, guess))
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
        truth, guess, labels=ids
    )
    assert confusion.precision() == pytest.approx(precision)
    assert confusion.recall() == pytest.approx(recall)
    assert confusion.f1() == pytest.approx(f1)
    pair = (torch.from_numpy(predicted).long(), torch.from_numpy(labels).long())
    iou = tm.multiclass_jaccard_index(*pair, N, average="none", ignore_index=255).numpy()
    seen = confusion.evaluated()
    assert confusion.iou()[seen] == pytest.approx(iou[seen], rel=1e-5)
    assert confusion.miou() == pytest.approx(iou[seen].mean(), rel=1e-5)
    accuracy = tm.multiclass_accuracy(*pair, N, average="micro", ignore_index=255)
    assert confusion.accuracy() == pytest.approx(float(accuracy), rel=1e-5)
    assert confusion.frequencies() == pytest.approx([(truth == k).mean() for k in ids])


@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_error(maps, bins):
    labels, predicted, confidence = maps
    calibration = Calibration()
    calibration.add(labels, predicted, confidence)
    known = labels != 255
    p = confidence[known] / 255
    # all classes: the predicted one has the confidence, the others share the rest
    probabilities = np.repeat(((1 - p) / (N - 1))[:, None], N, 1)
    probabilities[np.arange(len(p)), predicted[known]] = p
    # torchmetrics' bins hold their lower end, ours (Guo et al.) their upper one: a step aside
    # brings levels that lie on a border, every 17th, to the same side; it adds in float32
    expected = tm.multiclass_calibration_error(
        torch.from_numpy(probabilities - 1e-6), torch.from_numpy(labels[known]).long(), N, bins
    )
    assert calibration.error(bins) == pytest.approx(float(expected), abs=1e-4)
    assert calibration.error(bins) > 0.01
    right = labels[known] == predicted[known]
    assert calibration.brier() == pytest.approx(sklearn.metrics.brier_score_loss(right, p))
    assert calibration.mean_confidence() == pytest.approx(p.mean())
    pixels, mean, accuracy = calibration.bins(bins)
    assert pixels.sum() == known.sum()
    filled = pixels > 0
    gaps = np.abs(mean - accuracy)[filled]
    assert (gaps * pixels[filled]).sum() / pixels.sum() == pytest.approx(calibration.error(bins))


def test_bins_hold_their_upper_end():
    calibration = Calibration()
    calibration.pixels[[0, 17, 18, 255]] = [1, 2, 4, 8]
    assert calibration.bins(15)[0].tolist() == [3, 4, *[0] * 12, 8]


def test_nothing_counted_is_nan():
    empty = Calibration()
    assert np.isnan([empty.error(), empty.brier(), empty.mean_confidence()]).all()
    with pytest.raises(ValueError, match="differ in shape"):
        empty.add(np.zeros(2, np.uint8), np.zeros(3, np.uint8), np.zeros(2, np.uint8))
