"""evaluate: against the pipeline that users call, and against counting by hand, on real scenes."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_scenes import SHORE, VILLAS, as_scene, data_of, demo_cut
from needy_model import needy_model
from rasterio.transform import Affine
from scene_files import scene_file
from scipy.spatial import cKDTree

import geodeform
from geodeform.deform.grid import uniform_grid
from geodeform.errors import ConfigError
from geodeform.evaluation.cost import window_flops
from geodeform.evaluation.data import open_evaluation_data
from geodeform.evaluation.evaluate import evaluate
from geodeform.evaluation.metrics import Confusion
from geodeform.evaluation.result import Evaluation, read_evaluation
from geodeform.evaluation.ways import WAYS, PlacedPredictor, find_way, window_of
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.models.spec import SAMPLERS_OF
from geodeform.predict import WindowPredictor
from geodeform.run import begin_run


@pytest.fixture(scope="module")
def model() -> DeformSegmenter:
    return geodeform.load_model()


@pytest.fixture(scope="module")
def scenes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    pixels, labels = demo_cut(SHORE)
    labels = labels.copy()
    labels[300:420, 100:260] = 255
    return {"villas": demo_cut(VILLAS), "shore": (pixels, labels)}


@pytest.mark.parametrize("sampler", ["learned", "uniform"])
def test_it_measures_the_very_map_that_users_get(model, scenes, sampler):
    result = evaluate(model, data_of(**scenes), sampler=sampler, budget="2%")
    confusion, levels, sampled = Confusion(5), np.zeros(256, int), 0
    for pixels, labels in scenes.values():
        got = geodeform.segment_scene(
            as_scene(pixels), model=model, sampler=sampler, budget="2%", bands=(1, 2, 3), gsd=1.0
        )
        confusion.add(labels, got.labels.to_numpy())
        confidence = np.rint(255 * got.confidence.to_numpy()).astype(np.uint8)
        levels += np.bincount(confidence[labels != 255], minlength=256)
        sampled += got.facts.sampled_pixels
    assert np.array_equal(result.soft.confusion.counts, confusion.counts)
    assert np.array_equal(result.calibration.pixels, levels)
    assert result.cost.sampled_pixels == sampled
    assert result.cost.scene_pixels == sum(labels.size for _, labels in scenes.values())
    assert result.miou == confusion.miou()
    assert 0.2 < result.miou < 1
    assert sum(unit.counts for unit in result.units).tolist() == confusion.counts.tolist()
    assert result.notes == ()


def test_blended_windows_are_measured_too(model, scenes):
    """Windows of 256 px, a quarter of the model's, so that there are many."""
    small = DeformSegmenter(replace(model.spec, window_px=(256, 256), sample_size=(48, 48)))
    small.load_state_dict(model.state_dict())
    pixels, labels = scenes["shore"]
    result = evaluate(small.eval(), data_of(shore=(pixels, labels)))
    got = geodeform.segment_scene(as_scene(pixels), model=small, bands=(1, 2, 3), gsd=1.0)
    confusion = Confusion(5)
    confusion.add(labels, got.labels.to_numpy())
    assert result.cost.windows == len(got.plan.active) > 9
    assert np.array_equal(result.soft.confusion.counts, confusion.counts)


@pytest.mark.parametrize("sampler", ["learned", "uniform"])
def test_a_budget_shared_out_by_need_is_measured_as_users_get_it(model, scenes, sampler):
    needy, (pixels, labels) = needy_model(model), scenes["shore"]
    data = data_of(shore=(pixels, labels))
    result = evaluate(needy, data, sampler=sampler, budget="64")
    got = geodeform.segment_scene(
        as_scene(pixels), model=needy, sampler=sampler, budget="64", bands=(1, 2, 3), gsd=1.0
    )
    confusion = Confusion(5)
    confusion.add(labels, got.labels.to_numpy())
    assert np.array_equal(result.soft.confusion.counts, confusion.counts)
    assert result.allocation == "need"
    assert len(result.sizes) > 1
    assert result.cost.sampled_pixels == got.facts.sampled_pixels
    even = evaluate(needy, data, sampler=sampler, budget="64", allocation="even")
    assert even.allocation == "even"
    assert even.sizes == ((512, 512, 64, 64),)
    assert result.cost.sampled_pixels <= even.cost.sampled_pixels


