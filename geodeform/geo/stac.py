"""STAC items: a finished map, and the model that made it, as catalogues and searches know them.

Two items, because they are two things. The map's item describes its files: where they lie, when the
scene was taken, bands, classes, and by what they were made. The Machine Learning Model extension
(MLM) describes models, and demands fields that a map has none of; as its best practices ask, the
map links to the model's item by ``derived_from``, and says ``processing:level`` L4 (results of
models) and a ``processing:expression`` that names it.

References: https://github.com/radiantearth/stac-spec/blob/v1.1.0/item-spec/item-spec.md,
https://github.com/stac-extensions/mlm/blob/main/best-practices.md, and the extensions'
specifications: projection 2.0.0, raster 1.1.0, classification 2.0.0, processing 1.2.0, mlm 1.4.0.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyproj
import pystac
import rasterio
import shapely
import shapely.affinity
import shapely.geometry
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine

from geodeform.classes import ClassScheme, to_hex
from geodeform.errors import OutputError
from geodeform.geo.affine import apply, frame_of
from geodeform.geo.ground import ground_size
from geodeform.geo.legend import read_legend
from geodeform.geo.outputs import STAC_SUFFIXES, OutputSet, final_path

_SCHEMA = "https://stac-extensions.github.io/{}/schema.json"
_PROJECTION, _RASTER, _CLASSIFICATION, _PROCESSING, _MLM = (
    _SCHEMA.format(part)
    for part in (
        "projection/v2.0.0",
        "raster/v1.1.0",
        "classification/v2.0.0",
        "processing/v1.2.0",
        "mlm/v1.4.0",
    )
)

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_MEDIA_TYPES = {
    ".tif": _COG,
    ".tiff": _COG,
    ".gpkg": "application/geopackage+sqlite3",
    ".parquet": "application/vnd.apache.parquet",
    ".fgb": "application/vnd.flatgeobuf",
    ".geojson": "application/geo+json",
    ".png": "image/png",
    ".html": "text/html",
    ".htm": "text/html",
    ".qgz": "application/zip",
    ".qgs": "application/xml",
    ".qml": "application/xml",
    ".csv": "text/csv",
    ".json": "application/json",
}

_ASSETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "labels": ("Class raster", ("data",)),
    "confidence": ("Confidence", ("data",)),
    "density": ("Sampling density", ("metadata",)),
    "trust": ("Trust", ("data",)),
    "polygons": ("Class polygons", ("data",)),
    "samples": ("Sampled points", ("metadata",)),
    "quicklook": ("Scene, sampling and map in one picture", ("overview",)),
    "project": ("QGIS project", ("metadata",)),
    "report": ("Report", ("metadata",)),
}
"""Title and roles of each kind of output; others get their own name and the role ``data``."""

_EDGE_STEPS = 32  # points for each side of a footprint: straight edges are curves elsewhere
_BEND = 1e-5  # of a footprint's width
_DECIMALS = 7  # of longitudes and latitudes: a centimetre


@dataclass(frozen=True)
class ModelFacts:
    """What the MLM extension says of a model.

    Attributes:
        name: Its name.
        architecture: Its architecture, such as ``lite0``.
        classes: What its output channels mean, in their order.
        bands: Names of the bands it takes, in their order.
        window: (height, width) in pixels that one prediction covers.
        sample: (height, width) in pixels that its segmenter sees of a window.
        max_value: Raw value that becomes 1 before the mean is taken off.
        mean: One for each band, of values divided by ``max_value``.
        std: One for each band, of values divided by ``max_value``.
        gsd: Ground sampling distance in metres for which it is made, or None.
        framework_version: PyTorch's version, or None where it is not known.
        parameters: Number of weights, or None.
        licence: Licence of the weights, as text; or "".
        training_data: What it was trained on, as text; or "".
        hyperparameters: Settings of the run, such as sampler and budget.
    """

    name: str
    architecture: str
    classes: ClassScheme
    bands: tuple[str, ...]
    window: tuple[int, int]
    sample: tuple[int, int]
    max_value: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    gsd: float | None = None
    framework_version: str | None = None
    parameters: int | None = None
    licence: str = ""
    training_data: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)


def write_stac(
    path: str | Path,
    *,
    assets: Mapping[str, Path],
    scene: str | Path | None = None,
    model_item: Path | None = None,
    acquired: datetime | None = None,
    item_id: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write the STAC item of a map, whole or not at all.

    What can be read from the files is read: footprint, projection, bands, classes, tags. Hrefs are
    relative to the item, so that the folder can be moved. Footprints of rotated rasters and of
    those with ground control points are exact up to the latter's fit; one across the 180th meridian
    is split there, and its bbox runs from west to east (RFC 7946, 5.2). Without a CRS, geometry is
    null and there is no bbox.

    ``datetime`` is the scene's acquisition date, from the argument or from what the scene's file
    says; else the time at which the map was made, and the item's description says so.

    Args:
        path: Where the item shall appear (``.json``).
        assets: The outputs by kind: ``labels`` (at least), ``confidence``, ``density``,
            ``polygons``, ``samples``, ``quicklook``, ``project``, ``report``; at their staged paths
            while they are staged.
        scene: What was mapped; linked as ``derived_from``, and asked for its acquisition date.
        model_item: The item of the model, by :func:`write_model_stac`, staged or not.
        acquired: When the scene was taken, with its time zone.
        item_id: By default the stem of the class raster.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: If the file exists, has another suffix, cannot be written, or an asset cannot
            be read.
        SceneError: If what the class raster says of its classes is damaged.
        ValueError: If there is no class raster, or ``acquired`` has no time zone.
    """
    if "labels" not in assets:
        raise ValueError("A map's item needs the class raster, assets['labels'].")
    if acquired is not None and acquired.tzinfo is None:
        raise ValueError("acquired needs a time zone.")
    target = final_path(Path(path).absolute())
    described = {kind: _Raster.read(file) for kind, file in assets.items() if _is_raster(file)}
    labels = described["labels"]
    made = _local_time(labels.tags.get("TIFFTAG_DATETIME")) or datetime.now(UTC)
    taken = acquired or (None if scene is None else _acquisition(scene))
    footprint = labels.footprint()
    item = pystac.Item(
        id=item_id or final_path(assets["labels"]).stem,
        geometry=None if footprint is None else _geojson(footprint),
        bbox=None if footprint is None else _bbox(footprint),
        datetime=taken or made,
        properties=_properties(labels, made, taken, model_item, target.parent),
        stac_extensions=[_PROJECTION, _RASTER, _CLASSIFICATION, _PROCESSING],
    )
    for kind, file in assets.items():
        title, roles = _ASSETS.get(kind, (kind, ("data",)))
        fields: dict[str, Any] = {}
        if kind in described:
            fields = described[kind].fields()
        if kind == "labels":
            fields["classification:classes"] = _classes(file, labels)
        item.add_asset(
            kind,
            pystac.Asset(
                href=relative_href(final_path(file), target.parent),
                title=title,
                media_type=_MEDIA_TYPES.get(file.suffix.lower(), "application/octet-stream"),
                roles=list(roles),
                extra_fields=fields,
            ),
        )
    if scene is not None:
        link = _link(str(scene), target.parent, "Scene")
        media = _MEDIA_TYPES.get(Path(scene).suffix.lower())
        # whether somebody's scene is a COG is not known
        link.media_type = "image/tiff; application=geotiff" if media == _COG else media
        item.add_link(link)
    if model_item is not None:
        link = _link(str(final_path(model_item)), target.parent, "Model")
        link.media_type = "application/geo+json"
        link.extra_fields["mlm:name"] = _model_name(labels.tags.get("model", "model"))
        item.add_link(link)
    _write(path, item, overwrite=overwrite)


