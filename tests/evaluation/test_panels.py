"""Panels: what is drawn is what was measured, and a rule chooses it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_scenes import data_of, demo_cut
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from needy_model import needy_model
from rasterio.windows import Window

import geodeform
from geodeform.classes import ClassScheme, from_hex
from geodeform.evaluation.campaign import Work, plan_campaign, read_results
from geodeform.evaluation.evaluate import evaluate
from geodeform.evaluation.experiment import Experiment, read_experiment, shown_size
from geodeform.evaluation.metrics import Confusion
from geodeform.evaluation.panels import (
    BlockPrediction,
    Chosen,
    Results,
    _Artist,
    _best_pair,
    _Cell,
    _colours_said,
    _draw_blocks,
    choose_blocks,
    panel_figures,
    predict_block,
)
from geodeform.evaluation.result import Evaluation, Unit
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.models.model_file import save_model
from geodeform.plot.layers import NODATA_GREY, class_picture
from geodeform.plot.safe_colours import APART, SafeScheme, safe_scheme, smallest_distance

VILLAS = Window(1536, 1024, 640, 640)
WIDE = Window(1000, 600, 1600, 700)  # two blocks: 700x800 each

EXPERIMENT = """
title: t
recipe: recipe.yaml
budgets: [16, 24]
seeds: [0]
baseline: uniform
methods:
  uniform: {title: evenly, network_of: joint, sampler: uniform}
  joint: {title: joint loss, settings: {model.sampler: joint}}
  oracle: {network_of: joint, sampler: oracle}
  full: {title: all pixels, network_of: joint, sampler: full}
