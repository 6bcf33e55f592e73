"""Charts of the report: rows of text over bars, and histograms, as inline SVG.

Horizontal positions are percentages and vertical ones pixels, so a chart is as wide as the page
allows while its text keeps its size, on a phone and on paper. Colours of text and axes are the
page's (``currentColor``), so that they follow its dark mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import matplotlib
import numpy as np

from geodeform.classes import RGB, to_hex

_BAR = 14  # px of a bar
_PALE = 6  # px of the pale one under it
_RIDGE = 34  # px of a small histogram
_HISTOGRAM = 150  # px of a large one
_AXIS = 20  # px for the labels of an axis


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart.

    Attributes:
        name: Said at its left.
        text: Said at its right.
        share: Length, 0…1 of the chart's width.
        colour: ``#RRGGBB``.
        other: Length of a second, pale bar under it, or None.
    """

    name: str
    text: str
    share: float
    colour: str
    other: float | None = None


@dataclass(frozen=True)
class Tick:
    """A label of an axis.

    Attributes:
        at: Where, 0…1 of the chart's width.
        text: What.
    """

    at: float
    text: str


@dataclass(frozen=True)
class Ridge:
    """A small histogram of a stack.

    Attributes:
        name: Said at its left.
        text: Said at its right.
        heights: One a bin over 0…1 of the width, 0…1 of the ridge's height.
        colour: ``#RRGGBB``.
        mark: Where the median is, 0…1 of the width.
        title: Shown under the pointer.
    """

    name: str
    text: str
    heights: Sequence[float]
    colour: str
    mark: float
    title: str


def bar_chart(bars: Sequence[Bar], label: str) -> str:
    """Rows of a name, a value and a bar.

    Args:
        bars: From the top.
        label: What the chart shows.
    """
    rows = []
    for bar in bars:
        parts = [_rect(0, 0.5, max(bar.share, 0.002), _BAR, bar.colour, "mark")]
        height = _BAR + 1.0
        if bar.other is not None:
            parts.append(_rect(0, height + 2, max(bar.other, 0.002), _PALE, None, "pale"))
            height += 2 + _PALE
        rows.append(_row(bar.name, bar.text, _svg(parts, height)))
    return _figure(rows, label)


def histogram(
    heights: Sequence[float],
    colours: Sequence[str],
    titles: Sequence[str],
    ticks: Sequence[Tick],
    label: str,
) -> str:
    """Bars side by side over an axis.

    Args:
        heights: 0…1, from the left.
        colours: Of each bar, ``#RRGGBB``.
        titles: Of each bar, shown under the pointer.
        ticks: Of the axis.
        label: What the chart shows.
    """
    width = 1 / len(heights)
    parts = [
        _rect(
            k * width, _HISTOGRAM * (1 - height), width, height * _HISTOGRAM, colour, "mark", title
        )
        for k, (height, colour, title) in enumerate(zip(heights, colours, titles, strict=True))
        if height > 0
    ]
    drawn = _svg([*parts, *_axis(ticks, _HISTOGRAM)], _HISTOGRAM + _AXIS)
    return _figure([drawn], label)


def ridge_chart(ridges: Sequence[Ridge], ticks: Sequence[Tick], label: str) -> str:
    """Small histograms over one axis, with a tick at each median.

    Args:
        ridges: From the top.
        ticks: Of the common axis.
        label: What the chart shows.
    """
    rows = []
    for ridge in ridges:
        parts = [_rect(0, 0, 1, _RIDGE, None, "ground", ridge.title)]
        width = 1 / len(ridge.heights)
        for k, height in enumerate(ridge.heights):
            if height > 0:
                top, tall = _RIDGE * (1 - height), _RIDGE * height
                parts.append(_rect(k * width, top, width, tall, ridge.colour, title=ridge.title))
        parts.append(_rule(ridge.mark, 0, _RIDGE, "median"))
        rows.append(_row(ridge.name, ridge.text, _svg(parts, _RIDGE)))
    return _figure([*rows, _svg(_axis(ticks, 1), 1 + _AXIS)], label)


def _row(name: str, text: str, drawing: str) -> str:
    return (
        f'<div class="row"><div class="head"><b>{escape(name)}</b> '
        f"<span>{escape(text)}</span></div>{drawing}</div>"
    )


def _rect(
    x: float,
    y: float,
    width: float,
    height: float,
    colour: str | None,
    css: str = "",
    title: str = "",
) -> str:
    fill = f' fill="{colour}"' if colour is not None else ""
    kind = f' class="{css}"' if css else ""
    told = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{100 * x:.3f}%" y="{y:.2f}" width="{100 * width:.3f}%" height="{height:.2f}"'
        f"{fill}{kind}>{told}</rect>"
    )


def _rule(x: float, top: float, bottom: float, css: str) -> str:
    at = f"{100 * x:.3f}%"
    return f'<line x1="{at}" x2="{at}" y1="{top:.2f}" y2="{bottom:.2f}" class="{css}"/>'


def _axis(ticks: Sequence[Tick], y: float) -> list[str]:
    parts = [f'<line x1="0" x2="100%" y1="{y:.2f}" y2="{y:.2f}" class="axis"/>']
    for tick in ticks:
        anchor = "start" if tick.at < 0.03 else "end" if tick.at > 0.97 else "middle"
        parts.append(_rule(tick.at, y, y + 4, "axis"))
        parts.append(
            f'<text x="{100 * tick.at:.3f}%" y="{y + 17:.2f}" text-anchor="{anchor}" '
            f'class="value">{escape(tick.text)}</text>'
        )
    return parts


def _svg(parts: Sequence[str], height: float) -> str:
    return (
        f'<svg width="100%" height="{height:g}" aria-hidden="true" focusable="false">'
        f"{''.join(parts)}</svg>"
    )


def _figure(parts: Sequence[str], label: str) -> str:
    return f'<figure class="chart" aria-label="{escape(label)}">{"".join(parts)}</figure>'


def ramp_colours(name: str) -> list[RGB]:
    """The 256 colours of one of matplotlib's ramps."""
    table = matplotlib.colormaps[name](np.arange(256), bytes=True)
    return [(int(r), int(g), int(b)) for r, g, b, _ in table]


def ramp_text(name: str) -> str:
    """The 256 colours of one of matplotlib's ramps as 1536 hexadecimal digits."""
    return "".join(to_hex(colour)[1:] for colour in ramp_colours(name))
