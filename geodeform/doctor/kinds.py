"""What kind of file something is, by what is in it; its name is not trusted."""

from __future__ import annotations

import json
import re
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import pyogrio
from pyogrio.errors import DataSourceError
from rasterio.errors import RasterioError

from geodeform.doctor.facts import open_raster

_HEAD = 1 << 16  # bytes that are looked at
_PICTURES = ("PNG", "JPEG", "GIF", "WEBP")


def kind_of(path: Path) -> str:
    """Return what a file is, or "" where it is nothing that can be examined.

    Args:
        path: A file of at least one byte.

    Returns:
        ``GeoPackage``, ``GeoParquet``, ``FlatGeobuf``, ``GeoJSON``, ``QGIS style``,
        ``QGIS project``, ``STAC item``, ``report``, ``sidecar``, ``picture``, ``raster``,
        ``vector``, or "".

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"SQLite format 3\0"):
        return "GeoPackage" if _is_geopackage(path) else _by_drivers(path)
    if head.startswith(b"PAR1"):
        return "GeoParquet"
    if head.startswith(b"fgb"):
        return "FlatGeobuf"
    if head.startswith(b"PK\x03\x04"):
        return "QGIS project" if _holds_project(path) else _by_drivers(path)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        return _markup_kind(text) or _by_drivers(path)
    if text.startswith((b"{", b"[")):
        return _json_kind(text)
    return _by_drivers(path)


def _is_geopackage(path: Path) -> bool:
    """Whether a database is a GeoPackage, or means to be one."""
    if path.suffix.lower() == ".gpkg":
        return True  # damage must not make it something else
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            query = "SELECT count(*) FROM sqlite_master WHERE name = 'gpkg_contents'"
            return bool(database.execute(query).fetchone()[0])
    except sqlite3.Error:
        return False


def _holds_project(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".qgs") for name in archive.namelist())
    except zipfile.BadZipFile:
        return path.suffix.lower() == ".qgz"  # damage must not make it something else


def _markup_kind(text: bytes) -> str:
    lowered = text.lower()
    if re.match(rb"<!doctype html|<html", lowered):
        return "report"
    root = re.search(rb"<(?![?!])([\w:-]+)([^>]*)", lowered)
    if root is None:
        return ""
    if root[1] == b"qgis":
        whole = b"projectname" in root[2] or b"<projectlayers" in lowered
        return "QGIS project" if whole or b"<projectcrs" in lowered else "QGIS style"
    return {b"pamdataset": "sidecar", b"html": "report"}.get(root[1], "")


def _json_kind(text: bytes) -> str:
    if b'"stac_version"' in text:
        return "STAC item"
    kinds = b"FeatureCollection|Feature|GeometryCollection|(Multi)?(Point|LineString|Polygon)"
    if re.search(rb'"type"\s*:\s*"(' + kinds + rb')"', text):
        return "GeoJSON"
    try:
        json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return "GeoJSON" if b'"coordinates"' in text else ""
    return ""


def _by_drivers(path: Path) -> str:
    """Ask GDAL."""
    try:
        with open_raster(path) as dataset:
            picture = dataset.driver in _PICTURES and dataset.crs is None
            unplaced = dataset.transform.is_identity
            return "picture" if picture and unplaced else "raster" if dataset.count else ""
    except RasterioError:
        pass
    try:
        pyogrio.list_layers(path)
    except DataSourceError:
        return ""
    return "vector"
