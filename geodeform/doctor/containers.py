"""Checks of the vector formats themselves: GeoPackage, GeoParquet, FlatGeobuf, GeoJSON.

References: OGC 12-128r18 (GeoPackage 1.3), https://geoparquet.org/releases/v1.1.0/,
https://flatgeobuf.org and RFC 7946 (GeoJSON).
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow
import pyarrow.parquet
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataSourceError

from geodeform.doctor.findings import Finding, counted, error, hint, listed, ok, quoted, warning

_GPKG_ID = 0x47504B47  # "GPKG"
_OLD_GPKG_IDS = {0x47503130: "1.0", 0x47503131: "1.1"}
_LARGE_ROW_GROUP = 1_000_000


# ------------------------------------------------------------------------------------- GeoPackage


def check_geopackage(path: Path) -> Iterator[Finding]:
    """Check what GeoPackage and QGIS demand of the database."""
    address = f"{path.resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=1.0)) as database:
            state = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if state != "ok":
                yield _damaged(path, str(state))
                return
            yield from _check_gpkg_header(path, database)
            tables = {
                row[0]
                for row in database.execute(
                    "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
                )
            }
            lacking = {"gpkg_contents", "gpkg_spatial_ref_sys"} - tables
            if lacking:
                yield error(
                    "gpkg.tables",
                    f"{path.name} lacks the table {listed(sorted(lacking))}: it is an SQLite "
                    "database, but no GeoPackage.",
                    f"ogr2ogr -f GPKG new.gpkg {quoted(path)}",
                )
                return
            yield from _check_gpkg_layers(path, database, tables)
    except sqlite3.OperationalError as failure:
        if "locked" in str(failure) or "busy" in str(failure):
            yield error(
                "gpkg.damaged",
                f"{path.name} is locked by another program, so it cannot be examined.",
                "Close it there (QGIS: stop editing), then examine it again.",
            )
        else:
            yield _damaged(path, str(failure))
    except sqlite3.DatabaseError as failure:
        yield _damaged(path, str(failure))


def _damaged(path: Path, reason: str) -> Finding:
    return error(
        "gpkg.damaged",
        f"{path.name} is a damaged or cut-off database ({' '.join(reason.split())}).",
        f"Save what can be read: ogr2ogr -skipfailures rescued.gpkg {quoted(path)}",
    )


def _check_gpkg_header(path: Path, database: sqlite3.Connection) -> Iterator[Finding]:
    application = int(database.execute("PRAGMA application_id").fetchone()[0])
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if application in _OLD_GPKG_IDS:
        yield hint("gpkg.version", f"{path.name} is GeoPackage {_OLD_GPKG_IDS[application]}.")
    elif application != _GPKG_ID:
        yield error(
            "gpkg.application-id",
            f"{path.name} does not say that it is a GeoPackage (application_id {application}), so "
            "strict readers refuse it.",
            f'sqlite3 {quoted(path)} "PRAGMA application_id = {_GPKG_ID}"',
        )
    elif version < 10200:
        yield warning(
            "gpkg.version",
            f"{path.name} names no GeoPackage version (user_version {version}).",
            f'sqlite3 {quoted(path)} "PRAGMA user_version = 10300"',
        )
    else:
        yield ok("gpkg.version", f"GeoPackage {version // 10000}.{version // 100 % 100}.")


def _check_gpkg_layers(
    path: Path, database: sqlite3.Connection, tables: set[str]
) -> Iterator[Finding]:
    layers = (
        database.execute("SELECT table_name, column_name FROM gpkg_geometry_columns").fetchall()
        if "gpkg_geometry_columns" in tables
        else []
    )
    for table, column in layers:
        if table not in tables:
            yield error(
                "gpkg.missing-table",
                f"{path.name} lists the layer '{table}', which it does not have.",
                f"ogr2ogr -f GPKG new.gpkg {quoted(path)} with the layers that are there",
            )
        elif f"rtree_{table}_{column}" not in tables:
            yield warning(
                "gpkg.no-index",
                f"Layer '{table}' of {path.name} has no spatial index, so every pan and zoom reads "
                "all of it.",
                f"ogrinfo {quoted(path)} -sql \"SELECT CreateSpatialIndex('{table}', '{column}')\"",
            )
        else:
            yield ok("gpkg.index", f"Layer '{table}' has a spatial index.")
    yield from _check_gpkg_styles(path, database, tables, [table for table, _ in layers])


def _check_gpkg_styles(
    path: Path, database: sqlite3.Connection, tables: set[str], layers: list[str]
) -> Iterator[Finding]:
    if "layer_styles" not in tables:
        yield hint(
            "gpkg.no-style",
            f"{path.name} holds no style, so it opens in one random colour.",
            "In QGIS: Layer Properties, Style, Save Style, In Database, Use as default.",
        )
        return
    rows = database.execute(
        "SELECT f_table_name, styleName, styleQML, useAsDefault FROM layer_styles"
    ).fetchall()
    sound = True
    for table, name, qml, _ in rows:
        if table not in layers:
            sound = False
            yield warning(
                "gpkg.style-layer",
                f"{path.name} has the style '{name}' for the layer '{table}', which is not there: "
                "QGIS never shows it.",
                "Set f_table_name in the table layer_styles.",
            )
        try:
            root = ElementTree.fromstring(qml or "")
        except ElementTree.ParseError as failure:
            sound = False
            yield error(
                "gpkg.style-malformed",
                f"The style '{name}' in {path.name} is no valid QML ({failure}), so QGIS shows the "
                "layer without it.",
                "Save the style in the database again.",
            )
        else:
            if root.tag != "qgis":
                sound = False
                yield error(
                    "gpkg.style-malformed",
                    f"The style '{name}' in {path.name} is <{root.tag}>, not a QGIS style.",
                    "Save the style in the database again.",
                )
    for layer in layers:
        defaults = [name for table, name, _, default in rows if table == layer and default]
        styled = any(table == layer for table, *_ in rows)
        if styled and len(defaults) != 1:
            sound = False
            yield warning(
                "gpkg.style-default",
                f"Layer '{layer}' of {path.name} has {counted(len(defaults), 'default style')}, so "
                f"QGIS opens it {'with any of them' if defaults else 'unstyled'}.",
                "Set useAsDefault to 1 for one style in the table layer_styles.",
            )
        elif not styled:
            yield hint("gpkg.no-style", f"Layer '{layer}' of {path.name} has no style.")
    if sound and rows:
        yield ok("gpkg.style", "Styled for QGIS.")


# ------------------------------------------------------------------------------------- GeoParquet


def check_geoparquet(path: Path) -> Iterator[Finding]:
    """Check the ``geo`` metadata against the file."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _check_parquet(path, file)
    except (pyarrow.ArrowException, OSError) as failure:
        yield error(
            "geoparquet.damaged",
            f"{path.name} cannot be read ({' '.join(str(failure).split())}): it is cut off or "
            "damaged.",
            "Copy or make the file again.",
        )


