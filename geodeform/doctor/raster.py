"""Checks of any raster: can it be read, where does it lie, and is it stored well.

Every pixel is read, block by block: memory stays at a few megabytes, time follows the file. What
the values are said to mean is checked in :mod:`geodeform.doctor.classes` and
:mod:`geodeform.doctor.fields`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyproj
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rio_cogeo.cogeo import cog_validate

from geodeform.doctor.classes import check_classes, is_class_raster
from geodeform.doctor.facts import RasterFacts, open_raster, strips
from geodeform.doctor.fields import check_confidence, check_density
from geodeform.doctor.findings import (
    Finding,
    Report,
    counted,
    error,
    hint,
    listed,
    ok,
    quoted,
    report,
    warning,
)
from geodeform.doctor.legends import read_sidecar
from geodeform.geo.affine import apply, frame_of
from geodeform.geo.raster import DENSITY_BANDS, GDAL_CACHE_BYTES

MAX_COUNTED = 1 << 16
"""Largest number of different values that are told apart."""

_SMALL_BYTES = 1 << 20  # compression and overviews do not matter below
_ZERO_SHARE = 0.02
_AREA_MARGIN = 5.0  # degrees: neighbouring UTM zones are used on purpose


def examine_raster(path: Path) -> Report:
    """Examine a raster: georeference, storage, every pixel, and what its values mean.

    Args:
        path: A raster that GDAL can open.

    Returns:
        The report; its facts are :class:`RasterFacts`, or None where the file is damaged.
    """
    findings: list[Finding] = []
    try:
        with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES), open_raster(path) as dataset:
            facts = _facts(dataset)
            findings += _check_place(path, dataset)
            findings += _check_sidecars(path, dataset, facts)
            findings += _check_storage(path, dataset)
            try:
                _read(dataset, facts)
            except RasterioError as failure:
                findings.append(_damaged(path, failure))
                return report(path, "raster", findings)
            findings.append(
                ok("raster.read", f"All {facts.shape[1]:,} x {facts.shape[0]:,} pixels were read.")
            )
            findings += _check_statistics(path, facts)
            facts.role = facts.role or ("class" if is_class_raster(dataset, facts) else "image")
            findings += _check_cog(path, dataset, facts)
            if facts.role == "class":
                findings += check_classes(path, dataset, facts)
            elif facts.role in ("confidence", "trust"):
                findings += check_confidence(path, facts)
            elif facts.role == "density":
                findings += check_density(path, facts)
            else:
                findings += _check_image(path, dataset, facts)
    except RasterioError as failure:
        return report(path, "raster", [_damaged(path, failure)])
    kind = {"image": "raster"}.get(facts.role, f"{facts.role} raster")
    return report(path, kind, findings, facts)


def _damaged(path: Path, failure: RasterioError) -> Finding:
    return error(
        "raster.damaged",
        f"{path.name} cannot be read to its end ({' '.join(str(failure).split())}): it is cut off "
        "or damaged.",
        "Copy or make the file again.",
    )


def _facts(dataset: Any) -> RasterFacts:
    description = (dataset.descriptions[0] or "").lower()
    dtype = str(dataset.dtypes[0])
    scale = float(dataset.scales[0])
    role = ""
    # the density's other bands follow from its first
    if dataset.count == 1 or dataset.descriptions[-1] == DENSITY_BANDS[-1]:
        if "confidence" in description or "probabilit" in description:
            role = "confidence"
        elif description == "trust":
            role = "trust"  # stored as confidence is
        elif "density" in description:
            role = "density"
        elif dtype == "uint8" and math.isclose(scale, 1 / 255, rel_tol=1e-3):
            role = "confidence"
    transform, crs = frame_of(dataset)
    nodata = dataset.nodatavals[0]
    return RasterFacts(
        role=role,
        shape=(dataset.height, dataset.width),
        transform=transform,
        crs=crs,
        tags=dict(dataset.tags()),
        dtype=dtype,
        nodata=None if nodata is None else float(nodata),
        scale=scale,
        offset=float(dataset.offsets[0]),
        description=description,
        unit=dataset.units[0] or "",
    )


def _read(dataset: Any, facts: RasterFacts) -> None:
    """Read every pixel of every band; keep what the first one holds."""
    whole = np.issubdtype(np.dtype(facts.dtype), np.integer)
    counts: dict[int, int] | None = {} if whole else None
    low, high = math.inf, -math.inf
    for window in strips(facts.shape, dataset.block_shapes[0][0]):
        for band in range(2, dataset.count + 1):
            dataset.read(band, window=window)
        data = dataset.read(1, window=window)
        if np.iscomplexobj(data):
            continue
        if counts is not None:
            for value, number in _counted(data):
                counts[value] = counts.get(value, 0) + number
            if len(counts) > MAX_COUNTED:
                counts = None
        valid = ~np.isnan(data) if data.dtype.kind == "f" else np.ones(data.shape, bool)
        if facts.nodata is not None and not math.isnan(facts.nodata):
            valid &= data != facts.nodata
        facts.missing += int(data.size - valid.sum())
        kept = data[valid]
        if data.dtype.kind == "f":
            finite = np.isfinite(kept)
            facts.infinite += int(kept.size - finite.sum())
            kept = kept[finite]
        if kept.size > 0:
            low, high = min(low, float(kept.min())), max(high, float(kept.max()))
    facts.counts = counts
    if low <= high:
        facts.minimum, facts.maximum = low, high


def _counted(data: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yield the distinct values of a block, and how often each occurs."""
    low = int(data.min())
    if int(data.max()) - low < MAX_COUNTED:  # counting is many times faster than sorting
        numbers = np.bincount(data.ravel().astype(np.int64) - low)
        values = np.flatnonzero(numbers)
        yield from zip((values + low).tolist(), numbers[values].tolist(), strict=True)
    else:
        values, numbers = np.unique(data, return_counts=True)
        yield from zip(values.tolist(), numbers.tolist(), strict=True)


