"""Checks of what QGIS reads: styles (``.qml``) and projects (``.qgz``, ``.qgs``)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import pyogrio
from pyogrio.errors import DataSourceError

from geodeform.doctor.findings import Finding, counted, error, hint, listed, ok, warning
from geodeform.doctor.legends import paletted_entries

_FILE_PROVIDERS = ("gdal", "ogr", "delimitedtext", "spatialite", "gpx", "mdal", "pdal")
_LARGEST_PROJECT = 256 << 20  # bytes unpacked: a zip bomb must not fill the memory


def check_style(path: Path) -> Iterator[Finding]:
    """Check a QML file: well-formed, and a style of a raster or a vector layer."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as failure:
        yield error(
            "qml.malformed",
            f"{path.name} is no valid XML ({failure}), so QGIS ignores it.",
            "Save the style in QGIS again.",
        )
        return
    renderers = [*root.iter("rasterrenderer"), *root.iter("renderer-v2")]
    if root.tag != "qgis" or not renderers:
        yield warning(
            "qml.no-renderer",
            f"{path.name} describes no symbols, so QGIS opens the layer in its own default.",
            "Save the style in QGIS again, with the category Symbology.",
        )
        return
    try:
        entries = list(paletted_entries(root))
    except ValueError as failure:
        yield error("qml.malformed", f"{path.name} has a class without a number ({failure}).")
        return
    paletted = any(r.get("type") == "paletted" for r in renderers)
    if paletted and not entries:
        yield warning(
            "qml.empty",
            f"{path.name} has no class in its palette, so QGIS draws nothing.",
            "Save the style in QGIS again, after Classify.",
        )
    values = [value for value, _, _ in entries]
    if len(set(values)) < len(values):
        twice = sorted({v for v in values if values.count(v) > 1})
        yield warning(
            "qml.duplicate-class",
            f"{path.name} has the class {listed(twice)} twice; QGIS shows the last one.",
            "Delete one of them in QGIS.",
        )
    if not [p for p in path.parent.glob(f"{path.stem}.*") if p != path]:
        yield hint(
            "qml.alone",
            f"No raster or vector file beside {path.name} has its name, so QGIS loads it only by "
            "hand.",
        )
    yield ok("qml.read", f"A QGIS style of {counted(len(renderers), 'renderer')}.")


def check_project(path: Path) -> Iterator[Finding]:
    """Check a QGIS project: it parses, and every layer's file is there, named relative to it."""
    try:
        root = _project_root(path)
    except (ElementTree.ParseError, zipfile.BadZipFile, OSError, ValueError) as failure:
        yield error(
            "project.damaged",
            f"{path.name} cannot be read ({failure}), so QGIS opens nothing.",
            "Save the project in QGIS again, or make it again.",
        )
        return
    layers = root.findall("projectlayers/maplayer")
    if not layers:
        yield warning("project.empty", f"{path.name} has no layer.", "Add layers in QGIS.")
        return
    found = 0
    for layer in layers:
        problem = _layer_problem(path, layer)
        if problem is None:
            found += 1
        else:
            yield problem
    known = {layer.findtext("id") for layer in layers}
    lost = [
        node.get("name", "")
        for node in root.iter("layer-tree-layer")
        if node.get("id") not in known
    ]
    if lost:
        yield warning(
            "project.tree",
            f"{path.name} lists {listed(lost)} in its layer tree, but has no such layer.",
            "Open it in QGIS, remove them, and save.",
        )
    if found:
        yield ok("project.layers", f"{counted(found, 'layer')} with its data in place.")


def _project_root(path: Path) -> ElementTree.Element:
    """Return the XML of a project."""
    if not zipfile.is_zipfile(path):
        return ElementTree.parse(path).getroot()
    with zipfile.ZipFile(path) as archive:
        inner = [entry for entry in archive.infolist() if entry.filename.endswith(".qgs")]
        if len(inner) != 1:
            raise ValueError(f"it holds {len(inner)} .qgs files instead of one")
        if inner[0].file_size > _LARGEST_PROJECT:
            raise ValueError(f"its project would unpack to {inner[0].file_size:,} bytes")
        return ElementTree.fromstring(archive.read(inner[0]))


def _layer_problem(path: Path, layer: ElementTree.Element) -> Finding | None:
    """What is wrong with a layer's data source, or None."""
    name = layer.findtext("layername") or layer.findtext("id") or "a layer"
    provider = layer.findtext("provider") or ""
    address = layer.findtext("datasource") or ""
    if provider not in _FILE_PROVIDERS or "://" in address.removeprefix("file://"):
        return None  # a web service or a database: not asked
    file, table = _source(address)
    if file.startswith("/vsi"):
        return None
    target = path.parent / file
    if not target.exists():
        return error(
            "project.missing-data",
            f"{path.name} has the layer '{name}' of {file}, which is not there: QGIS asks for it.",
            "Put the file back, or choose it in QGIS (Handle Unavailable Layers) and save.",
        )
    if Path(file).is_absolute():
        return warning(
            "project.absolute-path",
            f"{path.name} names the data of '{name}' by an absolute path, so it cannot be moved or "
            "given away with its folder.",
            "Keep both below one folder; then in QGIS: Project Properties, General, Save paths: "
            "Relative; and save.",
        )
    if table is not None and target.suffix.lower() == ".gpkg":
        try:
            tables = [str(entry[0]) for entry in pyogrio.list_layers(target)]
        except DataSourceError:  # a damaged file, which has its own report
            return None
        if table not in tables:
            return error(
                "project.missing-layer",
                f"{path.name} has the layer '{name}' of the table '{table}', but {file} has "
                f"{listed(tables)}.",
                "Choose the table in QGIS and save.",
            )
    return None


def _source(address: str) -> tuple[str, str | None]:
    """Return the file and the table of a layer's data source."""
    if address.startswith("file:"):
        parts = urlsplit(address)
        tables = parse_qs(parts.query).get("layername", [])
        return unquote(parts.path), tables[0] if tables else None
    file, *options = address.split("|")
    named = [o.split("=", 1)[1] for o in options if o.lower().startswith("layername=")]
    return file, named[0] if named else None
