"""Charts: what sampling does to magnification and classes, and what a budget buys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.windows import Window

from geodeform.budget import BY_NEED
from geodeform.classes import ClassScheme, to_hex
from geodeform.errors import ConfigError
from geodeform.evaluation.agreement import compare_maps, read_ids, region_offset
from geodeform.evaluation.metrics import Confusion
from geodeform.geo.affine import apply, compose
from geodeform.geo.scene import Scene
from geodeform.plot.maps import classes_of, new_axes, points_of
from geodeform.plot.views import Raster, layer_of
from geodeform.result import SegmentationResult

if TYPE_CHECKING:
    from geodeform.sampling import DensityMap

_BINS_PER_OCTAVE = 24

# Okabe and Ito's colours, and marks that tell them apart without any
_STYLES = {
    "learned": ("#0072B2", "o", "-"),
    "uniform": ("#D55E00", "s", "--"),
    "interpolation": ("#009E73", "^", ":"),
    "every pixel": ("#000000", "*", "none"),
}
_OTHER_STYLE = ("#000000", "D", "-.")
_LABEL = 0.45  # inches of a label below an axis


def magnification(
    points: gpd.GeoDataFrame | SegmentationResult | DensityMap, *, ax: Axes | None = None
) -> Axes:
    """Draw how unevenly the samples lie: the share of samples, and of ground, by magnification.

    Magnification counts sampled pixels per scene pixel, here in multiples of its mean over the
    ground. Uniform sampling is the line at 1.

    Args:
        points: Sampled points of a run (``samples=True``), or the run.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes: x is logarithmic, y in per cent, of bins of 1/24 octave.

    Raises:
        ConfigError: If the run kept no points, or there are none.
    """
    values = points_of(points)["magnification"].to_numpy().astype(np.float64)
    if not values.size:
        raise ConfigError("There is no sampled point to draw.")
    # a sample stands for 1/magnification pixels
    relative = values * np.mean(1 / values)
    octaves = np.log2(relative)
    reach = max(1.0, float(np.abs(np.percentile(octaves, (0.1, 99.9))).max()))
    half = int(np.ceil(reach * _BINS_PER_OCTAVE))
    edges = 2.0 ** ((np.arange(-half, half + 2) - 0.5) / _BINS_PER_OCTAVE)  # 1 is amid a bin
    ax = new_axes(ax, (6.4, 4.0))
    for name, weights, colour, line in (
        ("of the samples", np.ones_like(values), "#0072B2", "-"),
        ("of the ground", 1 / values, "#D55E00", "--"),
    ):
        counts, _ = np.histogram(relative, edges, weights=100 * weights / weights.sum())
        ax.stairs(counts, edges, color=colour, linestyle=line, linewidth=1.6, label=name)
    ax.axvline(1, color="#606060", linewidth=0.8, zorder=0)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(matplotlib.ticker.LogLocator(base=2, subs=(1.0, 2**0.5)))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}\N{MULTIPLICATION SIGN}")
    ax.minorticks_off()
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(bottom=0)
    ax.set_xlabel("sampled pixels per scene pixel, in multiples of the mean")
    ax.set_ylabel("share (%)")
    ax.set_title("Magnification")
    ax.legend(frameon=False)
    _open_frame(ax)
    return ax


def class_shares(
    run: SegmentationResult | DensityMap,
    labels: Raster | None = None,
    *,
    classes: ClassScheme | None = None,
) -> pd.DataFrame:
    """Count each class's share of the ground and of the samples.

    Counted in the run's windows: where they overlap, ground counts as often as it was sampled. So
    uniform sampling has a ratio of 1 (but for chance) wherever the overlaps lie.

    Args:
        run: With its sampled points (``samples=True``).
        labels: (y, x) class ids on the run's grid, 255 unknown: the truth, or any map; a result's
            own map if None. A file or a DataArray that covers the run's region.
        classes: What the ids mean; the result's or the file's own if None.

    Returns:
        A row a class: ``class_id``, ``class_name``, ``area_share`` and ``sample_share`` (each sums
        to 1) and ``ratio`` of the two, NaN for a class that does not occur.

    Raises:
        ConfigError: If the run kept no points, or labels or classes are missing.
        SceneError: If the labels cannot be read or lie on another grid.
    """
    points = points_of(run)
    if labels is None:
        if not isinstance(run, SegmentationResult):
            raise ConfigError("A density map has no classes: give labels= and classes=.")
        labels, classes = layer_of(run, "labels"), run.classes
    elif classes is None and isinstance(run, SegmentationResult):
        classes = run.classes
    scheme = classes_of(labels, classes)
    n = len(scheme)
    ground, sampled = np.zeros(256, np.int64), np.zeros(256, np.int64)
    with Scene.open(labels, bands=[1]) as opened:
        left, top = region_offset(opened, run.plan)
        frame = compose(run.plan.frame, Affine.translation(-left, -top))
        x, y = points.geometry.x.to_numpy(), points.geometry.y.to_numpy()
        cols, rows = (np.floor(v).astype(np.int64) for v in apply(~frame, x, y))
        numbers = points["window"].to_numpy()
        for index in np.unique(numbers):
            window = run.plan.windows[int(index)]
            place = Window(window.col_off + left, window.row_off + top, window.width, window.height)
            values = read_ids(opened, place)
            ground += np.bincount(values.ravel(), minlength=256)
            mine = numbers == index
            row = (rows[mine] - int(place.row_off)).clip(0, values.shape[0] - 1)
            col = (cols[mine] - int(place.col_off)).clip(0, values.shape[1] - 1)
            sampled += np.bincount(values[row, col], minlength=256)
    shares = [counts[:n] / max(counts[:n].sum(), 1) for counts in (ground, sampled)]
    ratio = np.full(n, np.nan)
    np.divide(shares[1], shares[0], out=ratio, where=shares[0] > 0)
    return pd.DataFrame(
        {
            "class_id": np.arange(n),
            "class_name": scheme.names,
            "area_share": shares[0],
            "sample_share": shares[1],
            "ratio": ratio,
        }
    )


def class_frequency(
    run: SegmentationResult | DensityMap,
    labels: Raster | None = None,
    *,
    classes: ClassScheme | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how much more, or less, each class was sampled than its area: figure 13 of the paper.

    Bars show the change in per cent, share of samples over share of ground, less 1. A class on the
    right of the line gets more samples than uniform sampling would give it. Reference: Jin et al.,
    Learning to Downsample for Segmentation of Ultra-High Resolution Images, ICLR 2022, A.4.

    Args:
        run: With its sampled points (``samples=True``).
        labels: As for :func:`class_shares`.
        classes: As for :func:`class_shares`.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes; classes in the scheme's order from above.

    Raises:
        ConfigError: As :func:`class_shares`.
        SceneError: As :func:`class_shares`.
    """
    table = class_shares(run, labels, classes=classes)
    names = _first(classes, run, labels)
    colours = [to_hex(colour) for colour in names.colours]
    change = 100 * (table["ratio"].to_numpy() - 1)
    shown = np.nan_to_num(change)
    ax = new_axes(ax, (6.4, 0.5 * len(table) + 1.4))
    places = np.arange(len(table))
    ax.barh(places, shown, color=colours, edgecolor="#404040", linewidth=0.6, height=0.65)
    ax.axvline(0, color="#404040", linewidth=0.8)
    ax.set_yticks(
        places,
        [
            f"{name}\n{area:.1%} of the ground"
            for name, area in zip(table["class_name"], table["area_share"], strict=True)
        ],
    )
    ax.invert_yaxis()
    reach = max(5.0, float(np.abs(shown).max()))
    for place, value, known in zip(places, shown, np.isfinite(change), strict=True):
        text = f"{value:+.1f} %".replace("-", "\N{MINUS SIGN}") if known else "does not occur"
        ax.annotate(
            text,
            (value, place),
            xytext=(4 if value >= 0 else -4, 0),
            textcoords="offset points",
            va="center",
            ha="left" if value >= 0 else "right",
        )
    ax.set_xlim(-1.5 * reach, 1.5 * reach)  # room for the numbers
    ax.set_xlabel("change by sampling (%)")
    ax.set_title("Class frequency")
    ax.tick_params(axis="y", length=0)
    _open_frame(ax, keep=("bottom",))
    return ax