"""


@pytest.fixture(scope="module")
def model() -> DeformSegmenter:
    """The packaged network with windows of 256 px: a block of 800 px has many, in two batches."""
    whole = geodeform.load_model()
    small = DeformSegmenter(replace(whole.spec, window_px=(256, 256), sample_size=(24, 24)))
    small.load_state_dict(whole.state_dict())
    return small.eval()


@pytest.fixture(scope="module")
def data():
    return data_of(villas=demo_cut(VILLAS), wide=demo_cut(WIDE))


def with_units(evaluation: Evaluation, *units: tuple[str, int, int, list[list[int]]]) -> Evaluation:
    return replace(
        evaluation,
        units=tuple(Unit(name, y, x, np.array(counts, np.int64)) for name, y, x, counts in units),
    )


def block(right: int, known: int = 100) -> list[list[int]]:
    """Counts of two classes, half of the pixels each, of which ``right`` are predicted."""
    half = known // 2
    first = min(right, half)
    return [[first, half - first, 0], [half - (right - first), right - first, 0]]


@pytest.fixture(scope="module")
def some(model, data) -> Evaluation:
    return evaluate(model, data_of(villas=demo_cut(VILLAS)), sampler="uniform", budget="16x16")


def test_blocks_are_ranked_by_gain_in_accuracy_pooled_over_seeds(some):
    names = "abcde"
    gains = {"a": (60, 50), "b": (40, 70), "c": (55, 55), "d": (75, 60), "e": (52, 50)}
    ours = [
        with_units(some, *((n, 0, 0, block(gains[n][0] + move)) for n in names))
        for move in (-5, 5)  # two seeds; only their sum says the gain
    ]
    base = [with_units(some, *((n, 0, 0, block(gains[n][1])) for n in reversed(names)))] * 2
    chosen = choose_blocks(ours, base)
    assert [c.item for c in chosen] == ["d", "e", "b"]
    assert [c.gain for c in chosen] == pytest.approx([0.15, 0.02, -0.30])
    assert [c.rank for c in chosen] == ["largest gain", "median", "largest loss"]
    assert {c.blocks for c in chosen} == {5}
    assert {c.seeds for c in chosen} == {2}
    assert [c.item for c in choose_blocks(ours, base, count=1)] == ["e"]
    assert [c.item for c in choose_blocks(ours, base, count=9)] == list("daecb")
    losses = choose_blocks(base, ours, count=2)
    assert [c.item for c in losses] == ["b", "d"]
    (only,) = choose_blocks(ours, [with_units(some, ("b", 0, 0, block(99)))])
    assert (only.rank, only.gain) == ("the only block", pytest.approx(-0.59))
    assert choose_blocks(ours, []) == choose_blocks([], base) == []
    worse = choose_blocks([with_units(some, ("a", 0, 0, block(10)), ("b", 0, 0, block(5)))], base)
    assert (worse[0].rank, worse[0].gain) == ("smallest loss", pytest.approx(-0.4))


def test_a_heading_says_the_gain_of_the_maps_under_it_where_it_is_ranked_by_another():
    """Gains are of all seeds, and one is drawn: its gain may have the other sign."""
    three = Chosen("a", (0, None), (0, None), 0.0062, "median", 9, 3)
    assert three.gain_words(-0.011) == (
        "+0.6 points of pixel accuracy over 3 seeds, -1.1 of the one drawn"
    )
    assert replace(three, seeds=1).gain_words(0.0062) == "+0.6 points of pixel accuracy"


def test_blocks_that_show_nothing_are_left_out(some):
    plain = [[91, 0, 0], [9, 0, 0]]
    mixed = [[90, 0, 0], [10, 0, 0]]
    ours = with_units(
        some,
        ("full", 0, 0, block(50)), ("full", 0, 1000, block(60)), ("full", 900, 0, block(10, 48)),
        ("full", 900, 1000, block(10, 50)), ("plain", 0, 0, plain), ("mixed", 0, 0, mixed),
        ("nothing", 0, 0, block(0, 0)),
    )  # fmt: skip
    chosen = choose_blocks([ours], [ours], count=9)
    assert {(c.item, c.rows, c.columns) for c in chosen} == {
        ("full", (0, 900), (0, 1000)),
        ("full", (0, 900), (1000, None)),
        ("full", (900, None), (1000, None)),
        ("mixed", (0, None), (0, None)),
    }


@pytest.mark.parametrize(
    "sampler", ["learned", "uniform", "oracle", pytest.param("full", marks=pytest.mark.slow)]
)
def test_the_drawn_prediction_has_the_counts_that_were_measured(model, data, sampler):
    budget = None if sampler == "full" else "24x24"
    result = evaluate(model, data, sampler=sampler, budget=budget, device="cpu")
    assert len(result.units) == 3
    for unit in result.units:
        right = next((u.column for u in result.units if u.column > unit.column), None)
        right = right if unit.item == "wide" else None
        chosen = Chosen(unit.item, (0, None), (unit.column, right), 0.0, "", 1, 1)
        got = predict_block(model, data, chosen, sampler=sampler, budget=budget, device="cpu")
        labels = data.scene(unit.item).labels[:, unit.column : right]
        counted = Confusion(5)
        counted.add(labels, got.labels)
        assert counted.counts.tolist() == unit.counts.tolist()
        assert got.density.shape == labels.shape
        assert np.isfinite(got.density).all()
        assert (got.seen is None) == (sampler == "full")


def test_a_block_by_need_is_drawn_as_it_was_measured(data):
    """Windows of several sizes are predicted by size, and a mosaic takes them row by row."""
    needy = needy_model(geodeform.load_model())
    tall = data_of(tall=demo_cut(Window(600, 400, 1000, 1800)))
    how = {"sampler": "learned", "budget": "64x64", "allocation": "need", "device": "cpu"}
    result = evaluate(needy, tall, **how)
    assert len(result.sizes) > 1
    for unit in result.units:
        below = min((u.row for u in result.units if u.row > unit.row), default=None)
        got = predict_block(
            needy, tall, Chosen("tall", (unit.row, below), (0, None), 0.0, "", 1, 1), **how
        )
        labels = tall.scene("tall").labels[unit.row : below]
        counted = Confusion(5)
        counted.add(labels, got.labels)
        assert counted.counts.tolist() == unit.counts.tolist()
        h, w = got.seen.shape[:2]
        assert got.spacing == (512 / h, 512 / w)
        assert got.even == (64 / 512) ** 2  # of the budget, whatever this window got
        assert got.positions.shape == (h, w, 2)


def test_what_is_shown_as_seen_is_what_the_network_was_fed(model, data):
    """Uniform samples of one window: means of its pixels, in the right place."""
    chosen = Chosen("wide", (0, None), (800, None), 0.0, "", 1, 1)
    got = predict_block(model, data, chosen, sampler="uniform", budget="16x16", device="cpu")
    pixels = np.moveaxis(np.array(data.scene("wide").image()), 0, -1)
    left = round(float(got.positions[0, 0, 0])) - 8 + 800
    top = round(float(got.positions[0, 0, 1])) - 8
    window = pixels[top : top + 256, left : left + 256].astype(float)
    means = window.reshape(16, 16, 16, 16, 3).mean((1, 3))
    assert np.abs(means - got.seen).max() <= 1
    assert got.spacing == (16, 16)
    assert got.density == pytest.approx(1 / 256)
    assert got.even == 1 / 256
    assert got.over_even == pytest.approx(1)


def test_the_density_is_the_one_of_the_windows(model, data):
    chosen = Chosen("villas", (0, None), (0, None), 0.0, "", 1, 1)
    whole = DeformSegmenter(replace(model.spec, window_px=(640, 640)))
    whole.load_state_dict(model.state_dict())
    got = predict_block(whole.eval(), data, chosen, sampler="learned", budget="24x24", device="cpu")
    assert got.density.sum() == pytest.approx(24 * 24, rel=0.05)  # samples are where it says
    assert got.density.max() > 1.2 * got.density.min()
    inside = (got.positions > 0) & (got.positions < 640)
    assert inside.all()


def test_a_fixed_density_is_no_learned_method_to_draw(some, tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: {dataset: dubai}\n")
    (tmp_path / "e.yaml").write_text(
        EXPERIMENT + "  fixed: {title: one for all, settings: {model.sampler: fixed}}\n"
    )
    experiment = read_experiment(tmp_path / "e.yaml")
    right = {"uniform": 60, "joint": 70, "fixed": 90, "oracle": 99, "full": 99}
    results = {
        entry: replace(
            with_units(some, ("a", 0, 0, block(right[entry.method]))),
            soft=replace(
                some.soft, confusion=Confusion.of(np.array(block(right[entry.method]), np.int64))
            ),
        )
        for entry in experiment.entries()
    }
    found = _best_pair(experiment, results)
    assert found is not None
    pair, rivals = found
    assert (pair.method, pair.budget, rivals) == ("joint", (16, 16), 1)
    without = {e: r for e, r in results.items() if e.method != "joint"}
    assert _best_pair(experiment, without) is None


def faked(some: Evaluation, experiment: Experiment, right: dict[str, int]) -> Results:
    """Two images of 100 pixels, of which each method gets so many right."""
    return {
        entry: replace(
            with_units(some, *((name, 0, 0, block(right[entry.method])) for name in "ab")),
            items=("a", "b"),
            soft=replace(
                some.soft, confusion=Confusion.of(np.array(block(right[entry.method]), np.int64))
            ),
        )
        for entry in experiment.entries()
    }


def test_the_joint_loss_is_drawn_beside_a_better_method(some, data, tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: {dataset: dubai}\n")
    (tmp_path / "e.yaml").write_text(
        EXPERIMENT
        + "  edges: {title: by edges, settings: {model.sampler: edge_learned}}\n"
        + "  more: {title: more, settings: {loss.gamma: 2}}\n"
    )
    experiment = read_experiment(tmp_path / "e.yaml")
    right = {"uniform": 60, "joint": 50, "edges": 90, "more": 40, "oracle": 99, "full": 99}

    def drawn(experiment: Experiment, results: Results) -> tuple[list[str], str]:
        found = _best_pair(experiment, results)
        assert found is not None
        artist = _Artist(experiment, results, {}, data, "cpu", *found)
        chosen = choose_blocks(found[0].ours, found[0].baseline)
        names = artist._methods(chosen)
        return names, artist._block_caption(chosen, names)

    results = faked(some, experiment, right)
    names, caption = drawn(experiment, results)
    assert names == ["uniform", "edges", "joint", "oracle", "full"]  # the first of two
    assert "'joint loss', trained by the joint loss, is drawn whatever its gain." in caption
    # where one is drawn anyway, no other
    names, caption = drawn(experiment, faked(some, experiment, right | {"more": 95}))
    assert names == ["uniform", "more", "oracle", "full"]
    assert "whatever its gain" not in caption
    other = replace(experiment, baseline="joint")
    assert drawn(other, results)[0] == ["joint", "edges", "oracle", "full"]
    # where there is none
    left = {e: r for e, r in results.items() if e.method not in ("joint", "more")}
    assert drawn(experiment, left)[0] == ["uniform", "edges", "oracle", "full"]


def test_where_nothing_is_drawn_a_sentence_says_why(some, data, tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: {dataset: dubai}\n")
    (tmp_path / "e.yaml").write_text(EXPERIMENT)
    experiment = read_experiment(tmp_path / "e.yaml")
    works = plan_campaign(experiment, tmp_path)
    results = faked(some, experiment, dict.fromkeys(experiment.methods, 60))
    assert panel_figures(experiment, works, {}, data, "cpu") == (
        [],
        "There are no pictures: they show a learned method beside the baseline ('evenly'), and no "
        "budget has evaluations of both that belong together.",
    )
    assert panel_figures(experiment, works, results, data, "cpu") == (
        [],
        "There are no pictures: they need the weights of a learned method and of the baseline "
        "('evenly') at one budget, and 1 of the 1 networks that were evaluated have none beside "
        "their evaluations; the command at the top of this page trains a network again once its "
        "evaluations are deleted.",
    )
    for work in works:
        work.model.parent.mkdir(parents=True)
        work.model.touch()
    plain = {e: with_units(r, ("a", 0, 0, [[95, 0, 0], [5, 0, 0]])) for e, r in results.items()}
    assert panel_figures(experiment, works, plain, data, "cpu") == (
        [],
        "There are no pictures: every image has few known pixels or over 90% one class, so that "
        "there is nothing to see.",
    )


def drawn_rows(classes: ClassScheme, ends: list[tuple[float, float]], titles: list[str]) -> Figure:
    """Rows of blocks whose densities rise from one end to the other, over even sampling."""
    labels = np.zeros((400, 500), np.uint8)
    rows = []
    for low, high in ends:
        even = 1 / 64
        density = np.broadcast_to(np.geomspace(low, high, 500) * even, labels.shape)
        prediction = BlockPrediction(
            labels, density.astype(np.float32), even, np.zeros((32, 32, 3), np.uint8),
            np.ones((32, 32, 2), np.float32), (2.0, 2.0),
        )  # fmt: skip
        cells = [_Cell(title, prediction, 0.5, "key") for title in titles]
        where = Chosen("a", (0, None), (0, None), 0.1, "median", 3, 1)
        rows.append((where, np.zeros((400, 500, 3), np.uint8), labels, cells))
    return _draw_blocks(rows, classes)


def scales(figure: Figure) -> list[tuple[float, float]]:
    """Ends of the scale of each density that is drawn."""
    norms = [axes.images[0].norm for axes in figure.axes if axes.images]
    return [(norm.vmin, norm.vmax) for norm in norms if isinstance(norm, LogNorm)]


def test_densities_share_one_scale_which_their_bar_names(data):
    figure = drawn_rows(data.classes, [(0.95, 1.05), (0.4, 4.2)], ["evenly", "learned"])
    strong, weak = scales(figure)
    assert strong == weak == pytest.approx((0.4 * 10.5**0.01, 4.2 / 10.5**0.01))  # no tails
    assert [n.split(": ")[1] for n in notes(figure) if "densest" in n] == ["1.1", "10"]
    assert "Density: samples a pixel over even sampling" in [t.get_text() for t in figure.texts]
    bar = figure.axes[-1]
    assert [label.get_text() for label in bar.get_xticklabels()] == ["0.41", "1", "4.1"]
    assert bar.get_xlim() == pytest.approx(weak)


def test_densities_that_are_all_nearly_even_look_nearly_even(data):
    """A scale of their own would show what is noise in the strongest colours."""
    figure = drawn_rows(data.classes, [(0.95, 1.05), (1, 1)], ["evenly", "learned"])
    assert scales(figure) == [(1 / 1.5, 1.5)] * 2
    assert [n for n in notes(figure) if "densest" in n] == [
        "densest over sparsest: 1.1", "densest over sparsest: 1.0",
    ]  # fmt: skip


def test_what_is_written_in_seven_columns_does_not_overlap(data):
    long = "the learned sampler's network, edges from the labels (oracle)"
    titles = ["uniform, area averages", "edge-based, learned", "learned, joint loss", long, "full"]
    figure = drawn_rows(data.classes, [(0.5, 20)], titles)
    figure.draw_without_rendering()
    axes = [text for one in figure.axes for text in (one.xaxis.label, *one.get_xticklabels())]
    texts = [text for text in (*figure.texts, *axes) if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    for k, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height
        assert not any(box.overlaps(other) for other in boxes[:k])


@pytest.mark.parametrize(
    ("row", "said", "never"),
    [(0, "Whole images of cuts", "block"), (900, "Blocks of about 1024 px of cuts", "Whole")],
)
def test_blocks_are_called_images_where_they_are_whole(some, data, tmp_path, row, said, never):
    (tmp_path / "recipe.yaml").write_text("data: {dataset: dubai}\n")
    (tmp_path / "e.yaml").write_text(EXPERIMENT)
    experiment = read_experiment(tmp_path / "e.yaml")
    units = [("villas", 0, 0, block(60)), ("villas" if row else "wide", row, 0, block(50))]
    results = {
        entry: replace(with_units(some, *units), items=("villas", "wide"))
        for entry in experiment.entries()
    }
    found = _best_pair(experiment, results)
    assert found is not None
    artist = _Artist(experiment, results, {}, data, "cpu", *found)
    chosen = choose_blocks(found[0].ours, found[0].baseline)
    caption = artist._block_caption(chosen, ["uniform", "joint"])
    assert caption.startswith(f"{said} at 16x16 samples a window (")
    assert never not in caption
    assert "Not all class colours are the dataset's own: lightness and saturation" in caption


def test_captions_say_of_class_colours_what_is_so(data):
    own = data.classes
    assert _colours_said(SafeScheme(own, False, 20.0)) == ""
    seen = "in normal sight and in simulated protanopia, deuteranopia and tritanopia"
    assert _colours_said(SafeScheme(own, True, 20.0)) == (
        " Not all class colours are the dataset's own: lightness and saturation are changed until "
        f"every two, and unknown, lay at least 20 apart in CIE Lab {seen}."
    )
    assert _colours_said(SafeScheme(own, True, 19.99)) == (
        " Not all class colours are the dataset's own: lightness and saturation are changed to "
        f"bring them further apart in CIE Lab {seen}; the two that come closest lie 19 apart, of "
        "20 aimed at."
    )
    assert _colours_said(SafeScheme(own, False, 1.2)) == (
        f" Class colours are the dataset's own, some of them alike in CIE Lab {seen}: the two that "
        "come closest lie 1 apart, of 20 aimed at."
    )


@pytest.fixture(scope="module")
def campaign(model, data, tmp_path_factory) -> tuple[Experiment, list[Work]]:
    """Networks and evaluations as a campaign leaves them."""
    folder: Path = tmp_path_factory.mktemp("panels")
    (folder / "recipe.yaml").write_text("data: {dataset: dubai}\n")
    (folder / "e.yaml").write_text(EXPERIMENT)
    experiment = read_experiment(folder / "e.yaml")
    works = plan_campaign(experiment, folder)
    for work in works:
        work.model.parent.mkdir(parents=True)
        save_model(model, work.model)
        for trial in work.trials:
            budget = None if trial.budget is None else shown_size(trial.budget)
            found = evaluate(work.model, data, sampler=trial.sampler, budget=budget, device="cpu")
            found.write_json(work.result(trial))
    return experiment, works


def pictures(figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def legend(figure) -> list[Patch]:
    """What the classes' legend shows."""
    return figure.legends[0].get_patches()


