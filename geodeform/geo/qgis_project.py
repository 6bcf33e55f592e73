"""QGIS projects: one file that opens a scene and its maps together, styled and in order.

A ``.qgz`` is a zip file with the project's XML inside; QGIS 3.22 and later open it. Files are named
relative to the project, so that a folder with a map and its project can be moved. QGIS itself is
not needed. Reference: https://docs.qgis.org/latest/en/docs/user_manual/appendices/qgis_file_formats.html
"""

from __future__ import annotations

import os
import re
import uuid
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import rasterio
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine

from geodeform.classes import ClassScheme
from geodeform.errors import OutputError
from geodeform.geo import affine
from geodeform.geo.outputs import PROJECT_SUFFIXES, OutputSet, final_path
from geodeform.geo.project import Bounds
from geodeform.geo.style import (
    QGIS_VERSION,
    class_raster_style,
    confidence_style,
    density_range,
    density_style,
    polygon_style,
    sample_style,
)

_MAP, _SCENE, _CONFIDENCE, _SAMPLING = "Land cover", "Scene", "Confidence", "Sampling"  # themes
_CHECKED = {True: "Qt::Checked", False: "Qt::Unchecked"}

# GDAL's archives in the file system, such as /vsizip/folder/scenes.zip/scene.tif
_ARCHIVE = re.compile(r"(/vsi(?:zip|tar|gzip|7z|rar)/)(?!/?vsi|\{)(.+)")


@dataclass(frozen=True)
class RasterLayer:
    """A raster of a project.

    Attributes:
        name: What the layer is called.
        source: The file, at its staged path while it is staged; or any name that GDAL opens.
        style: QML, see :mod:`geodeform.geo.style`.
        group: Group of the layer tree; none if empty.
        visible: Whether it is drawn when the project is opened.
        expanded: Whether its legend is unfolded then.
        themes: The map themes that show it; a project has a theme for each name that occurs.
    """

    name: str
    source: str | Path
    style: str
    group: str = ""
    visible: bool = True
    expanded: bool = True
    themes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VectorLayer:
    """A vector file of a project; see :class:`RasterLayer` for what both have.

    Attributes:
        geometry: What it holds.
        table: Its table, where the file is a GeoPackage.
    """

    name: str
    source: str | Path
    style: str
    geometry: Literal["Polygon", "Point"]
    table: str
    group: str = ""
    visible: bool = True
    expanded: bool = True
    themes: tuple[str, ...] = ()


Layer = RasterLayer | VectorLayer


def scene_layer(source: str | Path, style: str) -> RasterLayer:
    """Return the layer of the scene, below all others and in every theme.

    Args:
        source: The scene: a file, or any name that GDAL opens.
        style: As from :func:`geodeform.geo.style.scene_style`.
    """
    return RasterLayer(
        f"Scene ({Path(source).stem})",
        source,
        style,
        expanded=False,  # its legend only says which band is red
        themes=(_MAP, _SCENE, _CONFIDENCE, _SAMPLING),
    )


def map_layers(
    outputs: Mapping[str, Path], scheme: ClassScheme, *, scene: RasterLayer | None = None
) -> list[Layer]:
    """Return the layers of a run, styled, from top to bottom.

    The map lies over the scene. Confidence and sampling lie over the map and are switched off: one
    click shows each of them, or one click on a map theme shows each over the scene alone.

    Args:
        outputs: What was written, at its staged path while it is staged: ``labels``,
            ``confidence``, ``density``, ``polygons`` and ``samples``, as far as they exist; other
            kinds are no layers.
        scheme: Names and colours of the classes.
        scene: As from :func:`scene_layer`; without one, of a scene in memory, there is none.

    Raises:
        OutputError: If the density raster cannot be read.
    """
    extras = "Confidence and sampling"
    layers: list[Layer] = []
    if "samples" in outputs:
        layers.append(
            VectorLayer(
                "Sampled points",
                outputs["samples"],
                sample_style(scheme),
                geometry="Point",
                table="samples",
                group=extras,
                visible=False,
                expanded=False,
                themes=(_SAMPLING,),
            )
        )
    if "confidence" in outputs:
        layers.append(
            RasterLayer(
                "Confidence",
                outputs["confidence"],
                confidence_style(),
                group=extras,
                visible=False,
                themes=(_CONFIDENCE,),
            )
        )
    if "trust" in outputs:
        layers.append(
            RasterLayer(
                "Trust",
                outputs["trust"],
                confidence_style(),
                group=extras,
                visible=False,
                themes=(),
            )
        )
    if "density" in outputs:
        layers.append(
            RasterLayer(
                "Sampling density",
                outputs["density"],
                density_style(*density_range(outputs["density"])),
                group=extras,
                visible=False,
                themes=(_SAMPLING,),
            )
        )
    if "polygons" in outputs:
        layers.append(
            VectorLayer(
                "Polygons",
                outputs["polygons"],
                polygon_style(scheme),
                geometry="Polygon",
                table="polygons",
                group=_MAP,
                themes=(_MAP,),
            )
        )
    if "labels" in outputs:
        layers.append(
            RasterLayer(
                "Class raster",
                outputs["labels"],
                class_raster_style(scheme),
                group=_MAP,
                expanded="polygons" not in outputs,  # the same legend twice
                themes=(_MAP,),
            )
        )
    if scene is not None:
        layers.append(scene)
    return layers


