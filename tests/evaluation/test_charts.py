"""Charts: what is drawn are the comparison's numbers, and oracles are marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color, to_rgb
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text

from geodeform.evaluation.calibration import Calibration
from geodeform.evaluation.chart_sheet import (
    Sheet,
    dodged,
    draw_interval,
    draw_whisker,
    limit_log_x,
    log_ticks,
)
from geodeform.evaluation.chart_shown import Look, correlation_words
from geodeform.evaluation.charts import charts
from geodeform.evaluation.comparison import Comparison, Difference, Summary, paired_difference
from geodeform.evaluation.experiment import Entry, Experiment, read_experiment
from geodeform.evaluation.metrics import Confusion
from geodeform.evaluation.panels import Panel
from geodeform.evaluation.result import Cost, Evaluation, MapScores, Unit
from geodeform.evaluation.study_charts import _NAMES
from geodeform.evaluation.timing import Times

CLASSES = ("Land", "Road", "Building", "Rare", "Missing")
SHARES = np.array([0.6, 0.25, 0.1, 0.05, 0.0])  # of the labels

HEAD = """
title: t
recipe: recipe.yaml
budgets: [16, 32, 64]
seeds: [0, 1, 2]
baseline: uniform
baseline_budgets: [24, 80]
methods:
  uniform: {title: evenly, settings: {model.sampler: uniform}}
  joint: {title: joint loss, settings: {model.sampler: joint}}
  resizer: {title: resizer, settings: {model.sampler: interpolation}}
  peek: {title: edges, settings: {model.sampler: edge}}
  full: {title: all pixels, network_of: joint, sampler: full}
"""
STUDIES = """
studies:
  Width of the kernel: {method: joint, budgets: [32], setting: model.sigma, values: [1, 2, 8]}
  Blur: {method: peek, budgets: [32], setting: model.edge_radius, values: [1, 3]}
  Options: {method: joint, budgets: [32], changes: {no edges: {loss.gamma: 0},
            both: {loss.gamma: 10, model.sigma: 3}}}
"""


def experiment_of(folder: Path, text: str) -> Experiment:
    (folder / "recipe.yaml").write_text("data: {dataset: dubai}\n")
    (folder / "e.yaml").write_text(text)
    return read_experiment(folder / "e.yaml")


def counts_of(rng: np.random.Generator, right: float, pixels: int = 4000) -> np.ndarray:
    """(C, C + 1) counts in which about a share of each class's pixels is right."""
    counts = np.zeros((len(CLASSES), len(CLASSES) + 1), np.int64)
    for k, share in enumerate(SHARES):
        n = round(share * pixels)
        hits = round(n * float(np.clip(right - 0.08 * k + rng.normal(0, 0.03), 0.02, 0.98)))
        counts[k, k] = hits
        counts[k, (k + 1) % 4] += n - hits
    return counts


def evaluation_of(entry: Entry, quality: float, rng: np.random.Generator) -> Evaluation:
    """An evaluation of random counts, on six blocks of one image."""
    side = math.isqrt(math.prod(entry.budget)) if entry.budget else 256
    right = quality + 0.06 * math.log2(side / 16)
    units = tuple(Unit("a", 0, 1024 * k, counts_of(rng, right)) for k in range(6))
    soft = MapScores.empty(len(CLASSES))
    soft.confusion.counts += np.sum([unit.counts for unit in units], 0)
    soft.trimap.pixels += np.array([100, 1000, 3000, 5000])
    soft.trimap.right += (soft.trimap.pixels * (right + np.array([-0.3, -0.2, 0, 0.05]))).astype(
        int
    )
    nearest = MapScores.empty(len(CLASSES))
    nearest.confusion.counts += counts_of(rng, right - 0.03)
    deformed = counts_of(rng, right + 0.02)
    if entry.trial.sampler in ("learned", "oracle"):
        deformed[3] *= 3
    levels = np.arange(256)
    seen = np.where(levels > 60, levels * 4, 0)
    calibration = Calibration(seen, (seen * np.clip(levels / 255 + right - 0.6, 0, 1)).astype(int))
    pixels = 24_000
    cost = Cost(
        scene_pixels=pixels, sampled_pixels=6 * side**2, windows=6,
        flops=int(3e5 * side**2), seconds=0.01 * side,
        cpu_seconds=0.02 * side + rng.uniform(0, 0.3),
        seconds_reading=0.1, peak_memory_bytes=10**9, device_memory_bytes=None, parameters=10,
        device="cpu",
    )  # fmt: skip
    return Evaluation(
        model="m", architecture="a", dataset="d", split="val", items=("a",), classes=CLASSES,
        sampler=entry.trial.sampler, oracle=entry.trial.sampler == "oracle", budget="",
        allocation="even", overlap=0.0, sizes=((1024, 1024, side, side),), notes=(), version="0",
        soft=soft, nearest=nearest, deformed=Confusion.of(deformed),
        intrinsic=Confusion.of(counts_of(rng, right + 0.2)),
        intrinsic_nearest=Confusion.of(counts_of(rng, right + 0.15)),
        calibration=calibration, cost=cost, units=units,
    )  # fmt: skip


def comparison_of(
    experiment: Experiment, kept: Callable[[Entry], bool] = lambda entry: True
) -> Comparison:
    rng = np.random.default_rng(7)
    names = list(experiment.methods)
    results = {
        entry: evaluation_of(entry, 0.5 + 0.012 * (names.index(entry.method) % 7), rng)
        for entry in experiment.entries()
    }
    return timed(experiment, {entry: one for entry, one in results.items() if kept(entry)})


def timed(experiment: Experiment, results: dict[Entry, Evaluation]) -> Comparison:
    """A comparison whose methods were timed beside each other."""
    cells = Comparison(experiment, results).cells
    times = {
        key: Times(((cell.seconds_per_megapixel, cell.cpu_seconds_per_megapixel),))
        for key, cell in cells.items()
    }
    return Comparison(experiment, results, times)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Comparison:
    return comparison_of(experiment_of(tmp_path_factory.mktemp("whole"), HEAD + STUDIES))


@pytest.fixture(scope="module")
def panels(whole) -> dict[str, Panel]:
    found = charts(whole)
    for panel in found:
        panel.figure.draw_without_rendering()
    return {panel.title: panel for panel in found}


def titled(panel: Panel, title: str) -> Axes:
    return next(axes for axes in panel.figure.axes if axes.get_title("left") == title)


def whiskers(container: ErrorbarContainer) -> np.ndarray:
    """Half lengths of the error bars, along y."""
    (bars,) = container[2]
    return np.array([(s[1, 1] - s[0, 1]) / 2 for s in bars.get_segments()])


def errorbars(axes: Axes) -> dict[str, ErrorbarContainer]:
    return {str(c.get_label()): c for c in axes.containers if isinstance(c, ErrorbarContainer)}


def joined(axes: Axes, label: str) -> np.ndarray:
    """x of a method's line, which stays where its marks are moved."""
    moved = [one for one in axes.get_lines() if one.get_label() == f"_{label}"]
    return np.asarray((moved[0] if moved else errorbars(axes)[label][0]).get_xdata(), float)


def bars(axes: Axes) -> dict[str, BarContainer]:
    return {str(c.get_label()): c for c in axes.containers if isinstance(c, BarContainer)}


