"""Refinement: passes over a real scene, what they keep, spend and write."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from evaluation_scenes import SHORE, demo_cut
from needy_model import needy_model, without_error_net
from rasterio.transform import Affine
from scene_files import scene_file
from shapely import unary_union
from shapely.geometry import box

import geodeform
from geodeform.errors import ConfigError
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.refine import Refinement, _doubt, _falls
from geodeform.run import begin_run


@pytest.fixture(scope="module")
def model() -> DeformSegmenter:
    """The packaged model on windows of 256 px, so that the scene has many."""
    packaged = geodeform.load_model()
    spec = replace(packaged.spec, window_px=(256, 256), sample_size=(64, 64), low_res_size=(16, 16))
    small = DeformSegmenter(replace(spec, budgets=((32, 32), (64, 64), (96, 96))))
    small.load_state_dict(packaged.state_dict())
    return small.eval()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = Affine(1.0, 0.0, 3e5, 0.0, -1.0, 2.8e6)
    pixels = np.maximum(np.moveaxis(demo_cut(SHORE)[0], -1, 0), 1)
    pixels[:, :240, :240] = 0
    path = tmp_path_factory.mktemp("scene") / "shore.tif"
    return scene_file(path, pixels, transform=where, crs="EPSG:32640", nodata=0)


def passes(scene: Path, model: DeformSegmenter, steps: int, **settings):
    """Sizes, spent samples and predictions of every pass."""
    refinement = Refinement(steps)
    for step in range(steps + 1):
        with begin_run(
            scene, model=model, device="cpu", bands=None, nodata=None, allocation="even",
            followed=True, **settings,
        ) as run:  # fmt: skip
            run, predictor = refinement.begin(run, step)
            with predictor:
                yield run, dict(predictor.predict(run.plan.active))


@pytest.mark.parametrize("needy", [False, True])
def test_passes_spend_the_budget_where_the_map_is_unsure(scene, model, needy):
    if needy:
        model = needy_model(model)
        model.spec = replace(model.spec, window_px=(256, 256), low_res_size=(16, 16))
    else:
        model = without_error_net(model)
    first, *others = list(passes(scene, model, 2))
    run, before = first
    even = len(run.plan.active) * 64 * 64
    empty = sum(p is None for p in before.values()) * 32 * 32  # found out by a look
    assert run.plan.sizes_used == ((32, 32),)
    assert run.plan.sampled_pixels == len(run.plan.active) * 32 * 32
    spent = run.plan.sampled_pixels
    sizes = {i: run.plan.size_of(i) for i in run.plan.active}
    for step, (run, now) in enumerate(others, 1):
        plan = run.plan
        again = [i for i in plan.active if run.plan.size_of(i) != sizes[i]]
        assert 0 < len(again) < len(plan.active)
        assert plan.sampled_pixels == spent + sum(math.prod(plan.size_of(i)) for i in again)
        assert plan.sampled_pixels <= even
        assert plan.allocation()["refine_pass"] == f"{step + 1} of 3"
        unsure = {
            i: 1 - float(p.probabilities.max(0).mean()) for i, p in before.items() if p is not None
        }
        if step == 1 and not needy:  # all at one size: those that are least sure
            left = [unsure[i] for i in unsure if i not in again]
            assert min(unsure[i] for i in again) > np.quantile(left, 0.5)
        assert all(now[i] is None for i in plan.active if before[i] is None)
        spent, before = plan.sampled_pixels, now
        sizes = {i: plan.size_of(i) for i in plan.active}
    with_data = sum(p is not None for p in before.values())
    assert 0.8 * with_data * 64 * 64 < spent - empty <= with_data * 64 * 64


def test_what_was_sampled_again_is_what_a_plan_of_these_sizes_gives(scene, model):
    *_, (refined_run, refined) = passes(scene, model, 1)
    with begin_run(
        scene, model=model, device="cpu", bands=None, nodata=None, allocation="even"
    ) as run:
        run = replace(run, plan=refined_run.plan)
        with run.predictor() as predictor:
            for index, prediction in predictor.predict(run.plan.active):
                if prediction is None:
                    assert refined[index] is None
                else:
                    np.testing.assert_allclose(
                        refined[index].probabilities, prediction.probabilities, atol=1e-5
                    )


def test_nothing_that_was_sampled_is_lost(scene, model, tmp_path):
    (_, before), (run, after) = passes(scene, model, 1)
    again = [i for i, p in after.items() if p is not None and p.earlier]
    assert again == [i for i in run.plan.active if run.plan.size_of(i) != (32, 32)]
    block = (40, 90), (8, 200)
    for index in again:
        now, then = after[index], before[index]
        assert [look.magnification.shape for look in now.looks] == [
            run.plan.size_of(index), (32, 32),
        ]  # fmt: skip
        fine, coarse = (look.probabilities[0].size for look in now.looks)
        alone = now.looks[0].scores(*block)
        expected = (fine * alone + coarse * then.scores(*block)) / (fine + coarse)
        np.testing.assert_allclose(now.scores(*block), expected, atol=1e-6)
        labels, confidence = now.labels(*block)
        assert (labels == expected.argmax(0)).mean() > 0.999
        np.testing.assert_allclose(confidence, 255 * expected.max(0), atol=0.51)

    result = geodeform.segment_scene(scene, model=model, refine=1, samples=True)
    spread = result.samples.groupby("window").size()
    for index in again:
        window = run.plan.windows[index]
        if max(window.row_off, window.col_off) >= 240:  # where all pixels have data
            assert spread[index] == math.prod(run.plan.size_of(index)) + 32 * 32
    # the density raster shows the sum over the looks
    with_data = [i for i, p in after.items() if p is not None]
    mean = float(result.density.mean())
    assert mean == pytest.approx(
        np.mean(
            [sum(m.magnification.size for m in after[i].looks) for i in with_data]
        ) / 256**2, rel=0.1,
    )  # fmt: skip


def test_outputs_are_whole_after_every_pass_and_say_how_they_came(scene, model, tmp_path):
    out, seen = tmp_path / "map.tif", []

    def look(done: int, total: int) -> None:
        if done == 1:
            seen.append(out.exists() and rasterio.open(out).read(1))

    result = geodeform.segment_scene(
        scene, model=model, output=out, polygons=tmp_path / "map.gpkg", refine=2, progress=look
    )
    assert [isinstance(one, np.ndarray) for one in seen] == [False, True, True]
    with rasterio.open(out) as final:
        assert final.tags()["allocation"] == "refine"
        assert final.tags()["refine_pass"] == "3 of 3"
        changed = (final.read(1) != seen[1]).mean()
    assert 0 < changed < 0.5
    assert ((seen[1] == 255) == (result.labels.to_numpy() == 255)).all()
    assert result.summary()["refine_pass"] == "3 of 3"
    assert result.facts.sampled_pixels == result.plan.sampled_pixels
    assert len(result.polygons) > 0
    with pytest.raises(geodeform.GeodeformError, match="exists already"):
        geodeform.segment_scene(scene, model=model, output=out, refine=1)
    with pytest.raises(ConfigError, match="it has its own"):
        geodeform.segment_scene(scene, model=model, refine=1, allocation="even")


def test_a_large_budget_is_spent(scene, model):
    even = geodeform.segment_scene(scene, model=model, budget="60%", allocation="even")
    refined = geodeform.segment_scene(scene, model=model, budget="60%", refine=2)
    assert even.plan.sample_size > (128, 128)  # more than the model was trained with
    assert 0.75 < refined.facts.sampled_pixels / even.facts.sampled_pixels <= 1


def test_arrays_in_memory_stay_when_their_files_go(scene, model, tmp_path):
    confidence = tmp_path / "confidence.tif"
    result = geodeform.segment_scene(scene, model=model, refine=1, confidence=confidence)
    confidence.unlink()
    assert 0 < float(result.confidence.mean()) < 1


def test_refinement_follows_a_class(scene, model):
    sizes = {}
    for name in ("Water", "Road"):
        _, (run, _), *_ = passes(scene, model, 4, focus_classes=[name])  # some windows of many
        sizes[name] = run.plan.sizes
    assert sizes["Water"] != sizes["Road"]


def test_doubt_is_of_data_only(scene, model):
    run, predictions = next(passes(scene, model, 1))
    for index, prediction in predictions.items():
        window = run.plan.windows[index]
        assert (prediction.valid is None) == (max(window.row_off, window.col_off) >= 240)
    index, partly = next((i, p) for i, p in predictions.items() if p.valid is not None)
    everywhere = _doubt(run, index, replace(partly, valid=None))
    beyond = _doubt(run, index, replace(partly, valid=~partly.valid))
    ours = _doubt(run, index, partly)
    assert 0 < ours < everywhere
    assert ours + beyond == pytest.approx(everywhere)


def test_a_river_is_sampled_again(scene, model):
    model = needy_model(model)
    model.spec = replace(model.spec, window_px=(256, 256), low_res_size=(16, 16))
    corners = [box(3e5 + x, 2.8e6 - y, 3e5 + x + 4, 2.8e6 - y + 4) for x, y in ((0, 4), (696, 900))]
    # beside the windows' middles
    river = unary_union([box(3e5, 2.8e6 - 650, 3e5 + 700, 2.8e6 - 620), *corners])
    *_, (run, _) = passes(scene, model, 1, aoi=river)
    even = len(run.plan.active) * 64 * 64
    assert 0.7 * even < run.plan.sampled_pixels <= even


def test_where_no_error_counts_another_look_takes_none_away(scene, model, monkeypatch):
    model = needy_model(model)
    monkeypatch.setattr(
        model, "expected_errors", lambda views, sizes: torch.zeros(len(views), len(sizes), 5, 2, 2)
    )
    for run, predictions in passes(scene, model, 1):
        seen = {index: found for index, found in predictions.items() if found is not None}
        falls = _falls(run, seen, [(32, 32), (64, 64)])
        assert falls.keys() == seen.keys()
        assert all(fall.tolist() == [1, 1] for fall in falls.values())
        break
