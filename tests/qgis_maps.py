"""Small maps of every kind of georeference, as a run writes them, and what QGIS says of files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from desktop import run_in_qgis
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.windows import Window
from scene_files import scene_file

from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.geo import affine
from geodeform.geo.raster import (
    ClassRasterWriter,
    ConfidenceRasterWriter,
    DensityRasterWriter,
    coarse_grid,
)
from geodeform.geo.vector import write_points, write_polygons

SCHEME = ClassScheme(
    ("Building & shed", "Bare <land>", "Wasser/Öl", "Snow"),
    ((214, 72, 62), (229, 206, 157), (58, 124, 200), (250, 250, 255)),
)
"""Names that XML must escape, and a class that does not occur."""

SHAPE = (64, 96)
CELL = 8
LABELS: NDArray[np.uint8] = np.kron(
    np.array([[0, 1, 2], [1, NODATA_CLASS, 0]], np.uint8), np.ones((32, 32), np.uint8)
)
PLACES = {(16, 16): 0, (48, 16): 1, (80, 16): 2, (16, 48): 1, (48, 48): None, (80, 48): 0}
"""Class (None: no data) at pixel positions (x, y), in the middle of large areas."""


@dataclass(frozen=True)
class Georeference:
    """Where a map lies; ``points`` instead of transform and CRS."""

    transform: Affine
    crs: CRS | None
    points: bool = False


_UTM = CRS.from_epsg(32640)
_NORTH_UP = Affine(2.0, 0.0, 316_000.0, 0.0, -2.0, 2_770_000.0)
GEOREFERENCES = {
    "projected": Georeference(_NORTH_UP, _UTM),
    "geographic": Georeference(Affine(2e-5, 0, 55.2, 0, -2e-5, 25.1), CRS.from_epsg(4326)),
    "custom": Georeference(
        Affine(2.0, 0.0, -500.0, 0.0, -2.0, 800.0),
        CRS.from_string("+proj=laea +lat_0=25 +lon_0=55.3 +ellps=GRS80 +units=m +no_defs"),
    ),
    "none": Georeference(Affine.identity(), None),
    "points": Georeference(_NORTH_UP, _UTM, points=True),
    "rotated": Georeference(Affine(1.8, 0.6, 316_000.0, 0.6, -1.8, 2_770_000.0), _UTM),
}


def write_maps(
    folder: Path, where: Georeference, *, polygons: str = "map.gpkg", samples: str = "points.gpkg"
) -> dict[str, Path]:
    """Write the outputs of a run and its scene; return the paths by kind, with ``scene``."""
    height, width = SHAPE
    transform: Affine | None = where.transform
    crs, gcps = where.crs, None
    if where.points:
        corners = [(0, 0), (0, width), (height, 0), (height, width)]
        control = [
            GroundControlPoint(r, c, *affine.apply(where.transform, c, r)) for r, c in corners
        ]
        transform, crs, gcps = Affine.identity(), None, (control, where.crs)
    paths = {
        "labels": folder / "map.tif",
        "confidence": folder / "confidence.tif",
        "density": folder / "density.tif",
        "polygons": folder / polygons,
        "samples": folder / samples,
        "scene": folder / "scene.tif",
    }
    place: dict[str, Any] = {"transform": transform, "crs": crs, "gcps": gcps, "tags": {}}
    whole = Window(0, 0, width, height)
    known = LABELS != NODATA_CLASS
    with ClassRasterWriter(paths["labels"], shape=SHAPE, scheme=SCHEME, **place) as writer:
        writer.write(whole, LABELS)
    stored = np.where(known, np.linspace(51, 255, width), 0).astype(np.uint8)
    with ConfidenceRasterWriter(paths["confidence"], shape=SHAPE, **place) as writer:
        writer.write(whole, stored)
    shape, scaled, moved = coarse_grid(SHAPE, CELL, transform, gcps)
    place.update(transform=scaled, gcps=moved)
    field = np.geomspace(0.002, 0.2, shape[0] * shape[1]).reshape(shape).astype(np.float32)
    with DensityRasterWriter(paths["density"], shape=shape, **place) as writer:
        writer.write(Window(0, 0, shape[1], shape[0]), field)
    centres = np.array([place for place, kind in PLACES.items() if kind is not None])
    points = shapely.points(*affine.apply(where.transform, *centres.T))
    squares = shapely.box(*(centres - 16).T, *(centres + 16).T)
    areas = shapely.transform(squares, lambda xy: affine.apply_to(where.transform, xy))
    kinds = [kind for kind in PLACES.values() if kind is not None]
    for geometry, write, path in (
        (areas, write_polygons, paths["polygons"]),
        (points, write_points, paths["samples"]),
    ):
        frame = gpd.GeoDataFrame(
            {"class_id": kinds, "class_name": [SCHEME.names[kind] for kind in kinds]},
            geometry=geometry,
            crs=where.crs.to_wkt() if where.crs is not None else None,
        )
        write(frame, path)
    pixels = np.stack([np.full(SHAPE, value, np.uint16) for value in (100, 200, 300, 400)])
    place = {"crs": where.crs, "gcps": gcps[0]} if gcps else {"transform": transform, "crs": crs}
    scene_file(paths["scene"], pixels, **place)
    return paths


def open_in_qgis(orders: list[dict[str, Any]], cwd: Path) -> list[dict[str, Any]]:
    """Return what QGIS says of files and projects; see ``qgis_open.py``."""
    script = Path(__file__).with_name("qgis_open.py").read_text(encoding="utf-8")
    answer = run_in_qgis(script, json.dumps(orders), cwd=cwd)
    reports: list[dict[str, Any]] = json.loads(answer.splitlines()[-1])
    return reports