def budget_table(
    results: Iterable[SegmentationResult], labels: Raster | None = None
) -> pd.DataFrame:
    """Compare runs over one region with different budgets or samplers.

    Maps are read block by block: give each run an ``output`` where they would not fit into memory.

    Args:
        results: Runs over the same region with models of the same classes.
        labels: The truth: (y, x) class ids on their grid, 255 unknown; a file or a DataArray.

    Returns:
        A row a run, by sampler and share: ``sampler`` (with its allocation, where that is not even:
        ``learned by need``), ``budget``, ``sampled_share`` (0…1), ``sampled_pixels``, ``seconds``
        (wall-clock of the run) and ``agreement``: the share of pixels with the class that the
        sampler's largest budget gives, NaN for that one itself. With labels also ``miou`` (over the
        classes that occur in them) and ``accuracy``, 0…1, at full resolution.

    Raises:
        ConfigError: If there is no run.
        SceneError: If a map or the labels cannot be read, or lie on another grid.
    """
    runs = sorted(results, key=lambda run: (run.plan.way, run.facts.sampled_share))
    if not runs:
        raise ConfigError("There is no run to compare.")
    largest = {run.plan.way: run for run in runs}
    rows = []
    for run in runs:
        row: dict[str, Any] = {
            "sampler": run.plan.way,
            "budget": str(run.plan.budget),
            "sampled_share": run.facts.sampled_share,
            "sampled_pixels": run.facts.sampled_pixels,
            "seconds": run.facts.seconds,
            "agreement": np.nan,
        }
        reference = largest[run.plan.way]
        if reference is not run:
            row["agreement"] = _compare(run, layer_of(reference, "labels")).accuracy()
        if labels is not None:
            counts = _compare(run, labels)
            row |= {"miou": counts.miou(), "accuracy": counts.accuracy()}
        rows.append(row)
    return pd.DataFrame(rows)


