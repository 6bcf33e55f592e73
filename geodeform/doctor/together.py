"""Checks of several files of one run: do they lie on each other, and tell the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyproj

from geodeform.doctor.facts import RasterFacts
from geodeform.doctor.findings import Finding, Report, error, hint, ok, report, warning
from geodeform.doctor.vector import VectorFacts
from geodeform.geo.affine import apply, compose
from geodeform.geo.ground import Ground

_SHARED_TAGS = ("model", "source", "budget", "sampler")
_ON_PIXELS = ("confidence", "trust")  # of the map; the density has cells of its own
_FIELDS = (*_ON_PIXELS, "density")
_TOTAL_TOLERANCE = 0.02
_CLASS_TOLERANCE = 0.10  # small polygons that dissolve change classes by a few per cent
_SMALL_SHARE = 0.01  # classes below this share of the map are not compared
_EXTENT_TOLERANCE = 0.02  # of the raster's sides


def check_together(folder: Path, reports: Sequence[Report]) -> Report | None:
    """Compare files that belong to one class raster.

    A file belongs to the class raster with which its name begins alike the longest; where there is
    only one class raster, all belong to it.

    Args:
        folder: What the report is about.
        reports: Of the files, with their facts.

    Returns:
        The report, or None where there is nothing to compare.
    """
    maps = [r for r in reports if isinstance(r.facts, RasterFacts) and r.facts.role == "class"]
    findings: list[Finding] = []
    compared = 0
    for other in reports:
        labels = _labels_of(other, maps)
        if labels is None:
            continue
        if isinstance(other.facts, RasterFacts) and other.facts.role in _FIELDS:
            findings += _compare_rasters(labels, other)
            compared += 1
        elif isinstance(other.facts, VectorFacts) and other.facts.names:
            findings += _compare_polygons(labels, other)
            compared += 1
    return report(folder, "together", findings) if compared else None


def _labels_of(other: Report, maps: Sequence[Report]) -> Report | None:
    """Return the class raster that a file belongs to."""
    if not maps or any(other is labels for labels in maps):
        return None
    beside = [labels for labels in maps if labels.path.parent == other.path.parent] or list(maps)
    if len(beside) == 1:
        return beside[0]
    alike = [_alike(r.path.stem, other.path.stem) for r in beside]
    best = int(np.argmax(alike))
    return beside[best] if alike[best] > 0 and alike.count(alike[best]) == 1 else None


def _alike(one: str, other: str) -> int:
    """How many characters two names begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _compare_rasters(labels: Report, other: Report) -> Iterator[Finding]:
    one: RasterFacts = labels.facts
    two: RasterFacts = other.facts
    names = f"{labels.path.name} and {other.path.name}"
    sound = True
    if one.crs != two.crs:
        sound = False
        yield error(
            "run.crs",
            f"{names} have different CRSs ({one.crs}, {two.crs}): they are not of one scene.",
            "Make both in one run.",
        )
    elif two.role in _ON_PIXELS and one.shape != two.shape:
        sound = False
        yield error(
            "run.shape",
            f"{names} have different sizes ({one.shape[1]} x {one.shape[0]} and {two.shape[1]} x "
            f"{two.shape[0]} pixels), so no pixel of one is that of the other.",
            "Make both in one run.",
        )
    elif not _same_place(one, two):
        sound = False
        yield error(
            "run.extent",
            f"{names} lie in different places: they are not of one scene.",
            "Make both in one run.",
        )
    for tag in _SHARED_TAGS:
        if tag in one.tags and tag in two.tags and one.tags[tag] != two.tags[tag]:
            sound = False
            yield error(
                "run.mixed",
                f"{names} are of different runs: {tag} is '{one.tags[tag]}' and '{two.tags[tag]}'.",
                "Make both in one run.",
            )
            return
    times = one.tags.get("TIFFTAG_DATETIME"), two.tags.get("TIFFTAG_DATETIME")
    if sound and None not in times and times[0] != times[1]:
        yield hint("run.date", f"{names} were made at different times ({times[0]}, {times[1]}).")
    elif sound:
        yield ok("run.rasters", f"{names} lie on each other.")