def test_an_oracle_samples_windows_of_mixed_sizes(model, scenes):
    result = evaluate(needy_model(model), data_of(shore=scenes["shore"]), sampler="oracle")
    assert len(result.sizes) > 1
    assert result.intrinsic.miou() > 0.7


def test_what_shares_out_the_budget_is_on_the_clock(model, scenes, monkeypatch):
    needy, expect = needy_model(model), WindowPredictor.expect

    def slowly(self, indices, sizes):
        time.sleep(0.3)
        yield from expect(self, indices, sizes)

    monkeypatch.setattr(WindowPredictor, "expect", slowly)
    data = data_of(shore=scenes["shore"])
    waited = evaluate(needy, data, sampler="uniform", budget="32")
    assert waited.cost.seconds > 0.3


def test_what_rests_on_the_samples_against_counting_by_hand(model, scenes):
    """One window, uniform: the nearest sample of a pixel is the one of its own cell."""
    pixels, labels = scenes["villas"]
    labels = labels.copy()
    labels[40:100, 60:180] = 255
    result = evaluate(model, data_of(villas=(pixels, labels)), sampler="uniform", budget="64")
    assert result.sizes == ((512, 512, 32, 32),)
    at_samples = labels[8::16, 8::16]
    back = np.repeat(np.repeat(at_samples, 16, 0), 16, 1)
    expected = Confusion(5)
    expected.add(labels, back)
    assert np.array_equal(result.intrinsic_nearest.counts, expected.counts)
    known = at_samples[at_samples != 255]
    assert result.deformed.counts.sum(1).tolist() == np.bincount(known, minlength=5).tolist()
    shares = [row["share_of_samples"] for row in result.per_class()]
    assert shares == pytest.approx(np.bincount(known, minlength=5) / known.size)
    change = [row["frequency_change"] for row in result.per_class()]
    of_pixels = np.bincount(labels[labels != 255], minlength=5) / (labels != 255).sum()
    assert change == pytest.approx(shares / of_pixels)


def test_the_nearest_map_and_the_bounds_of_a_learned_grid(model, scenes):
    pixels, labels = scenes["villas"]
    result = evaluate(model, data_of(villas=(pixels, labels)), budget="96")
    with begin_run(
        as_scene(pixels), model=model, device="cpu", bands=(1, 2, 3), nodata=None,
        budget="96", sampler="learned", gsd=1.0,
    ) as run, run.predictor() as predictor:  # fmt: skip
        ((_, prediction),) = predictor.predict(run.plan.active)
    positions = prediction.samples.positions.reshape(-1, 2)
    y, x = np.mgrid[:512, :512] + 0.5
    _, index = cKDTree(positions).query(np.stack([x.ravel(), y.ravel()], 1))
    classes = prediction.probabilities.argmax(0).ravel()
    truth = labels[positions[:, 1].astype(int), positions[:, 0].astype(int)]
    for counted, values in (
        (result.nearest.confusion, classes),
        (result.intrinsic_nearest, truth),
    ):
        expected = Confusion(5)
        expected.add(labels, values[index].reshape(512, 512).astype(np.uint8))
        # samples that are equally near, but for rounding, may swap
        assert np.abs(counted.counts - expected.counts).sum() <= 20
    deformed = Confusion(5)
    deformed.add(truth, classes.astype(np.uint8))
    assert np.array_equal(result.deformed.counts, deformed.counts)
    # interpolated scores of one-hot labels, by the float64 affine rule of the torch backend
    one_hot = np.stack([truth == k for k in range(5)]).reshape(5, *prediction.reverse.grid_size)
    soft = replace(prediction.reverse, backend="torch").reverse_scores(one_hot.astype(np.float32))
    intrinsic = Confusion(5)
    intrinsic.add(labels, soft[0])
    assert np.array_equal(result.intrinsic.counts, intrinsic.counts)
    assert result.intrinsic.miou() > result.intrinsic_nearest.miou() > result.miou