def line(axes: Axes, label: str) -> np.ndarray:
    """(n, 2) points of the one line of a label."""
    (found,) = [one for one in axes.get_lines() if one.get_label() == label]
    return np.column_stack(found.get_data()).astype(float)


def words(panel: Panel) -> str:
    """All that is written in a figure."""
    found = panel.figure.findobj(lambda one: hasattr(one, "get_text"))
    return " ".join(text.get_text() for text in found).replace("\n", " ")


def test_figures_come_in_reading_order_and_at_print_width(panels):
    assert list(panels) == [
        "Accuracy and cost", "mIoU at each budget", "Gain by class", "Difference from the baseline",
        "Class frequency in the samples", "Accuracy near borders",
        "Intrinsic and full-resolution mIoU", "Width of the kernel", "Blur", "Blur: classes",
        "Options", "Confidence and accuracy",
    ]  # fmt: skip
    for panel in panels.values():
        assert panel.figure.get_size_inches()[0] == 7
        for text in panel.figure.findobj(lambda one: hasattr(one, "get_fontsize")):
            assert not text.get_text() or text.get_fontsize() >= 7


def test_nothing_sticks_out_of_a_page_and_names_do_not_overlap(panels):
    for panel in panels.values():
        assert_readable(panel)
        width, height = panel.figure.get_size_inches()
        box = panel.figure.get_tightbbox()
        assert box.x0 >= 0, panel.title
        assert box.x1 <= width, panel.title
        assert box.y0 >= 0, panel.title
        assert box.y1 <= height, panel.title
    axes = titled(panels["Accuracy and cost"], "Samples")
    boxes = sorted((t.get_window_extent().y0, t.get_window_extent().y1) for t in axes.texts)
    assert len(boxes) == 5
    assert all(below[1] <= above[0] for below, above in pairwise(boxes))


def nearly_equal(folder: Path, text: str) -> Comparison:
    """One seed, whose methods differ by hundredths of a point and by little time."""
    experiment = experiment_of(folder, text)
    results = {}
    for k, entry in enumerate(experiment.entries()):
        one = evaluation_of(entry, 0.5 + 0.0004 * k, np.random.default_rng(7))
        cost = replace(one.cost, cpu_seconds=6e-4 * (1 + 0.11 * k))
        results[entry] = replace(one, cost=cost)
    return timed(experiment, results)


NARROW = """
recipe: recipe.yaml
budgets: [64]
seeds: [0]
baseline: uniform
baseline_budgets: [60, 62, 68]
methods:
  uniform: {title: evenly, settings: {model.sampler: uniform}}
  joint: {title: joint loss, settings: {model.sampler: joint}}
  resizer: {title: resizer, settings: {model.sampler: interpolation}}
studies:
  Width: {method: joint, setting: model.sigma, values: [1, 2, 8]}
"""


def test_of_nearly_equal_methods_all_numbers_can_be_read(tmp_path):
    """Numbers of two decimals take more room, at the left of an axis and below it."""
    found = {panel.title: panel for panel in charts(nearly_equal(tmp_path, NARROW))}
    for panel in found.values():
        panel.figure.draw_without_rendering()
        assert_readable(panel)
    axes = titled(found["Intrinsic and full-resolution mIoU"], "64x64, soft")
    assert {len(words_of(label).partition(".")[2]) for label in numbers(axes.yaxis)} == {2}
    panel = found["Accuracy and cost"]
    sizes = [label.get_text().strip() for label in titled(panel, "Samples").get_xticklabels()]
    assert sizes == ["60x60", "62x62", "64x64", "68x68"]  # in two lines
    seconds = titled(panel, "Processor time")
    low, high = seconds.get_xlim()
    assert high / low < 3
    assert len(seconds.get_xticks()) >= 3
    assert [label.get_text() for label in seconds.get_xticklabels()] == [
        f"{value:g}" for value in seconds.get_xticks()
    ]


