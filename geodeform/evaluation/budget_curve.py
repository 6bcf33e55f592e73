"""The budget curve: what every budget would buy on a scene, before the whole of it is mapped.

The scene, or a sample of its windows, is mapped at budgets from a thousandth of its pixels to all
of them, as :func:`geodeform.segment_scene` maps it: by the model's own sampler and allocation, and
beside it evenly. Every pixel, in overlapping crops of as many pixels as the network is used to, is
what the maps are compared with, and what users do today.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from rasterio.windows import Window

from geodeform.budget import BY_NEED, MOST_SAMPLES, Budget
from geodeform.device import describe_device, resolve_device
from geodeform.errors import ConfigError
from geodeform.evaluation.agreement import Raster, check_truth, compare_maps
from geodeform.evaluation.cost import MemoryWatch
from geodeform.evaluation.ways import find_way
from geodeform.map_figures import measure_map
from geodeform.mapping import SceneMapper
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.models.model_file import load_model
from geodeform.models.spec import ModelSpec
from geodeform.planning import SegmentationPlan
from geodeform.run import PathLike, Progress, Run, begin_run, check_allocation, run_tags

BUDGETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of the pixels, beside all of them."""

EVERY_PIXEL = "every pixel"

_SCALE_TOLERANCE = 1.25  # samples within this ratio of the nearest trained distance are at home


@dataclass(frozen=True)
class BudgetCurve:
    """What budgets buy on a scene.

    Attributes:
        scene: Its name.
        own: The model's own way, as ``sampler`` of the table says it.
        table: A row a run, by ``sampler`` (``learned``, ``uniform`` or ``interpolation``, with
            `` by need`` where windows get what they need, and ``every pixel``) and share:
            ``budget`` (asked for), ``sampled_share`` (of the scene's pixels, 0…1),
            ``samples`` (of a window, in words), ``agreement`` (share of pixels with the class that
            every pixel gives, NaN for that row), ``confidence`` (mean, 0…1), ``seconds`` (for the
            whole scene; an estimate where ``windows`` is less than ``windows_of_scene``) and
            ``peak_memory_bytes`` of the process. With labels also ``miou`` (over the classes that
            occur in them) and ``accuracy``, 0…1.
        knee: Share of the pixels at the knee of the model's own curve, see :func:`find_knee`; None
            where it has fewer than three points.
        windows: Windows that were mapped, for each row.
        windows_of_scene: Windows of the whole scene.
        device: Where it computed, in words.
        notes: What a reader of the figures has to know.
    """

    scene: str
    own: str
    table: pd.DataFrame
    knee: float | None
    windows: int
    windows_of_scene: int
    device: str
    notes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """A JSON-ready account; shares and scores 0…1, None for none."""
        rows = self.table.astype(object).where(self.table.notna(), None)
        return {
            "scene": self.scene,
            "own": self.own,
            "windows": self.windows,
            "windows_of_scene": self.windows_of_scene,
            "knee": self.knee,
            "device": self.device,
            "notes": list(self.notes),
            "runs": rows.to_dict("records"),
        }


