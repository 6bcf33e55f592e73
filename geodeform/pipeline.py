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
    Run,
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
        sampler: ``"learned"``, ``"uniform"`` or ``"interpolation"``, as far as the model was
            trained with it; its default if None.
        allocation: ``"even"``: every window gets the same number of samples; ``"need"``: the budget
            goes to the windows where it is expected to take away most errors, by the model's error
            net (see :mod:`geodeform.allocation`). ``"need"`` if None where the model can.
        focus: Area that more of the budget goes to, given like ``aoi``: an error there counts
            :data:`geodeform.priority.FOCUS_WEIGHT` times.
        focus_classes: Names of classes whose errors count so: by need windows follow them, and
            learned samples go to where a first look at the low-resolution view shows them.
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
    order = _Order(
        source=source,
        begin={
            "model": model,
            "device": device,
            "bands": bands,
            "nodata": nodata,
            "budget": budget,
            "sampler": sampler,
            "allocation": "even" if refine else allocation,
            "followed": refine > 0,
            "focus": focus,
            "focus_classes": focus_classes,
            "priority": priority,
            "gsd": gsd,
            "overlap": overlap,
            "stretch": stretch,
            "bbox": bbox,
            "aoi": aoi,
        },
        inputs=[p for p in (source, model, aoi, focus, priority) if isinstance(p, str | Path)],
        paths={kind: Path(path) for kind, path in wanted.items() if path is not None},
        shape={
            "min_area": min_area,
            "fill_holes": fill_holes,
            "simplify": simplify,
            "smooth": smooth,
        },
        polygons=bool(polygons),
        samples=bool(samples),
    )
    refinement = Refinement(refine) if refine else None
    mapped = _map(order, refinement, 0, start, overwrite=overwrite, progress=progress)
    for step in range(1, refine + 1):
        del mapped  # with its sampled points
        mapped = _map(order, refinement, step, start, overwrite=True, progress=progress)
    arrays = {
        kind: open_raster(order.paths[kind], kind)
        for kind in ("labels", "confidence", "density")
        if kind in order.paths and kind not in mapped.arrays
    } | mapped.arrays
    return SegmentationResult(
        scene=mapped.mapper.plan.scene,
        classes=mapped.mapper.scheme,
        labels=arrays["labels"],
        confidence=arrays.get("confidence"),
        density=arrays.get("density"),
        polygons=mapped.polygons,
        samples=mapped.points,
        class_areas=mapped.mapper.class_areas(),
        plan=mapped.mapper.plan,
        facts=_facts(mapped.mapper, mapped.device, start),
        paths=dict(order.paths),
    )


@dataclass(frozen=True)
class _Order:
    """What was asked for.

    Attributes:
        source: The scene.
        begin: Settings of :func:`geodeform.run.begin_run`.
        inputs: Files that no output may replace.
        paths: Output files by kind.
        shape: Settings of :func:`geodeform.geo.vector.polygonize`.
        polygons: Whether polygons are wanted, in a file or in memory.
        samples: The same for sampled points.
    """

    source: PathLike | xr.DataArray
    begin: Mapping[str, Any]
    inputs: Sequence[PathLike]
    paths: Mapping[str, Path]
    shape: Mapping[str, Any]
    polygons: bool
    samples: bool

    @property
    def in_memory(self) -> bool:
        """Whether the rasters come back as loaded arrays."""
        return "labels" not in self.paths

    def rasters(self) -> list[str]:
        """Kinds of rasters that are made, be it for what is drawn from them."""
        everything = self.in_memory or self.polygons or "report" in self.paths
        made = ["labels"]
        if everything or "confidence" in self.paths:
            made.append("confidence")
        if everything or "density" in self.paths or "quicklook" in self.paths:
            made.append("density")
        return [*made, "trust"] if "trust" in self.paths else made


@dataclass(frozen=True)
class _Mapped:
    """What a pass over the scene gave, beside its files."""

    mapper: SceneMapper
    device: torch.device
    polygons: gpd.GeoDataFrame | None
    points: gpd.GeoDataFrame | None
    arrays: dict[str, xr.DataArray]