def numbers(axis: Axis) -> list[Text]:
    """What is written at an axis's ticks; matplotlib keeps ticks beyond the axis, undrawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [tick.label1 for tick in ticks if tick.label1.get_visible() and words_of(tick.label1)]


def words_of(text: Text) -> str:
    return text.get_text().strip()


def assert_readable(panel: Panel) -> None:
    """Nothing that is written leaves the page, and no two numbers of an axis overlap."""
    axes = [axis for one in panel.figure.axes for axis in (one.xaxis, one.yaxis)]
    ticks = {id(label) for axis in axes for tick in axis.get_major_ticks()
             for label in (tick.label1, tick.label2)}  # fmt: skip
    written = [text for text in panel.figure.findobj(Text) if id(text) not in ticks]
    written += [text for axis in axes for text in numbers(axis)]
    page = panel.figure.bbox
    for text in written:
        if words_of(text) and text.get_visible():
            box = text.get_window_extent()
            assert page.x0 < box.x0 < box.x1 < page.x1, (panel.title, words_of(text))
            assert page.y0 < box.y0 < box.y1 < page.y1, (panel.title, words_of(text))
    for axis in axes:
        for one, other in combinations(numbers(axis), 2):
            # the empty first line of a number in the second is no part of it
            if one.get_text().count("\n") == other.get_text().count("\n"):
                clash = one.get_window_extent().overlaps(other.get_window_extent())
                assert not clash, (panel.title, words_of(one), words_of(other))


@pytest.mark.parametrize("high", [1.02, 1.3, 2.2, 4, 9, 11, 40, 4000])
@pytest.mark.parametrize("low", [0.0234, 0.7, 130])
def test_numbers_of_a_logarithmic_axis_are_all_named_and_apart(low, high):
    sheet = Sheet(2)
    axes = sheet.axes(1, 0.3, 2.1, 1.2, "", "")
    axes.set_xscale("log")
    axes.set_xlim(low, low * high)
    log_ticks(axes, 2.1)
    sheet.figure.draw_without_rendering()
    assert_readable(Panel("t", "", sheet.figure))
    assert 2 <= len(axes.get_xticks()) <= 12
    assert all(label.get_text() for label in axes.get_xticklabels())


def test_a_mark_at_the_end_of_the_scale_is_drawn_whole(panels):
    for axes in panels["Confidence and accuracy"].figure.axes:
        curves = [one for one in axes.get_lines() if one.get_label() != "_ideal"]
        assert curves
        assert not any(one.get_clip_on() for one in curves)


def test_cost_curves_are_the_cells_means_and_deviations(whole, panels):
    panel = panels["Accuracy and cost"]
    for title, cost in (
        ("Samples", lambda c: math.prod(c.budget)),
        ("Processor time", lambda c: c.cpu_seconds_per_megapixel),
        ("Operations", lambda c: c.evaluations[0].cost.flops / 24_000 * 1e6 / 1e9),
    ):
        axes = titled(panel, title)
        assert axes.get_xscale() == "log"
        found = errorbars(axes)
        for name, label in (("uniform", "evenly"), ("joint", "joint loss")):
            cells = whole.curve(name)
            assert joined(axes, label) == pytest.approx([cost(cell) for cell in cells])
            y = found[label][0].get_ydata()
            assert y == pytest.approx([100 * cell.miou.mean for cell in cells])
            assert whiskers(found[label]) == pytest.approx([100 * c.miou.std for c in cells])
    assert len(whole.curve("uniform")) == 5  # with the baseline's further budgets
    assert "Points are means over 3 seeds" in panel.caption


def arrows(axes: Axes) -> dict[str, FancyArrowPatch]:
    return {str(p.get_label()): p for p in axes.patches if isinstance(p, FancyArrowPatch)}


def direction(arrow: FancyArrowPatch) -> list[float]:
    """Signs of where an arrow points, right and up."""
    start, _, end, *_ = arrow.get_path().vertices  # and then its head
    return [float(sign) for sign in np.sign(np.round(end - start, 6))]


def with_full(whole: Comparison, points: float, times: float) -> Comparison:
    """Every pixel reaches that many points more than the highest, at that many times its cost."""
    cells = [cell for cell in whole.cells.values() if cell.budget is not None]
    best = max(cells, key=lambda cell: cell.miou.mean)
    costs = [cell.evaluations[0].cost for cell in cells]
    kept = {}
    for entry in whole.experiment.entries():
        one = whole.cells[entry.method, entry.budget].evaluations[entry.seed]
        if entry.method == "full":
            soft = MapScores.empty(len(CLASSES))
            soft.trimap.pixels += one.soft.trimap.pixels
            soft.trimap.right += one.soft.trimap.right
            right = best.miou.mean + points / 100
            hits = np.round(4000 * 6 * SHARES[:4] * right).astype(int)
            soft.confusion.counts[range(4), range(4)] = hits
            soft.confusion.counts[:4, 4] = 4000 * 6 * SHARES[:4] - hits
            cost = replace(
                one.cost,
                flops=int(times * max(cost.flops for cost in costs)),
                cpu_seconds=times * max(cost.cpu_seconds for cost in costs),
            )
            one = replace(one, soft=soft, cost=cost)
        kept[entry] = one
    return timed(whole.experiment, kept)


def test_far_beyond_the_sampled_methods_every_pixel_is_an_arrow_with_its_figures(whole, panels):
    panel = panels["Accuracy and cost"]
    cell = whole.cell("full", None)
    mean = 100 * cell.miou.mean
    for title, pointing, cost in (
        ("Samples", [0, 1], ""),
        ("Processor time", [1, 1], f" at {cell.cpu_seconds_per_megapixel:.3g} s/MP"),
        ("Operations", [1, 1], f" at {cell.evaluations[0].cost.flops_per_megapixel / 1e9:.3g} "
                               "GFLOP/MP"),
    ):  # fmt: skip
        axes = titled(panel, title)
        assert axes.get_ylim()[1] < mean  # the others have the axes to themselves
        assert "all pixels" not in errorbars(axes)
        assert direction(arrows(axes)["all pixels"]) == pointing
        said = f"all pixels: {mean:.1f} %{cost}"
        assert said in words(panel).replace("\N{NO-BREAK SPACE}", " ")
    assert "an arrow points" in panel.caption
    assert "dotted" not in panel.caption


def test_near_the_sampled_methods_every_pixel_is_a_mark(whole):
    panel = charts(with_full(whole, 1.0, 1.5))[0]
    comparison = with_full(whole, 1.0, 1.5)
    mean = 100 * comparison.cell("full", None).miou.mean
    assert line(titled(panel, "Samples"), "all pixels")[:, 1] == pytest.approx([mean] * 2)
    for title in ("Processor time", "Operations"):
        axes = titled(panel, title)
        assert errorbars(axes)["all pixels"][0].get_ydata() == pytest.approx([mean])
        assert not arrows(axes)
    assert "all pixels:" not in words(panel)
    assert "arrow" not in panel.caption
    assert "The dotted line sees every pixel." in panel.caption


def test_as_high_as_the_others_but_dear_every_pixel_is_a_line_and_an_arrow(whole):
    comparison = with_full(whole, 1.0, 100)
    panel = charts(comparison)[0]
    panel.figure.draw_without_rendering()
    assert_readable(panel)
    mean = 100 * comparison.cell("full", None).miou.mean
    assert not arrows(titled(panel, "Samples"))
    for title in ("Processor time", "Operations"):
        axes = titled(panel, title)
        assert line(axes, "all pixels")[:, 1] == pytest.approx([mean] * 2)
        assert direction(arrows(axes)["all pixels"]) == [1, 0]
        dearest = max(x for c in errorbars(axes).values() for x in c[0].get_xdata())
        assert axes.get_xlim()[1] < 2 * dearest
    seconds = comparison.cell("full", None).cpu_seconds_per_megapixel
    assert f"{round(seconds, -1):,.0f} s/MP" in words(panel).replace("\N{NO-BREAK SPACE}", " ")
    assert "an arrow points" in panel.caption
    assert "The dotted line sees every pixel." in panel.caption


def test_what_stands_above_and_beside_the_cost_curves_does_not_overlap(whole, panels):
    dear = charts(with_full(whole, 1.0, 100))[0]
    dear.figure.draw_without_rendering()
    for panel in (panels["Accuracy and cost"], dear):
        axes = panel.figure.axes
        found = [*panel.figure.texts, *(text for one in axes for text in one.texts)]
        found += [text for one in axes for text in one.findobj(Text) if text.get_weight() == "bold"]
        assert len(found) >= 2 * 5 + 2 + 3  # names, notes and titles
        for one, other in combinations(found, 2):
            clash = one.get_window_extent().overlaps(other.get_window_extent())
            assert not clash, (words_of(one), words_of(other))


def look_of(name: str) -> Look:
    return Look(name, name, "#000000", "o", every_pixel=False)


def log_axes(high: float) -> Axes:
    """Two by one inches, from 0 to 100 % upwards."""
    axes = Sheet(2).axes(1, 0.3, 2, 1, "", "")
    limit_log_x(axes, [1, high])
    axes.set_ylim(0, 100)
    return axes


def test_marks_that_cover_each_other_stand_beside_each_other_about_their_place():
    wide, low = Summary((0.1, 0.5, 0.9)), Summary((0.05,) * 3)
    a, b, c, d = map(look_of, "abcd")
    marks = {a: [(1, wide), (20, wide)], b: [(1, wide), (400, wide)], c: [(1, wide)], d: [(1, low)]}
    found = dodged(log_axes(400), marks)
    left, middle, right = found[a][0], found[b][0], found[c][0]
    assert 0.8 < left < middle < right < 1.25
    assert middle == pytest.approx(1)
    assert left * right == pytest.approx(1)
    # nothing covers what has a place to itself, or lies above or below
    assert (found[a][1], found[b][1], found[d]) == (20, 400, [1])


def test_moved_marks_reach_neither_those_of_the_next_place_nor_the_edge():
    value, looks = Summary((0.4, 0.6)), [look_of(f"m{k}") for k in range(12)]
    for high in (1.2, 2, 400):
        axes = log_axes(high)
        found = dodged(axes, {look: [(1, value), (high, value)] for look in looks})
        first, last = np.array(list(found.values())).T
        assert axes.get_xlim()[0] < first.min() < first.max() < last.min()
        assert last.max() < axes.get_xlim()[1]
        assert np.prod(last) == pytest.approx(high**12)


def test_without_room_at_the_edge_marks_stay():
    axes, value = log_axes(400), Summary((0.4, 0.6))
    axes.set_xlim(1, 400)
    marks = {look_of(name): [(1, value), (400, value)] for name in "ab"}
    assert list(dodged(axes, marks).values()) == [[1, 400], [1, 400]]


def test_at_the_same_samples_and_widths_marks_stand_beside_each_other(whole, panels):
    said = "Marks are moved a little sideways where they would cover each other"
    for title, part, places in (
        ("Accuracy and cost", "Samples", [16**2, 32**2, 64**2]),
        ("Accuracy near borders", "16x16", [1, 16, 64, 128]),
    ):
        axes = titled(panels[title], part)
        curves = {k: c[0].get_xdata() for k, c in errorbars(axes).items()}
        assert any(list(x) != list(joined(axes, label)) for label, x in curves.items())
        for place in places:
            x = [
                float(moved)
                for label, marks in curves.items()
                for moved, true in zip(marks, joined(axes, label), strict=True)
                if true == place
            ]
            assert max(abs(np.log(np.array(x) / place))) < 0.5
            assert np.exp(np.mean(np.log(x))) == pytest.approx(place)
        assert said in panels[title].caption
    for part in ("Processor time", "Operations"):  # where they were measured
        axes = titled(panels["Accuracy and cost"], part)
        assert not [one for one in axes.get_lines() if one.get_label() == "_joint loss"]
    for panel in charts(part_of(whole, "joint")):
        assert said not in panel.caption


def part_of(whole: Comparison, *methods: str) -> Comparison:
    return part(whole, lambda entry: entry.method in methods)


def test_oracles_are_marked_in_every_figure_that_has_one(panels):
    for title in (
        "Accuracy and cost", "mIoU at each budget", "Difference from the baseline",
        "Class frequency in the samples", "Accuracy near borders",
        "Intrinsic and full-resolution mIoU", "Blur", "Blur: classes", "Confidence and accuracy",
    ):  # fmt: skip
        assert "edges (oracle)" in words(panels[title]), title
        assert "see the labels at test time" in panels[title].caption, title
    found = errorbars(titled(panels["Accuracy and cost"], "Operations"))
    assert found["edges (oracle)"][0].get_linestyle() == "--"
    assert same_color(found["edges (oracle)"][0].get_markerfacecolor(), "white")
    assert found["joint loss"][0].get_linestyle() == "-"
    for title in ("Gain by class", "Width of the kernel", "Options"):
        assert "oracle" not in words(panels[title]) + panels[title].caption.replace(
            "without oracles", ""
        )


def test_a_method_has_one_colour_and_mark_everywhere(panels):
    curves = errorbars(titled(panels["Accuracy and cost"], "Samples"))
    looks = {k: (c[0].get_color(), c[0].get_marker()) for k, c in curves.items()}
    assert len({colour for colour, _ in looks.values()}) == len(looks) == 4
    assert len({marker for _, marker in looks.values()}) == 4
    for title, part in (
        ("Accuracy near borders", "16x16"),
        ("Intrinsic and full-resolution mIoU", "32x32, soft"),
    ):
        found = errorbars(titled(panels[title], part))
        for name, look in looks.items():
            assert (found[name][0].get_color(), found[name][0].get_marker()) == look


def test_bars_and_their_numbers(whole, panels):
    axes = titled(panels["mIoU at each budget"], "32x32")
    cell = whole.cell("joint", (32, 32))
    (bar,) = bars(axes)["joint loss"]
    assert bar.get_width() == pytest.approx(100 * cell.miou.mean)
    written = [text.get_text() for text in axes.texts]
    assert written[1] == f"{100 * cell.miou.mean:.1f} ± {100 * cell.miou.std:.1f}"
    diamonds = [one.get_xdata()[0] for one in axes.get_lines() if one.get_label() == "_deformed"]
    expected = np.mean([one.deformed.miou() for one in cell.evaluations])
    assert diamonds[1] == pytest.approx(100 * expected)
    # whiskers in a white casing, beside the diamond
    beside = [one for one in axes.get_lines() if one.get_label() == "_deformed"][1].get_ydata()[0]
    found = {
        tuple(part.get_edgecolor()[0][:3]): part.get_segments()[0] for part in axes.collections[2:4]
    }
    assert list(found) == [(1, 1, 1), (0, 0, 0)]
    for (left, y), (right, _) in found.values():
        assert [left, right] == pytest.approx(
            [100 * (cell.miou.mean - cell.miou.std), 100 * (cell.miou.mean + cell.miou.std)]
        )
        assert 1 - 0.31 < y < 1 < beside
    assert len(written) == len(diamonds) == 5


def test_gains_of_classes_from_the_most_frequent_with_a_dot_a_seed(whole, panels):
    panel = panels["Gain by class"]
    axes = titled(panel, "64x64")
    labels = [label.get_text().split("\n")[0] for label in titled(panel, "16x16").get_yticklabels()]
    assert labels == ["Land", "Road", "Building", "Rare"]  # the one without labels is left out
    assert "25.0 % of pixels" in words(panel)
    ours, base = whole.cell("joint", (64, 64)), whole.cell("uniform", (64, 64))
    gains = 100 * np.array(
        [a.soft.confusion.iou() - b.soft.confusion.iou()
         for a, b in zip(ours.evaluations, base.evaluations, strict=True)]
    )[:, :4]  # fmt: skip
    widths = [bar.get_width() for bar in bars(axes)["joint loss"]]
    assert widths == pytest.approx(gains.mean(0))
    assert sorted(line(axes, "_seeds")[:, 0]) == pytest.approx(sorted(gains.ravel()))


def test_differences_are_the_paired_ones_with_their_intervals(whole, panels):
    (axes,) = panels["Difference from the baseline"].figure.axes
    budgets = [(16, 16), (32, 32), (64, 64)]
    for kind, expected in (
        ("equal pixels", [whole.difference("joint", b) for b in budgets]),
        ("equal time", [whole.at_equal_time("joint", b).difference for b in budgets]),
    ):
        labels = {f"joint loss, {kind}", f"joint loss, {kind.replace('equal t', 'other t')}"}
        means = [one.get_xdata()[0] for one in axes.get_lines() if one.get_label() in labels]
        spans = [
            part.get_segments()[0][:, 0]
            for part in axes.collections
            if str(part.get_label()).removeprefix("_") in labels
        ]
        assert means == pytest.approx([100 * d.mean for d in expected])
        assert np.array(spans) == pytest.approx(100 * np.array([[d.low, d.high] for d in expected]))
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["16x16", "32x32", "64x64"] * 3 + ["all"]
    caption = panels["Difference from the baseline"].caption
    assert "the chance of the blocks of about 1024 px and of the seeds" in caption
    assert "at equal processor time" in words(panels["Difference from the baseline"])


@pytest.fixture(scope="module")
def slow(whole) -> Comparison:
    """Sampling of the joint loss takes longer than all that the baseline does."""
    results = {
        entry: whole.cells[entry.method, entry.budget].evaluations[entry.seed]
        for entry in whole.experiment.entries()
    }
    for entry, one in results.items():
        if entry.method == "joint":
            results[entry] = replace(one, cost=replace(one.cost, cpu_seconds=50.0))
    return timed(whole.experiment, results)


def test_sure_differences_are_counted_without_oracles_every_pixel_and_other_times(slow):
    assert all(slow.at_equal_time(m, b).beyond for m, b in (("joint", (16, 16)), ("full", None)))
    equal = [slow.at_equal_time("resizer", (side, side)) for side in (16, 32, 64)]
    inside = [one.difference for one in equal if not one.beyond]
    assert inside
    above, below = (sum(getattr(one, side) for one in inside) for side in ("better", "worse"))
    caption = next(p for p in charts(slow) if p.title == "Difference from the baseline").caption
    of = f"{len(inside)} interval{'s' * (len(inside) > 1)}"
    assert caption.endswith(
        f"At equal time, without methods that see every pixel, {above} of {of} "
        f"{'lies' if above == 1 else 'lie'} above 0, {below} below, "
        f"{len(inside) - above - below} neither; {6 - len(inside)} more are at a time outside the "
        "baseline's own."
    )
    assert "At equal pixels, without oracles, " in caption
    assert "the best of its budgets below, or its smallest one, stands for it" in caption


def contrast(colour: object) -> float:
    """With white paper, by WCAG 2."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(colour)]
    return 1.05 / (float(np.dot(linear, (0.2126, 0.7152, 0.0722))) + 0.05)