def write_project(
    path: str | Path,
    layers: Sequence[Layer],
    *,
    title: str,
    crs: CRS | None,
    abstract: str = "",
    overwrite: bool = False,
) -> list[str]:
    """Write a QGIS project, whole or not at all.

    It opens on the extent of the last raster but the scene that can be read, which for
    :func:`map_layers` is the class raster.

    A scene without any georeference is a special case. QGIS draws its rasters with the top row at
    y = 0 and the others at negative y, and so the vector files, which have pixel coordinates with
    y downwards, are turned over as they are read. A raster on coarser cells, which the density is,
    cannot be: it is left out.

    QGIS reads GeoParquet if its GDAL does (Windows, macOS and conda builds do, Debian's and
    Ubuntu's do not); elsewhere the layer is listed as unavailable.

    Args:
        path: Where the file shall appear: ``.qgz`` or ``.qgs``.
        layers: From top to bottom; those of a group side by side.
        title: Title of the project.
        crs: CRS of the project and of all layers (GeoJSON excepted, which is WGS 84): the scene's,
            or that of its ground control points, or None.
        abstract: What the project's properties say of it.
        overwrite: Whether an existing file may be replaced.

    Returns:
        Names of layers that were left out, see above; normally none.

    Raises:
        OutputError: If the file exists, has another suffix, or cannot be written.
    """
    frames = {k: f for k, layer in enumerate(layers) if (f := _frame(layer)) is not None}
    unplaced = crs is None and any(f.transform == Affine.identity() for f in frames.values())
    kept = [
        layer
        for k, layer in enumerate(layers)
        if not (unplaced and k in frames and frames[k].transform != Affine.identity())
    ]
    with OutputSet(overwrite=overwrite) as outputs:
        staged = outputs.add(path, suffixes=PROJECT_SUFFIXES)
        target = final_path(Path(path).absolute())
        root = _project(target, kept, title, abstract, crs, _view(layers, frames), unplaced)
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
        try:
            if staged.suffix.lower() == ".qgs":
                staged.write_bytes(text)
            else:
                with zipfile.ZipFile(staged, "w", zipfile.ZIP_DEFLATED) as archive:
                    archive.writestr(target.with_suffix(".qgs").name, text)
        except OSError as error:
            raise OutputError(f"Cannot write {target} ({error.strerror}).") from error
    names = {layer.name for layer in kept}
    return [layer.name for layer in layers if layer.name not in names]