def _map(
    order: _Order,
    refinement: Refinement | None,
    step: int,
    start: float,
    *,
    overwrite: bool,
    progress: Progress | None,
) -> _Mapped:
    """Map the scene once; its outputs appear together at the end."""
    paths = order.paths
    with ExitStack() as stack:
        outputs = stack.enter_context(OutputSet(overwrite=overwrite, inputs=order.inputs))
        staged = {kind: outputs.add(path, suffixes=_SUFFIXES[kind]) for kind, path in paths.items()}
        add_styles(outputs, paths)
        run = stack.enter_context(begin_run(order.source, **order.begin))
        if "stac" in paths and run.network.file is not None:
            outputs.add(model_item_path(paths["stac"]), suffixes=STAC_SUFFIXES)
        for note in run.plan.notes if step == 0 else ():
            logger.warning(note)
        for kind in ("polygons", "samples"):
            check_placeable(paths.get(kind), run.plan.crs)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geodeform-")))
        rasters = {kind: staged.get(kind, scratch / f"{kind}.tif") for kind in order.rasters()}
        if refinement is None:
            predictor = run.predictor()
        else:
            run, predictor = refinement.begin(run, step)
        stack.enter_context(predictor)
        mapper = SceneMapper(run.scene, predictor, run.network.spec.classes)
        mapper.run(rasters, run_tags(run), keep_samples=order.samples, progress=progress)
        if not any(area.pixels for area in mapper.class_areas()):
            logger.warning(
                f"No pixel of {Path(run.plan.scene).name} was mapped: there is no data, or the "
                "area of interest covers no pixel's centre."
            )
        frame, points = _vectors(order, mapper, rasters, staged)
        _accompany(order, run, mapper, rasters, staged, start)
        arrays: dict[str, xr.DataArray] = {
            kind: open_raster(rasters[kind], kind).load()
            for kind in ("labels", "confidence", "density")
            if order.in_memory and kind in rasters
        }
    return _Mapped(mapper, run.device, frame, points, arrays)


def _vectors(
    order: _Order, mapper: SceneMapper, rasters: Mapping[str, Path], staged: Mapping[str, Path]
) -> tuple[gpd.GeoDataFrame | None, gpd.GeoDataFrame | None]:
    """Polygons and sampled points, where they are wanted; written where they have a file."""
    frame = points = None
    if order.polygons:
        frame = polygonize(
            rasters["labels"],
            confidence=rasters["confidence"],
            density=rasters["density"],
            scheme=mapper.scheme,
            **order.shape,
        )
        if "polygons" in staged:
            write_polygons(frame, staged["polygons"])
    if order.samples:
        points = mapper.samples.frame(mapper.scheme)
        if "samples" in staged:
            write_points(points, staged["samples"])
    return frame, points


def _accompany(
    order: _Order,
    run: Run,
    mapper: SceneMapper,
    rasters: Mapping[str, Path],
    staged: Mapping[str, Path],
    start: float,
) -> None:
    """Write what shows and describes the map: picture, styles, page, project, STAC items."""
    facts = _facts(mapper, run.device, start)
    if "quicklook" in staged:
        _draw(staged["quicklook"], mapper, rasters, facts)
    write_styles(staged, mapper.scheme)
    if "report" in staged:
        write_report(
            staged["report"],
            labels=rasters["labels"],
            scene=run.scene,
            confidence=rasters["confidence"],
            density=rasters["density"],
            polygons=staged.get("polygons"),
            facts=report_facts(facts),
            notes=run.plan.notes,
        )
    if "project" in staged:
        for kind in ("polygons", "samples"):
            if kind in staged and staged[kind].suffix.lower() == ".parquet":
                logger.warning(
                    f"QGIS opens {order.paths[kind]} only where its GDAL reads GeoParquet, "
                    "which Debian's does not: .gpkg opens everywhere."
                )
        for name in write_run_project(staged["project"], staged, run, order.source):
            logger.warning(
                f"{order.paths['project']} has no layer '{name}': QGIS cannot place it "
                "without a CRS."
            )
    if "stac" in staged:
        write_run_stac(staged["stac"], staged, run, order.source)


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
        **settings: ``allocation``, ``followed`` (see :func:`geodeform.run.begin_run`), and those of
            :func:`geodeform.planning.plan_segmentation`.

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
        title=f"{Path(plan.scene).name} · {plan.way} sampling",
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