def test_unknown_ground_around_samples_is_no_class_and_has_no_say(model, scenes):
    """Where no known sample speaks, nothing comes back; elsewhere unknown ones are silent."""
    pixels, _ = scenes["villas"]
    labels = np.full((512, 512), 255, np.uint8)
    labels[:, :256] = 3  # the samples beside the border lie 8 px off it
    labels[:, 400:408] = 1  # between two samples: none is there
    result = evaluate(model, data_of(villas=(pixels, labels)), sampler="uniform", budget="64")
    counts = result.intrinsic.counts
    assert counts[3].tolist() == [0, 0, 0, 512 * 256, 0, 0]
    assert counts[1].tolist() == [0, 0, 0, 0, 0, 512 * 8]
    assert result.intrinsic_nearest.counts[1, 5] == 512 * 8


def test_the_oracle_samples_where_labels_have_edges(model, scenes):
    data = data_of(shore=scenes["shore"])
    oracle, uniform = (
        evaluate(model, data, sampler=name, budget="1%") for name in ("oracle", "uniform")
    )
    assert oracle.oracle
    assert oracle.summary()["mark"] == "oracle: sees the labels at test time"
    assert uniform.summary()["mark"] == ""
    assert any("another sampler" in note for note in oracle.notes)
    assert oracle.intrinsic.miou() > uniform.intrinsic.miou()
    assert oracle.cost.sampled_pixels == uniform.cost.sampled_pixels
    pixels, labels = scenes["shore"]
    way = find_way("oracle")
    with begin_run(
        as_scene(pixels), model=model, device="cpu", bands=(1, 2, 3), nodata=None,
        sampler="uniform", gsd=1.0,
    ) as run:  # fmt: skip
        run = replace(run, plan=way.plan(run.plan, model.spec, way.overlap))
        with way.predictor(run, labels) as predictor:
            ((_, prediction),) = predictor.predict(run.plan.active)
    wanted = model.place_by_labels(
        torch.from_numpy(labels)[None], run.plan.low_res_size, run.plan.sample_size
    ).grid
    assert np.array_equal(prediction.reverse.grid, wanted[0].numpy())


def test_an_oracle_without_an_edge_in_sight_samples_evenly(model, scenes):
    """Windows of one class, or of unknown ground, among others that have edges."""
    small = DeformSegmenter(replace(model.spec, window_px=(256, 256), sample_size=(48, 48)))
    small.load_state_dict(model.state_dict())
    small.eval()
    pixels, labels = scenes["shore"]
    labels = labels.copy()
    labels[:260, :260] = 3
    labels[640:, 440:] = 255
    way, positions, even, present = find_way("oracle"), {}, {}, {}
    with begin_run(
        as_scene(pixels), model=small, device="cpu", bands=(1, 2, 3), nodata=None,
        sampler=way.sampler_of_plan(small.spec), gsd=1.0,
    ) as run:  # fmt: skip
        run = replace(run, plan=way.plan(run.plan, small.spec, way.overlap))
        with way.predictor(run, labels) as predictor:
            for index, prediction in predictor.predict(run.plan.active):
                positions[index] = prediction.reverse.grid
                even[index] = uniform_grid(1, run.plan.size_of(index))[0].numpy()
                present[index] = set(np.unique(window_of(labels, run.plan, index)).tolist())
    of_one = [index for index in positions if present[index] == {3}]
    unknown = [index for index in positions if present[index] == {255}]
    others = [index for index in positions if len(present[index] - {255}) > 1]
    assert of_one
    assert unknown
    assert others
    cell = 2 / 48  # of a grid from -1 to 1
    for index in of_one + unknown:
        assert np.abs(positions[index] - even[index]).max() < 1e-3 * cell
    for index in others:
        assert np.abs(positions[index] - even[index]).max() > cell


def test_an_oracle_without_an_edge_counts_as_even_sampling_does(model, scenes):
    """A border to unknown ground is no edge, but tells by the counts where samples lie."""
    pixels, _ = scenes["villas"]
    for known, area in (
        (True, (slice(100, 221), slice(37, 300))),
        (False, (slice(None), slice(None))),
    ):
        labels = np.full(pixels.shape[:2], 3, np.uint8)
        labels[area] = 255
        data = data_of(flat=(pixels, labels))
        oracle, uniform = (
            evaluate(model, data, sampler=name, budget="64") for name in ("oracle", "uniform")
        )
        assert oracle.sizes == uniform.sizes
        assert oracle.deformed.counts.sum(1).tolist() == uniform.deformed.counts.sum(1).tolist()
        assert oracle.intrinsic.counts.tolist() == uniform.intrinsic.counts.tolist()
        nearest = oracle.intrinsic_nearest.counts
        assert nearest.tolist() == uniform.intrinsic_nearest.counts.tolist()
        assert (nearest.sum() > 0) == known


