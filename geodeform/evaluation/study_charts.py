"""Charts of a comparison's studies: tables 2 to 5 of the paper as curves, figures 3 and 14."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from geodeform.config import Size
from geodeform.evaluation.chart_sheet import (
    GREY,
    LEFT,
    NAMES,
    SMALL,
    Grid,
    Sheet,
    draw_interval,
    draw_points,
    draw_whisker,
    fixed_ticks,
    legend_height,
    limit_y,
    name_rows,
    names_width,
    pale_grid,
    text_height,
    text_width,
    wrapped,
)
from geodeform.evaluation.chart_shown import (
    Look,
    Shown,
    classes_by_frequency,
    interval_words,
    oracle_words,
    sentences,
    spread_words,
    sure_words,
)
from geodeform.evaluation.comparison import Cell
from geodeform.evaluation.comparison_tables import (
    MAPS,
    budget_name,
    settings_at,
    study_differences,
    varied_settings,
)
from geodeform.evaluation.experiment import Experiment, Study
from geodeform.evaluation.panels import Panel
from geodeform.evaluation.result import Evaluation

_BLUR = "model.edge_radius"
_VIEW = "pixels of the low-resolution view"
_NAMES = {
    "model.sigma": ("", "\N{GREEK SMALL LETTER SIGMA} of the grid kernel", _VIEW),
    "model.density_kernel": ("the ", "kernel size of the density net", _VIEW),
    "loss.gamma": ("", "\N{GREEK SMALL LETTER GAMMA}, weight of the edge loss", ""),
    _BLUR: ("the ", "blur radius of the edges", _VIEW),
}  # article, what a setting is called, and its unit
_LOG_FROM = 8.0  # largest over smallest value of a study that is drawn on a logarithmic axis

_BASELINE: dict[str, Any] = {"linestyle": ":", "linewidth": 1.1}
_RING: dict[str, Any] = {
    "marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgecolor": "black",
    "markeredgewidth": 0.9,
}  # fmt: skip
_SEED: dict[str, Any] = {
    "marker": "o", "markersize": 2.6, "markerfacecolor": "white", "markeredgecolor": "black",
    "markeredgewidth": 0.6, "linestyle": "none",
}  # fmt: skip


@dataclass(frozen=True)
class _Varied:
    """A study's points that are there.

    Attributes:
        study: As the experiment has it.
        method: The method that is varied.
        key: The one setting that is varied, "" where changes are named.
        numbers: Label → where it lies on an axis; empty where they are no numbers.
        own: Budget → where the method's own value lies; empty where it has none.
        cells: Of the points.
        budgets: Those of the points, rising.
    """

    study: Study
    method: Look
    key: str
    numbers: dict[str, float]
    own: dict[Size | None, float]
    cells: list[Cell]
    budgets: list[Size | None]

    @property
    def points(self) -> list[tuple[str, str]]:
        """Name and label of every point."""
        return list(zip(self.study.points, self.study.labels, strict=True))


def study_charts(shown: Shown, study: Study) -> list[Panel]:
    """Draw a study.

    Values of a setting are a curve with the method's own value and the baseline, radii of the blur
    bars of intrinsic and of reached mIoU, with a further panel of the classes for each budget, and
    named changes differences from the method.

    Args:
        shown: What is drawn of the comparison.
        study: One of its experiment's.

    Returns:
        A panel under the study's title, before those of classes; none where no point has a result,
        or where changes cannot be compared with the method that they change.
    """
    experiment = shown.comparison.experiment
    cells = [cell for point in study.points for cell in shown.comparison.curve(point)]
    if not cells:
        return []
    look = shown.known[study.method]
    # the method itself may have no result yet
    if any(shown.found.is_oracle(point) for point in study.points):
        look = look.as_oracle()
    budgets = sorted(
        dict.fromkeys(cell.budget for cell in cells), key=lambda size: math.prod(size or (0,))
    )
    key = _varied_setting(experiment, study, budgets)
    numbers = {label: number for label in study.labels if (number := _number(label)) is not None}
    if key == "" or len(numbers) < len(study.labels):
        numbers = {}
    own = {
        budget: number
        for budget in budgets
        if numbers
        and (number := _number(settings_at(experiment, study.method, budget)[key])) is not None
    }
    varied = _Varied(study, look, key, numbers, own, cells, budgets)
    if key == _BLUR:
        drawn: list[Panel | None] = [_blur_study(shown, varied)]
        drawn += [_blur_classes(shown, varied, budget) for budget in budgets]
    else:
        drawn = [_value_study(shown, varied) if numbers else _change_study(shown, varied)]
    return [panel for panel in drawn if panel is not None]


def _value_study(shown: Shown, varied: _Varied) -> Panel:
    """Tables 2 to 5: mIoU over the values of a setting."""
    look, numbers, height, find = varied.method, varied.numbers, 2.0, shown.comparison.cell
    handles = [
        Line2D([], [], label=f"{look.title}: values of the study", **look.mark),
        Line2D([], [], label="its own value", **_RING, linestyle="none"),
        *_baseline_handles(shown, varied.budgets),
    ]
    grid = Grid(len(varied.budgets), LEFT, height, gap=LEFT, most=4.2)
    sheet = Sheet(grid.bottom + legend_height(handles))
    values = list(numbers.values())
    logarithmic = min(values) > 0 and max(values) / min(values) >= _LOG_FROM
    ticks = {number: label for label, number in numbers.items()}
    for number in varied.own.values():
        ticks.setdefault(number, f"{number:g}")
    logarithmic = logarithmic and all(number > 0 for number in varied.own.values())
    for index, budget in enumerate(varied.budgets):
        left, top, width = grid.place(index)
        unit = _axis_name(varied.key, width)
        axes = sheet.axes(left, top, width, height, budget_name(budget), unit)
        if logarithmic:
            axes.set_xscale("log")
        points = sorted(
            (numbers[label], cell.miou)
            for name, label in varied.points
            if (cell := find(name, budget)) is not None
        )
        draw_points(axes, [x for x, _ in points], [s for _, s in points], look)
        drawn = [s for _, s in points]
        own, base = find(look.name, budget), find(shown.baseline.name, budget)
        if own is not None:
            drawn.append(own.miou)
            if budget in varied.own:
                at = varied.own[budget]
                draw_points(axes, [at], [own.miou], look, over={**_RING, "label": "own"})
            else:
                axes.axhline(100 * own.miou.mean, color=look.colour, linewidth=0.9, label="own")
        if base is not None:
            drawn.append(base.miou)
            axes.axhline(
                100 * base.miou.mean, color=shown.baseline.colour, label="baseline", **_BASELINE
            )
        limit_y(axes, drawn)
        axes.margins(x=0.1)
        fixed_ticks(axes, ticks, width)
        if grid.first(index):
            axes.set_ylabel("full-resolution mIoU (%)", fontsize=SMALL)
    sheet.legend(handles, grid.bottom)
    said = [
        f"Full-resolution mIoU of {look.title} over {_caption_name(varied.key)}; the vertical axis "
        "does not begin at 0.",
        spread_words(varied.cells, "points"),
        oracle_words([look], "are dashed, with hollow marks"),
        _own_words(varied, ticks),
        _best_points(shown, varied),
    ]
    return Panel(varied.study.title, sentences(said), sheet.figure)


def _blur_study(shown: Shown, varied: _Varied) -> Panel:
    """Figure 14: bars of intrinsic and of reached mIoU over the radius of the blur."""
    look, height, find = varied.method, 1.5, shown.comparison.cell
    columns = (
        ("intrinsic mIoU (%)", MAPS["intrinsic"]), ("full-resolution mIoU (%)", MAPS["users' map"]),
    )  # fmt: skip
    handles: list[Line2D | Patch] = [
        Patch(label=look.title, **look.bar), *_baseline_handles(shown, varied.budgets),
    ]  # fmt: skip
    grid = Grid(2 * len(varied.budgets), LEFT, height, gap=LEFT, across=2)
    sheet = Sheet(grid.bottom + legend_height(handles))
    for index in range(2 * len(varied.budgets)):
        budget, (unit, figure) = varied.budgets[index // 2], columns[index % 2]
        left, top, width = grid.place(index)
        across = _axis_name(varied.key, width)
        axes = sheet.axes(left, top, width, height, budget_name(budget), across)
        axes.set_ylabel(unit, fontsize=SMALL)
        narrow = width / len(varied.points) < 0.3  # for a number across a bar
        most = 0.0
        for place, (name, label) in enumerate(varied.points):
            cell = find(name, budget)
            if cell is None:
                continue
            value = cell.summary(figure)
            axes.bar(place, 100 * value.mean, width=0.7, label=label, linewidth=0.8, **look.bar)
            end = 100 * value.mean
            if len(cell.seeds) > 1:
                draw_whisker(axes, place, 100 * value.mean, yerr=100 * value.std)
                end += 100 * value.std
            most = max(most, end)
            axes.annotate(
                f"{100 * value.mean:.1f}", (place, end), xytext=(0, 2), ha="center",
                textcoords="offset points", fontsize=SMALL, rotation=90 if narrow else 0,
                va="bottom",
            )  # fmt: skip
        base = find(shown.baseline.name, budget)
        if base is not None:
            mean = 100 * base.summary(figure).mean
            most = max(most, mean)
            axes.axhline(mean, color=shown.baseline.colour, label="baseline", **_BASELINE)
        # a network that knows nothing yet (a trial of two steps) has bars of no height
        axes.set_ylim(0, max(most, 1.0) * (1.3 if narrow else 1.14))
        axes.set_xlim(-0.6, len(varied.points) - 0.4)
        axes.set_xticks(range(len(varied.points)), varied.study.labels)
    sheet.legend(handles, grid.bottom)
    said = [
        f"{look.title} over {_caption_name(varied.key)}: what sampling allows (intrinsic mIoU, "
        "left) and what networks reach (right).",
        spread_words(varied.cells, "bars"),
        oracle_words([look], "are hatched"),
        _best_points(shown, varied),
    ]
    return Panel(varied.study.title, sentences(said), sheet.figure)


def _blur_classes(shown: Shown, varied: _Varied, budget: Size | None) -> Panel | None:
    """Figure 3: IoU of each class over the radius of the blur; None of a single radius."""
    look, find = varied.method, shown.comparison.cell
    points = [
        (place, label, cell)
        for place, (name, label) in enumerate(varied.points)
        if (cell := find(name, budget)) is not None
    ]
    if len(points) < 2:
        return None
    base = find(shown.baseline.name, budget)
    classes = classes_by_frequency(points[0][2])
    handles = [
        Line2D([], [], label=look.title, **look.mark),
        Line2D([], [], label="highest mean of the class", **_RING, linestyle="none"),
        *_baseline_handles(shown, [budget]),
    ]
    height = 1.15
    titles = [wrapped(f"{name}, {100 * part:.1f} %", 1.1) for name, part in classes.values()]
    grid = Grid(
        len(classes), LEFT, height, above=max(map(text_height, titles)) + 0.1, gap=0.54, across=4,
    )  # fmt: skip
    sheet = Sheet(grid.bottom + legend_height(handles))
    best = []  # the radius of each class
    for index, (k, title) in enumerate(zip(classes, titles, strict=True)):
        left, top, width = grid.place(index)
        axes = sheet.axes(left, top, width, height, "", _axis_name(varied.key, width))
        axes.set_title(title, fontsize=SMALL, loc="left", pad=3)

        def iou(one: Evaluation, k: int = k) -> float:
            return float(one.soft.confusion.iou()[k])

        drawn = [cell.summary(iou) for *_, cell in points]
        draw_points(axes, [place for place, *_ in points], drawn, look)
        at = max(range(len(points)), key=lambda n: drawn[n].mean)
        axes.plot(points[at][0], 100 * drawn[at].mean, linestyle="none", label="highest", **_RING)
        best.append(f"{classes[k][0]} {points[at][1]}")
        if base is not None:
            drawn.append(base.summary(iou))
            axes.axhline(
                100 * drawn[-1].mean, color=shown.baseline.colour, label="baseline", **_BASELINE
            )
        limit_y(axes, drawn)
        axes.set_xlim(-0.4, len(varied.points) - 0.6)
        fixed_ticks(axes, {float(n): label for n, label in enumerate(varied.study.labels)}, width)
        if grid.first(index):
            axes.set_ylabel("IoU (%)", fontsize=SMALL)
    sheet.legend(handles, grid.bottom)
    said = [
        f"IoU of each class over {_caption_name(varied.key)}, at {budget_name(budget)}, from "
        "the most frequent class to the rarest, each with its share of the pixels; vertical axes "
        "do not begin at 0. As figure 3 of the paper, but one network segments all classes at "
        "once; the paper's told one class from the rest.",
        spread_words([cell for *_, cell in points], "points"),
        oracle_words([look], "are dashed, with hollow marks"),
        f"The radius of the highest mean: {', '.join(best)}.",
    ]
    several = f" at {budget_name(budget)}" if len(varied.budgets) > 1 else ""
    return Panel(f"{varied.study.title}: classes{several}", sentences(said), sheet.figure)


def _change_study(shown: Shown, varied: _Varied) -> Panel | None:
    """Differences of named changes from the method that they change."""
    study, look = varied.study, varied.method
    found = study_differences(shown.found, study)
    if not found:
        return None
    budgets = [b for b in varied.budgets if any((name, b) in found for name in study.points)]
    labels = [wrapped(label, NAMES) for label in study.labels]
    height = len(labels) * max(0.24, max(map(text_height, labels)) + 0.06)
    handles = [Line2D([], [], label="mean, interval", **{**look.mark, "linestyle": "-"})]
    if any(len(difference.values) > 1 for difference in found.values()):
        handles.append(Line2D([], [], label="single seeds", **_SEED))
    grid = Grid(len(budgets), names_width(labels), height)
    sheet = Sheet(grid.bottom + legend_height(handles))
    reach = 100 * max(
        abs(v) for d in found.values() for v in (d.low, d.high, *d.values) if math.isfinite(v)
    )
    for index, budget in enumerate(budgets):
        axes = sheet.axes(
            *grid.place(index), height, budget_name(budget), "difference in mIoU (points)"
        )
        axes.axvline(0, color=GREY, linewidth=0.9)
        for place, (name, label) in enumerate(varied.points):
            difference = found.get((name, budget))
            if difference is None:
                continue
            draw_interval(axes, difference, place, {**look.mark, "linewidth": 1.2, "label": label})
            if len(difference.values) > 1:
                seeds = 100 * np.array(difference.values)
                axes.plot(seeds, np.full(len(seeds), place + 0.24), label="_seeds", **_SEED)
        axes.set_xlim(-1.1 * reach - 0.05, 1.1 * reach + 0.05)
        pale_grid(axes, "x")
        name_rows(axes, labels, named=grid.first(index))
    sheet.legend(handles, grid.bottom)
    said = [
        f"Changes of {look.title}: difference in full-resolution mIoU from the method without the "
        "change, paired by seed.",
        interval_words(shown, list(found.values())),
        oracle_words([look], "have hollow marks and dashed intervals"),
        sure_words("pixels", list(found.values())),
    ]
    return Panel(study.title, sentences(said), sheet.figure)


def _baseline_handles(shown: Shown, budgets: list[Size | None]) -> list[Line2D]:
    """The baseline's entry in a legend, where it has a result at one of the budgets."""
    look = shown.baseline
    if not any(shown.comparison.cell(look.name, budget) for budget in budgets):
        return []
    return [Line2D([], [], color=look.colour, label=f"baseline: {look.title}", **_BASELINE)]


