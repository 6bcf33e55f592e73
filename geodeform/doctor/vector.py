"""Checks of vector files of any format: geometries, classes, areas, and whether they make a map.

What is particular to a format is in :mod:`geodeform.doctor.containers`. A layer is held in memory.
"""

from __future__ import annotations

import math
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError

from geodeform.doctor.containers import (
    check_flatgeobuf,
    check_geojson,
    check_geopackage,
    check_geoparquet,
)
from geodeform.doctor.findings import (
    Finding,
    Level,
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
from geodeform.doctor.raster import check_within

FORMATS: dict[str, Callable[[Path], Iterator[Finding]]] = {
    "GeoPackage": check_geopackage,
    "GeoParquet": check_geoparquet,
    "FlatGeobuf": check_flatgeobuf,
    "GeoJSON": check_geojson,
}
"""Vector formats with checks of their own."""

_MEASURED = 1000  # polygons whose area is measured
_AREA_TOLERANCE = 0.03  # planes of projections differ from the ellipsoid by up to 2 %
_SLIVER_POINTS = 20_000  # of a polygon, above which slivers would be looked for for minutes
_OVERLAP_SHARE = 1e-9
_ID_COLUMNS = ("id", "fid", "objectid", "ogc_fid", "gid")


@dataclass
class VectorFacts:
    """What is known of a vector file's class polygons.

    Attributes:
        crs: CRS of the polygons, or None.
        bounds: (left, bottom, right, top).
        areas: Area in m² by ``class_id``; empty where there are none of them.
        names: Name by ``class_id``.
    """

    crs: pyproj.CRS | None = None
    bounds: tuple[float, float, float, float] | None = None
    areas: dict[int, float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)


def examine_vector(path: Path, kind: str) -> Report:
    """Examine a vector file: its format, and every geometry and class of every layer.

    Args:
        path: The file.
        kind: One of :data:`FORMATS`, or another name where it is of another format.

    Returns:
        The report; its facts are :class:`VectorFacts`.
    """
    findings = list(FORMATS[kind](path)) if kind in FORMATS else []
    facts = VectorFacts()
    if any(finding.code.endswith(".damaged") for finding in findings):
        return report(path, kind, findings)
    try:
        layers = _layers(path, kind)
        for name, frame in layers:
            findings += _check_layer(path, name if len(layers) > 1 else "", frame, kind, facts)
    except (
        DataSourceError, DataLayerError, OSError, ValueError, pyarrow.ArrowException,
        sqlite3.Error, shapely.errors.GEOSException,
    ) as failure:  # fmt: skip
        findings.append(
            error(
                "vector.damaged",
                f"{path.name} cannot be read to its end ({' '.join(str(failure).split())}).",
                "Copy or make the file again.",
            )
        )
        return report(path, kind, findings)
    return report(path, kind, findings, facts)


def _layers(path: Path, kind: str) -> list[tuple[str, gpd.GeoDataFrame]]:
    """Read the layers that have geometries."""
    if kind == "GeoParquet":
        return [("", gpd.read_parquet(path))]
    found = []
    with warnings.catch_warnings():
        # what GDAL warns of, such as an unclosed ring, is found by the checks
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        for name, geometry in pyogrio.list_layers(path):
            if geometry is not None:
                found.append((str(name), pyogrio.read_dataframe(path, layer=name)))
    if not found:
        raise ValueError("it has no layer with geometries")
    return found


def _check_layer(
    path: Path, layer: str, frame: gpd.GeoDataFrame, kind: str, facts: VectorFacts
) -> Iterator[Finding]:
    where = f"Layer {layer} of {path.name}" if layer else path.name
    if frame.empty:
        yield warning("vector.no-features", f"{where} has no features.")
        return
    geometry: NDArray[Any] = np.asarray(frame.geometry.array)
    kept = geometry[~(shapely.is_missing(geometry) | shapely.is_empty(geometry))]
    yield from _check_missing(where, len(geometry) - len(kept))
    yield from _check_crs(path, where, frame.crs, kept, kind)
    yield from _check_validity(path, where, kept)
    yield from _check_duplicates(where, geometry, frame)
    polygonal = np.isin(shapely.get_type_id(kept), (3, 6))
    if not polygonal.all():
        if polygonal.any():
            yield hint(
                "vector.mixed-types",
                f"{where} mixes polygons with other geometries; many programs read one type only.",
            )
        yield from _check_classes(where, frame)
        return
    yield from _check_classes(where, frame)
    if len(kept) > 0:
        yield from _check_coverage(where, frame, kept)
    areas = _ground_areas(frame)
    if areas is not None:
        yield from _check_areas(where, frame, areas)
    _remember(frame, areas, facts)


def _check_missing(where: str, missing: int) -> Iterator[Finding]:
    if missing:
        yield warning(
            "vector.empty-geometry",
            f"{where} has {counted(missing, 'feature')} without a geometry, which no map shows.",
            "Delete them.",
        )


def _check_crs(
    path: Path, where: str, crs: pyproj.CRS | None, geometry: NDArray[Any], kind: str
) -> Iterator[Finding]:
    if crs is None:
        yield warning(
            "vector.no-crs",
            f"{where} has no CRS, so no GIS can lay it over other data or measure areas.",
            f"If you know it: ogr2ogr -a_srs EPSG:CODE new{path.suffix} {quoted(path)}",
        )
        return
    code = crs.to_authority(min_confidence=70)
    yield ok("vector.crs", f"CRS {':'.join(code) if code else crs.name}.")
    bounds = shapely.total_bounds(geometry)
    if kind != "GeoJSON" and np.isfinite(bounds).all():  # GeoJSON has its own words for it
        yield from check_within(path, crs, bounds.reshape(2, 2), "vector")


def _check_validity(path: Path, where: str, geometry: NDArray[Any]) -> Iterator[Finding]:
    wrong = np.flatnonzero(~shapely.is_valid(geometry))
    if len(wrong):
        reasons = [str(shapely.is_valid_reason(geometry[k])) for k in wrong[:3]]
        yield error(
            "vector.invalid-geometry",
            f"{where} has {counted(len(wrong), 'invalid geometry', 'invalid geometries')} "
            f"({listed(reasons, most=3)}): overlays and areas fail or are wrong.",
            f"ogr2ogr -makevalid valid{path.suffix} {quoted(path)}",
        )
    else:
        what = counted(len(geometry), "geometry", "geometries")
        yield ok("vector.valid", f"{what}, all valid.")


def _check_duplicates(
    where: str, geometry: NDArray[Any], frame: gpd.GeoDataFrame
) -> Iterator[Finding]:
    # two points at one place are two observations, such as samples of overlapping windows
    extended = geometry[shapely.get_dimensions(geometry) > 0]
    shapes = pd.Series(shapely.to_wkb(shapely.normalize(extended)))
    repeated = int(shapes[shapes.notna()].duplicated().sum())
    if repeated:
        yield warning(
            "vector.duplicates",
            f"{where} has {counted(repeated, 'geometry', 'geometries')} twice: counts and areas "
            "are too large.",
            "In QGIS: Processing, Delete duplicate geometries.",
        )
    for column in frame.columns:
        if str(column).lower() in _ID_COLUMNS and frame[column].duplicated().any():
            number = int(frame[column].duplicated().sum())
            yield warning(
                "vector.duplicate-ids",
                f"{where} has a column '{column}' in which {counted(number, 'row')} repeat another "
                "one's value: it identifies nothing, and joins multiply rows.",
                "Number the rows anew, or rename the column if it is a class.",
            )


def _check_classes(where: str, frame: gpd.GeoDataFrame) -> Iterator[Finding]:
    """One name for each class id, one id for each name."""
    if not {"class_id", "class_name"} <= set(frame.columns):
        return
    pairs = frame[["class_id", "class_name"]].drop_duplicates()
    unnamed = int(frame["class_name"].isna().sum() + (frame["class_name"] == "").sum())
    if unnamed:
        yield warning(
            "vector.class-unnamed",
            f"{where} has {counted(unnamed, 'feature')} without a class_name.",
        )
    for one, other, code in (
        ("class_id", "class_name", "vector.class-names"),
        ("class_name", "class_id", "vector.class-ids"),
    ):
        several = pairs[pairs[one].duplicated(keep=False)].dropna()
        if len(several) > 1:
            value = several[one].iloc[0]
            others = several[several[one] == value][other]
            yield error(
                code,
                f"{where} has for {one} {value} the {other} {listed(others)}: summing by one or "
                "the other gives different maps.",
                "Correct the column in the attribute table.",
            )
            return
    yield ok("vector.classes", f"One name for each of {counted(len(pairs), 'class', 'classes')}.")


def _check_coverage(
    where: str, frame: gpd.GeoDataFrame, geometry: NDArray[Any]
) -> Iterator[Finding]:
    """Overlaps and slivers between the polygons of a map."""
    if not shapely.is_valid(geometry).all():
        return  # invalid polygons have no defined inside
    mapped = "class_id" in frame.columns or "DN" in frame.columns
    large = int(shapely.get_num_coordinates(geometry).max()) > _SLIVER_POINTS
    width = _sliver_width(geometry) if mapped and not large else 0.0
    # one look for both; it takes seconds on polygons with thousands of holes
    if shapely.coverage_is_valid(geometry, gap_width=width):
        if mapped:
            what = "overlaps" if large else "overlaps or slivers"
            yield ok("vector.coverage", f"Polygons meet without {what}.")
        return
    number = _invalid_edges(geometry, 0.0)
    if number == 0:
        beside = counted(_invalid_edges(geometry, width), "polygon")
        yield warning(
            "vector.gaps",
            f"{where} has slivers without a class, narrower than {width:.3g} map units, beside "
            f"{beside}: as where borders are simplified one by "
            "one.",
            "Polygonize anew with geodeform, or in Python: "
            "shapely.coverage_clean(frame.geometry.array, gap_width=...).",
        )
        return
    total = float(shapely.area(geometry).sum())
    twice = total - float(shapely.area(shapely.union_all(geometry)))
    if twice > _OVERLAP_SHARE * total:
        yield Finding(
            Level.WARNING if mapped else Level.HINT,
            "vector.overlaps",
            f"{where} has {counted(number, 'polygon')} that overlap or do not meet: {twice:,.4g} "
            f"square map units ({twice / total:.2%}) are counted twice.",
            "Polygonize anew, or in Python: shapely.coverage_clean(frame.geometry.array).",
        )
    elif mapped:
        yield hint(
            "vector.unmatched-corners",
            f"{where} has {counted(number, 'polygon')} that lack corners of their neighbours, as "
            "gdal_polygonize makes them: nothing overlaps, but simplifying tears gaps.",
            "Before you simplify, in Python: shapely.coverage_clean(frame.geometry.array).",
        )


def _invalid_edges(geometry: NDArray[Any], width: float) -> int:
    """Return how many polygons have edges that a coverage cannot have."""
    edges = shapely.coverage_invalid_edges(geometry, gap_width=width)
    return int((~shapely.is_empty(edges)).sum())


def _sliver_width(geometry: NDArray[Any]) -> float:
    """Return a width that no pixel has: a fifth of the side of the smallest polygons."""
    return float(np.sqrt(np.percentile(shapely.area(geometry), 1))) / 5


def _ground_areas(frame: gpd.GeoDataFrame) -> NDArray[np.float64] | None:
    """Return (n,) m² in a plane that keeps areas, or None where the CRS gives none."""
    if frame.crs is None or frame.crs.geodetic_crs is None:
        return None
    left, bottom, right, top = frame.total_bounds
    change = pyproj.Transformer.from_crs(frame.crs, frame.crs.geodetic_crs, always_xy=True)
    lon, lat = change.transform((left + right) / 2, (bottom + top) / 2)
    if not (math.isfinite(lon) and abs(lat) <= 90):
        return None
    plane = pyproj.CRS.from_dict({"proj": "laea", "lat_0": lat, "lon_0": lon, "datum": "WGS84"})
    areas: NDArray[np.float64] = frame.geometry.to_crs(plane).area.to_numpy()
    return areas if np.isfinite(areas).all() else None


def _check_areas(
    where: str, frame: gpd.GeoDataFrame, areas: NDArray[np.float64]
) -> Iterator[Finding]:
    if "area_m2" not in frame.columns:
        return
    stored = frame["area_m2"].to_numpy(np.float64, na_value=math.nan)
    picked = np.unique(np.linspace(0, len(areas) - 1, _MEASURED).astype(int))
    off = np.abs(stored[picked] - areas[picked]) > _AREA_TOLERANCE * areas[picked]
    off |= np.isnan(stored[picked])
    if off.any():
        worst = picked[np.flatnonzero(off)[0]]
        yield warning(
            "vector.area",
            f"{where} has an area_m2 that is not the geometry's in {off.mean():.0%} of the rows: "
            f"row {worst} says {stored[worst]:,.6g} m² and measures {areas[worst]:,.6g} m².",
            "Measure anew in QGIS: field calculator, $area.",
        )
    else:
        yield ok("vector.area", "The area column is that of the geometries.")


def _remember(
    frame: gpd.GeoDataFrame, areas: NDArray[np.float64] | None, facts: VectorFacts
) -> None:
    """Keep what the class raster of the same run is compared with."""
    facts.crs = frame.crs
    left, bottom, right, top = (float(v) for v in frame.total_bounds)
    facts.bounds = (left, bottom, right, top)
    if "class_id" not in frame.columns:
        return
    if "class_name" in frame.columns:
        pairs = frame[["class_id", "class_name"]].drop_duplicates().dropna()
        facts.names = {int(k): str(n) for k, n in pairs.itertuples(index=False)}
    if areas is not None:
        sums = pd.Series(areas).groupby(frame["class_id"].to_numpy()).sum()
        facts.areas = {
            int(k): float(v) for k, v in zip(sums.index.to_numpy(), sums.to_numpy(), strict=True)
        }
