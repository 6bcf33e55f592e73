"""Pages of charts that are laid out in inches, and what is drawn on their axes.

So no text depends on a guess by the backend: widths of words are measured before anything is drawn.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

from geodeform.evaluation.chart_shown import Look
from geodeform.evaluation.comparison import Difference, Summary
from geodeform.plot.safe_colours import to_linear, to_srgb

WIDTH = 7.0
"""Of a page, inches."""

EDGE = 0.06
"""Free at the edge of a page, inches."""

LEFT = 0.64
"""For the numbers of a vertical axis, up to six characters, and its name, inches."""

RIGHT = 0.18
"""Free at the right of axes, for half of the number at their end, inches."""

BELOW = 0.42
"""For those of a horizontal one, inches."""

ABOVE = 0.24
"""For a title, inches."""

NAMES = 1.62
"""Width of the methods' names, at most, inches."""

LEADER = 0.3
"""From an axis to the names at its right, inches."""

ACROSS = 3
"""Axes side by side, at most."""

TALLEST = 1.5
"""Height of a page over its width, at most: about that of the text on A4."""

SMALL = 7.0
"""Size of all text but titles, points."""

GREY = "#606060"
"""Of lines that figures are read against."""

PALE = "#E6E6E6"
"""Of lines that part."""

_LINE = 0.122  # a line of text, inches
_TITLE = 8.0  # points
_TITLE_PAD = 4.0  # from the axes, points
_ARROW = 0.16  # length, inches
_CONTRAST = 4.0  # of thin lines with white paper, at least
_CLEAR = 0.03  # at either side of a number, inches
_DODGE = 0.028  # between marks that share a place, inches
_DODGE_SHARE = 0.6  # of the way to the next place for such marks, at most
_MARK = 0.04  # half of a mark, inches
_NARROW = 10.0  # largest over smallest value of a logarithmic axis with evenly spaced numbers