def test_full_feeds_every_pixel_in_crops(model, scenes):
    pixels, labels = (part[:128, :128] for part in scenes["villas"])
    one = evaluate(model, data_of(corner=(pixels, labels)), sampler="full")
    assert one.cost.windows == 1
    assert one.cost.sampled_share == 1
    assert one.intrinsic.miou() == one.intrinsic_nearest.miou() == 1
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (model.spec.scaling.mean, model.spec.scaling.std)
    )
    image = torch.from_numpy(np.moveaxis(pixels, -1, 0)[None] / 255).float()
    with torch.inference_mode():
        scores = model.segment((image - mean) / std)[0]
    expected = Confusion(5)
    expected.add(labels, scores.argmax(0).numpy().astype(np.uint8))
    assert np.abs(one.soft.confusion.counts - expected.counts).sum() <= 4  # ties in uint8
    assert np.array_equal(one.deformed.counts, one.nearest.confusion.counts)
    many = evaluate(model, data_of(villas=scenes["villas"]), sampler="full")
    assert many.cost.windows == 25  # 512 px, crops of 128 that share 32
    assert many.overlap == 0.25
    assert many.cost.sampled_share == pytest.approx(25 * 128**2 / 512**2)
    assert any("sees single pixels" in note for note in many.notes)
    assert many.cost.flops == 25 * many.cost.flops / many.cost.windows
    with pytest.raises(ConfigError, match="give no budget"):
        evaluate(model, data_of(villas=scenes["villas"]), sampler="full", budget="1%")


def test_a_way_of_the_callers_own(model, scenes):
    """A density that is fixed for all windows is a grid that a function returns."""
    fixed = replace(
        WAYS["uniform"],
        name="fixed",
        predictor=lambda run, _: PlacedPredictor(
            run, lambda indices: uniform_grid(len(indices), run.plan.sample_size)
        ),
        plan=lambda plan, *_: replace(plan, sampler="fixed"),
    )
    data = data_of(**scenes)
    own, uniform = (evaluate(model, data, sampler=way, budget="96") for way in (fixed, "uniform"))
    assert own.sampler == "fixed"
    assert own.deformed.frequencies().tolist() == uniform.deformed.frequencies().tolist()
    assert own.intrinsic.counts.tolist() == uniform.intrinsic.counts.tolist()
    # mip-mapped instead of exact area averages: nearly the same pixels
    assert own.miou == pytest.approx(uniform.miou, abs=0.05)