def _own_words(varied: _Varied, names: Mapping[float, str]) -> str:
    """The method's own value, or those of the budgets where its networks differ."""
    if not varied.own:
        return ""
    if len(set(varied.own.values())) == 1:
        return f"The method's own value is {names[next(iter(varied.own.values()))]}."
    values = [f"{names[own]} at {budget_name(budget)}" for budget, own in varied.own.items()]
    return f"The method's own values are {', '.join(values)}."


def _best_points(shown: Shown, varied: _Varied) -> str:
    """Which value has the highest mean, and by how much it exceeds the lowest."""
    said = []
    for budget in varied.budgets:
        means = [
            (cell.miou.mean, label)
            for name, label in varied.points
            if (cell := shown.comparison.cell(name, budget)) is not None
        ]
        if len(means) > 1:
            most, least = max(means), min(means)
            said.append(
                f"at {budget_name(budget)} {most[1]} ({100 * most[0]:.1f} %, "
                f"{100 * (most[0] - least[0]):.1f} points over the lowest)"
            )
    return f"The highest mean mIoU: {'; '.join(said)}." if said else ""


def _varied_setting(experiment: Experiment, study: Study, budgets: list[Size | None]) -> str:
    """The one setting in which points differ from the method; "" where there are more or none."""
    keys = {key for budget in budgets for key in varied_settings(experiment, study, budget)}
    return keys.pop() if len(keys) == 1 else ""


def _axis_name(key: str, width: float) -> str:
    """What stands at an axis of a setting, with its unit in full where there is room in inches."""
    _, name, unit = _NAMES.get(key, ("", key, ""))
    if not unit:
        return name
    full = f"{name} ({unit})"
    return full if text_width(full) <= width else f"{name} (px)"


def _caption_name(key: str) -> str:
    """A setting in a caption: also by its key, which the experiment's file has."""
    if key not in _NAMES:
        return key
    article, name, unit = _NAMES[key]
    return f"{article}{name} ({key}{f', in {unit}' if unit else ''})"


def _number(value: Any) -> float | None:
    """A setting, or a study's label of it, as a number; a size is the side of its square."""
    parts = value if isinstance(value, list) else str(value).split("x")
    try:
        sides = [float(part) for part in parts]
    except ValueError:
        return None
    return float(math.prod(sides) ** (1 / len(sides)))