class Sheet:
    """A figure that is laid out in inches from its top left corner.

    Args:
        height: Of the page; it is :data:`WIDTH` wide.
    """

    def __init__(self, height: float) -> None:
        self.figure = Figure(figsize=(WIDTH, height), dpi=150)
        self._height = height

    def axes(
        self,
        left: float,
        top: float,
        width: float,
        height: float,
        title: str,
        unit: str,
        note: str = "",
    ) -> Axes:
        """Axes with a title and the name of the horizontal axis.

        A note lies between title and axes, at the right; its lines need room there.
        """
        axes = self.figure.add_axes(
            (
                left / WIDTH,
                1 - (top + height) / self._height,
                width / WIDTH,
                height / self._height,
            )
        )
        pad = _TITLE_PAD + (72 * text_height(note) + 2 if note else 0)
        axes.set_title(title, fontsize=_TITLE, loc="left", pad=pad, weight="bold")
        if note:
            self.figure.text(
                (left + width) / WIDTH, 1 - (top - _TITLE_PAD / 72) / self._height, note,
                fontsize=SMALL, ha="right", va="bottom", linespacing=1.1,
            )  # fmt: skip
        axes.set_xlabel(unit, fontsize=SMALL, labelpad=2)
        axes.tick_params(labelsize=SMALL, length=2.5, pad=2, width=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_linewidth(0.6)
        return axes

    def legend(self, handles: Sequence[Line2D | Patch], top: float) -> None:
        """A legend across the page."""
        self.figure.legend(
            handles=list(handles), loc="upper center", bbox_to_anchor=(0.5, 1 - top / self._height),
            ncols=_legend_columns(handles), fontsize=SMALL, frameon=False, borderpad=0.2,
            columnspacing=1.6, handlelength=2.2, labelspacing=0.35,
        )  # fmt: skip

    def name_ends(
        self, axes: Axes, height: float, ends: Sequence[tuple[Look, float, float]]
    ) -> None:
        """Name lines at the right of their axes, each beside its end as far as there is room.

        Args:
            axes: With limits that stay.
            height: Of the axes, inches.
            ends: Method, x and y of its line's last point; a method of which nothing is drawn has
                a y of NaN and is named at the top, without a line to it.
        """
        width = axes.get_position().width * WIDTH
        labels = [wrapped(look.title, NAMES) for look, *_ in ends]
        points = [
            axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
            for _, x, y in ends
        ]
        heights = [text_height(label) + 0.02 for label in labels]
        wanted = [height if math.isnan(y) else float(y) * height for _, y in points]
        middles = _spread_out(wanted, heights, height)
        for (look, *_), label, (x, y), middle in zip(ends, labels, points, middles, strict=True):
            at, edge = 1 + 0.2 / width, middle / height
            if not math.isnan(y):
                self.figure.add_artist(
                    Line2D(
                        [x, 1 + 0.03 / width, at], [y, y, edge], transform=axes.transAxes,
                        color=look.colour, linewidth=0.5, alpha=0.7, linestyle=":",
                    )
                )  # fmt: skip
            style = {**look.mark, "linestyle": "none"}
            self.figure.add_artist(Line2D([at], [edge], transform=axes.transAxes, **style))
            axes.text(
                1 + LEADER / width, edge, label, transform=axes.transAxes, fontsize=SMALL,
                va="center", ha="left", linespacing=1.1,
            )  # fmt: skip


class Grid:
    """Where n axes of one height lie, in rows from the left.

    Args:
        n: How many.
        left: Left of the first column.
        height: Of the axes.
        right: Free at the right.
        above: For a title.
        gap: Between columns.
        across: Columns, at most.
        most: Width of the axes, at most.

    Attributes:
        bottom: Of the last row, with its horizontal axis.
    """

    def __init__(
        self,
        n: int,
        left: float,
        height: float,
        right: float = RIGHT,
        *,
        above: float = ABOVE,
        gap: float = 0.14,
        across: int = ACROSS,
        most: float = WIDTH,
    ) -> None:
        # six are two rows of three, four are two of two
        rows = math.ceil(n / across)
        self._columns = math.ceil(n / rows)
        self._left, self._gap, self._above = left, gap, above
        self._step = above + height + BELOW
        self._width = min(most, (WIDTH - left - right - (self._columns - 1) * gap) / self._columns)
        self.bottom = rows * self._step

    def place(self, index: int) -> tuple[float, float, float]:
        """Left, top and width of axes."""
        row, column = divmod(index, self._columns)
        left = self._left + column * (self._width + self._gap)
        return left, self._above + row * self._step, self._width

    def first(self, index: int) -> bool:
        """Whether axes are the first of their row."""
        return index % self._columns == 0


# --- marks -------------------------------------------------------------------------------------


def draw_points(
    axes: Axes,
    x: Sequence[float] | NDArray[np.floating[Any]],
    values: Sequence[Summary],
    look: Look,
    *,
    scale: float = 100,
    across: bool = False,
    at: Sequence[float] | None = None,
    over: dict[str, Any] | None = None,
) -> None:
    """Draw means, with ± std where there are seeds.

    Args:
        axes: Where to draw.
        x: Places of the values.
        values: What is drawn.
        look: Of the method.
        scale: Factor of the values.
        across: Values lie on the horizontal axis, and no line joins them.
        at: Where marks and whiskers stand instead. The line that joins them stays: moved to the
            left a rising one would look better than the others.
        over: Properties in place of the look's.
    """
    means = [scale * value.mean for value in values]
    stds = np.array([scale * value.std for value in values])
    spread = None if np.isnan(stds).all() else stds
    style = {**look.mark, "label": look.title, "elinewidth": 0.7, **(over or {})}
    if across:
        axes.errorbar(means, x, xerr=spread, **{**style, "linestyle": "none"})
    elif at is None or list(at) == list(x):
        axes.errorbar(x, means, yerr=spread, **style)
    else:
        axes.plot(x, means, **{**look.mark, "marker": "", "label": f"_{look.title}"})
        axes.errorbar(at, means, yerr=spread, **{**style, "linestyle": "none"})


def draw_interval(axes: Axes, difference: Difference, at: float, style: dict[str, Any]) -> None:
    """Draw a mean and its interval on a row; an interval need not hold the mean over seeds.

    Args:
        axes: In points.
        difference: What is drawn.
        at: The row.
        style: Of a line with marks, with ``label``.
    """
    axes.hlines(
        at, 100 * difference.low, 100 * difference.high, color=inked(style["color"]),
        linewidth=style["linewidth"], linestyle=style["linestyle"], label=f"_{style['label']}",
    )  # fmt: skip
    axes.plot(100 * difference.mean, at, **{**style, "linestyle": "none"})


def draw_whisker(
    axes: Axes, x: float, y: float, *, xerr: float | None = None, yerr: float | None = None
) -> None:
    """Draw a whisker at the end of a bar, in a white casing so that it is seen on any colour."""
    for colour, width, cap in (("white", 2.5, 2.8), ("black", 0.9, 2.0)):
        axes.errorbar(
            x, y, xerr=xerr, yerr=yerr, fmt="none", ecolor=colour, elinewidth=width,
            capsize=cap, capthick=width,
        )  # fmt: skip


def point_beyond(axes: Axes, look: Look, x: float, y: float) -> tuple[float, float]:
    """Draw an arrow at the edge of axes, in the direction of a point that lies beyond them.

    Args:
        axes: With limits that stay.
        look: Of the method.
        x: Of the point.
        y: Of the point.

    Returns:
        Where the arrow ends, on the axes' scales.
    """
    point = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
    edge = np.clip(point, 0, 1)
    start = edge - _ARROW * np.sign(np.round(point - edge, 6)) / _inches(axes)
    axes.add_patch(
        FancyArrowPatch(
            tuple(start), tuple(edge), transform=axes.transAxes, color=look.colour, linewidth=1.1,
            arrowstyle="-|>", mutation_scale=7, shrinkA=0, shrinkB=0, clip_on=False,
            label=look.title,
        )
    )  # fmt: skip
    at = axes.transData.inverted().transform(axes.transAxes.transform(edge))
    return float(at[0]), float(at[1])


def inked(colour: str) -> tuple[float, float, float]:
    """A colour for thin lines: as dark as they have to be to stand out from white paper.

    By the contrast of WCAG 2, (1.05) / (luminance + 0.05).
    """
    linear = to_linear(to_rgb(colour))
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    most = 1.05 / _CONTRAST - 0.05
    red, green, blue = to_srgb(linear * min(1.0, most / max(luminance, 1e-9)))
    return float(red), float(green), float(blue)


def write_beside(axes: Axes, row: float, words: str) -> None:
    """Write at the right of the axes, on a row."""
    axes.annotate(
        words, (1, row), xycoords=axes.get_yaxis_transform(), xytext=(5, 0),
        textcoords="offset points", fontsize=SMALL, va="center", ha="left",
    )  # fmt: skip


# --- axes --------------------------------------------------------------------------------------


def name_rows(axes: Axes, labels: Sequence[str], *, named: bool = True) -> None:
    """Rows from above, with their names at the left or without."""
    axes.set_ylim(len(labels) - 0.5, -0.5)
    names = list(labels) if named else [""] * len(labels)
    axes.set_yticks(range(len(labels)), names, linespacing=1.1)
    axes.tick_params(axis="y", length=0, pad=3)


def pale_grid(axes: Axes, axis: Literal["both", "x", "y"]) -> None:
    """Lines at the ticks, behind all else."""
    axes.grid(axis=axis, color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)


def limit_y(axes: Axes, values: Iterable[Summary]) -> None:
    """A vertical axis that holds all means and whiskers, in %."""
    spans = [(100 * v.mean, 100 * float(np.nan_to_num(v.std))) for v in values]
    low, high = min(m - s for m, s in spans), max(m + s for m, s in spans)
    margin = max(0.06 * (high - low), 0.2)
    axes.set_ylim(low - margin, high + margin)
    pale_grid(axes, "y")


def limit_log_x(axes: Axes, values: Sequence[float], room: float = 0.05) -> None:
    """A logarithmic horizontal axis that holds all values, even where they are one.

    Args:
        axes: Whose limits are set.
        values: What it holds.
        room: At either end, as a share of the values' range.
    """
    axes.set_xscale("log")
    if values:
        low, high = min(values), max(values)
        factor = max((high / low) ** room, 1.05)
        axes.set_xlim(low / factor, high * factor)


def dodged(
    axes: Axes, marks: Mapping[Look, Sequence[tuple[float, Summary]]]
) -> dict[Look, list[float]]:
    """Places of marks on a logarithmic axis, moved apart where marks or whiskers share one.

    They stand symmetric about it by one factor from each to the next, which is so small that they
    neither reach those of another place nor leave the axes.

    Args:
        axes: With limits that stay, in % upwards.
        marks: Method → where its marks belong, and their values.
    """
    beside = {
        x: _overlapping(axes, {look: v for look, of in marks.items() for at, v in of if at == x})
        for x in sorted({x for of in marks.values() for x, _ in of})
    }
    most = max((len(group) for groups in beside.values() for group in groups), default=1)
    if most == 1:
        return {look: [x for x, _ in of] for look, of in marks.items()}
    low, high = axes.get_xlim()
    inch, places = math.log(high / low) / _inches(axes)[0], list(beside)
    edge = min(math.log(places[0] / low), math.log(high / places[-1])) - _MARK * inch
    step = min(
        _DODGE * inch,
        max(2 * edge, 0) / (most - 1),
        *(_DODGE_SHARE * math.log(b / a) / most for a, b in pairwise(places)),
    )

    def moved(look: Look, x: float) -> float:
        (group,) = [group for group in beside[x] if look in group]
        return x * math.exp(step * (group.index(look) - (len(group) - 1) / 2))

    return {look: [moved(look, x) for x, _ in of] for look, of in marks.items()}


def _overlapping(axes: Axes, values: Mapping[Look, Summary]) -> list[list[Look]]:
    """Methods whose marks or whiskers at one place cover each other, in their order."""
    low, high = axes.get_ylim()
    least = _MARK * (high - low) / _inches(axes)[1]
    spans = {
        look: (100 * v.mean - half, 100 * v.mean + half)
        for look, v in values.items()
        for half in (max(100 * float(np.nan_to_num(v.std)), least),)
    }
    groups: list[list[Look]] = []
    reach = -math.inf
    for look in sorted(spans, key=lambda look: spans[look]):
        bottom, top = spans[look]
        if bottom > reach:
            groups.append([])
        groups[-1].append(look)
        reach = max(reach, top)
    return [[look for look in values if look in group] for group in groups]


def _inches(axes: Axes) -> tuple[float, float]:
    """Width and height of axes."""
    width, height = np.array(axes.bbox.size) / axes.figure.dpi
    return float(width), float(height)


def fixed_ticks(axes: Axes, names: dict[float, str], width: float, *, lines: int = 1) -> None:
    """Ticks at values, named in this order as far as there is room.

    Args:
        axes: With limits that stay.
        names: Value → its name.
        width: Of the axes, inches.
        lines: Of names under each other; what has no room in one goes to the next.
    """
    kept: dict[float, str] = {}
    for line in range(lines):
        rest = {value: name for value, name in names.items() if value not in kept}
        found = _fitting(axes, rest, width)
        kept |= {value: "\n" * line + name for value, name in found.items()}
    axes.xaxis.set_major_locator(FixedLocator(sorted(names)))
    axes.xaxis.set_major_formatter(lambda value, _: kept.get(value, ""))
    axes.minorticks_off()


def log_ticks(axes: Axes, width: float) -> None:
    """Round numbers on a logarithmic axis of a width in inches, as many as can all be named."""
    low, high = axes.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [
        [float(f"{factor}e{power}") for power in powers for factor in factors]
        for factors in ((1, 2, 5), (1,))
    ]
    if high / low < _NARROW:  # few powers of ten and their doubles, so evenly spaced ones
        locators = [MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]) for count in range(8, 0, -1)]
        choices = [list(one.tick_values(low, high)) for one in locators]
    for values in choices:
        names = {value: f"{value:g}" for value in values if low <= value <= high}
        if _fitting(axes, names, width).keys() == names.keys():
            break
    fixed_ticks(axes, names, width)