def _check_parquet(path: Path, file: pyarrow.parquet.ParquetFile) -> Iterator[Finding]:
    stored = (file.schema_arrow.metadata or {}).get(b"geo")
    if stored is None:
        yield error(
            "geoparquet.damaged",
            f"{path.name} is Parquet without 'geo' metadata, so nothing says which column is the "
            "geometry, or in which CRS.",
            "Write it with geopandas' to_parquet.",
        )
        return
    try:
        geo = json.loads(stored)
        primary = str(geo["primary_column"])
        column = geo["columns"][primary]
        version = str(geo["version"])
    except (json.JSONDecodeError, KeyError, TypeError) as failure:
        yield error(
            "geoparquet.damaged",
            f"{path.name} has 'geo' metadata without {failure}, so readers cannot open it.",
            "Write it with geopandas' to_parquet.",
        )
        return
    if primary not in file.schema_arrow.names:
        yield error(
            "geoparquet.damaged",
            f"{path.name} names the geometry column '{primary}', which it does not have.",
            "Write it with geopandas' to_parquet.",
        )
        return
    if not version.startswith("1."):
        yield warning(
            "geoparquet.version",
            f"{path.name} is GeoParquet {version}, from before the standard; some readers refuse "
            "it.",
            "Read and write it with geopandas.",
        )
    else:
        yield ok("geoparquet.version", f"GeoParquet {version}.")
    if "crs" not in column:
        yield hint(
            "geoparquet.crs-default",
            f"{path.name} names no CRS, which means longitude and latitude on WGS 84.",
        )
    yield from _check_parquet_boxes(path, file, column, primary)
    groups = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
    if groups and max(groups) > _LARGE_ROW_GROUP:
        yield hint(
            "geoparquet.row-groups",
            f"{path.name} has row groups of up to {max(groups):,} rows, so a reader of a small "
            "area fetches much that it does not need.",
            "Write it with row_group_size=100_000, sorted by place.",
        )


