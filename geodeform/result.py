"""SegmentationResult: what a run gives back, in memory or as lazily opened files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr

    from geodeform.classes import ClassScheme
    from geodeform.planning import SegmentationPlan


@dataclass(frozen=True)
class ClassArea:
    """How much of the map a class covers.

    Attributes:
        id: Class id in the raster.
        name: Class name.
        pixels: Number of pixels.
        share: Part of the pixels that have a class, 0…1.
        area_m2: Area in square metres, or None where the scene has no CRS.
    """

    id: int
    name: str
    pixels: int
    share: float
    area_m2: float | None


@dataclass(frozen=True)
class RunFacts:
    """What the run cost.

    Attributes:
        device: Where it computed, e.g. ``CPU (2 threads)``.
        seconds: Wall-clock from opening the scene to the last output.
        peak_memory_bytes: Largest resident memory of the process.
        windows: Windows that were predicted.
        windows_skipped: Windows without data, skipped.
        sampled_pixels: Pixels that the network saw.
        sampled_share: Of the mapped region's pixels, 0…1.
    """

    device: str
    seconds: float
    peak_memory_bytes: int
    windows: int
    windows_skipped: int
    sampled_pixels: int
    sampled_share: float


@dataclass(frozen=True)
class SegmentationResult:
    """A land-cover map with everything that belongs to it.

    The rasters are :class:`xarray.DataArray` with dims (y, x), the scene's CRS and transform in
    ``.rio``. Where output files were asked for they are opened lazily from these files; else they
    are in memory.

    Attributes:
        scene: Name of the scene.
        classes: The model's class scheme.
        labels: uint8 class ids, 255 where there is no data.
        confidence: float32 probability of the chosen class, 0…1, NaN where there is no data;
            None where only files were asked for and this was not among them.
        density: float32 sampled pixels per scene pixel, on a coarser grid; None as above.
        polygons: One row a polygon, with the columns of :func:`geodeform.polygonize`; None unless
            asked for.
        samples: Sampled points with window, class_id, confidence and magnification;
            None unless asked for.
        class_areas: Pixels and area of each class.
        plan: Windows, sampled size, scaling and notes of the run.
        facts: Time, memory, share of pixels sampled.
        paths: Files written, by kind (``labels``, ``confidence``, ``density``, ``trust``,
            ``polygons``, ``samples``, ``quicklook``, ``report``, ``project``, ``stac``).
    """

    scene: str
    classes: ClassScheme
    labels: xr.DataArray
    confidence: xr.DataArray | None
    density: xr.DataArray | None
    polygons: gpd.GeoDataFrame | None
    samples: gpd.GeoDataFrame | None
    class_areas: tuple[ClassArea, ...]
    plan: SegmentationPlan
    facts: RunFacts
    paths: dict[str, Path] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """A JSON-ready account of the run: files, class areas, cost, notes."""
        return {
            "scene": self.scene,
            "outputs": {kind: str(path) for kind, path in self.paths.items()},
            "classes": [vars(area) for area in self.class_areas],
            "sampler": self.plan.sampler,
            "budget": str(self.plan.budget),
            "window": list(self.plan.window_size),
            "sample_size": list(self.plan.sample_size),
            **self.plan.allocation(),
            "scaling": self.plan.scaling.describe(),
            **vars(self.facts),
            "notes": list(self.plan.notes),
        }


def format_area(square_metres: float) -> str:
    """An area in the unit that people would choose.

    >>> format_area(900.0), format_area(25_400.0), format_area(3_210_000.0)
    ('900 m²', '2.54 ha', '3.21 km²')
    """
    if square_metres < 1e4:
        return f"{square_metres:,.0f} m²"
    if square_metres < 1e6:
        return f"{square_metres / 1e4:,.2f} ha"
    return f"{square_metres / 1e6:,.2f} km²"