def notes(figure) -> list[str]:
    return [axes.get_xlabel() for axes in figure.axes]


@pytest.mark.slow
def test_an_experiment_is_drawn(campaign, data):
    experiment, works = campaign
    results = read_results(works, experiment.entries())
    (blocks, rates), why_none = panel_figures(experiment, works, results, data, "cpu")
    assert not why_none
    pair = {
        name: [r for e, r in results.items() if e.method == name and e.budget == (16, 16)]
        for name in ("joint", "uniform")
    }
    chosen = choose_blocks(pair["joint"], pair["uniform"])
    assert len(chosen) == 3
    assert blocks.networks == rates.networks == tuple(work.key for work in works)
    texts = [text.get_text() for text in blocks.figure.texts]
    texts[1] = texts[1].replace("\n", " ")
    assert texts[:3] == ["Original", "Density; right and wrong", "evenly"]
    assert texts[3:6] == ["joint loss", "oracle", "all pixels"]
    for one, text in zip(chosen, texts[6:-1], strict=True):
        said = f"{one.rank}, {100 * one.gain:+.1f} points of pixel accuracy (image "
        assert text.lower().startswith(said)
    assert "Headings" not in blocks.caption  # of one seed, the one that is drawn
    assert "'oracle': oracle: sees the labels" in blocks.caption
    assert "3 blocks" in blocks.caption
    assert blocks.caption.startswith("Blocks of about 1024 px of cuts at 16x16 samples a window (")
    assert blocks.figure.get_size_inches()[0] == 7

    # the first row's maps, against the counts
    scheme, first = safe_scheme(data.classes, NODATA_GREY).classes, chosen[0]
    drawn = [from_hex(to_hex(patch.get_facecolor()[:3])) for patch in legend(blocks.figure)]
    assert drawn == [*scheme.colours, NODATA_GREY]
    assert smallest_distance(drawn, ["deuteranopia"]) >= APART
    for panel in (blocks, rates):
        assert "Not all class colours are the dataset's own" in panel.caption
    unit = {
        name: next(
            u for u in pair[name][0].units if (u.item, u.column) == (first.item, first.columns[0])
        )
        for name in pair
    }
    rows, columns = slice(*first.rows), slice(*first.columns)
    labels = data.scene(first.item).labels[rows, columns]
    shown = pictures(blocks.figure)
    image, original, _, difference = shown[:4]
    assert np.array_equal(image, np.moveaxis(data.scene(first.item).image(), 0, -1)[rows, columns])
    assert np.array_equal(original, class_picture(labels, scheme))
    accuracy = {name: Confusion.of(u.counts).accuracy() for name, u in unit.items()}
    said = [note for note in notes(blocks.figure)[:12] if note.endswith("right")]
    assert said[:2] == [f"{accuracy[name]:.1%} right" for name in ("uniform", "joint")]
    maps = dict(zip(("uniform", "joint"), (shown[5], shown[7]), strict=True))
    for name, picture in maps.items():
        right = (picture == class_picture(labels, scheme)).all(-1) & (labels != 255)
        assert right.sum() == np.trace(unit[name].counts)
    only = (difference == from_hex("#0072B2")).all(-1).sum()
    lost = (difference == from_hex("#D55E00")).all(-1).sum()
    assert only - lost == np.trace(unit["joint"].counts) - np.trace(unit["uniform"].counts)

    # the second: two budgets of three methods, the median block's
    (median,) = choose_blocks(pair["joint"], pair["uniform"], count=1)
    assert f"image {median.item}" in rates.caption
    assert len(pictures(rates.figure)) == 2 + 2 * 3
    at_24 = next(r for e, r in results.items() if e.method == "joint" and e.budget == (24, 24))
    counts = next(
        u.counts for u in at_24.units if (u.item, u.column) == (median.item, median.columns[0])
    )
    assert notes(rates.figure)[-2] == f"{Confusion.of(counts).accuracy():.1%} right"