def _check_parquet_boxes(
    path: Path, file: pyarrow.parquet.ParquetFile, column: dict[str, Any], primary: str
) -> Iterator[Finding]:
    """Bounding boxes, and the rings' direction, where the metadata promise them."""
    if column.get("encoding", "WKB") != "WKB":
        return
    again = "Write it with geopandas: to_parquet(..., write_covering_bbox=True)."
    covering = (column.get("covering") or {}).get("bbox")
    if covering is None:
        yield hint(
            "geoparquet.no-covering",
            f"{path.name} has no bounding-box covering, so a reader of a small area must read all.",
            again,
        )
    names = {primary} if covering is None else {primary, str(covering["xmin"][0])}
    absent = names - set(file.schema_arrow.names)
    if absent:
        yield error(
            "geoparquet.covering",
            f"{path.name} promises the bounding boxes in column '{absent.pop()}', which it does "
            "not have.",
            again,
        )
        return
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    outside = clockwise = 0
    for batch in file.iter_batches(columns=sorted(names), batch_size=65_536):
        geometry = shapely.from_wkb(batch[primary].to_numpy(zero_copy_only=False))
        bounds = shapely.bounds(geometry)
        real = np.isfinite(bounds).all(axis=1)
        if real.any():
            low = np.minimum(low, bounds[real, :2].min(axis=0))
            high = np.maximum(high, bounds[real, 2:].max(axis=0))
        if covering is not None:
            boxes = _covering_boxes(batch, covering)
            # boxes of 32 bits are rounded outwards
            slack = 1e-9 * np.abs(bounds)
            beyond = (boxes[:, :2] > bounds[:, :2] + slack[:, :2]) | (
                boxes[:, 2:] < bounds[:, 2:] - slack[:, 2:]
            )
            outside += int(beyond[real].any(axis=1).sum())
        rings = shapely.get_exterior_ring(shapely.get_parts(geometry[real]))
        clockwise += int((~shapely.is_ccw(rings[~shapely.is_missing(rings)])).sum())
    if outside:
        yield error(
            "geoparquet.covering",
            f"{path.name} has {counted(outside, 'bounding box', 'bounding boxes')} in its covering "
            "that do not hold their geometry: readers of a part of it miss features.",
            again,
        )
    elif covering is not None:
        yield ok("geoparquet.covering", "The bounding-box covering holds every geometry.")
    stated = column.get("bbox")
    if stated is not None and np.isfinite(low).all():
        half = len(stated) // 2
        box = np.array([*stated[:2], *stated[half : half + 2]], np.float64)
        real_box = np.array([*low, *high])
        if np.abs(box - real_box).max() > 1e-6 * max(1.0, float(np.abs(real_box).max())):
            yield error(
                "geoparquet.bbox",
                f"{path.name} says that it reaches from {listed(box[:2])} to {listed(box[2:])}, "
                f"but it is {listed(low)} to {listed(high)}.",
                again,
            )
    if column.get("orientation") == "counterclockwise" and clockwise:
        yield error(
            "geoparquet.orientation",
            f"{path.name} promises rings counter-clockwise, but {counted(clockwise, 'ring')} go "
            "the other way: on a sphere they enclose the rest of the world.",
            "In Python: frame.geometry = shapely.orient_polygons(frame.geometry.array).",
        )


def _covering_boxes(batch: Any, covering: dict[str, list[str]]) -> NDArray[np.float64]:
    """Return (n, 4) left, bottom, right, top as the covering has them."""
    sides = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        name, *inner = covering[side]
        values = batch[name]
        for part in inner:
            values = values.field(part)
        sides.append(values.to_numpy(zero_copy_only=False).astype(np.float64))
    return np.stack(sides, axis=1)


# ------------------------------------------------------------------------------------- FlatGeobuf


def check_flatgeobuf(path: Path) -> Iterator[Finding]:
    """Check the spatial index."""
    try:
        whole = len(pyogrio.list_layers(path)) > 0
    except DataSourceError:
        whole = False
    if not whole:
        yield error(
            "flatgeobuf.damaged",
            f"{path.name} cannot be read: it is cut off or damaged.",
            "Copy or make the file again.",
        )
        return
    indexed = pyogrio.read_info(path)["capabilities"]["fast_spatial_filter"]
    if indexed:
        yield ok("flatgeobuf.index", "It has a spatial index.")
    else:
        yield warning(
            "flatgeobuf.no-index",
            f"{path.name} has no spatial index, so a view of a small area reads all of it.",
            f"ogr2ogr -lco SPATIAL_INDEX=YES indexed.fgb {quoted(path)}",
        )