def write_model_stac(
    path: str | Path,
    model: ModelFacts,
    *,
    href: str,
    created: datetime | None = None,
    overwrite: bool = False,
) -> None:
    """Write the STAC item of a model by the Machine Learning Model extension.

    Args:
        path: Where the item shall appear (``.json``).
        model: The model.
        href: Where its file is: a path relative to the item, or an address.
        created: When the model was made, with its time zone; now by default.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: If the file exists, has another suffix, or cannot be written.
    """
    name = _model_name(model.name)
    classes = [
        _class(value, label, to_hex(colour))
        for value, (label, colour) in enumerate(
            zip(model.classes.names, model.classes.colours, strict=True)
        )
    ]
    resolution = {} if model.gsd is None else {"gsd": model.gsd}
    bands = [{"name": band, **resolution} for band in model.bands]
    # one entry a band, of raw values: (raw / max − mean) / std
    scaling = [
        {"type": "z-score", "mean": mean * model.max_value, "stddev": std * model.max_value}
        for mean, std in zip(model.mean, model.std, strict=True)
    ]
    properties: dict[str, Any] = {
        "title": f"Model {model.name}",
        "description": f"Land-cover segmentation: {', '.join(model.classes.names)}.",
        "bands": bands,
        "mlm:name": name,
        "mlm:architecture": model.architecture,
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "PyTorch",
        "mlm:accelerator": None,  # any: it runs without one
        "mlm:accelerator_constrained": False,
        "mlm:input": [
            {
                "name": "window",
                "bands": list(model.bands),
                "input": {
                    "shape": [-1, len(model.bands), *model.window],
                    "dim_order": ["batch", "channel", "height", "width"],
                    "data_type": "float32",
                },
                "description": "A window of the scene, of which the model samples "
                f"{model.sample[0]} x {model.sample[1]} pixels; the scaling is of each band.",
                "value_scaling": scaling,
                "resize_type": None,
            }
        ],
        "mlm:output": [
            {
                "name": "classes",
                "tasks": ["semantic-segmentation"],
                "result": {
                    "shape": [-1, len(classes), *model.window],
                    "dim_order": ["batch", "class", "height", "width"],
                    "data_type": "float32",
                },
                "description": "Probability of each class, for each pixel of the window.",
                "classification:classes": classes,
            }
        ],
    }
    if model.framework_version is not None:
        version = re.match(r"\d+\.\d+\.\d+", model.framework_version)
        if version is not None:  # the extension takes semantic versions only
            properties["mlm:framework_version"] = version[0]
    if model.parameters is not None:
        properties["mlm:total_parameters"] = model.parameters
    if model.hyperparameters:
        properties["mlm:hyperparameters"] = dict(model.hyperparameters)
    if model.training_data:
        properties["description"] += f" Trained on {model.training_data}."
    if model.licence:
        # licence expressions of SPDX have no words around them
        plain = re.fullmatch(r"[\w.+-]+", model.licence)
        properties["license"] = model.licence if plain else "other"
        properties["description"] += f" Licence: {model.licence}."
    item = pystac.Item(
        id=name,
        geometry=None,
        bbox=None,
        datetime=created or datetime.now(UTC),
        properties=properties,
        stac_extensions=[_MLM, _CLASSIFICATION],
    )
    item.add_asset(
        "model",
        pystac.Asset(
            href=href,
            title=f"Weights of {model.name}",
            media_type="application/octet-stream; framework=safetensors",
            roles=["mlm:model", "mlm:weights", "data"],
            # MLM wants bands in the properties; the core allows it only if an asset has them too
            extra_fields={"mlm:artifact_type": "safetensors", "bands": bands},
        ),
    )
    _write(path, item, overwrite=overwrite)


