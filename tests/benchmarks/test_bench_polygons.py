"""Polygons per second, on a whole hand-drawn map of Dubai and on a noisy one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.features import shapes
from rasterio.transform import Affine
from rasterio.windows import Window
from scipy import ndimage

from geodeform.classes import NODATA_CLASS
from geodeform.geo.raster import ClassRasterWriter
from geodeform.geo.vector import polygonize, write_polygons
from geodeform.training.datasets.dubai import DubaiScenes

pytestmark = pytest.mark.benchmark

DUBAI = DubaiScenes.classes
PLACE: dict[str, Any] = {
    "transform": Affine(0.3, 0, 3e5, 0, -0.3, 2.8e6),
    "crs": CRS.from_epsg(32640),
}


def real_map(shared_data: Path) -> np.ndarray:
    """The masks of tile 8, stitched and cut to 4096 × 4096."""
    return DubaiScenes(shared_data / "dubai").load("8").labels[:4096, :4096]


def noisy_map() -> np.ndarray:
    """Blobs of a few pixels: what a per-pixel classifier makes."""
    rng = np.random.default_rng(0)
    fields = [ndimage.gaussian_filter(rng.random((2048, 2048), np.float32), 2) for _ in DUBAI.names]
    return np.argmax(fields, axis=0).astype(np.uint8)


@pytest.mark.parametrize("which", ["real", "noisy"])
def test_polygons_per_second(
    which: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    report: Callable[[str], None],
    median_ms: Callable[..., float],
) -> None:
    classes = real_map(request.getfixturevalue("shared_data")) if which == "real" else noisy_map()
    path = tmp_path / "map.tif"
    with ClassRasterWriter(path, shape=classes.shape, scheme=DUBAI, tags={}, **PLACE) as writer:
        writer.write(Window(0, 0, *classes.shape), classes)
    count = len(polygonize(path, scheme=DUBAI))
    report(f"\npolygons, {which} map of {classes.shape}: {count} polygons in the map")
    cases: dict[str, dict[str, Any]] = {
        "from the file": {},
        "without a scheme": {"scheme": None},
        "with confidence": {"confidence": np.full(classes.shape, 200, np.uint8)},
        "with density": {"density": np.full([-(-n // 8) for n in classes.shape], 0.03, np.float32)},
        "min_area 20 m2": {"min_area": 20.0},
        "fill_holes 20 m2": {"fill_holes": 20.0},
        "simplify 0.6 m": {"simplify": 0.6},
        "smooth 4": {"smooth": 4},
        "min_area 20 m2, simplify 0.6 m": {"min_area": 20.0, "simplify": 0.6},
        "smooth 4, simplify 0.6 m": {"smooth": 4, "simplify": 0.6},
        "all of them": {"min_area": 20.0, "fill_holes": 40.0, "simplify": 0.6, "smooth": 4},
    }
    times = {}
    for name, options in cases.items():
        options = {"scheme": DUBAI} | options
        kept = len(polygonize(path, **options))
        times[name] = median_ms(lambda options=options: polygonize(path, **options), 3)
        report(
            f"  {name:32} {times[name]:8.0f} ms  {1000 * count / times[name]:8.0f} polygons/s, "
            f"{kept} are left: {1000 * kept / times[name]:.0f}/s; "
            f"{times[name] / times['from the file']:.2f} x as long as without options"
        )
    valid = classes != NODATA_CLASS
    gdal = median_ms(lambda: [shapely.geometry.shape(g) for g, _ in shapes(classes, valid)], 3)
    ours = median_ms(lambda: polygonize(classes, scheme=DUBAI), 3)
    report(f"  {'from an array':32} {ours:8.0f} ms  {1000 * count / ours:8.0f} polygons/s")
    report(f"  {'rasterio.features.shapes':32} {gdal:8.0f} ms  {gdal / ours:8.1f} x as long")
    polygons = polygonize(path, scheme=DUBAI)
    exact = polygons.geometry.values
    geos = median_ms(lambda: shapely.coverage_simplify(exact, 0.6, simplify_boundary=False), 3)
    arcs = times["simplify 0.6 m"] - times["from the file"]
    report(
        f"  {'shapely.coverage_simplify':32} {geos:8.0f} ms  {geos / arcs:8.1f} x as long as here"
    )
    for suffix in (".gpkg", ".parquet", ".fgb", ".geojson"):
        took = median_ms(
            lambda s=suffix: write_polygons(polygons, tmp_path / f"p{s}", overwrite=True), 1
        )
        report(f"  {'writing ' + suffix:32} {took:8.0f} ms  {1000 * count / took:8.0f} polygons/s")
