"""Checks of class rasters: does everyone see the same classes, at every zoom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geodeform.classes import to_hex
from geodeform.doctor.facts import RasterFacts, open_raster, strips
from geodeform.doctor.findings import (
    Finding,
    counted,
    error,
    hint,
    listed,
    ok,
    quoted,
    warning,
)
from geodeform.doctor.legends import Legend, colour_table, qml_legend
from geodeform.errors import SceneError
from geodeform.geo.legend import read_legend

_MOST_CLASSES = 64  # more different values than that are measurements, unless they are named
_PROBES = 16  # blocks of the first overview that are compared with the full resolution
_PROBE_SIDE = 1024  # pixels a side of the full resolution, for a block
_MIXED_SHARE = 1e-3
_MODE_SHARE = 0.99


def is_class_raster(dataset: Any, facts: RasterFacts) -> bool:
    """Whether a raster holds classes: one band of whole numbers, with names, colours or few values.

    Args:
        dataset: Open rasterio dataset.
        facts: Its facts, with the counts.
    """
    if dataset.count != 1 or facts.counts is None or facts.scale != 1:
        return False
    named = facts.sidecar is not None and (facts.sidecar.categories or facts.sidecar.table)
    if named or facts.description in ("class", "classes") or "classes" in facts.tags:
        return True
    return dataset.colorinterp[0] == ColorInterp.palette or len(facts.counts) <= _MOST_CLASSES


def check_classes(path: Path, dataset: Any, facts: RasterFacts) -> Iterator[Finding]:
    """Check names, colours, nodata and overviews of a class raster.

    Args:
        path: The file.
        dataset: Open rasterio dataset.
        facts: Its facts; the class names are added.
    """
    counts = facts.counts or {}
    values = sorted(v for v in counts if v != facts.nodata)
    colours = colour_table(dataset)
    legends = [] if facts.sidecar is None else [facts.sidecar.categories, facts.sidecar.table]
    known = [legend for legend in legends if legend is not None]
    try:
        facts.names.update(read_legend(path, values).names)
    except SceneError:  # a damaged sidecar, which is a finding already
        facts.names.update(known[0].names if known else {})
    style = _style_beside(path)
    yield from _check_nodata(path, facts)
    yield from _check_names(path, facts, values, style)
    yield from _check_agreement(path, [*known], colours, facts)
    if style is not None:
        yield from _check_style(path, style, facts.names, colours, values)
    yield from _check_colours(path, values, colours, style)
    yield from _check_predictor(path, dataset)
    yield from _check_overviews(path, dataset, set(counts))


def _check_nodata(path: Path, facts: RasterFacts) -> Iterator[Finding]:
    if facts.nodata is None:
        yield warning(
            "class.no-nodata",
            f"{path.name} declares no nodata value, so pixels without a class are counted as one.",
            f"If no class is 255: gdal_edit.py -a_nodata 255 {quoted(path)}",
        )
    elif facts.nodata in facts.names and not _means_nothing(facts.names[int(facts.nodata)]):
        yield error(
            "class.nodata-is-class",
            f"{path.name} declares {facts.nodata:g} as nodata, but it is the class "
            f"'{facts.names[int(facts.nodata)]}', which GIS programs then hide and leave out of "
            "areas.",
            f"gdal_edit.py -unsetnodata {quoted(path)}, or -a_nodata with a value of no class",
        )
    else:
        yield ok("class.nodata", f"Nodata is {facts.nodata:g}, which is no class.")
    if facts.missing == facts.shape[0] * facts.shape[1]:
        yield warning("class.empty", f"{path.name} has no class anywhere: every pixel is nodata.")


def _means_nothing(name: str) -> bool:
    """Whether the name of a value says that there is no class."""
    words = name.lower().replace("-", " ").replace("_", " ")
    return any(
        word in words
        for word in ("no data", "nodata", "unclass", "background", "unknown", "ignore", "void",
                     "unlabel", "fill", "mask")
    )  # fmt: skip


def _check_names(
    path: Path, facts: RasterFacts, values: list[int], style: Legend | None
) -> Iterator[Finding]:
    if not facts.names:
        if style is not None and style.names:
            yield hint(
                "class.names-in-style-only",
                f"{path.name} has its class names only in {path.stem}.qml, which QGIS alone reads.",
            )
        else:
            yield warning(
                "class.unnamed",
                f"{path.name} holds the classes {listed(values)}, but nothing says what they are.",
                "In QGIS: Layer Properties, Symbology, Paletted, Classify, type the names, then "
                "Create Raster Attribute Table (QGIS 3.30 or later).",
            )
        return
    unnamed = [value for value in values if value not in facts.names]
    if unnamed:
        pixels = sum((facts.counts or {})[value] for value in unnamed)
        yield error(
            "class.value-unnamed",
            f"{path.name} holds {listed(unnamed)}, which no class name is for "
            f"({counted(pixels, 'pixel')}): another model or an editing tool wrote them.",
            "Add the classes to the attribute table, or make these pixels nodata.",
        )
    else:
        yield ok("class.names", f"Every value has a name: {listed(facts.names.values(), most=12)}.")
    absent = [facts.names[k] for k in sorted(facts.names) if k not in values and k != facts.nodata]
    if absent and values:
        yield hint(
            "class.absent", f"{path.name} has no pixel of {listed(absent)}; it may well be so."
        )


def _check_agreement(
    path: Path, legends: list[Legend], colours: Legend | None, facts: RasterFacts
) -> Iterator[Finding]:
    """Category names against attribute table, and the colours of both."""
    if len(legends) == 2:
        first, second = (legend.names for legend in legends)
        differ = _differences(first, second)
        if differ:
            value = differ[0]
            yield error(
                "class.names-differ",
                f"{path.name} calls {value} '{first.get(value, '')}' in its category names and "
                f"'{second.get(value, '')}' in its attribute table: programs show different maps.",
                f"Make both the same in {path.name}.aux.xml, or delete the wrong one there.",
            )
    for legend in legends:
        if colours is None or not legend.colours:
            continue
        shared = [v for v in sorted(legend.colours) if v in colours.colours and v != facts.nodata]
        wrong = [v for v in shared if legend.colours[v] != colours.colours[v]]
        if wrong:
            yield warning(
                "class.colours-differ",
                f"{path.name} paints class {wrong[0]} {to_hex(colours.colours[wrong[0]])} by its "
                f"colour table and {to_hex(legend.colours[wrong[0]])} by its {legend.source} "
                f"({counted(len(wrong), 'class', 'classes')}): programs show different maps.",
                f"Correct the attribute table in {path.name}.aux.xml.",
            )
        elif shared:
            yield ok("class.colours", f"Colour table and {legend.source} agree.")


def _differences(first: Mapping[int, str], second: Mapping[int, str]) -> list[int]:
    """Values that both name, or should name, and name differently."""
    return [v for v in sorted({*first, *second}) if first.get(v, "") != second.get(v, "")]


def _style_beside(path: Path) -> Legend | None:
    """Return the entries of the ``.qml`` that QGIS loads with the raster, if it is one for it."""
    style = path.with_suffix(".qml")
    try:
        legend = qml_legend(ElementTree.parse(style).getroot())
    except (OSError, ElementTree.ParseError, ValueError):  # the style is examined for itself
        return None
    return legend if legend.names else None


def _check_style(
    path: Path,
    style: Legend,
    names: Mapping[int, str],
    colours: Legend | None,
    values: list[int],
) -> Iterator[Finding]:
    file = f"{path.stem}.qml"
    wrong = [v for v in sorted(style.names) if v in names and style.names[v] != names[v]]
    missing = [v for v in values if v not in style.names]
    redo = f"Delete {file}, or save it again in QGIS (Layer Properties, Style, Save as Default)."
    if wrong:
        yield warning(
            "class.style-names",
            f"{file} calls {wrong[0]} '{style.names[wrong[0]]}', {path.name} calls it "
            f"'{names[wrong[0]]}': QGIS shows the style's names, so it is of another map.",
            redo,
        )
    elif missing:
        yield warning(
            "class.style-incomplete",
            f"{file} has no entry for {listed(missing)}, so QGIS draws these classes transparent.",
            redo,
        )
    else:
        yield ok("class.style", f"{file} has every class.")
    if colours is not None:
        other = [v for v, c in style.colours.items() if colours.colours.get(v, c) != c]
        if other:
            yield hint(
                "class.style-colours",
                f"{file} paints {counted(len(other), 'class', 'classes')} in other colours than "
                f"{path.name}: QGIS shows the style's, other programs the file's.",
            )


def _check_colours(
    path: Path, values: list[int], colours: Legend | None, style: Legend | None
) -> Iterator[Finding]:
    if colours is None:
        if style is None:
            yield warning(
                "class.no-colours",
                f"{path.name} has no colour table, so it opens in greys that are near black.",
                "Write one (rasterio: dataset.write_colormap), or style it in QGIS and save the "
                "style as default.",
            )
        return
    bare = [v for v in values if v not in colours.colours]
    if bare:
        yield warning(
            "class.value-transparent",
            f"{path.name} has no colour for {listed(bare)}, which are then invisible.",
            "Give them a colour in the colour table.",
        )
    used: dict[tuple[int, int, int], int] = {}
    for value in values:
        colour = colours.colours.get(value)
        if colour in used:
            yield warning(
                "class.same-colour",
                f"{path.name} paints the classes {used[colour]} and {value} both "
                f"{to_hex(colour)}: nobody can tell them apart.",
                "Give one of them another colour.",
            )
            return
        if colour is not None:
            used[colour] = value


def _check_predictor(path: Path, dataset: Any) -> Iterator[Finding]:
    predictor = dataset.tags(ns="IMAGE_STRUCTURE").get("PREDICTOR", "1")
    if predictor != "1":
        yield hint(
            "class.predictor",
            f"{path.name} is compressed with predictor {predictor}, which is for smooth values: "
            "class maps come out larger, and some readers of paletted TIFFs fail.",
            f"gdal_translate -of COG -co COMPRESS=DEFLATE -co PREDICTOR=NO {quoted(path)} new.tif",
        )


# -------------------------------------------------------------------------------------- overviews


def _check_overviews(path: Path, dataset: Any, values: set[int]) -> Iterator[Finding]:
    """Whether zoomed-out views show classes, and not averages of their numbers."""
    levels = dataset.overviews(1)
    if not levels:
        return
    again = (
        f"gdal_translate -of COG -co COMPRESS=DEFLATE -co OVERVIEWS=IGNORE_EXISTING "
        f"-co OVERVIEW_RESAMPLING=MODE {quoted(path)} cog.tif"
    )
    try:
        strange: set[int] = set()
        for level in range(len(levels)):
            with open_raster(path, overview_level=level) as overview:
                shape = (overview.height, overview.width)
                for window in strips(shape, overview.block_shapes[0][0]):
                    strange |= set(np.unique(overview.read(1, window=window)).tolist()) - values
        with open_raster(path, overview_level=0) as overview:
            mixed, agreeing, probed = _compare(dataset, overview)
    except RasterioError as failure:
        yield error(
            "raster.overviews-damaged",
            f"{path.name} has overviews that cannot be read ({failure}): zoomed-out views fail.",
            again,
        )
        return
    if strange or mixed > _MIXED_SHARE:
        which = (
            f"hold {listed(sorted(strange))}, which the map itself never does"
            if strange
            else f"hold classes that are nowhere near in {mixed:.1%} of their pixels"
        )
        yield error(
            "class.overviews-averaged",
            f"The overviews of {path.name} {which}: they were averaged or interpolated, and "
            "zoomed out it shows classes that are not there.",
            again,
        )
    elif probed and agreeing < _MODE_SHARE:
        yield hint(
            "class.overviews-nearest",
            f"The overviews of {path.name} take any one pixel, not the majority "
            f"({agreeing:.0%} agree with it): zoomed-out views are noisy.",
            again,
        )
    else:
        yield ok("class.overviews", f"{counted(len(levels), 'overview')}, by majority.")


def _compare(dataset: Any, overview: Any) -> tuple[float, float, int]:
    """Compare blocks of the first overview with the full resolution.

    Returns:
        Share of its pixels whose value is not among the pixels that it stands for; share of those
        with a strict majority that have it; number of the latter.
    """
    across, down = dataset.width / overview.width, dataset.height / overview.height
    tall = max(1, min(overview.height, int(_PROBE_SIDE / down)))
    wide = max(1, min(overview.width, int(_PROBE_SIDE / across)))
    places = [
        (top, left)
        for top in range(0, overview.height, tall)
        for left in range(0, overview.width, wide)
    ]
    chosen = np.unique(np.linspace(0, len(places) - 1, _PROBES).round().astype(int))
    strange = total = agreeing = decided = 0
    for top, left in (places[k] for k in chosen):
        height, width = min(tall, overview.height - top), min(wide, overview.width - left)
        small = overview.read(1, window=Window(left, top, width, height))
        rows = _footprints(top, height, down, dataset.height)
        cols = _footprints(left, width, across, dataset.width)
        window = Window(
            int(cols[0, 0]),
            int(rows[0, 0]),
            int(cols.max() - cols[0, 0] + 1),
            int(rows.max() - rows[0, 0] + 1),
        )
        large = dataset.read(1, window=window)
        votes = np.zeros(small.shape, np.int32)
        for row in rows.T:
            for col in cols.T:
                votes += large[np.ix_(row - rows[0, 0], col - cols[0, 0])] == small
        # twice the pixel's own votes against those of all others
        size = rows.shape[1] * cols.shape[1]
        strange += int((votes == 0).sum())
        total += small.size
        best = _largest_vote(large, rows - rows[0, 0], cols - cols[0, 0])
        majority = 2 * best > size
        decided += int(majority.sum())
        agreeing += int((majority & (votes == best)).sum())
    return strange / max(total, 1), agreeing / max(decided, 1), decided


def _footprints(start: int, count: int, factor: float, limit: int) -> NDArray[np.int64]:
    """Return (count, n) the full-resolution rows that each row of an overview stands for."""
    first = np.floor((start + np.arange(count)) * factor + 1e-9).astype(np.int64)
    steps = np.arange(int(np.ceil(factor - 1e-9)))
    footprints: NDArray[np.int64] = np.minimum(first[:, None] + steps, limit - 1)
    return footprints


def _largest_vote(
    large: NDArray[Any], rows: NDArray[np.int64], cols: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Return how many pixels of each footprint have its commonest class."""
    best = np.zeros((len(rows), len(cols)), np.int32)
    for value in np.unique(large):
        hits = large == value
        votes = np.zeros(best.shape, np.int32)
        for row in rows.T:
            for col in cols.T:
                votes += hits[np.ix_(row, col)]
        np.maximum(best, votes, out=best)
    return best
