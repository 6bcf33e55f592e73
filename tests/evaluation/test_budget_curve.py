"""The budget curve against maps that users get, on real pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from evaluation_scenes import SHORE, VILLAS, as_scene, data_of, demo_cut
from needy_model import needy_model, without_error_net
from rasterio.windows import Window

import geodeform
from geodeform.budget import Budget
from geodeform.errors import ConfigError, SceneError
from geodeform.evaluation import budget_curve
from geodeform.evaluation.budget_curve import _Asked, _Mapping, find_knee
from geodeform.evaluation.evaluate import evaluate
from geodeform.evaluation.metrics import Confusion
from geodeform.models.deform_segmenter import DeformSegmenter


@pytest.fixture(scope="module")
def model() -> DeformSegmenter:
    return geodeform.load_model()


HOW = {"bands": (1, 2, 3), "gsd": 1.0}


def test_every_row_is_a_map_that_users_get(model):
    """One window, so that all of the budget's pixels are every pixel."""
    pixels, truth = demo_cut(VILLAS)
    scene, labels = as_scene(pixels), xr.DataArray(truth, dims=("y", "x"))
    seen = []
    curve = geodeform.budget_curve(
        scene, model=model, budgets=["1%", "4%"], labels=labels,
        progress=lambda *at: seen.append(at), **HOW,
    )  # fmt: skip
    assert seen == [(k, 6) for k in range(1, 7)]
    assert (curve.windows, curve.windows_of_scene) == (1, 1)
    table = curve.table.set_index(["sampler", "budget"])
    assert set(table.index) == {
        ("every pixel", "100%"), ("learned by need", "1%"), ("learned by need", "4%"),
        ("learned by need", "128x128 a window"), ("uniform", "1%"), ("uniform", "4%"),
    }  # fmt: skip
    crops = evaluate(model, data_of(villas=(pixels, truth)), sampler="full")
    every = table.loc[("every pixel", "100%")]
    assert every["miou"] == crops.miou
    assert every["sampled_share"] == 1
    assert every["samples"] == "128x128"
    assert curve.own == "learned by need"
    maps = {}
    for (sampler, budget), row in table.iterrows():
        if sampler == "every pixel":
            continue
        way, _, by_need = sampler.partition(" ")
        got = geodeform.segment_scene(
            scene, model=model, budget=budget.removesuffix(" a window"), sampler=way,
            allocation="need" if by_need else "even", **HOW,
        )  # fmt: skip
        counts = Confusion(5)
        counts.add(truth, got.labels.to_numpy())
        assert row["miou"] == counts.miou()
        assert row["accuracy"] == counts.accuracy()
        assert row["sampled_share"] == got.facts.sampled_share
        assert row["confidence"] == pytest.approx(float(got.confidence.mean()), abs=1e-6)
        maps[sampler, budget] = got.labels.to_numpy()
    # the packaged model saw no samples as close as pixels in training: no judge of its other maps
    most = ("learned by need", "128x128 a window")
    for key, found in maps.items():
        agreement = table.loc[key, "agreement"]
        if key == most:
            assert np.isnan(agreement)
        else:
            assert agreement == np.mean(found == maps[most]) < 1
    assert table.loc[("every pixel", "100%"), "agreement"] < 0.7
    assert any("agreement is with its own map at 128x128" in note for note in curve.notes)
    assert [row["agreement"] for row in curve.summary()["runs"]].count(None) == 1


def test_a_network_that_knows_single_pixels_judges_by_them(model):
    scene = as_scene(demo_cut(VILLAS)[0])  # of 8 m: as far apart as samples were in training
    curve = geodeform.budget_curve(scene, model=model, budgets=["25%"], **{**HOW, "gsd": 8.0})
    table = curve.table.set_index("sampler")
    assert len(table) == 3
    assert np.isnan(table.loc["every pixel", "agreement"])
    assert (table.drop("every pixel")["agreement"] > 0.3).all()
    assert not any("another scale" in note for note in curve.notes)


def test_a_sample_of_windows_stands_for_the_scene(model):
    small = DeformSegmenter(replace(model.spec, window_px=(256, 256), sample_size=(48, 48)))
    small.load_state_dict(model.state_dict())
    scene = as_scene(demo_cut(SHORE)[0])
    curve = geodeform.budget_curve(scene, model=small.eval(), budgets=["3%"], windows=4, **HOW)
    assert curve.windows == 4 < curve.windows_of_scene
    shares = curve.table.set_index(["sampler", "budget"])["sampled_share"]
    assert shares["every pixel", "100%"] == 1
    assert 0.025 < shares["learned by need", "3%"] <= 0.03
    assert curve.knee is None  # one budget has none
    every = evaluate(small, data_of(shore=demo_cut(SHORE)), sampler="full")
    truth = xr.DataArray(demo_cut(SHORE)[1], dims=("y", "x"))
    part = geodeform.budget_curve(
        scene, model=small, budgets=["3%"], windows=4, labels=truth, **HOW
    )
    whole = geodeform.budget_curve(
        scene, model=small, budgets=["3%"], windows=None, labels=truth, **HOW
    )
    scores = [one.table.set_index(["sampler", "budget"])["accuracy"] for one in (part, whole)]
    assert scores[1]["every pixel", "100%"] == every.soft.confusion.accuracy()
    # what was not mapped is no miss
    assert (abs(scores[0] - scores[1]) < 0.2).all()
    with pytest.raises(ConfigError, match="at least one budget"):
        geodeform.budget_curve(scene, model=small, budgets=[], **HOW)