# ---------------------------------------------------------------------------------------- rasters


@dataclass(frozen=True)
class _Raster:
    """What an item says of a raster."""

    shape: tuple[int, int]
    transform: Affine
    crs: CRS | None
    fitted: bool  # to ground control points
    dtype: str
    nodata: float | None
    scale: float
    offset: float
    units: tuple[str, ...]
    descriptions: tuple[str, ...]
    tags: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> _Raster:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(path) as dataset:
                    transform, crs = frame_of(dataset)
                    return cls(
                        shape=dataset.shape,
                        transform=transform,
                        crs=crs,
                        fitted=dataset.crs is None and crs is not None,
                        dtype=str(dataset.dtypes[0]),
                        nodata=dataset.nodatavals[0],
                        scale=float(dataset.scales[0]),
                        offset=float(dataset.offsets[0]),
                        units=tuple(unit or "" for unit in dataset.units),
                        descriptions=tuple(name or "" for name in dataset.descriptions),
                        tags=dict(dataset.tags()),
                    )
        except RasterioError as error:
            raise OutputError(f"{final_path(path)} cannot be read ({error}).") from error

    def fields(self) -> dict[str, Any]:
        """Return the asset's fields of the projection and raster extensions."""
        size = None if self.crs is None else ground_size(self.transform, self.crs, self.shape)
        bands = []
        for description, unit in zip(self.descriptions, self.units, strict=True):
            band: dict[str, Any] = {
                "data_type": self.dtype,
                "scale": self.scale,
                "offset": self.offset,
                "sampling": "area",
            }
            if description:
                band["name"] = description
            if unit:
                band["unit"] = unit
            if self.nodata is not None:
                whole = float(self.nodata).is_integer()
                nan = math.isnan(self.nodata)
                band["nodata"] = "nan" if nan else int(self.nodata) if whole else self.nodata
            if size is not None:
                band["spatial_resolution"] = round(math.sqrt(size[2]), 6)
            bands.append(band)
        fields: dict[str, Any] = {"raster:bands": bands, "proj:shape": list(self.shape)}
        if not self.fitted and self.transform != Affine.identity():
            fields["proj:transform"] = list(self.transform[:6])
        return fields

    def projection(self) -> dict[str, Any]:
        """Return the CRS's fields of the projection extension."""
        if self.crs is None:
            return {"proj:code": None}
        authority = self.crs.to_authority()
        if authority is not None:
            return {"proj:code": ":".join(authority)}
        return {"proj:code": None, "proj:wkt2": self.crs.to_wkt(version="WKT2_2019")}

    def footprint(self) -> shapely.MultiPolygon | None:
        """Return the outline on the globe, in parts that do not cross the 180th meridian."""
        if self.crs is None:
            return None
        height, width = self.shape
        steps = np.arange(_EDGE_STEPS) / _EDGE_STEPS
        still, full = np.zeros(_EDGE_STEPS), np.ones(_EDGE_STEPS)
        x = np.concatenate([steps, full, 1 - steps, still]) * width
        y = np.concatenate([still, steps, full, 1 - steps]) * height
        try:
            change = pyproj.Transformer.from_crs(
                pyproj.CRS.from_user_input(self.crs), 4326, always_xy=True
            )
            lon, lat = change.transform(*apply(self.transform, x, y))
        except pyproj.exceptions.ProjError:  # a local CRS has no place on the globe
            return None
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            return None
        return _on_globe(lon, np.clip(lat, -90, 90))