def test_intervals_are_dark_and_those_at_other_times_are_told_apart(slow):
    panel = next(p for p in charts(slow) if p.title == "Difference from the baseline")
    (axes,) = panel.figure.axes
    looks = {}
    for part in axes.collections:
        kind = str(part.get_label()).rpartition(", ")[2]
        assert contrast(part.get_edgecolor()[0]) > 3.9
        assert part.get_alpha() is None
        looks.setdefault(kind, set()).add((str(part.get_linestyle()), part.get_linewidth()[0]))
    assert looks.keys() == {"equal pixels", "equal time", "other time"}
    assert looks["equal time"].isdisjoint(looks["other time"])
    marks = {
        kind: {one.get_marker() for one in axes.get_lines() if str(one.get_label()).endswith(kind)}
        for kind in looks
    }
    assert marks["equal time"] == {"|"}
    assert marks["other time"] == {"x"}
    times = [part for part in axes.collections if str(part.get_label()).endswith(" time")]
    assert min(part.get_linewidth()[0] for part in times) >= 1.1
    said = "at a time outside the baseline's own"
    assert said in words(panel)


@pytest.mark.parametrize("colour", ["#56B4E9", "#E69F00", "#000000", "#332288"])
def test_an_interval_of_a_pale_colour_is_drawn_darker(colour):
    axes = Sheet(2).axes(1, 0.3, 2.1, 1.2, "", "")
    style = {"color": colour, "marker": "o", "linewidth": 1.2, "linestyle": ":", "label": "m"}
    draw_interval(axes, Difference((0.01,), -0.02, 0.04), 0, style)
    drawn = axes.collections[0].get_edgecolor()[0]
    assert contrast(drawn) == pytest.approx(max(4.0, contrast(colour)), rel=1e-3)
    assert same_color(axes.get_lines()[0].get_color(), colour)