# ------------------------------------------------------------------------------------------ place


def _check_place(path: Path, dataset: Any) -> Iterator[Finding]:
    """CRS and transform."""
    points, points_crs = dataset.gcps
    crs = dataset.crs or points_crs
    named = quoted(path)
    if crs is None:
        yield warning(
            "raster.no-crs",
            f"{path.name} has no CRS, so no GIS can lay it over other data or measure areas.",
            f"If you know it: gdal_edit.py -a_srs EPSG:CODE {named}",
        )
    placed = not dataset.transform.is_identity
    if not placed and points:
        yield hint(
            "raster.gcps",
            f"{path.name} is placed by {counted(len(points), 'ground control point')}, not by a "
            "transform: GIS programs bend or fit it while drawing.",
            f"For a raster in a grid: gdalwarp -r near {named} warped.tif",
        )
    elif not placed and crs is not None:
        yield error(
            "raster.no-transform",
            f"{path.name} has a CRS but no transform, so it lies at the CRS's origin.",
            f"Set its corners: gdal_edit.py -a_ullr ULX ULY LRX LRY {named}",
        )
    elif placed:
        yield from _check_transform(path, dataset)
    if crs is not None:
        yield from _check_crs(path, crs, dataset)


def _check_transform(path: Path, dataset: Any) -> Iterator[Finding]:
    a, b, _, d, e, _ = dataset.transform[:6]
    if a * e - b * d == 0:
        yield error(
            "raster.degenerate-transform",
            f"{path.name} has a transform without area ({a}, {b}, {d}, {e}): no pixel has a place.",
            "Make the file again from its scene.",
        )
    elif b != 0 or d != 0:
        angle = math.degrees(math.atan2(d, a))
        yield hint(
            "raster.rotated",
            f"{path.name} is rotated by {angle:.3g}°; GDAL and QGIS know how, some web viewers do "
            "not.",
        )
    elif e > 0 or a < 0:
        yield hint(
            "raster.flipped",
            f"{path.name} has its rows from south to north or its columns from east to west, "
            "which some programs draw upside down.",
            f"gdalwarp -r near {quoted(path)} north_up.tif",
        )
    else:
        yield ok("raster.transform", f"Pixels of {a:g} x {-e:g} units, north up.")


def _check_crs(path: Path, crs: CRS, dataset: Any) -> Iterator[Finding]:
    try:
        known = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as failure:
        yield error(
            "raster.crs-unknown",
            f"{path.name} has a CRS that PROJ does not understand ({failure}).",
            f"gdal_edit.py -a_srs EPSG:CODE {quoted(path)}",
        )
        return
    if known.geodetic_crs is None:
        yield warning(
            "raster.local-crs",
            f"{path.name} has the local CRS '{known.name}', which has no place on the Earth.",
            f"If you know it: gdal_edit.py -a_srs EPSG:CODE {quoted(path)}",
        )
        return
    code = known.to_authority(min_confidence=70)
    if code is None:
        yield hint(
            "raster.custom-crs",
            f"{path.name} has the CRS '{known.name}', which is no registered code; programs must "
            "read its definition.",
        )
    else:
        yield ok("raster.crs", f"CRS {':'.join(code)}, {known.name}.")
        known = pyproj.CRS.from_authority(*code)  # a file's own definition has no area of use
    transform, _ = frame_of(dataset)
    frame = [(0, 0), (dataset.width, 0), (dataset.width, dataset.height), (0, dataset.height)]
    corners = np.array([apply(transform, x, y) for x, y in frame])
    yield from check_within(path, known, corners, "raster")