def _on_globe(lon: Any, lat: Any) -> shapely.MultiPolygon:
    """Turn a ring of longitudes and latitudes into polygons within ±180°."""
    closed = np.unwrap(np.append(lon, lon[0]), period=360)
    ring = np.stack([closed, np.append(lat, lat[0])], axis=1)
    turn = closed[-1] - closed[0]
    if abs(turn) > 180:  # it goes round a pole: along the pole and back
        pole = math.copysign(90.0, float(lat.mean()))
        ring = np.vstack([ring, [[closed[-1], pole], [closed[0], pole]]])
    outline = shapely.make_valid(shapely.Polygon(ring))
    world = shapely.box(-180, -90, 180, 90)
    first = math.floor((outline.bounds[0] + 180) / 360)
    last = math.floor((outline.bounds[2] + 180) / 360)
    pieces = []
    for lap in range(first, last + 1):
        part = world.intersection(shapely.affinity.translate(outline, -360 * lap))
        pieces += [p for p in shapely.get_parts(part) if p.geom_type == "Polygon" and p.area > 0]
    # what the sides of a small scene bend by is not worth their points
    bend = _BEND * min(outline.bounds[2] - outline.bounds[0], 1.0)
    plain = shapely.simplify(shapely.MultiPolygon(pieces), bend)
    rounded = shapely.set_precision(plain, 10.0**-_DECIMALS)
    parts = [p for p in shapely.get_parts(rounded) if not p.is_empty]
    # the rounding of a drone image's outline must not make it vanish
    return shapely.orient_polygons(shapely.MultiPolygon(parts or pieces))


def _geojson(footprint: shapely.MultiPolygon) -> dict[str, Any]:
    parts = list(footprint.geoms)
    shape = parts[0] if len(parts) == 1 else footprint
    geometry: dict[str, Any] = json.loads(shapely.to_geojson(shape))
    return geometry


def _bbox(footprint: shapely.MultiPolygon) -> list[float]:
    """Return west, south, east, north; west is above east across the 180th meridian."""
    west, south, east, north = (float(v) for v in footprint.bounds)
    parts = [part.bounds for part in footprint.geoms]
    touching = west <= -180 and east >= 180
    round_it = any(p[0] <= -180 and p[2] >= 180 for p in parts)
    if touching and not round_it:
        west = min(float(p[0]) for p in parts if p[2] >= 180)
        east = max(float(p[2]) for p in parts if p[0] <= -180)
    return [west, south, east, north]


def _classes(path: Path, labels: _Raster) -> list[dict[str, Any]]:
    """Return the classes that the raster's file names, and its nodata."""
    legend = read_legend(path)
    found = [
        _class(v, name, to_hex(legend.colours[v]) if v in legend.colours else None)
        for v, name in sorted(legend.names.items())
        if v != labels.nodata
    ]
    if labels.nodata is not None:
        found.append({"value": int(labels.nodata), "name": "nodata", "nodata": True})
    return found


def _class(value: int, label: str, colour: str | None) -> dict[str, Any]:
    """Return a class object: ``name`` is for machines, ``title`` for people."""
    entry: dict[str, Any] = {
        "value": value,
        "name": re.sub(r"[^0-9A-Za-z_-]+", "_", label).strip("_").lower() or f"class_{value}",
        "title": label,
    }
    if colour is not None:
        entry["color_hint"] = colour.removeprefix("#")
    return entry