def test_a_whisker_is_seen_on_a_black_bar():
    sheet = Sheet(2)
    axes = sheet.axes(1, 0.3, 4, 1.2, "", "")
    axes.barh(0, 50, color="black")
    axes.set_xlim(0, 100)
    draw_whisker(axes, 50, 0, xerr=20)
    canvas = FigureCanvasAgg(sheet.figure)
    canvas.draw()
    x, y = axes.transData.transform((40, 0))
    image = np.asarray(canvas.buffer_rgba())[::-1, :, 0]
    column = image[round(y) - 5 : round(y) + 6, round(x)]
    assert column[0] == column[-1] == 0
    assert column.max() > 200
    assert column[5] < 100  # the whisker itself


def test_class_frequencies_of_methods_that_choose(whole, panels):
    panel = panels["Class frequency in the samples"]
    found = errorbars(titled(panel, "16x16"))
    assert set(found) == {"joint loss", "edges (oracle)"}
    # rare pixels are sampled three times as often as the others: of 20, 1 becomes 3 of 22
    x = found["joint loss"][0].get_xdata()
    assert x == pytest.approx([20 / 22] * 3 + [60 / 22])


def test_uniform_samples_by_need_change_frequencies_and_budgets_are_said(tmp_path):
    text = HEAD.replace("[16, 32, 64]", "[16, 24, 32, 64]")
    text = text.replace("sampler: uniform}", "sampler: uniform, model.error_net: true}")
    text += "  need: {title: by need, network_of: uniform, allocation: need}\n"
    comparison = comparison_of(experiment_of(tmp_path, text))
    panel = next(p for p in charts(comparison) if p.title == "Class frequency in the samples")
    assert [axes.get_title("left") for axes in panel.figure.axes] == ["16x16", "64x64"]
    found = errorbars(titled(panel, "64x64"))
    assert set(found) == {"joint loss", "edges (oracle)", "by need"}
    cell = comparison.cell("need", (64, 64))
    ratios = [one.deformed.frequencies()[:4] / one.soft.confusion.frequencies()[:4]
              for one in cell.evaluations]  # fmt: skip
    assert found["by need"][0].get_xdata() == pytest.approx(np.mean(ratios, 0))
    assert "Of 4 budgets 16x16 and 64x64 are drawn." in panel.caption
    assert "The largest change drawn, without labels: " in panel.caption


def test_where_all_budgets_are_drawn_none_is_named(panels):
    assert "budgets" not in panels["Class frequency in the samples"].caption


def test_trimaps_say_their_budgets_and_leave_every_pixel_out_of_the_differences(whole, panels):
    panel = panels["Accuracy near borders"]
    assert "Of 3 budgets 16x16 and 32x32 are drawn." in panel.caption
    assert "What sees every pixel is left out of the differences" in panel.caption
    for title in ("16x16", "32x32"):
        assert "all pixels" in errorbars(titled(panel, title))
        axes = titled(panel, f"{title}, difference")
        assert "all pixels" not in errorbars(axes)
        ends = [y + [-1, 1][k] * w for c in errorbars(axes).values() for k in (0, 1)
                for y, w in zip(c[0].get_ydata(), whiskers(c), strict=True)]  # fmt: skip
        low, high = axes.get_ylim()
        assert high - low < 1.2 * (max(ends) - min(ends))
        assert "all pixels" in [text.get_text() for text in axes.texts]  # with its mark
    only = {p.title: p for p in charts(part(whole, lambda entry: entry.method == "joint"))}
    assert "every pixel" not in only["Accuracy near borders"].caption
    # without the baseline there is no difference, and names still stand there
    names = titled(only["Accuracy near borders"], "16x16, difference").texts
    assert [text.get_text() for text in names] == ["joint loss"]


def test_trimaps_at_the_smallest_and_the_middle_budget(whole, panels):
    panel = panels["Accuracy near borders"]
    titles = ["16x16", "16x16, difference", "32x32", "32x32, difference"]
    assert [axes.get_title("left") for axes in panel.figure.axes] == titles
    ours, base = (
        np.array([one.soft.trimap.accuracy() for one in whole.cell(name, (32, 32)).evaluations])
        for name in ("joint", "uniform")
    )
    assert list(joined(titled(panel, "32x32"), "joint loss")) == [1, 16, 64, 128]
    y = errorbars(titled(panel, "32x32"))["joint loss"][0].get_ydata()
    assert y == pytest.approx(100 * ours.mean(0))
    y = errorbars(titled(panel, "32x32, difference"))["joint loss"][0].get_ydata()
    assert y == pytest.approx(100 * (ours - base).mean(0))