def budgets(
    table: pd.DataFrame,
    *,
    knee: float | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draw what a budget buys, such as accuracy and time, over the share of sampled pixels.

    Args:
        table: Of :func:`budget_table` or :func:`geodeform.budget_curve`; a panel for each of
            ``miou``, ``agreement``, ``confidence``, ``seconds`` and ``peak_memory_bytes`` that it
            has. Rows without a value are left out.
        knee: Share of sampled pixels to be marked, 0…1.
        figure: Where to draw; a new one if None.

    Returns:
        The figure. The axis of shares is logarithmic.

    Raises:
        ConfigError: If the table has none of the columns.
    """
    panels = {
        "miou": ("Accuracy", "mIoU (%)", 100),
        "agreement": ("Agreement", "same class as at the largest budget (%)", 100),
        "confidence": ("Confidence", "mean of the map (%)", 100),
        "seconds": ("Time", "whole run (s)", 1),
        "peak_memory_bytes": ("Memory", "peak of the process (GiB)", 2**-30),
    }
    kinds = [kind for kind in panels if kind in table and table[kind].notna().any()]
    if not kinds or "sampled_share" not in table or "sampler" not in table:
        raise ConfigError(
            "The table lacks what is drawn: give that of geodeform.plot.budget_table."
        )
    if figure is None:
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=(3.9 * len(kinds), 3.4), layout="constrained")
    if "agreement" in kinds and (table["sampler"] == "every pixel").any():
        first = table[table["agreement"].isna()].iloc[0]  # what the others are compared with
        what = "every pixel" if first["sampler"] == "every pixel" else f"at {first['budget']}"
        panels["agreement"] = ("Agreement", f"same class as {what} (%)", 100)
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    named = set(table["sampler"])
    shares = 100 * np.sort(table["sampled_share"].to_numpy())
    ticks = _apart(shares, labels=0.75 * figure.bbox.width / figure.dpi / len(kinds) / _LABEL)
    for ax, kind in zip(axes, kinds, strict=True):
        title, unit, factor = panels[kind]
        for sampler, rows in table.dropna(subset=[kind]).groupby("sampler"):
            base = str(sampler).removesuffix(BY_NEED)
            colour, mark, line = _STYLES.get(base, _OTHER_STYLE)
            rows = rows.sort_values("sampled_share")
            ax.plot(
                100 * rows["sampled_share"],
                factor * rows[kind],
                color=colour,
                marker=mark,
                linestyle=line,
                # of a sampler that is there by need, too, the even one is paler
                alpha=0.45 if f"{sampler}{BY_NEED}" in named else 1,
                label=str(sampler),
            )
        if knee is not None:
            ax.axvline(100 * knee, color="#808080", linewidth=0.8, linestyle=":", label="knee")
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(matplotlib.ticker.FixedLocator(ticks))
        ax.xaxis.set_major_formatter(lambda value, _: f"{float(f'{value:.2g}'):g}")
        ax.minorticks_off()
        ax.set_xlabel("sampled pixels (%)")
        ax.set_ylabel(unit)
        ax.set_title(title)
        if kind in ("seconds", "peak_memory_bytes"):
            ax.set_ylim(bottom=0)
        _open_frame(ax)
    full = max(axes, key=lambda ax: len(ax.lines))  # one panel may lack a sampling
    full.legend(frameon=False, title="sampling", alignment="left")
    return figure


def _first(
    classes: ClassScheme | None, run: SegmentationResult | DensityMap, labels: Raster | None
) -> ClassScheme:
    """The classes that :func:`class_shares` counts."""
    if classes is None and isinstance(run, SegmentationResult):
        return run.classes
    return classes_of(run if labels is None else labels, classes)


def _compare(run: SegmentationResult, truth: Raster) -> Confusion:
    return compare_maps(layer_of(run, "labels"), truth, run.plan, len(run.classes))


def _apart(values: NDArray[np.float64], *, labels: float) -> list[float]:
    """Those of ascending values that have room on a logarithmic axis with room for so many."""
    ratio = (values[-1] / values[0]) ** (1 / max(labels, 1.0))
    kept: list[float] = []
    for value in values:
        if not kept or value >= ratio * kept[-1]:
            kept.append(float(value))
    return kept


def _open_frame(ax: Axes, keep: tuple[str, ...] = ("left", "bottom")) -> None:
    for side in ("left", "right", "top", "bottom"):
        ax.spines[side].set_visible(side in keep)