@pytest.mark.slow
def test_a_part_of_the_results_is_enough_or_gives_nothing(campaign, data, tmp_path):
    experiment, works = campaign
    results = read_results(works, experiment.entries())

    def without(method: str, *budgets: tuple[int, int]):
        return {
            e: r
            for e, r in results.items()
            if e.method != method or (budgets and e.budget not in budgets)
        }

    for some in ({}, without("uniform"), without("joint")):
        none, why = panel_figures(experiment, works, some, data, "cpu")
        assert none == []
        assert "beside the baseline ('evenly'), and no budget has evaluations of both" in why
    # the smallest budget of both is left: one figure, of that one
    some = {e: r for e, r in without("uniform", (16, 16)).items() if e.method != "full"}
    (only,), _ = panel_figures(experiment, works, some, data, "cpu")
    assert "24x24" in only.title
    assert "all pixels" not in [text.get_text() for text in only.figure.texts]
    gone = [replace(work, folder=tmp_path) for work in works]
    none, why = panel_figures(experiment, gone, results, data, "cpu")
    assert none == []
    assert "1 of the 1 networks that were evaluated have none beside their evaluations" in why


@pytest.mark.slow
def test_the_best_learned_method_is_drawn(campaign, data, tmp_path):
    """Of two, the one with the larger gain at the smallest budget."""
    works = campaign[1]
    (tmp_path / "recipe.yaml").write_text("data: {dataset: dubai}\n")
    (tmp_path / "two.yaml").write_text(
        EXPERIMENT + "  worse: {title: worse, network_of: joint, sampler: learned}\n"
    )
    two = read_experiment(tmp_path / "two.yaml")
    results = read_results(works, two.entries())
    for entry in [e for e in results if e.method == "worse"]:
        counts = results[entry].soft.confusion.counts
        poor = replace(results[entry].soft, confusion=Confusion.of(counts[::-1]))
        results[entry] = replace(results[entry], soft=poor)
    (blocks, _), _ = panel_figures(two, works, results, data, "cpu")
    assert "'joint loss', the best of 2 learned methods here, over 'evenly'" in blocks.caption