def test_intrinsic_against_full_resolution(whole, panels):
    panel = panels["Intrinsic and full-resolution mIoU"]
    cell = whole.cell("resizer", (64, 64))
    for part, across, up in (
        ("64x64, soft", lambda e: e.intrinsic, lambda e: e.soft.confusion),
        ("64x64, nearest", lambda e: e.intrinsic_nearest, lambda e: e.nearest.confusion),
    ):
        x, y = errorbars(titled(panel, part))["resizer"][0].get_data()
        assert x == pytest.approx([100 * np.mean([across(e).miou() for e in cell.evaluations])])
        assert y == pytest.approx([100 * np.mean([up(e).miou() for e in cell.evaluations])])
    assert "all pixels" not in words(panel)


def test_intrinsic_and_reached_are_correlated_without_oracles(whole, panels):
    def caption(*methods: str) -> str:
        found = charts(part_of(whole, *methods))
        return next(p for p in found if p.title.startswith("Intrinsic")).caption

    values = []
    for side in (16, 32, 64):
        cells = [whole.cell(name, (side, side)) for name in ("uniform", "joint", "resizer")]
        points = [(c.summary(lambda e: e.intrinsic.miou()).mean, c.miou.mean) for c in cells]
        values.append(f"{np.corrcoef(np.transpose(points))[0, 1]:+.2f} at {side}x{side}")
    expected = ", ".join(values).replace("-", "\u2212") + "."
    said = "Correlation of intrinsic and full-resolution mIoU (soft) over the means of 3 methods"
    assert f"{said}, without oracles: {expected}" in panels[
        "Intrinsic and full-resolution mIoU"
    ].caption  # fmt: skip
    assert f"{said}: {expected}" in caption("uniform", "joint", "resizer")
    assert "Correlation" not in caption("uniform", "joint", "peek")


def test_without_a_spread_nothing_is_correlated():
    pairs = {look_of(name): (0.5, y) for name, y in (("a", 0.1), ("b", 0.2), ("c", 0.3))}
    assert correlation_words({(8, 8): pairs}, "both") == ""
    pairs[look_of("d")] = (0.6, 0.1)
    found = correlation_words({(8, 8): pairs}, "both")
    assert found.startswith("Correlation of both over the means of 4 methods: \u22120.")


@pytest.mark.parametrize("budgets", ["16, 24, 32, 64", "16, 24, 32, 48, 64, 96"])
def test_of_many_budgets_the_figure_fits_on_a_page(tmp_path, budgets):
    text = HEAD.replace("16, 32, 64", budgets).replace("[24, 80]", "[20, 80]")
    comparison = comparison_of(experiment_of(tmp_path, text), lambda entry: entry.seed == 0)
    panel = next(p for p in charts(comparison) if p.title.startswith("Intrinsic"))
    panel.figure.draw_without_rendering()
    assert_readable(panel)
    width, height = panel.figure.get_size_inches()
    assert height / width <= 1.5
    sides = np.array([axes.get_position().bounds[2:] for axes in panel.figure.axes])
    assert (sides * (width, height)).min() >= 1.2


def test_intrinsic_over_the_samples(whole, panels):
    panel = panels["Intrinsic and full-resolution mIoU"]
    assert [axes.get_title("left") for axes in panel.figure.axes[:2]] == [
        "Samples, soft", "Samples, nearest",
    ]  # fmt: skip
    for part, figure in (
        ("Samples, soft", lambda e: e.intrinsic.miou()),
        ("Samples, nearest", lambda e: e.intrinsic_nearest.miou()),
    ):
        axes = titled(panel, part)
        assert axes.get_xscale() == "log"
        found = errorbars(axes)
        assert len(found) == 4
        cells = whole.curve("uniform")
        x, y = found["evenly"][0].get_data()
        assert list(x) == [side**2 for side in (16, 24, 32, 64, 80)]
        means = [cell.summary(figure) for cell in cells]
        assert y == pytest.approx([100 * one.mean for one in means])
        assert whiskers(found["evenly"]) == pytest.approx([100 * one.std for one in means])
    assert "over the samples of a window (top row, logarithmic axis)" in panel.caption


def test_of_a_single_budget_nothing_is_drawn_over_the_samples(tmp_path):
    text = HEAD.replace("[16, 32, 64]", "[32]").replace("baseline_budgets: [24, 80]\n", "")
    comparison = comparison_of(experiment_of(tmp_path, text))
    panel = next(p for p in charts(comparison) if p.title.startswith("Intrinsic"))
    titles = [axes.get_title("left") for axes in panel.figure.axes]
    assert titles == ["32x32, soft", "32x32, nearest"]
    assert "top row" not in panel.caption


def test_a_study_of_values_with_its_own_and_the_baseline(whole, panels):
    panel = panels["Width of the kernel"]
    axes = titled(panel, "32x32")
    found = errorbars(axes)
    points = [whole.cell(f"Width of the kernel/{value}", (32, 32)).miou for value in (1, 2, 8)]
    x, y = found["joint loss"][0].get_data()
    assert list(x) == [1, 2, 8]
    assert y == pytest.approx([100 * point.mean for point in points])
    own = found["own"][0].get_data()
    assert own[0] == pytest.approx([4])  # the recipe's value, which the method leaves as it is
    assert own[1] == pytest.approx([100 * whole.cell("joint", (32, 32)).miou.mean])
    base = 100 * whole.cell("uniform", (32, 32)).miou.mean
    assert line(axes, "baseline")[:, 1] == pytest.approx([base] * 2)
    assert "own value is 4" in panel.caption


def test_settings_are_named_with_their_units(panels):
    """In full where there is room; captions have the key, too."""
    unit = "pixels of the low-resolution view"
    (axes,) = panels["Width of the kernel"].figure.axes
    assert axes.get_xlabel() == f"\u03c3 of the grid kernel ({unit})"
    caption = panels["Width of the kernel"].caption
    assert f"over \u03c3 of the grid kernel (model.sigma, in {unit}); the" in caption
    for title in ("Blur", "Blur: classes"):
        for axes in panels[title].figure.axes:
            assert axes.get_xlabel() == "blur radius of the edges (px)"
        assert (
            f"over the blur radius of the edges (model.edge_radius, in {unit})"
            in panels[title].caption
        )


def test_a_setting_without_a_unit_or_a_name(tmp_path):
    text = (
        HEAD
        + """
studies:
  Gamma: {method: joint, budgets: [32], setting: loss.gamma, values: [1, 2]}
  Other: {method: joint, budgets: [32], setting: model.temperature, values: [1, 2]}
"""
    )
    comparison = comparison_of(experiment_of(tmp_path, text), lambda entry: entry.seed == 0)
    found = {panel.title: panel for panel in charts(comparison)}
    for title, name, said in (
        (
            "Gamma",
            "\u03b3, weight of the edge loss",
            "\u03b3, weight of the edge loss (loss.gamma);",
        ),
        ("Other", "model.temperature", "model.temperature;"),
    ):
        (axes,) = found[title].figure.axes
        assert axes.get_xlabel() == name
        assert f"joint loss over {said}" in found[title].caption