def check_within(
    path: Path, crs: pyproj.CRS, points: NDArray[np.float64], family: str
) -> Iterator[Finding]:
    """Check that (n, 2) coordinates are some that the CRS can have."""
    code = f"{family}.crs-mismatch"
    said = f"the CRS '{crs.name}'"
    assign = "Find out the CRS that the numbers are of, and assign it (not reproject)."
    if crs.is_geographic:
        degrees = math.degrees(crs.axis_info[0].unit_conversion_factor)
        reach = np.abs(points * degrees).max(axis=0)
        if reach[1] > 90 + 1e-6 or reach[0] > 360 + 1e-6:
            yield error(
                code,
                f"{path.name} says {said}, but its coordinates reach {reach[0]:,.6g}, "
                f"{reach[1]:,.6g}, which are no longitudes and latitudes.",
                assign,
            )
        return
    area = crs.area_of_use
    if area is None:
        return
    change = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    lon, lat = change.transform(*points.mean(axis=0))
    if not (math.isfinite(lon) and math.isfinite(lat)):
        yield error(
            code, f"{path.name} says {said}, but no place has its coordinates there.", assign
        )
        return
    wide = (area.east - area.west) % 360 or 360.0
    beyond = (lon - area.west + _AREA_MARGIN) % 360 > wide + 2 * _AREA_MARGIN
    south, north = area.south, area.north
    if "UTM" in crs.name:  # Landsat is in northern zones everywhere, with negative northings
        south, north = -84.0, 84.0
    if beyond or not south - _AREA_MARGIN <= lat <= north + _AREA_MARGIN:
        yield warning(
            f"{family}.crs-area",
            f"{path.name} lies at {lon:.2f}°, {lat:.2f}°, far outside the area of {said} "
            f"({area.name}): shapes and areas are distorted, or the CRS is a wrong one.",
            assign,
        )


# ---------------------------------------------------------------------------------------- storage


def _check_storage(path: Path, dataset: Any) -> Iterator[Finding]:
    for band, (nodata, dtype) in enumerate(
        zip(dataset.nodatavals, dataset.dtypes, strict=True), start=1
    ):
        kind = np.dtype(dtype)
        if nodata is None or not np.issubdtype(kind, np.integer):
            continue
        limits = np.iinfo(kind)
        if not (limits.min <= nodata <= limits.max and nodata == int(nodata)):
            yield error(
                "raster.nodata-range",
                f"{path.name} has nodata {nodata:g} in band {band}, which {dtype} cannot hold, so "
                "no pixel is ever nodata.",
                f"gdal_edit.py -a_nodata VALUE {quoted(path)}",
            )
    size = path.stat().st_size if path.is_file() else 0
    if dataset.compression is None and dataset.driver == "GTiff" and size > _SMALL_BYTES:
        yield hint(
            "raster.uncompressed",
            f"{path.name} is not compressed ({size / 1e6:,.0f} MB).",
            f"gdal_translate -of COG -co COMPRESS=DEFLATE {quoted(path)} compressed.tif",
        )


def _check_cog(path: Path, dataset: Any, facts: RasterFacts) -> Iterator[Finding]:
    if dataset.driver != "GTiff":
        yield hint(
            "raster.format",
            f"{path.name} is {dataset.driver}, not GeoTIFF; a Cloud Optimized GeoTIFF opens "
            "everywhere and fast.",
            _cog_command(path, facts),
        )
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        _, faults, advice = cog_validate(path, strict=True, quiet=True)
    if faults:
        yield warning(
            "raster.not-cog",
            f"{path.name} is no Cloud Optimized GeoTIFF ({listed(map(_phrase, faults), most=3)}): "
            "it is slow to pan and zoom, and over a network is fetched whole.",
            _cog_command(path, facts),
        )
    elif advice:
        yield warning(
            "raster.cog-advice",
            f"{path.name} has no overviews, so zoomed-out views read every pixel."
            if "overviews" in advice[0]
            else f"{path.name} is a Cloud Optimized GeoTIFF, but {_phrase(advice[0])}.",
            _cog_command(path, facts),
        )
    else:
        yield ok("raster.cog", "A valid Cloud Optimized GeoTIFF.")


