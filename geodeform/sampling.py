"""density_map: where a scene would be sampled, without segmenting it.

scene → windows → low-res view → density → sampling grid → density raster, sampled points

Only low-resolution views are read (and the mask, where a scene has one), so this takes a small part
of a run's time.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import torch
import xarray as xr
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from geodeform.budget import Budget
from geodeform.density_field import DensityField
from geodeform.device import describe_device
from geodeform.geo.outputs import RASTER_SUFFIXES, VECTOR_SUFFIXES, OutputSet
from geodeform.geo.styling import add_styles, write_styles
from geodeform.geo.vector import check_placeable, write_points
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.planning import SegmentationPlan, Shapes
from geodeform.run import (
    PathLike,
    Progress,
    Run,
    begin_run,
    open_raster,
    run_tags,
)
from geodeform.sampled_points import SampledPoints

logger = logging.getLogger("geodeform")

_BLOCK_ROWS = 256


@dataclass(frozen=True)
class DensityMap:
    """Where a scene would be sampled.

    Attributes:
        density: (y, x) float32 DataArray of sampled pixels per scene pixel, NaN where there is no
            data, on cells of about one sample; opened lazily where it was written to a file.
        samples: Points with ``window`` and ``magnification`` (sampled pixels per scene pixel), in
            the scene's CRS; None unless asked for.
        plan: Windows, sampled size, scaling and notes.
        seconds: Wall-clock.
        device: Where it was computed.
        paths: Files written, by kind (``density``, ``samples``).
    """

    density: xr.DataArray
    samples: gpd.GeoDataFrame | None
    plan: SegmentationPlan
    seconds: float
    device: str
    paths: dict[str, Path] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """A JSON-ready account: files, range of the density, cost, notes."""
        plan, low_mean_high = self.plan, self.quantiles()
        return {
            "scene": plan.scene,
            "outputs": {kind: str(path) for kind, path in self.paths.items()},
            "sampler": plan.sampler,
            "budget": str(plan.budget),
            "windows": len(plan.active),
            "window": list(plan.window_size),
            "sample_size": list(plan.sample_size),
            **plan.allocation(),
            "sampled_pixels": plan.sampled_pixels,
            "sampled_share": plan.share,
            "density": dict(zip(("p01", "median", "p99"), low_mean_high, strict=True)),
            "scaling": plan.scaling.describe(),
            "seconds": self.seconds,
            "device": self.device,
            "notes": list(plan.notes),
        }

    def quantiles(self) -> tuple[float, float, float]:
        """Density that 1 %, half and 99 % of the cells are below; NaN where nothing has data."""
        low, median, high = self.density.quantile([0.01, 0.5, 0.99]).to_numpy()
        return float(low), float(median), float(high)


def density_map(
    source: PathLike | xr.DataArray,
    *,
    model: PathLike | DeformSegmenter | None = None,
    budget: str | float | Budget | None = None,
    sampler: str | None = None,
    allocation: str | None = None,
    focus: Shapes | None = None,
    focus_classes: Sequence[str] = (),
    priority: PathLike | None = None,
    output: PathLike | None = None,
    samples: PathLike | bool | None = None,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    stretch: str | tuple[float, float] = "auto",
    gsd: float | None = None,
    overlap: float = 0.125,
    bbox: Sequence[float] | None = None,
    aoi: PathLike | gpd.GeoDataFrame | gpd.GeoSeries | BaseGeometry | None = None,
    device: str | torch.device = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DensityMap:
    """Find where a model would sample a scene, without segmenting it.

    The density is the one that :func:`geodeform.segment_scene` writes with the same settings.

    Args:
        source: As for :func:`geodeform.segment_scene`, like all that is not named here.
        model: As there.
        budget: As there.
        sampler: As there.
        allocation: As there.
        focus: As there.
        focus_classes: As there.
        priority: As there.
        output: Density raster to write (``.tif``); without it the density comes back in memory.
        samples: Vector file of the sampled points to write (``.gpkg``, ``.parquet``, ``.fgb``,
            ``.geojson``), or True for a GeoDataFrame alone.
        bands: As there.
        nodata: As there.
        stretch: As there.
        gsd: As there.
        overlap: As there.
        bbox: As there.
        aoi: As there.
        device: As there.
        overwrite: Whether existing outputs may be replaced.
        progress: Called with (windows done, windows in all).

    Returns:
        Density, points and plan.

    Raises:
        GeodeformError: For bad input or settings, in one sentence; nothing has been written then.
    """
    start = time.perf_counter()
    wanted = {"density": output, "samples": None if isinstance(samples, bool) else samples}
    with ExitStack() as stack:
        outputs = stack.enter_context(
            OutputSet(
                overwrite=overwrite,
                inputs=[
                    p for p in (source, model, aoi, focus, priority) if isinstance(p, str | Path)
                ],
            )
        )
        suffixes = {"density": RASTER_SUFFIXES, "samples": VECTOR_SUFFIXES}
        staged = {
            kind: outputs.add(path, suffixes=suffixes[kind])
            for kind, path in wanted.items()
            if path is not None
        }
        add_styles(outputs, {"density": output})
        run = stack.enter_context(
            begin_run(
                source,
                model=model,
                device=device,
                bands=bands,
                nodata=nodata,
                budget=budget,
                sampler=sampler,
                allocation=allocation,
                focus=focus,
                focus_classes=focus_classes,
                priority=priority,
                gsd=gsd,
                overlap=overlap,
                stretch=stretch,
                bbox=bbox,
                aoi=aoi,
            )
        )
        for note in run.plan.notes:
            logger.warning(note)
        check_placeable(wanted["samples"], run.plan.crs)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geodeform-")))
        raster = staged.get("density", scratch / "density.tif")
        points = SampledPoints(run.scene, run.plan) if samples else None
        plan = _walk(run, raster, points, progress)
        frame = None if points is None else points.frame()
        if frame is not None and "samples" in staged:
            write_points(frame, staged["samples"])
        if output is not None:
            write_styles({"density": raster})
        density = open_raster(raster, "density")
        if output is None:
            density.load()
        density.close()
    if output is not None:  # the staged file is where it belongs now
        density = open_raster(Path(output), "density")
    return DensityMap(
        density=density,
        samples=frame,
        plan=plan,
        seconds=time.perf_counter() - start,
        device=describe_device(run.device),
        paths={kind: Path(path) for kind, path in wanted.items() if path is not None},
    )


def _walk(
    run: Run, raster: Path, points: SampledPoints | None, progress: Progress | None
) -> SegmentationPlan:
    """Place the samples of every window; write the density raster. The plan knows empty windows."""
    plan, tags = run.plan, run_tags(run)
    empty: list[int] = []
    with (
        DensityField(run.scene, plan, raster, tags) as density,
        run.predictor() as predictor,
    ):
        known = 0

        def know(until: int) -> None:
            nonlocal known
            while known < until:
                height = min(_BLOCK_ROWS, plan.shape[0] - known)
                rows = Window(0, known, plan.shape[1], height)
                density.known(rows, plan.known(run.scene, rows))
                known += height

        for done, (index, samples) in enumerate(predictor.place(plan.active), 1):
            know(int(plan.windows[index].row_off))  # rows above are final now
            if samples is None:
                empty.append(index)
            else:
                density.feed(index, samples)
                if points is not None:
                    points.add(index, samples)
            if progress is not None:
                progress(done, len(plan.active))
        know(plan.shape[0])
        if plan.empty is None:
            plan = plan.knowing_empty(empty)
            tags |= plan.share_tag
    return plan
