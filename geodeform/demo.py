"""The packaged scene and the demo that runs on it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from geodeform.pipeline import segment_scene
from geodeform.result import SegmentationResult

if TYPE_CHECKING:
    import torch

_DATA = files("geodeform") / "data"


def demo_scene() -> Path:
    """Path of the packaged scene: a real cut of tile 7 of the CC0 Dubai imagery, as a COG.

    Its georeference (EPSG:32640, about 1 m pixels) is approximate, as its description tag says.
    """
    return Path(str(_DATA / "dubai_jumeirah_golf_estates.tif"))


def demo_labels() -> Path:
    """Path of the packaged scene's labels: a GeoPackage of polygons, CC0, drawn by hand.

    Columns ``class_id``, ``class_name`` (Building, Land, Road, Vegetation, Water) and the geometry,
    in the scene's CRS; unlabelled places have no polygon. They are the published masks of tile 7,
    polygonised without polygons under 25 m² and simplified by 3 m, so 99.2 % of the pixels have the
    mask's class.
    """
    return Path(str(_DATA / "dubai_jumeirah_golf_estates_labels.gpkg"))


def run_demo(
    folder: Path,
    *,
    device: str | torch.device = "auto",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SegmentationResult:
    """Segment the packaged scene into ``folder``: all kinds of outputs but the sampled points."""
    folder.mkdir(parents=True, exist_ok=True)
    return segment_scene(
        demo_scene(),
        output=folder / "landcover.tif",
        confidence=folder / "confidence.tif",
        density=folder / "density.tif",
        polygons=folder / "landcover.gpkg",
        min_area=25.0,
        fill_holes=25.0,
        simplify=1.0,
        smooth=4,
        quicklook=folder / "quicklook.png",
        report=folder / "report.html",
        qgis=folder / "landcover.qgz",
        stac=folder / "landcover.json",
        device=device,
        overwrite=overwrite,
        progress=progress,
    )