def _phrase(sentence: str) -> str:
    words = " ".join(sentence.split()).rstrip(".")
    return words[:1].lower() + words[1:]


def _cog_command(path: Path, facts: RasterFacts) -> str:
    resampling = "MODE" if facts.role == "class" else "AVERAGE"
    return (
        f"gdal_translate -of COG -co COMPRESS=DEFLATE -co OVERVIEW_RESAMPLING={resampling} "
        f"-co OVERVIEWS=IGNORE_EXISTING {quoted(path)} cog.tif"
    )


def _check_image(path: Path, dataset: Any, facts: RasterFacts) -> Iterator[Finding]:
    """Edges of zeros that nothing declares as nodata, as scenes often have them."""
    masked = any(MaskFlags.all_valid not in flags for flags in dataset.mask_flag_enums)
    zeros = (facts.counts or {}).get(0, 0) / (facts.shape[0] * facts.shape[1])
    if not masked and zeros > _ZERO_SHARE:
        yield hint(
            "raster.zeros",
            f"{path.name} is 0 in {zeros:.0%} of its first band and declares no nodata: if these "
            "are edges without data, programs take them for dark ground.",
            f"gdal_edit.py -a_nodata 0 {quoted(path)}, or geodeform segment --nodata 0",
        )


# --------------------------------------------------------------------------------------- sidecars


def _check_sidecars(path: Path, dataset: Any, facts: RasterFacts) -> Iterator[Finding]:
    """What lies beside the file under its name, and may be of an earlier one."""
    aux = path.with_name(path.name + ".aux.xml")
    if aux.is_file():
        try:
            facts.sidecar = read_sidecar(aux)
        except (ElementTree.ParseError, ValueError) as failure:
            yield error(
                "raster.sidecar-damaged",
                f"{aux.name} is no valid XML ({failure}), so GDAL ignores the names in it.",
                f"Delete it: rm {quoted(aux)}",
            )
        else:
            if facts.sidecar.bands > dataset.count:
                yield error(
                    "raster.stale-sidecar",
                    f"{aux.name} describes band {facts.sidecar.bands}, but {path.name} has "
                    f"{counted(dataset.count, 'band')}: it belongs to another file.",
                    f"Delete it: rm {quoted(aux)}",
                )
    external = path.with_name(path.name + ".ovr")
    if external.is_file():
        yield from _check_external_overviews(path, external, facts)


def _check_external_overviews(path: Path, external: Path, facts: RasterFacts) -> Iterator[Finding]:
    again = f"rm {quoted(external)}; gdaladdo -ro -r nearest {quoted(path)} 2 4 8 16"
    try:
        with open_raster(external) as overviews:
            height, width = overviews.height, overviews.width
    except RasterioError as failure:
        yield error(
            "raster.stale-overviews",
            f"{external.name} cannot be opened ({failure}), so zoomed-out views fail.",
            again,
        )
        return
    factor = round(facts.shape[1] / width)
    expected = tuple(-(-side // factor) for side in facts.shape) if factor else (0, 0)
    if abs(expected[0] - height) > 1 or abs(expected[1] - width) > 1:
        yield error(
            "raster.stale-overviews",
            f"{external.name} is {width} x {height} pixels, which is no overview of "
            f"{facts.shape[1]} x {facts.shape[0]}: zoomed-out views show another raster.",
            again,
        )


def _check_statistics(path: Path, facts: RasterFacts) -> Iterator[Finding]:
    """Whether the stored statistics are those of the pixels that were just read."""
    aux = path.with_name(path.name + ".aux.xml")
    if facts.sidecar is None or facts.minimum is None or facts.maximum is None:
        return
    if facts.sidecar.statistics is not None:
        low, high = facts.sidecar.statistics
        slack = 1e-5 * max(abs(low), abs(high), 1e-30)
        outside = low < facts.minimum - slack or high > facts.maximum + slack
        differs = abs(low - facts.minimum) > slack or abs(high - facts.maximum) > slack
        if outside or (differs and not facts.sidecar.approximate):
            yield warning(
                "raster.stale-sidecar",
                f"{aux.name} says that values are {low:g} to {high:g}, they are {facts.minimum:g} "
                f"to {facts.maximum:g}: it is of an earlier file, and GIS programs stretch it so.",
                f"Count anew: gdal_edit.py -unsetstats {quoted(path)}",
            )
            return
    if aux.stat().st_mtime < path.stat().st_mtime - 60:
        yield hint(
            "raster.older-sidecar",
            f"{aux.name} is older than {path.name}; if the raster was written anew by a tool that "
            "leaves it, its names and statistics are of the former one.",
        )