def test_settings_that_the_projects_comparisons_vary_have_names():
    texts = [p.read_text() for p in Path("configs/compare").glob("*.yaml")]
    found = {
        study["setting"]
        for text in texts
        for study in yaml.safe_load(text).get("studies", {}).values()
        if "setting" in study
    }
    assert len(found) >= 4
    assert found <= _NAMES.keys()


def test_the_blur_is_drawn_as_bars_of_both_figures(whole, panels):
    left, right = panels["Blur"].figure.axes
    for axes, figure in ((left, lambda e: e.intrinsic.miou()), (right, lambda e: e.miou)):
        for label in ("1", "3"):
            (bar,) = bars(axes)[label]
            cell = whole.cell(f"Blur/{label}", (32, 32))
            assert bar.get_height() == pytest.approx(100 * cell.summary(figure).mean)
        assert axes.get_ylim()[0] == 0
        assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "3"]


def test_the_classes_over_the_blur(whole, panels):
    panel = panels["Blur: classes"]
    names = [axes.get_title("left") for axes in panel.figure.axes]
    assert names == ["Land, 60.0 %", "Road, 25.0 %", "Building, 10.0 %", "Rare, 5.0 %"]
    cells = [whole.cell(f"Blur/{label}", (32, 32)) for label in ("1", "3")]
    base = whole.cell("uniform", (32, 32))
    best = []
    for k, axes in enumerate(panel.figure.axes):

        def iou(one: Evaluation, k: int = k) -> float:
            return float(one.soft.confusion.iou()[k])

        found = errorbars(axes)["edges (oracle)"]
        means = [cell.summary(iou).mean for cell in cells]
        assert found[0].get_ydata() == pytest.approx(100 * np.array(means))
        assert whiskers(found) == pytest.approx([100 * cell.summary(iou).std for cell in cells])
        assert line(axes, "baseline")[:, 1] == pytest.approx([100 * base.summary(iou).mean] * 2)
        assert line(axes, "highest")[0, 0] == np.argmax(means)
        assert [text.get_text() for text in numbers(axes.xaxis)] == ["1", "3"]
        best.append(f"{CLASSES[k]} {('1', '3')[int(np.argmax(means))]}")
    assert f"The radius of the highest mean: {', '.join(best)}." in panel.caption
    assert "figure 3 of the paper, but one network segments all classes" in panel.caption
    assert "whiskers \u00b1 one sample standard deviation" in panel.caption


def test_each_budget_of_the_blur_has_classes_of_its_own(tmp_path):
    text = HEAD + "studies:\n  Blur: {method: peek, setting: model.edge_radius, values: [1, 3]}\n"
    experiment = experiment_of(tmp_path, text.replace("[16, 32, 64]", "[16, 32]"))
    found = charts(comparison_of(experiment, lambda entry: entry.seed == 0))
    titles = [panel.title for panel in found if panel.title.startswith("Blur")]
    assert titles == ["Blur", "Blur: classes at 16x16", "Blur: classes at 32x32"]


def test_named_changes_are_compared_with_the_method_that_they_change(whole, panels):
    (axes,) = panels["Options"].figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["no edges", "both"]
    for name in ("no edges", "both"):
        expected = paired_difference(
            whole.cell(f"Options/{name}", (32, 32)), [(1.0, whole.cell("joint", (32, 32)))]
        )
        assert line(axes, name)[:, 0] == pytest.approx([100 * expected.mean])
    seeds = [one.get_xdata() for one in axes.get_lines() if one.get_label() == "_seeds"]
    assert seeds[-1] == pytest.approx(100 * np.array(expected.values))


def test_reliability_adds_the_seeds_counts(whole, panels):
    panel = panels["Confidence and accuracy"]
    axes = titled(panel, "joint loss")
    seeds = [one.calibration for one in whole.cell("joint", (32, 32)).evaluations]
    total = Calibration(sum(c.pixels for c in seeds), sum(c.right for c in seeds))
    pixels, confidence, accuracy = total.bins()
    expected = 100 * np.column_stack((confidence, accuracy))[pixels > 0]
    assert line(axes, "joint loss") == pytest.approx(expected)
    assert axes.texts[0].get_text() == f"ECE {100 * total.error():.1f} %"
    said = ": here of the counts added up, in the table the mean of the seeds' own."
    assert said in panel.caption
    single = next(p for p in charts(part(whole, lambda e: e.seed == 0)) if p.title == panel.title)
    assert "in the table" not in single.caption