def budget_curve(
    source: PathLike | xr.DataArray,
    *,
    model: PathLike | DeformSegmenter | None = None,
    budgets: Sequence[str | float | Budget] = BUDGETS,
    windows: int | None = 24,
    labels: Raster | None = None,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
    **settings: Any,
) -> BudgetCurve:
    """Map a scene, or a sample of its windows, at many budgets.

    Args:
        source: As for :func:`geodeform.segment_scene`.
        model: As there; it must know uniform sampling.
        budgets: As there, each of them; every pixel is mapped besides.
        windows: At most so many windows are mapped, spread evenly; None for all of them.
        labels: The truth: (y, x) class ids on the scene's grid, 255 unknown.
        bands: As there.
        nodata: As there.
        device: As there.
        progress: Called with (runs done, runs in all).
        **settings: ``gsd``, ``overlap``, ``stretch``, ``bbox`` and ``aoi``, as there.

    Returns:
        The curve, with its knee.

    Raises:
        ConfigError: If there is no budget, or the model cannot sample evenly.
        GeodeformError: As :func:`geodeform.segment_scene`.
    """
    target = device if isinstance(device, torch.device) else resolve_device(device)
    network = model if isinstance(model, DeformSegmenter) else load_model(model)
    spec = network.spec
    if "uniform" not in spec.samplers:
        raise ConfigError(
            "The model was trained without uniform sampling, so it cannot look at every pixel: "
            "there is nothing to compare its maps with."
        )
    wanted = list(dict.fromkeys(Budget.parse(budget) for budget in budgets))
    if not wanted or (windows is not None and windows < 1):
        raise ConfigError("The curve needs at least one budget and one window.")
    ways = dict.fromkeys([(spec.sampler, check_allocation(None, network)), ("uniform", "even")])
    runs = len(wanted) * len(ways) + 1

    @contextmanager
    def begun(budget: Budget, way: tuple[str, str]) -> Iterator[tuple[Run, SegmentationPlan]]:
        with begin_run(
            source, model=network, device=target, bands=bands, nodata=nodata, budget=budget,
            sampler=way[0], allocation="even", **settings,
        ) as run:  # fmt: skip
            plan = run.plan
            few = plan.active if windows is None else plan.some_windows(windows)
            if budget is whole:
                crops = every.plan(plan, spec, every.overlap)
                ground = [plan.windows[index].toslices() for index in few]
                active = crops.active
                if len(few) < len(plan.active):
                    active = tuple(k for k in active if _meets(crops.windows[k], ground))
                yield replace(run, plan=replace(crops, active=active)), plan
            else:
                yield replace(run, plan=replace(plan, active=few)), plan

    whole, every = Budget("share", 1.0), find_way("full")
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="geodeform-") as name:
        folder = Path(name)
        everything = folder / "every_pixel.tif"
        with begun(wanted[0], ("uniform", "even")) as (run, plan):  # compiles, warms up
            if labels is not None:
                check_truth(labels, plan, spec.n_classes)
            few = replace(run, plan=replace(run.plan, active=run.plan.active[:1]))
            _map(few, "even", folder / "warm.tif", folder / "warm_confidence.tif")
        for way, budget in [(("uniform", "even"), whole)] + [
            (way, budget) for way in ways for budget in wanted
        ]:
            mapped = everything if budget is whole else folder / f"map{len(rows)}.tif"
            with begun(budget, way) as (run, full):
                if budget is not whole and math.prod(full.sample_size) > MOST_SAMPLES:
                    notes.append(
                        f"The budget {budget} would put {full.shown_size()} samples of a window "
                        "through the network at once: left out."
                    )
                    continue
                row, plan = _map(run, way[1], mapped, folder / f"confidence{len(rows)}.tif")
            looked = min(len(full.active), windows or len(full.active))
            scale = len(full.active) / looked
            row["seconds"] *= scale
            row["sampled_share"] = row.pop("sampled") * scale / math.prod(full.shape)
            row["sampler"] = _title(*way)
            if budget is whole:
                row |= {"sampler": EVERY_PIXEL, "sampled_share": 1.0}  # overlaps count once
            row["budget"] = str(budget)
            row["agreement"] = np.nan
            if budget is not whole:
                row["agreement"] = compare_maps(
                    mapped, everything, plan, spec.n_classes, mapped_only=True
                ).accuracy()
            if labels is not None:
                counts = compare_maps(mapped, labels, plan, spec.n_classes, mapped_only=True)
                row |= {"miou": counts.miou(), "accuracy": counts.accuracy()}
            if budget is not whole:  # crops are of pixels, whatever was planned
                notes += plan.notes
            rows.append(row)
            if progress is not None:
                progress(len(rows), runs)
    notes += _scale_notes(spec, full)
    table = pd.DataFrame(rows)
    order = [
        "sampler", "budget", "sampled_share", "samples", "agreement", "confidence", "miou",
        "accuracy", "seconds", "peak_memory_bytes",
    ]  # fmt: skip
    table = table[[column for column in order if column in table]]
    table = table.sort_values(["sampler", "sampled_share"], ignore_index=True)
    table = table.drop_duplicates(["sampler", "sampled_share"], ignore_index=True)
    title = _title(*next(iter(ways)))
    own = table[table["sampler"] == title]
    figure = "miou" if labels is not None else "agreement"
    return BudgetCurve(
        scene=Path(full.scene).name,
        own=title,
        table=table,
        knee=find_knee(own["sampled_share"].to_numpy(), own[figure].to_numpy()),
        windows=looked,
        windows_of_scene=len(full.active),
        device=describe_device(target),
        notes=tuple(dict.fromkeys(notes)),
    )


