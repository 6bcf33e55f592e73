"""segment_scene: a scene in, a land-cover map out. The stages in order, a line each.

scene → windows → low-res view → density → sampling grid → sampled image → class scores →
reverse map → mosaic → class raster, confidence, density, polygons
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import torch
import xarray as xr
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from shapely.geometry.base import BaseGeometry

from geodeform.budget import Budget
from geodeform.device import describe_device, peak_memory_bytes
from geodeform.errors import ConfigError
from geodeform.geo.outputs import (
    PICTURE_SUFFIXES,
    PROJECT_SUFFIXES,
    RASTER_SUFFIXES,
    REPORT_SUFFIXES,
    STAC_SUFFIXES,
    VECTOR_SUFFIXES,
    OutputSet,
)
from geodeform.geo.styling import add_styles, write_styles
from geodeform.geo.vector import check_placeable, polygonize, write_points, write_polygons
from geodeform.mapping import SceneMapper
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.planning import SegmentationPlan, Shapes
from geodeform.predict import WindowPredictor
from geodeform.publish import (
    model_item_path,
    report_facts,
    write_run_project,
    write_run_stac,
)
from geodeform.quicklook import NODATA_GREY, draw_quicklook
from geodeform.refine import Refinement
from geodeform.result import RunFacts, SegmentationResult
from geodeform.run import (
    PathLike,
    Progress,
    begin_run,
    open_raster,
    run_tags,
)
from geodeform.scene_report import write_report

logger = logging.getLogger("geodeform")

_QUICKLOOK_SIDE = 1100  # pixels of the longer side of a quicklook's panels
_SUFFIXES = {
    "labels": RASTER_SUFFIXES,
    "confidence": RASTER_SUFFIXES,
    "density": RASTER_SUFFIXES,
    "trust": RASTER_SUFFIXES,
    "polygons": VECTOR_SUFFIXES,
    "samples": VECTOR_SUFFIXES,
    "quicklook": PICTURE_SUFFIXES,
    "report": REPORT_SUFFIXES,
    "project": PROJECT_SUFFIXES,
    "stac": STAC_SUFFIXES,
}


def segment_scene(
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
    confidence: PathLike | None = None,
    density: PathLike | None = None,
    trust: PathLike | None = None,
    polygons: PathLike | bool | None = None,
    samples: PathLike | bool | None = None,
    quicklook: PathLike | None = None,
    report: PathLike | None = None,
    qgis: PathLike | None = None,
    stac: PathLike | None = None,
    min_area: float = 0.0,
    fill_holes: float = 0.0,
    simplify: float = 0.0,
    smooth: int = 0,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    stretch: str | tuple[float, float] = "auto",
    gsd: float | None = None,
    overlap: float = 0.125,
    bbox: Sequence[float] | None = None,
    aoi: PathLike | gpd.GeoDataFrame | gpd.GeoSeries | BaseGeometry | None = None,
    refine: int = 0,
    device: str | torch.device = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SegmentationResult:
    """Map the land cover of a scene for a small pixel budget.

    Args:
        source: Raster that GDAL reads, or a DataArray with dims (band, y, x) or (y, x) whose
            georeference rioxarray knows.
        model: Model file, name of a packaged model, or a loaded model; the packaged one if None.
        budget: ``"1.5%"`` of the pixels (or 0.015), ``"128"`` (x128) samples a window, ``"2MP"``
            in total; the model's own if None.
        sampler: ``"learned"`` or ``"uniform"``; the model's default if None.
        allocation: ``"even"``: every window gets the same number of samples; ``"need"``: the budget
            goes to the windows where it is expected to take away most errors, by the model's error
            net (see :mod:`geodeform.allocation`). ``"need"`` if None where the model can.
        focus: Area that more of the budget goes to, given like ``aoi``: an error there counts
            :data:`geodeform.priority.FOCUS_WEIGHT` times.
        focus_classes: Names of classes whose errors count so; the allocation follows them.
        priority: Raster of weights ≥ 0, of any CRS and resolution: what an error counts where.
        output: Class raster to write (``.tif``). Without it nothing is written for the rasters and
            labels, confidence and density come back in memory.
        confidence: Confidence raster to write (``.tif``).
        density: Sampling-density raster to write (``.tif``).
        trust: Raster to write of confidence times how near the samples lie (``.tif``), see
            :mod:`geodeform.trust`.
        polygons: Vector file to write (``.gpkg``, ``.parquet``, ``.fgb``, ``.geojson``), or True
            for a GeoDataFrame alone.
        samples: The same for the sampled points.
        quicklook: PNG to draw.
        report: HTML page to write, see :func:`geodeform.scene_report.write_report`.
        qgis: QGIS project (``.qgz``) to write, with a layer for the scene and for each output.
        stac: STAC item (``.json``) of the map to write; the model's is written beside it, as
            ``<stem>_model.json``.
        min_area: Polygons under this area (m², px² without a CRS) dissolve into neighbours.
        fill_holes: Holes under this area (m², px² without a CRS) take the class around them.
        simplify: Tolerance in CRS units of the gap-free simplification of polygons.
        smooth: Passes of gap-free corner cutting of polygons.
        bands: 1-based bands that the model's bands are read from.
        nodata: Value without data, where the file does not say it.
        stretch: ``"auto"``, ``"none"`` or two percentiles, see
            :meth:`geodeform.geo.scene.Scaling.for_scene`.
        gsd: Ground sampling distance in metres, where the file does not say it.
        overlap: Part of a window shared with each neighbour, 0…0.5.
        bbox: (xmin, ymin, xmax, ymax) in the scene's CRS: map only this part.
        aoi: Area of interest: map its bounding box, nodata outside it.
        refine: Passes after a first, coarse one, in which the rest of the budget goes where the map
            is unsure, see :mod:`geodeform.refine`; every pass ends with whole outputs. The
            allocation is its own then.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.
        overwrite: Whether existing outputs may be replaced.
        progress: Called with (windows done, windows in all).

    Returns:
        The map with everything that belongs to it; see :class:`SegmentationResult`.

    Raises:
        GeodeformError: For bad input or settings, in one sentence. Nothing has been written then:
            outputs appear whole and together, or not at all. With ``refine`` those of the last
            complete pass stay.
    """
    start = time.perf_counter()
    if min(min_area, fill_holes, simplify, smooth) < 0:
        raise ConfigError("min_area, fill_holes, simplify and smooth cannot be negative.")
    if output is None and (qgis is not None or stac is not None):
        raise ConfigError("A QGIS project and a STAC item need a class raster: give output, too.")
    wanted = {
        "labels": output,
        "confidence": confidence,
        "density": density,
        "trust": trust,
        "polygons": None if isinstance(polygons, bool) else polygons,
        "samples": None if isinstance(samples, bool) else samples,
        "quicklook": quicklook,
        "report": report,
        "project": qgis,
        "stac": stac,
    }
    if refine < 0 or (refine and allocation is not None):
        raise ConfigError("A refinement takes steps from 1, and no allocation: it has its own.")
    in_memory = output is None
    refinement = Refinement(refine)
    for step in range(refine + 1):
        with ExitStack() as stack:
            outputs = stack.enter_context(
                OutputSet(
                    overwrite=overwrite or step > 0,
                    inputs=[
                        p
                        for p in (source, model, aoi, focus, priority)
                        if isinstance(p, str | Path)
                    ],
                )
            )
            staged = {
                kind: outputs.add(path, suffixes=_SUFFIXES[kind])
                for kind, path in wanted.items()
                if path is not None
            }
            add_styles(outputs, wanted)
            run = stack.enter_context(
                begin_run(
                    source,
                    model=model,
                    device=device,
                    bands=bands,
                    nodata=nodata,
                    budget=budget,
                    sampler=sampler,
                    allocation="even" if refine else allocation,
                    followed=refine > 0,
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
            plan, scheme = run.plan, run.network.spec.classes
            if stac is not None and run.network.file is not None:
                outputs.add(model_item_path(stac), suffixes=STAC_SUFFIXES)
            for note in plan.notes if step == 0 else ():
                logger.warning(note)
            for kind in ("polygons", "samples"):
                check_placeable(wanted[kind], plan.crs)
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geodeform-")))
            rasters = {"labels": staged.get("labels", scratch / "labels.tif")}
            everything = in_memory or bool(polygons) or report is not None
            if everything or confidence is not None:
                rasters["confidence"] = staged.get("confidence", scratch / "confidence.tif")
            if everything or density is not None or quicklook is not None:
                rasters["density"] = staged.get("density", scratch / "density.tif")
            if trust is not None:
                rasters["trust"] = staged["trust"]
            predictor = run.predictor()
            if refine:
                run, predictor = refinement.begin(run, step)
            plan = run.plan
            stack.enter_context(predictor)
            mapper = SceneMapper(run.scene, predictor, scheme)
            mapper.run(rasters, run_tags(run), keep_samples=bool(samples), progress=progress)
            if not any(area.pixels for area in mapper.class_areas()):
                logger.warning(
                    f"No pixel of {Path(plan.scene).name} was mapped: there is no data, or the "
                    "area of interest covers no pixel's centre."
                )

            frame = points = None
            if polygons:
                frame = polygonize(
                    rasters["labels"],
                    confidence=rasters["confidence"],
                    density=rasters["density"],
                    scheme=scheme,
                    min_area=min_area,
                    fill_holes=fill_holes,
                    simplify=simplify,
                    smooth=smooth,
                )
                if "polygons" in staged:
                    write_polygons(frame, staged["polygons"])
            if samples:
                points = mapper.samples.frame(scheme)
                if "samples" in staged:
                    write_points(points, staged["samples"])
            facts = _facts(mapper, run.device, start)
            if quicklook is not None:
                _draw(staged["quicklook"], mapper, rasters, facts)
            write_styles(staged, scheme)
            if report is not None:
                write_report(
                    staged["report"],
                    labels=rasters["labels"],
                    scene=run.scene,
                    confidence=rasters["confidence"],
                    density=rasters["density"],
                    polygons=staged.get("polygons"),
                    facts=report_facts(facts),
                    notes=plan.notes,
                )
            if qgis is not None:
                for kind in ("polygons", "samples"):
                    if kind in staged and staged[kind].suffix.lower() == ".parquet":
                        logger.warning(
                            f"QGIS opens {wanted[kind]} only where its GDAL reads GeoParquet, "
                            "which Debian's does not: .gpkg opens everywhere."
                        )
                for name in write_run_project(staged["project"], staged, run, source):
                    logger.warning(
                        f"{qgis} has no layer '{name}': QGIS cannot place it without a CRS."
                    )
            if stac is not None:
                write_run_stac(staged["stac"], staged, run, source)
            arrays: dict[str, xr.DataArray] = {
                kind: open_raster(rasters[kind], kind).load()
                for kind in ("labels", "confidence", "density")
                if in_memory and kind in rasters
            }
    paths = {kind: Path(path) for kind, path in wanted.items() if path is not None}
    for kind in ("labels", "confidence", "density"):
        if kind in paths and kind not in arrays:
            arrays[kind] = open_raster(paths[kind], kind)
    return SegmentationResult(
        scene=plan.scene,
        classes=scheme,
        labels=arrays["labels"],
        confidence=arrays.get("confidence"),
        density=arrays.get("density"),
        polygons=frame,
        samples=points,
        class_areas=mapper.class_areas(),
        plan=plan,
        facts=_facts(mapper, run.device, start),
        paths=paths,
    )


@dataclass(frozen=True)
class Estimate:
    """What a run would cost, from a few windows that were really predicted.

    Attributes:
        plan: Windows, sampled size, scaling and notes.
        seconds: Estimated wall-clock.
        memory_bytes: Estimated peak resident memory.
        probed: Number of windows that the estimate rests on.
        device: Where it was measured.
    """

    plan: SegmentationPlan
    seconds: float
    memory_bytes: int
    probed: int
    device: str

    def summary(self) -> dict[str, Any]:
        """A JSON-ready account."""
        plan = self.plan
        return {
            "scene": plan.scene,
            "dry_run": True,
            "windows": len(plan.active),
            "window": list(plan.window_size),
            "sample_size": list(plan.sample_size),
            **plan.allocation(),
            "sampler": plan.sampler,
            "sampled_pixels": plan.sampled_pixels,
            "sampled_share": plan.share,
            "scaling": plan.scaling.describe(),
            "estimated_seconds": self.seconds,
            "estimated_memory_bytes": self.memory_bytes,
            "probed_windows": self.probed,
            "device": self.device,
            "notes": list(plan.notes),
        }


def estimate(
    source: PathLike | xr.DataArray,
    *,
    model: PathLike | DeformSegmenter | None = None,
    device: str | torch.device = "auto",
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    **settings: Any,
) -> Estimate:
    """Estimate windows, pixels, time and memory of :func:`segment_scene` without writing anything.

    Up to eight windows spread over the scene are predicted, painted and compressed; the rest is
    multiplication, so time for polygons is not in it.

    Args:
        source: As for :func:`segment_scene`.
        model: As for :func:`segment_scene`.
        device: As for :func:`segment_scene`.
        bands: As for :func:`segment_scene`.
        nodata: As for :func:`segment_scene`.
        **settings: Those of :func:`geodeform.planning.plan_segmentation`.

    Raises:
        GeodeformError: As :func:`segment_scene`.
    """
    start = time.perf_counter()
    with begin_run(
        source, model=model, device=device, bands=bands, nodata=nodata, **settings
    ) as run:
        plan = run.plan
        fixed = time.perf_counter() - start
        chosen = plan.some_windows(8)
        with run.predictor() as predictor:
            _probe(predictor, chosen[:1])  # compiles and warms up; not part of the measure
            began = time.perf_counter()
            _probe(predictor, chosen)
            spent = time.perf_counter() - began
    columns = plan.windows.grid_shape[1]
    h, w = plan.sizes_used[-1]
    live = 2 * columns * h * w * 4 * (run.network.spec.n_classes + 3)
    block = 256 * plan.shape[1] * 2
    return Estimate(
        plan=plan,
        seconds=fixed + spent / len(chosen) * len(plan.active),
        memory_bytes=peak_memory_bytes() + live + block,
        probed=len(chosen),
        device=describe_device(run.device),
    )


def _probe(predictor: WindowPredictor, indices: Sequence[int]) -> None:
    H, W = predictor.plan.window_size
    for _, prediction in predictor.predict(indices):
        if prediction is not None:
            for top in range(0, H, 256):
                labels, _ = prediction.labels((top, min(top + 256, H)), (0, W))
                zlib.compress(labels.tobytes(), 6)


def _facts(mapper: SceneMapper, device: torch.device, start: float) -> RunFacts:
    pixels = mapper.plan.shape[0] * mapper.plan.shape[1]
    return RunFacts(
        device=describe_device(device),
        seconds=time.perf_counter() - start,
        peak_memory_bytes=peak_memory_bytes(),
        windows=mapper.predicted,
        windows_skipped=mapper.skipped,
        sampled_pixels=mapper.sampled_pixels,
        sampled_share=mapper.sampled_pixels / pixels,
    )


def _draw(path: Path, mapper: SceneMapper, rasters: Mapping[str, Path], facts: RunFacts) -> None:
    """Draw the quicklook from the finished rasters' overviews."""
    plan = mapper.plan
    H, W = plan.shape
    scale = min(1.0, _QUICKLOOK_SIDE / max(H, W))
    view = (max(1, round(H * scale)), max(1, round(W * scale)))
    data, valid = mapper.scene.read(plan.region, view)
    scaled = plan.scaling.apply(data)
    shown = np.stack([scaled[min(k, len(scaled) - 1)] for k in range(3)], -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(rasters["labels"]) as labels, rasterio.open(rasters["density"]) as field:
            small = labels.read(1, out_shape=view, resampling=Resampling.mode)
            density = field.read(1)
            # the last cells may reach beyond the scene
            reach = (plan.density_factor * field.width, plan.density_factor * field.height)
    draw_quicklook(
        path,
        title=f"{Path(plan.scene).name} · {plan.sampler} sampling",
        image=np.where(valid[..., None], 255 * shown, NODATA_GREY).astype(np.uint8),
        labels=small,
        density=density,
        density_reach=reach,
        points=np.concatenate(mapper.sketch) if mapper.sketch else np.empty((0, 2), np.float32),
        shape=plan.shape,
        scheme=mapper.scheme,
        class_areas=mapper.class_areas(),
        facts=facts,
    )