# ------------------------------------------------------------------------------------- properties


def _properties(
    labels: _Raster,
    made: datetime,
    taken: datetime | None,
    model_item: Path | None,
    folder: Path,
) -> dict[str, Any]:
    tags = labels.tags
    software, _, version = tags.get("TIFFTAG_SOFTWARE", "").partition(" ")
    said = [f"Land-cover map of {tags['source']}." if "source" in tags else "Land-cover map."]
    if taken is None:
        said.append("The scene says no acquisition date: datetime is when the map was made.")
    properties: dict[str, Any] = {
        "title": said[0].rstrip("."),
        "description": " ".join(said),
        "created": pystac.utils.datetime_to_str(made),
        "processing:level": "L4",
        **labels.projection(),
    }
    size = None if labels.crs is None else ground_size(labels.transform, labels.crs, labels.shape)
    if size is not None:
        properties["gsd"] = round(math.sqrt(size[2]), 6)
    if software:
        properties["processing:software"] = {software: version or "unknown"}
    lineage = [f"{name} {tags[name]}" for name in _LINEAGE if name in tags]
    if lineage:
        properties["processing:lineage"] = "; ".join(lineage)
    if model_item is not None:
        properties["processing:expression"] = {
            "format": "stac-mlm",
            "expression": relative_href(final_path(model_item), folder),
        }
    return properties


_LINEAGE = ("model", "model_architecture", "budget", "sampler", "bands", "scaling", "source")
"""Tags of a class raster that say how it was made."""


def _acquisition(scene: str | Path) -> datetime | None:
    """Return when a scene was taken, as far as its file says so; UTC where it names no zone.

    ``TIFFTAG_DATETIME`` is not asked: it says when the file was written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(scene) as dataset:
                tags = {**dataset.tags(), **dataset.tags(ns="IMAGERY")}
    except RasterioError:  # it is not among the files any more
        return None
    folded = {name.upper().replace("_", ""): value for name, value in tags.items()}
    for name in ("ACQUISITIONDATETIME", "ACQUISITIONDATE", "DATEACQUIRED", "SENSINGTIME"):
        if name in folded and (found := _parse_time(folded[name])) is not None:
            return found
    return None


def _parse_time(text: str) -> datetime | None:
    for form in (None, "%Y:%m:%d %H:%M:%S", "%Y%m%d"):
        try:
            found = (
                datetime.fromisoformat(text.strip())
                if form is None
                else datetime.strptime(text.strip(), form)
            )
        except ValueError:
            continue
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    return None


def _local_time(text: str | None) -> datetime | None:
    """Read a TIFF's date, which has no zone: that of the machine that has just written it."""
    try:
        return datetime.strptime(text or "", "%Y:%m:%d %H:%M:%S").astimezone(UTC)
    except ValueError:
        return None


# ------------------------------------------------------------------------------------------- item


def _is_raster(path: Path) -> bool:
    return _MEDIA_TYPES.get(path.suffix.lower()) == _COG


def relative_href(path: Path, folder: Path) -> str:
    """Return an address relative to the item's folder, or an absolute one on another drive."""
    try:
        relative = os.path.relpath(path.absolute(), folder)
    except ValueError:  # Windows: there is no way between drives
        return path.absolute().as_uri()
    address = quote(Path(relative).as_posix())
    return address if address.startswith("../") else f"./{address}"


def _link(source: str, folder: Path, title: str) -> pystac.Link:
    remote = "://" in source or source.startswith("/vsi")
    href = source if remote else relative_href(Path(source), folder)
    return pystac.Link(pystac.RelType.DERIVED_FROM, href, title=title)


def _model_name(name: str) -> str:
    """Return a name as the extension takes it: letters, digits, and between them ``_ . -``.

    >>> _model_name("run 3/model.safetensors"), _model_name("7")
    ('run-3-model.safetensors', 'model-7')
    """
    plain = re.sub(r"[^0-9A-Za-z_.-]+", "-", name).strip("_.-")
    return plain if re.match(r"[A-Za-z].+", plain) and len(plain) > 2 else f"model-{plain}"


def _write(path: str | Path, item: pystac.Item, *, overwrite: bool) -> None:
    """Write an item; it has no link to itself, which would be a path of this machine."""
    document = item.to_dict(include_self_link=False, transform_hrefs=False)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with OutputSet(overwrite=overwrite) as outputs:
        staged = outputs.add(path, suffixes=STAC_SUFFIXES)
        try:
            staged.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"Cannot write {final_path(path)} ({error.strerror}).") from error
