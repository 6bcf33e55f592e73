"""Checks of STAC items: required fields, footprint, dates, assets, and classes.

Reference: https://github.com/radiantearth/stac-spec/blob/v1.1.0/item-spec/item-spec.md
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import shapely
import shapely.geometry
from rasterio.errors import RasterioError

from geodeform.doctor.facts import open_raster
from geodeform.doctor.findings import Finding, counted, error, hint, listed, ok, warning
from geodeform.errors import SceneError
from geodeform.geo.legend import read_legend

_REQUIRED = ("type", "stac_version", "id", "geometry", "properties", "links", "assets")
_PREFIXES = ("proj", "raster", "classification", "processing", "mlm", "eo", "file", "label")


def check_stac(path: Path) -> Iterator[Finding]:
    """Check a STAC item; of a catalogue or a collection, only that it is JSON."""
    try:
        item = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as failure:
        yield error(
            "stac.damaged",
            f"{path.name} is no valid JSON ({failure}): it is cut off or edited wrongly.",
            "Copy or make the file again.",
        )
        return
    if not isinstance(item, dict) or item.get("type") in ("Catalog", "Collection"):
        yield hint("stac.not-item", f"{path.name} is a STAC catalogue; its items are not followed.")
        return
    lacking = [name for name in _REQUIRED if name not in item]
    properties = item.get("properties")
    if lacking or not isinstance(properties, dict):
        yield error(
            "stac.required",
            f"{path.name} lacks {listed(lacking or ['properties'], most=7)}, so no STAC client "
            "takes it.",
            "Make it again.",
        )
        return
    yield from _check_footprint(path, item)
    yield from _check_datetime(path, properties)
    yield from _check_extensions(path, item)
    yield from _check_assets(path, item)


def _check_footprint(path: Path, item: dict[str, Any]) -> Iterator[Finding]:
    geometry, bbox = item["geometry"], item.get("bbox")
    if geometry is None:
        if bbox is not None:
            yield error(
                "stac.bbox",
                f"{path.name} has a bbox but no geometry, which the specification forbids.",
                "Remove the bbox, or add the geometry.",
            )
        elif "mlm:name" not in item["properties"]:  # models are nowhere
            yield hint(
                "stac.unlocated", f"{path.name} has no geometry, so no search by place finds it."
            )
        return
    try:
        shape = shapely.geometry.shape(geometry)
        left, bottom, right, top = (float(v) for v in shape.bounds)
    except (ValueError, TypeError, KeyError, AttributeError, shapely.errors.ShapelyError) as bad:
        yield error("stac.geometry", f"{path.name} has a geometry that is none ({bad}).")
        return
    if not shape.is_valid or not (-180 <= left <= right <= 180 and -90 <= bottom <= top <= 90):
        yield error(
            "stac.geometry",
            f"{path.name} has a geometry that is invalid or not longitude and latitude (it reaches "
            f"from {left:g}, {bottom:g} to {right:g}, {top:g}): maps show it elsewhere.",
            "Write the footprint in WGS 84; split it at the 180th meridian.",
        )
        return
    if not isinstance(bbox, list) or len(bbox) not in (4, 6):
        yield error("stac.bbox", f"{path.name} has a geometry but no bbox, which is required.")
        return
    half = len(bbox) // 2
    box = np.array([*bbox[:2], *bbox[half : half + 2]], np.float64)
    expected = np.array([left, bottom, right, top])
    crossing = box[0] > box[2]  # RFC 7946, 5.2: it lies across the 180th meridian
    if crossing:
        parts = [part.bounds for part in getattr(shape, "geoms", [shape])]
        expected[0] = min((p[0] for p in parts if p[0] >= 0), default=left)
        expected[2] = max((p[2] for p in parts if p[2] <= 0), default=right)
    if np.abs(box - expected).max() > 1e-4:
        yield error(
            "stac.bbox",
            f"{path.name} has the bbox {listed(bbox, most=6)}, but its geometry's is "
            f"{listed([round(v, 6) for v in expected.tolist()])}: searches miss it.",
            "Make it again, or correct the bbox.",
        )
    else:
        yield ok("stac.footprint", "Geometry and bbox agree.")


def _check_datetime(path: Path, properties: dict[str, Any]) -> Iterator[Finding]:
    names = ("datetime", "start_datetime", "end_datetime", "created", "updated")
    for name in names:
        value = properties.get(name)
        if value is not None and not _is_time(value):
            yield error(
                "stac.datetime",
                f"{path.name} has the {name} '{value}', which is not RFC 3339 with a time zone, so "
                "searches by time fail.",
                'Write it as "2024-05-17T10:30:00Z".',
            )
            return
    span = properties.get("start_datetime"), properties.get("end_datetime")
    if "datetime" not in properties or (properties["datetime"] is None and None in span):
        yield error(
            "stac.datetime",
            f"{path.name} has no datetime; where it is null, start_datetime and end_datetime are "
            "required.",
            "Add the acquisition date of the scene.",
        )
    else:
        yield ok("stac.datetime", "It has a date.")


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(str(value)).tzinfo is not None
    except ValueError:
        return False


def _check_extensions(path: Path, item: dict[str, Any]) -> Iterator[Finding]:
    """Fields of an extension that is not declared: clients do not look at them."""
    declared = " ".join(str(uri) for uri in item.get("stac_extensions") or ())
    bearers = [item["properties"], *(a for a in item["assets"].values() if isinstance(a, dict))]
    names = {"proj": "projection"}
    missing = []
    for prefix in _PREFIXES:
        used = any(key.startswith(f"{prefix}:") for bearer in bearers for key in bearer)
        if used and f"/{names.get(prefix, prefix)}/" not in declared:
            missing.append(names.get(prefix, prefix))
    if missing:
        yield warning(
            "stac.undeclared-extension",
            f"{path.name} uses fields of {listed(missing)} without naming the extension in "
            "stac_extensions, so clients ignore them.",
            "Add the extension's schema there.",
        )


def _check_assets(path: Path, item: dict[str, Any]) -> Iterator[Finding]:
    assets = item["assets"]
    if not assets:
        yield warning("stac.no-assets", f"{path.name} has no asset: there is nothing to load.")
    present = 0
    for key, asset in assets.items():
        href = asset.get("href") if isinstance(asset, dict) else None
        if not isinstance(href, str):
            yield error("stac.asset", f"{path.name} has the asset '{key}' without an href.")
            continue
        if "://" in href.removeprefix("file://") or href.startswith("/vsi"):
            continue  # not asked: it is elsewhere
        local = unquote(href.removeprefix("file://"))
        target = path.parent / local
        if not target.exists():
            yield error(
                "stac.missing-asset",
                f"{path.name} has the asset '{key}' at {href}, which is not there.",
                "Put the file back, or correct the href.",
            )
            continue
        present += 1
        if Path(local).is_absolute():
            yield warning(
                "stac.absolute-href",
                f"{path.name} names the asset '{key}' by an absolute path, so the folder cannot be "
                "moved or published.",
                "Make the href relative to the item.",
            )
        yield from _check_raster_asset(path, key, asset, target)
    if present:
        yield ok("stac.assets", f"{counted(present, 'asset')} in place.")


def _check_raster_asset(
    path: Path, key: str, asset: dict[str, Any], target: Path
) -> Iterator[Finding]:
    """Shape, transform and classes against the raster itself."""
    shape, transform = asset.get("proj:shape"), asset.get("proj:transform")
    classes = asset.get("classification:classes")
    if shape is None and transform is None and classes is None:
        return
    try:
        with open_raster(target) as dataset:
            actual = [dataset.height, dataset.width]
            affine = list(dataset.transform)[:6]
    except RasterioError:
        return  # a damaged raster has its own report
    if shape is not None and list(shape) != actual:
        yield error(
            "stac.shape",
            f"{path.name} says that '{key}' has {listed(shape)} rows and columns, {target.name} "
            f"has {listed(actual)}: it is another file.",
            "Make the item again.",
        )
    if transform is not None and not all(
        math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12)
        for a, b in zip(transform, affine, strict=False)
    ):
        yield error(
            "stac.transform",
            f"{path.name} has another transform for '{key}' than {target.name}: clients that trust "
            "it place pixels wrongly.",
            "Make the item again.",
        )
    if classes is None:
        return
    try:
        names = read_legend(target).names
    except SceneError:
        return
    stated = {
        c.get("value"): str(c.get("title") or c.get("description") or c.get("name"))
        for c in classes
        if isinstance(c, dict) and not c.get("nodata")
    }
    wrong = [v for v in sorted(names) if v in stated and stated[v] != names[v]]
    absent = [names[v] for v in sorted(names) if v not in stated and names[v]]
    if wrong:
        yield error(
            "stac.classes",
            f"{path.name} calls class {wrong[0]} '{stated[wrong[0]]}', {target.name} calls it "
            f"'{names[wrong[0]]}'.",
            "Make the item again.",
        )
    elif absent:
        yield warning(
            "stac.classes", f"{path.name} does not list {listed(absent)}, which {target.name} has."
        )
    else:
        yield ok("stac.classes", f"The classes are those of {target.name}.")