@pytest.mark.slow
def test_of_several_seeds_the_gain_of_the_drawn_one_is_said_too(campaign, data):
    """The seeds that are not drawn turn each block's gain into a loss."""
    experiment, works = campaign
    results = read_results(works, experiment.entries())
    experiment = replace(experiment, seeds=(0, 1, 2))
    for entry, result in list(results.items()):
        if entry.budget == (16, 16) and entry.method in ("uniform", "joint"):
            units = result.units
            if entry.method == "joint":
                units = tuple(replace(one, counts=one.counts[::-1]) for one in units)
            for seed in (1, 2):
                trial = replace(entry, seed=seed)
                results[trial] = replace(result, units=units)
    (blocks, rates), _ = panel_figures(experiment, works, results, data, "cpu")
    drawn = [float(note.split("%")[0]) for note in notes(blocks.figure) if note.endswith("right")]
    headings = [text.get_text() for text in blocks.figure.texts[6:-1]]
    assert len(headings) == 3
    for heading, base, ours in zip(headings, drawn[::4], drawn[1::4], strict=True):
        ranked, said = re.fullmatch(
            r".*, ([+-][\d.]+) points of pixel accuracy over 3 seeds, ([+-][\d.]+) of the one "
            r"drawn \(image .*\)",
            heading,
        ).groups()
        assert float(ranked) < float(said)
        assert float(said) == pytest.approx(ours - base, abs=0.16)  # of rounded ones
    assert "Headings say that gain, and the one of the seed drawn." in blocks.caption
    assert "over 3 seeds" in rates.caption
    first = [float(note.split("%")[0]) for note in notes(rates.figure)[2:4]]
    said = re.search(r"([+-][\d.]+) of the one drawn", rates.caption)[1]
    assert float(said) == pytest.approx(first[1] - first[0], abs=0.16)