def test_crops_of_every_pixel_stand_for_the_ground_of_the_windows(model):
    """Crops stick out of the windows: their time counts by crops, their map by the ground."""
    small = DeformSegmenter(replace(model.spec, window_px=(256, 256), sample_size=(48, 48)))
    settings = {"bands": (1, 2, 3), "nodata": None, "gsd": 1.0}
    scene = as_scene(demo_cut(SHORE)[0])
    mapping = _Mapping(scene, small, torch.device("cpu"), 3, settings)
    asked = _Asked("uniform", "even", Budget.parse("3%"))
    with mapping.begun(asked) as run:
        plan = run.plan
        few, times = mapping.part(plan, asked)
        crops, of_crops = mapping.part(plan, replace(asked, budget=None))
        every, _ = replace(mapping, windows=None).part(plan, replace(asked, budget=None))
    assert (len(few.active), times) == (3, len(plan.active) / 3)
    assert len(every.active) == len(every.windows) == of_crops * len(crops.active)
    assert 1 < of_crops < times  # as they stick out, crops see more than their part
    ground = np.zeros(plan.shape, bool)
    for index in few.active:
        ground[plan.windows[index].toslices()] = True
    assert (crops.inside(Window(0, 0, *plan.shape[::-1])) == ground).all()
    reached = np.zeros(plan.shape, bool)
    for index in crops.active:
        reached[crops.windows[index].toslices()] = True
    assert reached[ground].all()
    assert every.inside(Window(0, 0, 9, 9)) is None


def test_what_the_model_needs_is_what_is_drawn(model):
    scene = as_scene(demo_cut(SHORE)[0])
    curve = geodeform.budget_curve(scene, model=needy_model(model), budgets=["32", "64"], **HOW)
    assert set(curve.table["sampler"]) == {"every pixel", "learned by need", "uniform"}
    needs = curve.table.set_index(["sampler", "budget"])["samples"]
    assert " to " in needs["learned by need", "64x64 a window"]
    assert " to " not in needs["uniform", "64x64 a window"]


def test_a_model_of_even_samples_has_a_knee_of_its_own(model):
    plain = DeformSegmenter(replace(model.spec, sampler="uniform", error_net=False))
    plain.load_state_dict(without_error_net(model).state_dict())
    scene = as_scene(demo_cut(VILLAS)[0])
    curve = geodeform.budget_curve(scene, model=plain.eval(), budgets=["1%", "2%", "4%"], **HOW)
    assert curve.own == "uniform"
    assert set(curve.table["sampler"]) == {"every pixel", "uniform"}
    assert curve.knee in set(curve.table[curve.table["sampler"] == "uniform"]["sampled_share"])


def test_the_knee_is_where_the_curve_bends():
    shares = np.geomspace(1e-3, 1, 31)
    scores = np.minimum(1, 0.5 + 0.25 * np.log10(shares / 1e-3))  # straight, then flat
    assert find_knee(shares, scores) == pytest.approx(0.1, rel=0.3)
    assert find_knee(shares[:2], scores[:2]) is None
    assert find_knee(shares[:3], np.array([0.9, 0.8, 0.7])) == shares[0]  # more only harms
    assert find_knee(shares, np.full(31, np.nan)) is None


def test_labels_that_do_not_fit_are_found_before_anything_is_mapped(model):
    pixels, truth = demo_cut(VILLAS)
    seen = []
    how = {**HOW, "model": model, "budgets": ["1%"], "progress": lambda *at: seen.append(at)}
    strange = xr.DataArray(np.where(truth == 1, 9, truth).astype(np.uint8), dims=("y", "x"))
    with pytest.raises(SceneError, match="has the id 9, and the model's classes are 0 to 4"):
        geodeform.budget_curve(as_scene(pixels), labels=strange, **how)
    with pytest.raises(SceneError, match="does not cover the map"):
        geodeform.budget_curve(as_scene(pixels), labels=strange[:100], **how)
    assert seen == []


def test_windows_that_no_memory_holds_are_left_out(model, monkeypatch):
    monkeypatch.setattr(budget_curve, "MOST_SAMPLES", 100**2)
    curve = geodeform.budget_curve(
        as_scene(demo_cut(VILLAS)[0]), model=model, budgets=["1%", "50%"], **HOW
    )
    assert set(curve.table["budget"]) == {"1%", "100%", "128x128 a window"}
    assert any("The budget 50% would put 362x362 samples" in note for note in curve.notes)


def test_models_without_even_samples_have_no_curve(model, tmp_path: Path):
    spec = replace(model.spec, downsampler="resizer", sampler="interpolation")
    with pytest.raises(ConfigError, match="without uniform sampling"):
        geodeform.budget_curve(as_scene(demo_cut(VILLAS)[0]), model=DeformSegmenter(spec), **HOW)