# ---------------------------------------------------------------------------------------- GeoJSON


def check_geojson(path: Path) -> Iterator[Finding]:
    """Check what RFC 7946 demands: longitude and latitude on WGS 84, rings counter-clockwise."""
    try:
        document = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as failure:
        yield error(
            "geojson.damaged",
            f"{path.name} is no valid JSON ({failure}): it is cut off or edited wrongly.",
            "Copy or make the file again.",
        )
        return
    again = f"ogr2ogr -lco RFC7946=YES new.geojson {quoted(path)}"
    crs = _geojson_crs(document)
    if crs is not None:
        geographic = crs.is_geographic and "WGS 84" in crs.name
        yield warning(
            "geojson.crs",
            f"{path.name} names the CRS '{crs.name}' in a crs member, which RFC 7946 has removed: "
            + (
                "harmless, as it is WGS 84 anyhow."
                if geographic
                else "web maps ignore it and draw the file in the wrong place."
            ),
            again,
        )
    points, rings, wrong = 0, 0, 0
    low, high = np.full(2, math.inf), np.full(2, -math.inf)
    for geometry in _geometries(document):
        for ring, exterior in _lines(geometry):
            points += len(ring)
            low, high = np.minimum(low, ring.min(axis=0)), np.maximum(high, ring.max(axis=0))
            if exterior is not None and len(ring) > 3:
                rings += 1
                wrong += bool(shapely.is_ccw(shapely.linearrings(ring))) != exterior
    if points == 0:
        return
    if high[1] > 90 or low[1] < -90 or high[0] > 180 or low[0] < -180:
        swapped = low[0] >= -90 and high[0] <= 90 and low[1] >= -180 and high[1] <= 180
        reason = (
            "they look like latitude before longitude"
            if swapped
            else "they are of a projection, or pixels"
        )
        yield error(
            "geojson.range",
            f"{path.name} reaches from {low[0]:,.6g}, {low[1]:,.6g} to {high[0]:,.6g}, "
            f"{high[1]:,.6g}, which are no longitudes and latitudes: {reason}, and a web map draws "
            "them elsewhere or not at all.",
            "In QGIS: Processing, Swap X and Y coordinates."
            if swapped
            else again + " -s_srs EPSG:CODE -t_srs EPSG:4326",
        )
    else:
        yield ok("geojson.range", "Coordinates are longitudes and latitudes.")
    if wrong:
        yield warning(
            "geojson.winding",
            f"{path.name} has {counted(wrong, 'ring')} of {rings:,} in the direction that RFC 7946 "
            "forbids: some web maps fill the outside.",
            again,
        )
    elif rings:
        yield ok("geojson.winding", "Rings follow the right-hand rule.")


def _geojson_crs(document: Any) -> pyproj.CRS | None:
    """Return the CRS of the deprecated member, or None where there is none that is known."""
    member = document.get("crs") if isinstance(document, dict) else None
    if not isinstance(member, dict):
        return None
    try:
        return pyproj.CRS.from_user_input(member["properties"]["name"])
    except (KeyError, TypeError, pyproj.exceptions.CRSError):
        return None


def _geometries(document: Any) -> Iterator[dict[str, Any]]:
    """Every geometry of a GeoJSON document."""
    if not isinstance(document, dict):
        return
    for feature in document.get("features") or ():
        yield from _geometries(feature)
    for part in document.get("geometries") or ():
        yield from _geometries(part)
    if isinstance(document.get("geometry"), dict):
        yield from _geometries(document["geometry"])
    if "coordinates" in document:
        yield document


def _lines(geometry: dict[str, Any]) -> Iterator[tuple[NDArray[np.float64], bool | None]]:
    """(n, 2) points of each line of a geometry; with it, of rings, whether it is an outer one."""
    nesting = {"Point": 0, "MultiPoint": 1, "LineString": 1, "MultiLineString": 2}
    parts = geometry["coordinates"]
    kind = geometry.get("type")
    if kind in ("Polygon", "MultiPolygon"):
        for polygon in [parts] if kind == "Polygon" else parts:
            for number, ring in enumerate(polygon):
                if ring:
                    yield np.array([p[:2] for p in ring], np.float64), number == 0
    elif kind in nesting and parts:
        lines = {0: [[parts]], 1: [parts], 2: parts}[nesting[kind]][0:]
        for line in lines if nesting[kind] != 0 else [[parts]]:
            if line:
                yield np.array([p[:2] for p in line], np.float64), None