@dataclass(frozen=True)
class _Frame:
    """Where a raster lies."""

    transform: Affine
    shape: tuple[int, int]

    def bounds(self) -> Bounds:
        """Where QGIS draws it."""
        height, width = self.shape
        if self.transform == Affine.identity():
            return 0.0, float(-height), float(width), 0.0
        corners = ((0, 0), (width, 0), (0, height), (width, height))
        xs, ys = zip(*(affine.apply(self.transform, *corner) for corner in corners), strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def _frame(layer: Layer) -> _Frame | None:
    """Return where a raster layer lies, or None of what is no raster file that can be opened."""
    if isinstance(layer, VectorLayer) or not _is_file(layer.source):  # the net is not waited for
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(layer.source) as raster:
                transform, _ = affine.frame_of(raster)
                return _Frame(transform, raster.shape)
    except RasterioError:  # the project is written without a look at it
        return None


def _view(layers: Sequence[Layer], frames: Mapping[int, _Frame]) -> Bounds | None:
    """Return the extent to open on: the lowest raster that is not the scene, which lies beyond."""
    maps = [k for k in frames if _SCENE not in layers[k].themes] or list(frames)
    return frames[maps[-1]].bounds() if maps else None


def _project(
    target: Path,
    layers: Sequence[Layer],
    title: str,
    abstract: str,
    crs: CRS | None,
    view: Bounds | None,
    unplaced: bool,
) -> Element:
    """Return the XML of a project."""
    now = datetime.now(UTC).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    root = Element("qgis", version=QGIS_VERSION, projectname=title, saveDateTime=now)
    SubElement(root, "title").text = title
    _add_crs(SubElement(root, "projectCrs"), crs)
    addresses = [_address(layer, target.parent, unplaced) for layer in layers]
    ids = [
        _identifier(layer.name, f"{target}|{address}")
        for layer, (_, address) in zip(layers, addresses, strict=True)
    ]
    tree = SubElement(root, "layer-tree-group")
    all_layers = SubElement(root, "projectlayers")
    groups: dict[str, Element] = {"": tree}
    themes: dict[str, list[str]] = {}
    for layer, identifier, (provider, address) in zip(layers, ids, addresses, strict=True):
        if layer.group not in groups:
            groups[layer.group] = SubElement(
                tree, "layer-tree-group", name=layer.group, checked=_CHECKED[True], expanded="1"
            )
        SubElement(
            groups[layer.group],
            "layer-tree-layer",
            id=identifier,
            name=layer.name,
            source=address,
            providerKey=provider,
            checked=_CHECKED[layer.visible],
            expanded=str(int(layer.expanded)),
        )
        all_layers.append(_map_layer(layer, identifier, provider, address, crs))
        for theme in layer.themes:
            themes.setdefault(theme, []).append(identifier)
    _add_themes(root, themes)
    _add_view(root, view, crs)
    _add_properties(root, crs)
    metadata = SubElement(root, "projectMetadata")
    SubElement(metadata, "title").text = title
    SubElement(metadata, "abstract").text = abstract
    SubElement(metadata, "creation").text = now
    return root


def _identifier(name: str, place: str) -> str:
    """Return an id as QGIS makes them, but the same whenever the project is written again."""
    return f"{re.sub('[^a-z]+', '_', name.lower())}_{uuid.uuid5(uuid.NAMESPACE_URL, place)}"


def _map_layer(
    layer: Layer, identifier: str, provider: str, address: str, crs: CRS | None
) -> Element:
    """Return the XML of a layer with its style."""
    node = Element("maplayer", type="raster")
    if isinstance(layer, VectorLayer):
        node.attrib.update(type="vector", geometry=layer.geometry)
        if crs is not None and Path(layer.source).suffix.lower() == ".geojson":
            crs = CRS.from_epsg(4326)
    SubElement(node, "id").text = identifier
    SubElement(node, "datasource").text = address
    SubElement(node, "layername").text = layer.name
    SubElement(node, "provider", encoding="UTF-8").text = provider
    _add_crs(SubElement(node, "srs"), crs)
    node.extend(ElementTree.fromstring(layer.style))
    return node


def _add_crs(parent: Element, crs: CRS | None) -> None:
    """Add a CRS as its WKT, by which QGIS also finds the EPSG code where there is one."""
    node = SubElement(parent, "spatialrefsys")
    SubElement(node, "wkt").text = "" if crs is None else crs.to_wkt(version="WKT2_2019")


def _add_themes(root: Element, themes: Mapping[str, Sequence[str]]) -> None:
    presets = SubElement(root, "visibility-presets")
    for name, identifiers in themes.items():
        preset = SubElement(presets, "visibility-preset", name=name)
        for identifier in identifiers:
            SubElement(preset, "layer", id=identifier, visible="1")


def _add_view(root: Element, view: Bounds | None, crs: CRS | None) -> None:
    """Add the extent that the project opens on."""
    if view is None:
        return
    sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(repr, view), strict=True))
    canvas = SubElement(root, "mapcanvas", name="theMapCanvas")
    extent = SubElement(canvas, "extent")
    for side, value in sides.items():
        SubElement(extent, side).text = value
    _add_crs(SubElement(canvas, "destinationsrs"), crs)


def _add_properties(root: Element, crs: CRS | None) -> None:
    properties = SubElement(root, "properties")
    paths = SubElement(properties, "Paths")
    SubElement(paths, "Absolute", type="bool").text = "false"
    # without it QGIS does not look at the project's CRS
    projected = SubElement(properties, "SpatialRefSys")
    SubElement(projected, "ProjectionsEnabled", type="int").text = str(int(crs is not None))
    if crs is not None:  # areas and distances on the ground, not in a plane of degrees
        measure = SubElement(properties, "Measure")
        SubElement(measure, "Ellipsoid", type="QString").text = "EPSG:7030"  # WGS 84


def _address(layer: Layer, folder: Path, unplaced: bool) -> tuple[str, str]:
    """Return a layer's provider and data source, as QGIS stores them."""
    place = _place(layer.source, folder)
    if isinstance(layer, RasterLayer):
        return "gdal", place
    if Path(layer.source).suffix.lower() == ".gpkg":
        place = f"{place}|layername={layer.table}"
    if not unplaced:
        return "ogr", place
    number = {"Point": 1, "Polygon": 3}[layer.geometry]
    query = quote("SELECT *, ScaleCoords(geometry, 1, -1) AS upright FROM source", safe="")
    source = f"ogr:{quote(place, safe='')}:source:UTF-8"
    return "virtual", f"?layer={source}&query={query}&geometry=upright:{number}:0"


def _place(source: str | Path, folder: Path) -> str:
    """Return a file relative to the project's folder, and names that are no files as they are.

    As QGIS does, files that share no folder with the project, or no drive, keep absolute paths.
    """
    name = str(source)
    archive = _ARCHIVE.fullmatch(name)
    prefix = ""
    if archive is not None:
        prefix, name = archive.groups()
    elif not _is_file(name):
        return name
    target = Path(os.path.abspath(name if prefix else final_path(name)))  # noqa: PTH100 - no links
    home = folder.resolve()
    if target.parts[:2] != home.parts[:2]:  # drive or root, and the first folder
        return prefix + target.as_posix()
    relative = Path(os.path.relpath(target, home)).as_posix()
    return prefix + (relative if relative.startswith("../") else f"./{relative}")


def _is_file(source: str | Path) -> bool:
    return os.path.exists(source)  # noqa: PTH110 - Path.exists() fails on very long names