def find_knee(shares: NDArray[np.float64], scores: NDArray[np.float64]) -> float | None:
    """Where a curve of scores over the logarithm of shares bends most: after it, more buys little.

    The point farthest above the straight line from the first to the best point: Satopää et al.,
    Finding a "Kneedle" in a Haystack, 2011, without smoothing.

    Args:
        shares: (n,) ascending, above 0.
        scores: (n,) of them, NaN where there is none.

    Returns:
        One of the shares; None for fewer than three points.

    >>> find_knee(np.array([0.001, 0.01, 0.1, 1.0]), np.array([0.3, 0.8, 0.9, 0.92]))
    0.01
    """
    known = np.isfinite(scores)
    shares, scores = shares[known], scores[known]
    if len(shares) < 3:
        return None
    last = int(np.argmax(scores))
    x, y = np.log(shares[: last + 1]), scores[: last + 1]
    if last < 2:
        return float(shares[last])
    above = (y - y[0]) / (y[-1] - y[0]) - (x - x[0]) / (x[-1] - x[0])
    return float(shares[int(np.argmax(above))])


def _title(sampler: str, allocation: str) -> str:
    return sampler + (BY_NEED if allocation == "need" else "")


def _meets(crop: Window, ground: list[tuple[slice, slice]]) -> bool:
    """Whether a crop shares pixels with one of several rectangles."""
    rows, cols = crop.toslices()
    return any(
        rows.start < y.stop and y.start < rows.stop and cols.start < x.stop and x.start < cols.stop
        for y, x in ground
    )


def _map(
    run: Run, allocation: str, labels: Path, confidence: Path
) -> tuple[dict[str, Any], SegmentationPlan]:
    """Map a run's windows; its row of the table, and its plan."""
    with MemoryWatch(run.device) as memory:
        began = time.perf_counter()
        run = run.allocated(allocation)
        with run.predictor() as predictor:
            mapper = SceneMapper(run.scene, predictor, run.network.spec.classes)
            mapper.run(
                {"labels": labels, "confidence": confidence},
                run_tags(run),
                keep_samples=False,
                progress=None,
            )
        seconds = time.perf_counter() - began
    figures = measure_map(labels, scheme=run.network.spec.classes, confidence=confidence)
    return {
        "sampled": mapper.sampled_pixels,
        "samples": run.plan.shown_size(),
        "confidence": figures.mean_confidence(),
        "seconds": seconds,
        "peak_memory_bytes": memory.peak_bytes,
    }, run.plan


def _scale_notes(spec: ModelSpec, plan: SegmentationPlan) -> list[str]:
    """Say so where the network was never trained on single pixels of this scene."""
    finest = spec.finest_spacing * plan.full_window[0] / spec.window_px[0]
    if finest <= _SCALE_TOLERANCE:
        return []
    return [
        f"The model was trained on samples {finest:.2g} pixels apart or more: over "
        f"{100 / finest**2:.2g}% it sees another scale, and agreement with every pixel says little."
    ]