def _fitting(axes: Axes, names: dict[float, str], width: float) -> dict[float, str]:
    """Of names at values of the horizontal axis those that keep clear of all before them."""
    low, high = axes.get_xlim()
    scale = np.log if axes.get_xscale() == "log" else np.asarray
    a, b = float(scale(low)), float(scale(high))
    kept: dict[float, str] = {}
    taken: list[tuple[float, float]] = []
    for value, name in names.items():
        at, half = (float(scale(value)) - a) / (b - a) * width, text_width(name) / 2 + _CLEAR
        if all(at + half <= left or at - half >= right for left, right in taken):
            kept[value] = name
            taken.append((at - half, at + half))
    return kept


def ratio_ticks(axes: Axes, width: float) -> None:
    """Ticks of ratios, the same on both sides of 1, on an axis of a width in inches."""
    low, high = axes.get_xlim()
    steps = (1.1, 1.25, 1.5) if high < 2.1 else (2.0, 4.0, 10.0, 20.0, 50.0, 100.0)
    # few enough to be named: those with a third of an inch between them
    above, last = [], 0.0
    for step in steps:
        if step < high and math.log(step) - last > 2 * math.log(high) * 0.33 / width:
            above.append(step)
            last = math.log(step)
    values = [1.0, *above, *(1 / step for step in above)]
    fixed_ticks(
        axes,
        {value: f"{value:.2f}".rstrip("0").rstrip(".") for value in values if value > low},
        width,
    )