def _same_place(one: RasterFacts, two: RasterFacts) -> bool:
    """Whether two rasters begin at the same corner and reach as far, but for part of a cell."""
    if two.role in _ON_PIXELS or one.transform.determinant == 0:
        return bool(one.transform == two.transform)
    cells = compose(~one.transform, two.transform)  # cells of two → pixels of one
    cell = np.array([math.hypot(cells.a, cells.b), math.hypot(cells.d, cells.e)])
    corner = np.abs(apply(cells, 0, 0))
    end = np.abs(np.subtract(apply(cells, two.shape[1], two.shape[0]), one.shape[::-1]))
    return bool((np.maximum(corner, end) <= cell * 1.001).all())


def _compare_polygons(labels: Report, other: Report) -> Iterator[Finding]:
    one: RasterFacts = labels.facts
    two: VectorFacts = other.facts
    names = f"{labels.path.name} and {other.path.name}"
    wrong = [k for k, n in two.names.items() if k in one.names and one.names[k] != n]
    if wrong:
        yield error(
            "run.class-names",
            f"{names} name class {wrong[0]} differently ('{one.names[wrong[0]]}', "
            f"'{two.names[wrong[0]]}').",
            "Make both in one run.",
        )
        return
    if one.crs is None or two.crs is None or two.bounds is None:
        return
    if _apart(one, two):
        yield error(
            "run.extent",
            f"{names} lie in different places: the polygons are of another map.",
            "Polygonize the raster anew.",
        )
        return
    if not two.areas or one.counts is None:
        return
    ground = Ground(one.crs, one.transform, one.shape)
    # the mean over the rows: exact in the plane, and for classes spread over a geographic raster
    pixel = float(ground.row_areas_m2.mean())
    counts = {k: n * pixel for k, n in one.counts.items() if k != one.nodata}
    total, drawn = sum(counts.values()), sum(two.areas.values())
    if total == 0:
        return
    if abs(drawn / total - 1) > _TOTAL_TOLERANCE:
        yield warning(
            "run.area",
            f"{names} cover different areas ({total:,.0f} m² and {drawn:,.0f} m²): polygons are "
            "missing, overlap, or are of another map.",
            "Polygonize the raster anew.",
        )
        return
    off = {
        k: two.areas.get(k, 0.0) / area - 1
        for k, area in counts.items()
        if area > _SMALL_SHARE * total and abs(two.areas.get(k, 0.0) / area - 1) > _CLASS_TOLERANCE
    }
    if off:
        worst = max(off, key=lambda k: abs(off[k]))
        yield warning(
            "run.class-area",
            f"{names} differ by {off[worst]:+.0%} in the area of "
            f"'{one.names.get(worst, worst)}': small polygons were dissolved, or the raster was "
            "edited since.",
            "Polygonize the raster anew, with a smaller --min-area if that is the reason.",
        )
    else:
        yield ok("run.areas", f"{names} have the same area of each class.")


def _apart(one: RasterFacts, two: VectorFacts) -> bool:
    """Whether polygons reach beyond their raster."""
    if two.bounds is None:
        return False
    height, width = one.shape
    corners = np.array(
        [apply(one.transform, x, y) for x in (0, width) for y in (0, height)], np.float64
    )
    low, high = corners.min(axis=0), corners.max(axis=0)
    bounds = np.array(two.bounds).reshape(2, 2)
    if two.crs != pyproj.CRS.from_user_input(one.crs):
        change = pyproj.Transformer.from_crs(two.crs, one.crs, always_xy=True)
        left, bottom, right, top = two.bounds
        moved = change.transform_bounds(left, bottom, right, top, densify_pts=21)
        bounds = np.array(moved).reshape(2, 2)
        # a box around a turned box is larger
        slack = 0.1 * (high - low)
    else:
        slack = _EXTENT_TOLERANCE * (high - low)
    return bool((bounds[0] < low - slack).any() or (bounds[1] > high + slack).any())