def test_operations_are_counted_as_by_hand(model):
    """Two a multiply-add: 2 · kernel · in / groups for each value that a convolution puts out."""
    pixels, _ = demo_cut(VILLAS)
    flops = {}
    for sampler in ("learned", "uniform"):
        with begin_run(
            as_scene(pixels), model=model, device="cpu", bands=(1, 2, 3), nodata=None,
            budget="64", sampler=sampler, allocation="even", gsd=1.0,
        ) as run:  # fmt: skip
            flops[sampler] = window_flops(model, run.plan, run.plan.sample_size, run.device)
    by_hand = {"density_net": 0, "segmenter": 0}

    def count(part, module, _, out):
        kernel = math.prod(module.kernel_size)
        by_hand[part] += 2 * kernel * module.in_channels // module.groups * out.numel()

    hooks = [
        module.register_forward_hook(partial(count, part))
        for part in by_hand
        for module in getattr(model, part).modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    with torch.inference_mode():
        model.density(torch.zeros(1, 3, *run.plan.low_res_size))
        model.segment(torch.zeros(1, 3, *run.plan.sample_size))
    for hook in hooks:
        hook.remove()
    assert flops["uniform"] == by_hand["segmenter"] > 10**7
    products = flops["learned"] - sum(by_hand.values())  # the grid's banded ones
    assert 0 < products < 0.5 * by_hand["density_net"]


def test_results_survive_json(model, scenes, tmp_path: Path):
    result = evaluate(model, data_of(**scenes), budget="1%")
    result.write_json(tmp_path / "r.json")
    back = read_evaluation(tmp_path / "r.json")
    assert back.to_dict() == result.to_dict()
    assert isinstance(back, Evaluation)
    for text, problem in (("{", "Cannot read"), ("[]", "is no evaluation"), ("{}", "version")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ConfigError, match=problem):
            read_evaluation(tmp_path / "bad.json")
    damaged = result.to_dict()
    del damaged["counts"]["soft"]
    with pytest.raises(ConfigError, match="damaged"):
        Evaluation.from_dict(damaged)


def test_images_are_cut_as_the_training_cut_them(model, scenes):
    pixels, labels = scenes["shore"]
    cropped = evaluate(model, replace(data_of(shore=(pixels, labels)), crop=(512, 512)))
    top, left = (900 - 512) // 2 // 16 * 16, (700 - 512) // 2 // 16 * 16
    area = (slice(top, top + 512), slice(left, left + 512))
    by_hand = evaluate(model, data_of(shore=(pixels[area], labels[area])))
    assert cropped.soft.confusion.counts.tolist() == by_hand.soft.confusion.counts.tolist()


def test_models_and_data_that_do_not_fit_are_refused(model, scenes):
    data = data_of(villas=scenes["villas"])
    names = replace(data.classes, names=("Roof", *data.classes.names[1:]))
    with pytest.raises(ConfigError, match="the model predicts Building"):
        evaluate(model, replace(data, classes=names))
    with pytest.raises(ConfigError, match="also takes blue"):
        evaluate(model, replace(data, bands=("red", "green", "nir")))
    with pytest.raises(ConfigError, match="without interpolation sampling"):
        evaluate(model, data, sampler="interpolation")
    with pytest.raises(ConfigError, match="did you mean 'learned'"):
        evaluate(model, data, sampler="learnt")
    resizer = DeformSegmenter(
        replace(model.spec, downsampler="resizer", sampler="interpolation", sample_size=(16, 16))
    ).eval()
    with pytest.raises(ConfigError, match="labels cannot say where"):
        evaluate(resizer, data, sampler="oracle")
    assert evaluate(resizer, data).sampler == "interpolation"


def test_windows_cover_the_models_ground(model, scenes):
    """At half of the model's distance a window has twice its pixels a side."""
    data = replace(data_of(shore=scenes["shore"]), gsd_m=None)
    assert any("taken for the model's 1 m" in n for n in evaluate(model, data, budget="64").notes)
    fine = evaluate(model, data, budget="64", gsd=0.5)
    assert any("windows of 2048x2048 px" in note for note in fine.notes)
    known = evaluate(model, replace(data, gsd_m=0.5), budget="64")
    assert known.soft.confusion.counts.tolist() == fine.soft.confusion.counts.tolist()
    assert known.sizes[0][2:] < evaluate(model, data, budget="64").sizes[0][2:]


def test_bands_are_found_by_name(model, scenes):
    pixels, labels = scenes["villas"]
    data = data_of(villas=(pixels, labels))
    turned = data_of(villas=(np.ascontiguousarray(pixels[..., ::-1]), labels))
    turned = replace(turned, bands=("blue", "green", "red"))
    counts = [evaluate(model, d).soft.confusion.counts.tolist() for d in (data, turned)]
    assert counts[0] == counts[1]


def test_every_sampler_of_a_model_is_a_way():
    assert {name for names in SAMPLERS_OF.values() for name in names} <= set(WAYS)
    assert all(way.name == name for name, way in WAYS.items())


@pytest.mark.slow
def test_a_large_scene_file_is_measured_as_users_map_it(model, shared_data, tmp_path):
    """All of tile 7, 33.7 MP, held out in training: by a GeoTIFF and by the dataset."""
    data = open_evaluation_data("dubai", shared_data / "dubai", spec=model.spec)
    assert data.items == ("7",)
    scene = data.scene("7")
    path = scene_file(
        tmp_path / "tile7.tif",
        scene.image(),
        transform=Affine(1, 0, 316699, 0, -1, 2771636),
        crs="EPSG:32640",
    )
    got = geodeform.segment_scene(path, model=model, budget="1.5%")
    confusion = Confusion(5)
    confusion.add(scene.labels, got.labels.to_numpy())
    result = evaluate(model, data, budget="1.5%")
    assert np.array_equal(result.soft.confusion.counts, confusion.counts)
    assert result.intrinsic.miou() > result.intrinsic_nearest.miou() > result.miou
    assert len(result.units) == 30