# --- room for words ----------------------------------------------------------------------------


def names_width(labels: Iterable[str]) -> float:
    """Room for names at the left of axes, inches."""
    return max(map(text_width, labels)) + 0.18


def names_height(looks: Sequence[Look]) -> float:
    """Height of all names under each other, inches."""
    return sum(text_height(wrapped(look.title, NAMES)) + 0.02 for look in looks)


def legend_height(handles: Sequence[Line2D | Patch]) -> float:
    """Room for a legend across the page, inches."""
    return 0.145 * math.ceil(len(handles) / _legend_columns(handles)) + 0.1


def _legend_columns(handles: Sequence[Line2D | Patch]) -> int:
    widest = max(text_width(str(handle.get_label())) for handle in handles)
    return max(1, min(len(handles), int((WIDTH - 0.2) / (widest + 0.5))))


def _spread_out(wanted: Sequence[float], heights: Sequence[float], room: float) -> list[float]:
    """Middles of labels that do not overlap, as near to where they are wanted as can be.

    Least squares by pooling adjacent violators; labels that still stick out are pushed inside.

    Args:
        wanted: Middles from below.
        heights: Of the labels.
        room: Middles keep half a label from 0 and from here, as far as all fit.
    """
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    offsets, total = [], 0.0
    for k in order:
        offsets.append(total + heights[k] / 2)
        total += heights[k]
    # what is left to place: each label's bottom if those under it had no height
    groups: list[list[float]] = []
    for k, offset in zip(order, offsets, strict=True):
        groups.append([wanted[k] - offset, 1.0])
        while len(groups) > 1 and groups[-2][0] >= groups[-1][0]:
            (a, n), (b, m) = groups[-2:]
            groups[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    starts = [value for value, count in groups for _ in range(int(count))]
    limit = max(0.0, room - total)
    middles = [0.0] * len(wanted)
    for k, offset, start in zip(order, offsets, starts, strict=True):
        middles[k] = min(max(start, 0.0), limit) + offset
    return middles


def text_height(words: str) -> float:
    """Height of small text in inches, of all its lines."""
    return _LINE * (words.count("\n") + 1)


@lru_cache(maxsize=4096)
def text_width(words: str) -> float:
    """Width of small text in inches, of its longest line."""
    lines = [line for line in words.split("\n") if line.strip()]
    return max(
        (float(TextPath((0, 0), line, size=SMALL).get_extents().width) / 72 for line in lines),
        default=0.0,
    )


@lru_cache(maxsize=1024)
def wrapped(words: str, width: float) -> str:
    """Break small text so that it is at most so many inches wide."""
    lines = [words]
    for characters in range(len(words), 3, -1):
        lines = textwrap.wrap(words, characters)
        if max(map(text_width, lines), default=0.0) <= width:
            break
    return "\n".join(lines)