def test_own_values_of_a_study_are_those_of_each_budgets_network(tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: {dataset: dubai}\n")
    for side, sigma in ((16, 2), (32, 8)):
        (tmp_path / f"r_{side}.yaml").write_text(f"extends: recipe.yaml\nmodel: {{sigma: {sigma}}}")
    (tmp_path / "e.yaml").write_text("""
recipe: recipe.yaml
networks: own
budgets: [16, 32]
seeds: [0, 1, 2]
baseline: uniform
methods:
  uniform: {settings: {model.sampler: uniform}}
  joint: {title: joint loss, recipe: "r_{budget}.yaml"}
studies:
  Width: {method: joint, setting: model.sigma, values: [2, 5]}
  Rarely: {method: joint, changes: {never: {run.val_every: 9}, both: {loss.gamma: 3}}}
""")
    found = {
        panel.title: panel for panel in charts(comparison_of(read_experiment(tmp_path / "e.yaml")))
    }
    panel = found["Width"]
    for title, own in (("16x16", 2), ("32x32", 8)):
        assert list(errorbars(titled(panel, title))["own"][0].get_xdata()) == [own]
    assert "The method's own values are 2 at 16x16, 8 at 32x32." in panel.caption
    # a change that changes nothing is the method itself, which has no difference from itself
    axes = titled(found["Rarely"], "16x16")
    drawn = {one.get_label() for one in axes.get_lines()}
    assert "both" in drawn
    assert "never" not in drawn


def test_a_fixed_density_is_not_drawn_as_learned(tmp_path):
    text = HEAD.replace(
        "  joint:", "  fixed: {title: one for all, settings: {model.sampler: fixed}}\n  joint:"
    )
    whole = comparison_of(experiment_of(tmp_path, text), lambda entry: entry.seed < 2)
    assert whole.cell("fixed", (16, 16)).evaluations[0].sampler == "learned"
    found = {panel.title: panel for panel in charts(whole)}
    gains = found["Gain by class"]
    assert "joint loss" in words(gains)
    assert "one for all" not in words(gains) + gains.caption
    curves = errorbars(titled(found["Accuracy and cost"], "Samples"))
    assert same_color(curves["joint loss"][0].get_color(), "#0072B2")
    assert not same_color(curves["one for all"][0].get_color(), "#0072B2")
    assert "one for all" in words(found["Class frequency in the samples"])


def test_without_times_side_by_side_nothing_is_drawn_at_equal_time(whole):
    results = {
        entry: whole.cells[entry.method, entry.budget].evaluations[entry.seed]
        for entry in whole.experiment.entries()
    }
    found = {panel.title: panel for panel in charts(Comparison(whole.experiment, results))}
    panel = found["Difference from the baseline"]
    (axes,) = panel.figure.axes
    assert not [one for one in axes.get_lines() if "equal time" in str(one.get_label())]
    assert "equal processor time" not in words(panel)
    assert "Times were not measured side by side" in panel.caption
    assert "At equal time" not in panel.caption
    assert "Times were not measured side by side." in found["Accuracy and cost"].caption


def test_on_a_gpu_time_is_by_the_wall_clock(whole):
    results = {
        entry: replace(one, cost=replace(one.cost, device_memory_bytes=1))
        for entry in whole.experiment.entries()
        for one in (whole.cells[entry.method, entry.budget].evaluations[entry.seed],)
    }
    comparison = timed(whole.experiment, results)
    found = {panel.title: panel for panel in charts(comparison)}
    axes = titled(found["Accuracy and cost"], "Wall-clock time")
    seconds = [cell.seconds_per_megapixel for cell in comparison.curve("joint")]
    assert errorbars(axes)["joint loss"][0].get_xdata() == pytest.approx(seconds)
    assert "measured wall-clock time" in found["Accuracy and cost"].caption
    panel = found["Difference from the baseline"]
    assert "at equal wall-clock time" in words(panel)
    assert "processor" not in words(panel) + panel.caption


def test_intervals_are_said_to_be_of_what_they_draw(whole):
    def images(one: Evaluation) -> Evaluation:
        units = (Unit(f"i{k}", 0, 0, unit.counts) for k, unit in enumerate(one.units))
        return replace(one, units=tuple(units))

    results = {
        entry: images(whole.cells[entry.method, entry.budget].evaluations[entry.seed])
        for entry in whole.experiment.entries()
    }
    for block_items, said in ((1, "whole images"), (3, "runs of 3 successive images")):
        experiment = replace(whole.experiment, block_items=block_items)
        found = {panel.title: panel for panel in charts(timed(experiment, results))}
        for title in ("Difference from the baseline", "Options"):
            assert f"the chance of the {said} and of the seeds" in found[title].caption
            assert "block" not in found[title].caption


def segments(panels: Iterable[Panel]) -> int:
    """Error bars that are drawn."""
    found = [
        part
        for panel in panels
        for axes in panel.figure.axes
        for one in errorbars(axes).values()
        for part in one[2]
    ]
    return len(found)


def test_one_seed_draws_no_bars_and_says_so(whole, panels):
    assert segments(panels.values()) > 0
    single = timed(
        replace(whole.experiment, seeds=(1,)),
        {
            entry: whole.cells[entry.method, entry.budget].evaluations[1]
            for entry in replace(whole.experiment, seeds=(1,)).entries()
        },
    )
    found = {panel.title: panel for panel in charts(single)}
    assert list(found) == list(panels)
    assert segments(found.values()) == 0
    assert "One seed, so no spread" in found["Accuracy and cost"].caption
    assert "±" not in words(found["mIoU at each budget"])
    caption = found["Difference from the baseline"].caption
    assert "of the blocks of about 1024 px alone, as there is one seed" in caption
    assert "At equal pixels, without oracles, 6 of 6 have too few seeds to say." in caption
    assert "above 0" not in caption
    for panel in found.values():
        assert not [
            one for axes in panel.figure.axes for one in axes.get_lines()
            if one.get_label() == "_seeds"
        ]  # fmt: skip


def test_networks_that_know_nothing_are_drawn_without_a_warning(whole):
    """A trial of two steps, as the run book has it: no pixel is right, or all of one class are."""
    one = replace(whole.experiment, seeds=(1,))
    results = {}
    for entry in one.entries():
        found = whole.cells[entry.method, entry.budget].evaluations[1]
        soft = MapScores.empty(len(CLASSES))
        soft.confusion.counts[:4, 4] = 6000 * SHARES[:4]
        soft.trimap.pixels += found.soft.trimap.pixels
        counts = soft.confusion.counts // 6
        results[entry] = replace(
            found,
            soft=soft,
            units=tuple(replace(unit, counts=counts) for unit in found.units),
        )
    drawn = {panel.title: panel for panel in charts(timed(one, results))}
    assert list(drawn) == [panel.title for panel in charts(whole)]
    blur = drawn["Blur"].figure.axes[1]
    assert blur.get_ylim()[0] == 0 < blur.get_ylim()[1]


def test_incomplete_results_leave_out_what_lacks_its_data(whole):
    def titles(kept: Callable[[Entry], bool]) -> list[str]:
        return [panel.title for panel in charts(part(whole, kept))]

    assert titles(lambda entry: False) == []
    assert titles(lambda entry: entry.method == "uniform") == [
        "Accuracy and cost", "mIoU at each budget", "Accuracy near borders",
        "Intrinsic and full-resolution mIoU", "Confidence and accuracy",
    ]  # fmt: skip
    # without the baseline nothing is a gain; a study needs its points, named changes their method
    assert titles(lambda entry: entry.method == "joint" or entry.method == "Options/both") == [
        "Accuracy and cost", "mIoU at each budget", "Class frequency in the samples",
        "Accuracy near borders", "Intrinsic and full-resolution mIoU", "Options",
        "Confidence and accuracy",
    ]  # fmt: skip
    assert titles(lambda entry: entry.method == "Options/both") == []
    assert titles(lambda entry: entry.method == "Blur/3") == ["Blur"]
    assert titles(lambda entry: entry.method == "full") == ["Accuracy and cost"]


def part(whole: Comparison, kept: Callable[[Entry], bool]) -> Comparison:
    return timed(
        whole.experiment,
        {
            entry: whole.cells[entry.method, entry.budget].evaluations[entry.seed]
            for entry in whole.experiment.entries()
            if kept(entry)
        },
    )


def test_means_over_other_seeds_are_not_ranked(whole):
    uneven = charts(part(whole, lambda e: e.method == "uniform" or e.seed == 0))
    caption = uneven[0].caption
    assert "means over 1 to 3 seeds" in caption
    assert "Not all have the same seeds" in caption
    assert "highest means" not in caption
    best = max(("uniform", "joint", "resizer"), key=lambda m: whole.cell(m, (64, 64)).miou.mean)
    mean = 100 * whole.cell(best, (64, 64)).miou.mean
    said = f"{whole.experiment.methods[best].title} at 64x64 ({mean:.1f} %)"
    assert said in charts(whole)[0].caption


@pytest.mark.slow
def test_twelve_methods_of_long_titles_at_six_budgets_fit(tmp_path):
    text = HEAD.replace("[16, 32, 64]", "[16, 24, 32, 48, 64, 96]")
    text += "".join(
        f"  more{k}: {{title: 'one more method, of forty letters, no. {k}', "
        f"settings: {{model.sampler: joint, model.sigma: {k + 5}}}}}\n"
        for k in range(7)
    )
    found = charts(comparison_of(experiment_of(tmp_path, text), lambda entry: entry.seed == 0))
    for panel in found:
        panel.figure.draw_without_rendering()
        width, height = panel.figure.get_size_inches()
        box = panel.figure.get_tightbbox()
        assert 0 <= box.x0 < box.x1 <= width, panel.title
        assert 0 <= box.y0 < box.y1 <= height, panel.title
    axes = titled(found[0], "Samples")
    boxes = sorted((t.get_window_extent().y0, t.get_window_extent().y1) for t in axes.texts)
    assert len(boxes) == 12
    assert all(below[1] <= above[0] for below, above in pairwise(boxes))
    looks = {(c[0].get_color(), c[0].get_marker()) for c in errorbars(axes).values()}
    assert len(looks) == 11
