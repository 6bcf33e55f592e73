"""Charts of a comparison: the paper's figures 3 to 6, 9, 13 and 14, from the evaluations' counts.

A method has one colour and one mark in all of them. Marks of oracles are hollow and their lines
dashed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from geodeform.config import Size
from geodeform.evaluation.calibration import N_BINS
from geodeform.evaluation.chart_sheet import (
    ABOVE,
    ACROSS,
    BELOW,
    EDGE,
    GREY,
    LEADER,
    LEFT,
    NAMES,
    PALE,
    RIGHT,
    SMALL,
    TALLEST,
    WIDTH,
    Grid,
    Sheet,
    dodged,
    draw_interval,
    draw_points,
    draw_whisker,
    fixed_ticks,
    inked,
    legend_height,
    limit_log_x,
    limit_y,
    log_ticks,
    name_rows,
    names_height,
    names_width,
    pale_grid,
    point_beyond,
    ratio_ticks,
    text_height,
    text_width,
    wrapped,
    write_beside,
)
from geodeform.evaluation.chart_shown import (
    Look,
    Shown,
    class_gains,
    classes_by_frequency,
    correlation_words,
    drawn_words,
    gain_words,
    gflop_per_megapixel,
    highest_words,
    interval_words,
    mean_words,
    moved_words,
    oracle_words,
    paired,
    pooled_calibration,
    range_words,
    sampled_over_original,
    sampler_of,
    samples,
    sentences,
    spread_words,
    sure_words,
    time_per_megapixel,
)
from geodeform.evaluation.comparison import Cell, Comparison
from geodeform.evaluation.comparison_tables import (
    MAPS,
    UNKNOWN,
    UNTIMED,
    learns,
    other_figures,
    spread,
)
from geodeform.evaluation.experiment import shown_size
from geodeform.evaluation.panels import Panel
from geodeform.evaluation.study_charts import study_charts

_CLASS_METHODS = 3  # learned methods whose classes are drawn, at most
_MANY_CLASSES = 10  # from here on one less
_FAR = 0.5  # a value this far beyond others, over their range, is not drawn on their axis

_DEFORMED: dict[str, Any] = {
    "marker": "d", "markersize": 4.5, "markerfacecolor": "white", "markeredgecolor": "black",
    "markeredgewidth": 0.8, "linestyle": "none",
}  # fmt: skip
_TIMED: dict[str, Any] = {
    "marker": "|", "markersize": 7, "markeredgewidth": 1.4, "linewidth": 1.3, "linestyle": ":",
}  # fmt: skip
_BEYOND: dict[str, Any] = {
    "marker": "x", "markersize": 4.5, "markeredgewidth": 1.4, "linewidth": 1.1, "linestyle": "-.",
}  # fmt: skip


def charts(comparison: Comparison) -> list[Panel]:
    """Draw a comparison.

    In the order of a report: what a budget buys, mIoU at each budget, gains of the classes,
    differences from the baseline, class frequencies in the samples, accuracy near borders,
    intrinsic against full-resolution mIoU, each study, and confidences. A figure is made where
    there is something to draw in it; methods without a complete seed are left out.

    Args:
        comparison: With all of its results or a part.

    Returns:
        Panels, 7 inches wide, with captions that say how many seeds and what the intervals are.

    References:
        Jin et al., Learning to Downsample for Segmentation of Ultra-High Resolution Images, ICLR
        2022, figures 3 to 6, 9, 13 and 14.
    """
    shown = Shown(comparison)
    drawn: list[Panel | None] = [
        make(shown)
        for make in (
            _cost_curves, _bars, _class_gains, _differences, _class_frequencies, _trimaps,
            _intrinsic,
        )
    ]  # fmt: skip
    for study in comparison.experiment.studies:
        drawn += study_charts(shown, study)
    drawn.append(_reliability(shown))
    return [panel for panel in drawn if panel is not None]


def _cost_curves(shown: Shown) -> Panel | None:
    """Figures 6 and 9 (a)."""
    if not shown.looks:
        return None
    cells = {look.name: shown.comparison.curve(look.name) for look in shown.looks}
    whole = {look: cells[look.name][0] for look in shown.looks if look.every_pixel}
    sampled = shown.cells(shown.sampled)
    heights = [
        c.miou.mean + side * float(np.nan_to_num(c.miou.std)) for c in sampled for side in (-1, 1)
    ]
    off = {look for look, cell in whole.items() if _far(cell.miou.mean, heights)}
    kept = [cell.miou for cell in sampled] + [
        c.miou for look, c in whole.items() if look not in off
    ]
    right = WIDTH - LEADER - NAMES - EDGE
    half = (right - LEFT - 2 * RIGHT) / 2
    clock = shown.found.clock
    axes_of: tuple[tuple[float, float, str, str, str, Callable[[Cell], float]], ...] = (
        (LEFT, right - LEFT, "Samples", "samples a window", "", samples),
        (LEFT, half, f"{clock.capitalize()} time", "seconds a megapixel", "s/MP",
         time_per_megapixel),
        (right - half, half, "Operations", "GFLOP a megapixel", "GFLOP/MP", gflop_per_megapixel),
    )  # fmt: skip
    # what sees every pixel: an arrow points to it where it is far, a line is drawn at its height
    # where that alone is on the axes
    away, level, notes = {}, {}, {}
    for _, width, title, _, short, cost in axes_of:
        costs = [math.log(cost(cell)) for cell in sampled]
        dear = {
            look
            for look, cell in whole.items()
            if cost is not samples and _far(math.log(cost(cell)), costs)
        }
        away[title] = off | dear
        level[title] = (set(whole) if cost is samples else dear) - off
        notes[title] = "\n".join(
            wrapped(_reached(look, cell, cost(cell) if short else None, short), width)
            for look, cell in whole.items()
            if look in away[title]
        )
    high, low = (max(least, names_height(shown.looks)) for least in (2.5, 2.1))
    heads = {title: ABOVE + (text_height(note) if note else 0) for title, note in notes.items()}
    first, *rest = heads.values()
    below = first + high + BELOW + 0.16 + max(rest)  # sizes have two lines
    sheet = Sheet(below + low + BELOW)
    moved = False
    for left, width, title, unit, _, cost in axes_of:
        top, height = (first, high) if cost is samples else (below, low)
        axes = sheet.axes(left, top, width, height, title, unit, notes[title])
        drawn = [cell for look, cell in whole.items() if look not in away[title] | level[title]]
        limit_log_x(axes, [cost(cell) for cell in (*sampled, *drawn)])
        limit_y(axes, kept)
        true = {
            look: [cost(cell) for cell in cells[look.name]]
            for look in shown.looks
            if look not in away[title] | level[title]
        }
        places = true
        if cost is samples:  # costs stay where they were measured
            marks = {k: [(samples(c), c.miou) for c in cells[k.name]] for k in true}
            places = dodged(axes, marks)
            moved = places != true
        for look in shown.looks:
            curve = cells[look.name]
            if look in level[title]:
                axes.axhline(
                    100 * curve[0].miou.mean, color=look.colour, linewidth=0.9, linestyle=":",
                    label=look.title,
                )  # fmt: skip
            elif look in places:
                draw_points(axes, true[look], [c.miou for c in curve], look, at=places[look])
        if cost is samples:
            _name_sizes(shown, axes, width)
        else:
            log_ticks(axes, width)
        if left == LEFT:
            axes.set_ylabel("full-resolution mIoU (%)", fontsize=SMALL)
        else:
            axes.tick_params(labelleft=False)
        points = []
        for look in shown.looks:
            last = cells[look.name][-1]
            if look in places:
                x = places[look][-1]
            else:
                x = axes.get_xlim()[1] if cost is samples else cost(last)
            y = 100 * last.miou.mean
            if look in away[title]:
                x, y = point_beyond(axes, look, x, y)
            points.append((look, x, y))
        if cost is not time_per_megapixel:
            sheet.name_ends(axes, height, points)
    said = [
        "What a budget buys: full-resolution mIoU over the samples of a window (above), and over "
        f"measured {clock} time and floating-point operations a megapixel of the scene (below), "
        "without reading; axes of cost are logarithmic.",
        "" if shown.comparison.timed else "Times were not measured side by side.",
        spread_words(shown.cells(), "points"),
        oracle_words(shown.looks, "are dashed, with hollow marks"),
        "The dotted line sees every pixel." if whole.keys() - off else "",
        "Axes end where the sampled methods do. What sees every pixel lies far beyond: an arrow "
        "points there, and its mIoU and cost stand above the axes."
        if any(notes.values())
        else "",
        moved_words(moved, "the true number of samples"),
        "Lines join budgets in order of size: where time is measured unsteadily they run back.",
        highest_words(shown),
    ]
    return Panel("Accuracy and cost", sentences(said), sheet.figure)


def _far(value: float, others: Sequence[float]) -> bool:
    """Whether a value lies so far beyond others that an axis with both would squeeze them."""
    if not others:
        return False
    low, high = min(others), max(others)
    return max(low - value, value - high) > _FAR * (high - low)


def _reached(look: Look, cell: Cell, cost: float | None, unit: str) -> str:
    """What a method reaches, in words, and at which cost."""
    at = "" if cost is None else f" at {float(f'{cost:.3g}'):,g} {unit}"
    figures = f"{100 * cell.miou.mean:.1f} %{at}".replace(" ", "\N{NO-BREAK SPACE}")
    return f"{look.title}: {figures}"


def _bars(shown: Shown) -> Panel | None:
    """Figure 4."""
    if not shown.budgets:
        return None
    labels = [wrapped(look.title, NAMES) for look in shown.looks]
    row = 0.21 if all("\n" not in label for label in labels) else 0.29
    height, values, deformed = row * len(shown.looks), 0.68, MAPS["deformed"]
    handle = Line2D([], [], label="deformed mIoU", **_DEFORMED)
    grid = Grid(
        len(shown.budgets), names_width(labels), height, EDGE + values, gap=0.1 + values, most=3.0
    )
    sheet = Sheet(grid.bottom + legend_height([handle]))
    most = max(
        max(c.miou.mean + float(np.nan_to_num(c.miou.std)), c.summary(deformed).mean)
        for look in shown.looks
        for budget in shown.budgets
        if (c := shown.cell(look, budget)) is not None
    )
    for index, budget in enumerate(shown.budgets):
        axes = sheet.axes(*grid.place(index), height, shown_size(budget), "mIoU (%)")
        for place, look in enumerate(shown.looks):
            cell = shown.cell(look, budget)
            if cell is None:
                write_beside(axes, place, UNKNOWN)
                continue
            miou = cell.miou
            axes.barh(
                place, 100 * miou.mean, height=0.62, label=look.title, linewidth=0.8, **look.bar
            )
            if len(cell.seeds) > 1:
                draw_whisker(axes, 100 * miou.mean, place - 0.13, xerr=100 * miou.std)
            at = place + 0.15  # beside the whisker
            axes.plot(100 * cell.summary(deformed).mean, at, label="_deformed", **_DEFORMED)
            write_beside(axes, place, spread(miou))
        axes.set_xlim(0, 105 * most)
        name_rows(axes, labels, named=grid.first(index))
    sheet.legend([handle], grid.bottom)
    said = [
        "Full-resolution mIoU of each method at each budget (bars and numbers, in %), and the "
        "deformed mIoU, at the samples only (diamonds), which leaves out what lies between them.",
        spread_words(shown.cells(), "bars"),
        oracle_words(shown.looks, "are hatched"),
        "A method that sees every pixel has the same bar at all budgets."
        if len(shown.sampled) < len(shown.looks)
        else "",
        highest_words(shown),
    ]
    return Panel("mIoU at each budget", sentences(said), sheet.figure)


def _class_gains(shown: Shown) -> Panel | None:
    """Figure 5."""
    gains = {
        look.name: class_gains(shown, look)
        for look in shown.sampled
        if look is not shown.baseline and learns(shown.comparison.experiment, look.name)
    }
    found = [look for look in shown.sampled if gains.get(look.name)]
    if not found:
        return None
    classes = classes_by_frequency(shown.cells()[0])
    order, labels = list(classes), _class_labels(classes)
    most = _CLASS_METHODS - (len(order) > _MANY_CLASSES)
    ranked = sorted(
        found, key=lambda look: -np.mean([np.nanmean(g) for g in gains[look.name].values()])
    )
    looks = [look for look in found if look in ranked[:most]]
    budgets = [b for b in shown.budgets if any(b in gains[look.name] for look in looks)]
    height = len(order) * max(0.14 * len(looks) + 0.1, max(map(text_height, labels)) + 0.05)
    handles = [look.handle() for look in looks]
    grid = Grid(len(budgets), names_width(labels), height)
    sheet = Sheet(grid.bottom + legend_height(handles))
    step = 0.8 / len(looks)
    every = np.concatenate(
        [g[:, order].ravel() for look in looks for g in gains[look.name].values()]
    )
    low, high = 100 * min(0.0, every.min()), 100 * max(0.0, every.max())
    margin = 0.06 * (high - low) + 0.1
    for index, budget in enumerate(budgets):
        axes = sheet.axes(*grid.place(index), height, shown_size(budget), "IoU gain (points)")
        axes.axvline(0, color=GREY, linewidth=0.8)
        for number, look in enumerate(looks):
            values = gains[look.name].get(budget)
            if values is None:
                continue
            places = np.arange(len(order)) + (number - (len(looks) - 1) / 2) * step
            means = 100 * values.mean(0)[order]
            axes.barh(places, means, step * 0.9, color=look.colour, alpha=0.55, label=look.title)
            axes.plot(
                means, places, linestyle="none", marker=look.marker, markersize=3.5,
                color=look.colour, label="_means",
            )  # fmt: skip
            if len(values) > 1:
                axes.plot(
                    100 * values[:, order].ravel(), np.tile(places, len(values)),
                    linestyle="none", marker="o", markersize=2.2, markerfacecolor="white",
                    markeredgecolor="black", markeredgewidth=0.5, label="_seeds",
                )  # fmt: skip
        axes.set_xlim(low - margin, high + margin)
        name_rows(axes, labels, named=grid.first(index))
    sheet.legend(handles, grid.bottom)
    counts = {len(values) for look in looks for values in gains[look.name].values()}
    left_out = len(found) - len(looks)
    said = [
        f"Gain in IoU over the baseline ({shown.baseline.title}) by class, from the most "
        "frequent to the rarest, at equal pixels.",
        f"Bars are {mean_words(counts)}"
        + (", small circles the single seeds." if max(counts) > 1 else "."),
        f"Of {len(found)} learned methods the {len(looks)} of the largest mean gain are drawn."
        if left_out
        else "",
        gain_words(looks, gains, classes),
    ]
    return Panel("Gain by class", sentences(said), sheet.figure)


def _differences(shown: Shown) -> Panel | None:
    """Differences from the baseline at equal pixels and at equal time."""
    comparison, rows = shown.comparison, []
    for look in shown.looks:
        if look is shown.baseline:
            continue
        for cell in comparison.curve(look.name):
            pixels = comparison.difference(look.name, cell.budget)
            timed = comparison.at_equal_time(look.name, cell.budget)
            if pixels is not None or timed is not None:
                rows.append((look, cell.budget, pixels, timed))
    if not rows:
        return None
    looks = list(dict.fromkeys(row[0] for row in rows))
    labels = {look.name: wrapped(look.title, NAMES) for look in looks}
    row_height = 0.2 if len(rows) <= 30 else 0.15
    # a method's rows, or its name where that is taller
    places, tops, place = [], [], 0.0
    for look in looks:
        of = [row for row in rows if row[0] is look]
        room = max(len(of), (text_height(labels[look.name]) + 0.04) / row_height)
        tops.append((place, room))
        places += [place + (room - len(of)) / 2 + k + 0.5 for k in range(len(of))]
        place += room + 0.3
    height = place * row_height
    handles = [
        Line2D([], [], color="black", marker="o", markersize=4.5, linewidth=1.2,
               label="at equal pixels"),
    ]  # fmt: skip
    if any(timed is not None for *_, timed in rows):
        handles.append(
            Line2D([], [], color="black", label=f"at equal {shown.found.clock} time", **_TIMED)
        )
    if any(timed is not None and timed.beyond for *_, timed in rows):
        handles.append(
            Line2D([], [], color="black", label="at a time outside the baseline's own", **_BEYOND)
        )
    left = max(map(text_width, labels.values())) + 0.7
    sheet = Sheet(0.08 + height + BELOW + legend_height(handles))
    axes = sheet.axes(
        left, 0.08, WIDTH - left - RIGHT, height, "", "difference in full-resolution mIoU (points)"
    )
    axes.set_ylim(place - 0.15, -0.15)
    axes.axvline(0, color=GREY, linewidth=0.9, zorder=1)
    for number, (look, (top, room)) in enumerate(zip(looks, tops, strict=True)):
        if number % 2 == 0:
            axes.axhspan(top - 0.15, top + room + 0.15, color="#F3F3F3", linewidth=0, zorder=0)
        axes.annotate(
            labels[look.name], (0, top + room / 2), xycoords=axes.get_yaxis_transform(),
            xytext=(-72 * (left - 0.06), 0), textcoords="offset points", ha="left", va="center",
            fontsize=SMALL,
        )  # fmt: skip
    for (look, _, pixels, timed), at in zip(rows, places, strict=True):
        if pixels is not None:
            shift = 0.18 if timed is not None else 0.0
            style = {**look.mark, "linewidth": 1.2, "label": f"{look.title}, equal pixels"}
            draw_interval(axes, pixels, at - shift, style)
        if timed is not None:
            what = "other" if timed.beyond else "equal"
            style = {
                **(_BEYOND if timed.beyond else _TIMED), "color": inked(look.colour),
                "label": f"{look.title}, {what} time",
            }  # fmt: skip
            draw_interval(axes, timed.difference, at + (0.18 if pixels else 0.0), style)
    axes.set_yticks(
        places, ["all" if budget is None else shown_size(budget) for _, budget, *_ in rows]
    )
    axes.tick_params(axis="y", length=0)
    pale_grid(axes, "x")
    sheet.legend(handles, 0.08 + height + BELOW)
    counted = [row for row in rows if not (row[0].oracle or row[0].every_pixel)]
    said = [
        f"Difference in full-resolution mIoU from the baseline ({shown.baseline.title}), "
        "paired by seed, with as many samples"
        + (
            f" and with the samples that the baseline affords in the same {shown.found.clock} time."
            if comparison.timed
            else f". {UNTIMED}"
        ),
        interval_words(
            shown, [p for _, _, p, _ in rows if p] + [t.difference for _, _, _, t in rows if t]
        ),
        oracle_words(
            looks,
            "have hollow marks and dashed intervals"
            + (", and none at equal time: theirs goes to the labels" if comparison.timed else ""),
        ),
        "Crosses: the method's time is outside the baseline's own, so that the best of its budgets "
        "below, or its smallest one, stands for it."
        if any(t.beyond for *_, t in rows if t)
        else "",
        sure_words(
            "pixels", [p for _, _, p, _ in counted if p],
            without=_uncounted([look for look, _, p, _ in rows if p]),
        ),
        sure_words(
            "time", [t.difference for *_, t in counted if t and not t.beyond],
            without=_uncounted([look for look, *_, t in rows if t]),
            beyond=sum(t.beyond for *_, t in counted if t),
        ),
    ]  # fmt: skip
    return Panel("Difference from the baseline", sentences(said), sheet.figure)


def _uncounted(looks: Sequence[Look]) -> str:
    """Which of some methods are no rivals of the baseline."""
    kinds = ["oracles"] if any(look.oracle for look in looks) else []
    kinds += ["methods that see every pixel"] if any(look.every_pixel for look in looks) else []
    return " and ".join(kinds)


def _class_frequencies(shown: Shown) -> Panel | None:
    """Figure 13."""
    methods = shown.comparison.experiment.methods
    looks = [
        look
        for look in shown.sampled
        if sampler_of(shown, look) not in ("uniform", "interpolation")
        or methods[look.name].allocation == "need"
    ]
    if not (looks and shown.budgets):
        return None
    classes = classes_by_frequency(shown.cells()[0])
    order, labels = list(classes), _class_labels(classes)
    budgets = shown.budgets
    if len(budgets) > ACROSS:
        budgets = [budgets[0], budgets[-1]]
    height = len(order) * max(0.085 * len(looks) + 0.12, max(map(text_height, labels)) + 0.05)
    handles = [look.handle() for look in looks]
    grid = Grid(len(budgets), names_width(labels), height)
    sheet = Sheet(grid.bottom + legend_height(handles))
    found = {
        (look.name, budget): [sampled_over_original(cell, k) for k in order]
        for look in looks
        for budget in budgets
        if (cell := shown.cell(look, budget)) is not None
    }
    spans = [
        (s.mean - np.nan_to_num(s.std), s.mean + np.nan_to_num(s.std))
        for ratios in found.values()
        for s in ratios
    ]
    ends = [v for span in spans for v in span if v > 0]
    reach = 1.12 * max(1.1, max(ends), 1 / min(ends))
    for index, budget in enumerate(budgets):
        left, top, width = grid.place(index)
        axes = sheet.axes(left, top, width, height, shown_size(budget), "sampled / original")
        axes.axvline(1, color=GREY, linewidth=0.8)
        for border in range(1, len(order)):
            axes.axhline(border - 0.5, color=PALE, linewidth=0.5, zorder=0)
        step = 0.84 / len(looks)
        for number, look in enumerate(looks):
            if (look.name, budget) in found:
                places = np.arange(len(order)) + (number - (len(looks) - 1) / 2) * step
                draw_points(axes, places, found[look.name, budget], look, scale=1, across=True)
        axes.set_xscale("log")
        axes.set_xlim(1 / reach, reach)
        ratio_ticks(axes, width)
        name_rows(axes, labels, named=grid.first(index))
    sheet.legend(handles, grid.bottom)
    extremes = [
        (abs(math.log(s.mean)), look, budget, classes[k][0], s.mean)
        for look in looks
        for budget in budgets
        if not look.oracle
        for k, s in zip(order, found.get((look.name, budget), []), strict=False)
        if s.mean > 0
    ]
    said = [
        "How sampling changes the classes' frequencies: share of a class among the samples over "
        "its share of the pixels, on a logarithmic axis. Right of 1 a class is sampled more than "
        "evenly. Methods that sample all windows alike and evenly lie at 1 and are left out.",
        drawn_words(shown, budgets),
        spread_words([c for look in looks for b in budgets if (c := shown.cell(look, b))], "marks"),
        oracle_words(looks, "are hollow"),
    ]
    if extremes:
        _, look, budget, name, value = max(extremes, key=lambda one: one[0])
        said.append(
            f"The largest change drawn, without labels: {name} by {look.title} at "
            f"{shown_size(budget)}, {value:.2f} times its share."
        )
    return Panel("Class frequency in the samples", sentences(said), sheet.figure)


def _trimaps(shown: Shown) -> Panel | None:
    """Figure 9 (b)."""
    if not shown.budgets:
        return None
    budgets = list(dict.fromkeys((shown.budgets[0], shown.middle)))
    height = max(2.0, names_height(shown.looks))
    step = ABOVE + height + BELOW + 0.08
    sheet = Sheet(len(budgets) * step)
    width = (WIDTH - 2 * LEFT - LEADER - NAMES - EDGE) / 2
    moved = False
    for index, budget in enumerate(budgets):
        cells = {look: cell for look in shown.looks if (cell := shown.cell(look, budget))}
        if not cells:
            continue
        base = shown.comparison.cell(shown.baseline.name, budget)
        widths = next(iter(cells.values())).evaluations[0].soft.trimap.widths
        figures = [other_figures(widths)[f"trimap, {w} px"] for w in widths]
        for column, (unit, title) in enumerate(
            (("right pixels (%)", ""), ("difference from the baseline (points)", ", difference"))
        ):
            axes = sheet.axes(
                LEFT + column * (width + LEFT), index * step + ABOVE, width, height,
                shown_size(budget) + title, "width of trimap (px)",
            )  # fmt: skip
            limit_log_x(axes, widths, room=0.08)  # for marks beside each other
            values = {}
            for look, cell in cells.items():
                found = [
                    cell.summary(figure) if column == 0 else paired(cell, base, figure)
                    for figure in (() if column == 1 and look.every_pixel else figures)
                ]
                there = [value for value in found if value is not None]
                if there:
                    values[look] = there
            if values:
                limit_y(axes, [value for there in values.values() for value in there])
            true = [float(w) for w in widths]
            places = dodged(axes, {k: list(zip(true, of, strict=True)) for k, of in values.items()})
            moved = moved or any(place != true for place in places.values())
            ends = []
            for look in cells:
                if look in values:
                    draw_points(axes, true, values[look], look, at=places[look])
                    ends.append((look, places[look][-1], 100 * values[look][-1].mean))
                else:
                    ends.append((look, true[-1], math.nan))
            axes.set_ylabel(unit, fontsize=SMALL, labelpad=2)
            fixed_ticks(axes, {float(w): f"{w:g}" for w in widths}, width)
            if column == 1:
                sheet.name_ends(axes, height, ends)
    every = any(look.every_pixel for look in shown.looks)
    said = [
        "Accuracy of the full-resolution map near the borders between classes: share of right "
        "pixels less than so many pixels from a border of the labels, on a logarithmic axis; and "
        f"its difference from the baseline ({shown.baseline.title}), paired by seed.",
        drawn_words(shown, budgets),
        "What sees every pixel is left out of the differences, which it would squeeze."
        if every
        else "",
        moved_words(moved, "the true width"),
        spread_words(
            [c for b in budgets for k in shown.looks if (c := shown.cell(k, b))], "points"
        ),
        oracle_words(shown.looks, "are dashed, with hollow marks"),
    ]
    return Panel("Accuracy near borders", sentences(said), sheet.figure)


def _intrinsic(shown: Shown) -> Panel | None:
    """What sampling allows over the samples, figure 6, and against what comes out, figure 3."""
    if not shown.budgets:
        return None
    looks = shown.sampled
    handles = [look.handle() for look in looks]
    pairs = (
        ("soft", MAPS["intrinsic"], MAPS["users' map"]),
        ("nearest", MAPS["intrinsic, nearest"], MAPS["nearest sample"]),
    )  # fmt: skip
    n = len(shown.budgets)
    blocks = math.ceil(n / (ACROSS + 1))
    columns = math.ceil(n / blocks)
    single = n == 1  # then side by side
    across_page = 2 if single else columns
    gap = LEFT if across_page <= ACROSS else 0.46  # numbers alone stand there
    width = min(3.0, (WIDTH - LEFT - RIGHT - (across_page - 1) * gap) / across_page)
    several = any(len(shown.comparison.curve(look.name)) > 1 for look in looks)
    rows = blocks * (1 if single else 2) + several
    rest = 0.16 * several + legend_height(handles)  # sizes have two lines
    height = min(1.7, max(1.2, (TALLEST * WIDTH - rest) / rows - ABOVE - BELOW))
    row_height = ABOVE + height + BELOW
    block_height = (1 if single else 2) * row_height
    above = row_height + 0.16 if several else 0
    bottom = above + blocks * block_height
    sheet = Sheet(bottom + legend_height(handles))
    for number, (name, figure, _) in enumerate(pairs if above else ()):
        half = (WIDTH - RIGHT - 2 * LEFT) / 2
        axes = sheet.axes(
            LEFT + number * (half + LEFT), ABOVE, half, height, f"Samples, {name}",
            "samples a window",
        )  # fmt: skip
        limit_log_x(axes, [samples(cell) for cell in shown.cells(looks)])
        for look in looks:
            curve = shown.comparison.curve(look.name)
            draw_points(axes, [samples(c) for c in curve], [c.summary(figure) for c in curve], look)
        limit_y(axes, [cell.summary(figure) for cell in shown.cells(looks)])
        _name_sizes(shown, axes, half)
        if number == 0:
            axes.set_ylabel("intrinsic mIoU (%)", fontsize=SMALL)
    means: dict[Size, dict[Look, tuple[float, float]]] = {}
    for index, budget in enumerate(shown.budgets):
        block, column = divmod(index, columns)
        for row, (name, across, up) in enumerate(pairs):
            axes = sheet.axes(
                LEFT + (row if single else column) * (width + gap),
                above + block * block_height + (0 if single else row) * row_height + ABOVE,
                width, height, f"{shown_size(budget)}, {name}", "intrinsic mIoU (%)",
            )  # fmt: skip
            if column == 0:
                axes.set_ylabel("full-resolution mIoU (%)", fontsize=SMALL)
            for look in looks:
                cell = shown.cell(look, budget)
                if cell is None:
                    continue
                x, y = cell.summary(across), cell.summary(up)
                style = {**look.mark, "linestyle": "none", "label": look.title, "elinewidth": 0.6}
                if len(cell.seeds) > 1:
                    style |= {"xerr": 100 * x.std, "yerr": 100 * y.std}
                axes.errorbar(100 * x.mean, 100 * y.mean, **style)
                if name == "soft":
                    means.setdefault(budget, {})[look] = x.mean, y.mean
            axes.margins(0.12)
            axes.xaxis.set_major_locator(MaxNLocator(min(4, int(width / 0.4))))
            pale_grid(axes, "both")
    sheet.legend(handles, bottom)
    said = [
        "What sampling allows and what comes out: intrinsic mIoU, of the labels themselves sampled "
        "and mapped back, "
        + ("over the samples of a window (top row, logarithmic axis) and " if above else "")
        + "against full-resolution mIoU of the predictions; for the map that users get (soft) and "
        "for the nearest sample's class (nearest). Each has axes of its own.",
        spread_words(shown.cells(looks), "marks"),
        oracle_words(looks, "are hollow"),
        correlation_words(means, "intrinsic and full-resolution mIoU (soft)"),
    ]
    return Panel("Intrinsic and full-resolution mIoU", sentences(said), sheet.figure)


def _reliability(shown: Shown) -> Panel | None:
    """Whether confidences can be trusted, at the budget in the middle."""
    if not shown.budgets:
        return None
    budget, across, gap = shown.middle, 4, 0.24
    found = [
        (look, cell, calibration)
        for look in shown.looks
        if (cell := shown.cell(look, budget)) is not None
        and (calibration := pooled_calibration(cell)).pixels.sum() > 0
    ]
    if not found:
        return None
    side = (WIDTH - LEFT - RIGHT - (across - 1) * gap) / across
    titles = [wrapped(look.title, side) for look, *_ in found]
    above = max(map(text_height, titles)) + 0.1
    rows = math.ceil(len(found) / across)
    sheet = Sheet(rows * (above + side) + rows * 0.1 + BELOW)
    for index, ((look, _, calibration), title) in enumerate(zip(found, titles, strict=True)):
        row, column = divmod(index, across)
        last = index + across >= len(found)
        axes = sheet.axes(
            LEFT + column * (side + gap), above + row * (above + side + 0.1), side, side,
            "", "confidence (%)" if last else "",
        )  # fmt: skip
        axes.set_title(title, fontsize=SMALL, loc="left", pad=3)
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.7, label="_ideal")
        pixels, confidence, accuracy = calibration.bins()
        there = pixels > 0
        axes.plot(
            100 * confidence[there], 100 * accuracy[there], label=look.title,
            clip_on=False, **{**look.mark, "markersize": 3},
        )  # fmt: skip
        axes.text(
            0.04, 0.95, f"ECE {100 * calibration.error():.1f} %", transform=axes.transAxes,
            fontsize=SMALL, va="top",
        )  # fmt: skip
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xticks([0, 25, 50, 75, 100], ["0", "", "50", "", "100"])
        axes.set_yticks([0, 25, 50, 75, 100])
        axes.tick_params(labelleft=column == 0, labelbottom=last)
        if column == 0:
            axes.set_ylabel("right (%)", fontsize=SMALL)
    counts = {len(cell.seeds) for _, cell, _ in found}
    seeds = "one seed" if counts == {1} else f"{range_words(counts)} seeds, added up"
    said = [
        f"Reliability at {shown_size(budget)}: accuracy of the pixels by confidence, in "
        f"{N_BINS} bins, of {seeds}. On the diagonal confidence is what it says; below it the map "
        "is too sure. ECE is the mean distance from the diagonal, by pixels"
        + (
            ": here of the counts added up, in the table the mean of the seeds' own."
            if max(counts) > 1
            else "."
        ),
        oracle_words([look for look, *_ in found], "are dashed, with hollow marks"),
    ]
    return Panel("Confidence and accuracy", sentences(said), sheet.figure)


def _name_sizes(shown: Shown, axes: Axes, width: float) -> None:
    """Ticks at the samples of a window on axes of a width in inches, in two lines."""
    sizes = [*shown.budgets, *(c.budget for c in shown.cells() if c.budget is not None)]
    values = {float(math.prod(size)): shown_size(size) for size in sizes}
    fixed_ticks(axes, values, width, lines=2)


def _class_labels(classes: Mapping[int, tuple[str, float]]) -> list[str]:
    """What stands beside the classes' rows."""
    return [
        f"{wrapped(name, 1.3)}\n{100 * share:.1f} % of pixels" for name, share in classes.values()
    ]
