"""The budget curve: what every budget would buy on a scene, before the whole of it is mapped.

The scene, or a sample of its windows, is mapped at budgets from a thousandth of its pixels to all
of them, as :func:`geodeform.segment_scene` maps it: by the model's own sampler and allocation, and
beside it evenly. Every pixel, in overlapping crops of as many pixels as the network is used to, is
what users do today, and what the maps are compared with where the network knows single pixels.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
import torch
import xarray as xr
from numpy.typing import NDArray

from geodeform.budget import BY_NEED, MOST_SAMPLES, Budget
from geodeform.device import describe_device, resolve_device
from geodeform.errors import ConfigError
from geodeform.evaluation.agreement import Raster, check_truth, compare_maps
from geodeform.evaluation.cost import MemoryWatch
from geodeform.evaluation.metrics import Confusion
from geodeform.evaluation.ways import find_way
from geodeform.map_figures import measure_map
from geodeform.mapping import SceneMapper
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.models.model_file import load_model
from geodeform.models.spec import ModelSpec
from geodeform.planning import SegmentationPlan, ground_of
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
            every pixel gives, or where single pixels are another scale than the model was trained
            at, that its own map at the largest trained size gives; NaN for that row),
            ``confidence`` (mean, 0…1), ``seconds`` (for the whole scene; an estimate where
            ``windows`` is less than ``windows_of_scene``) and ``peak_memory_bytes`` (of the process
            during the run, with what earlier runs left to its allocators). With labels also
            ``miou`` (over the classes that occur in them) and ``accuracy``, 0…1.
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
    own = _Asked(spec.sampler, check_allocation(None, network), wanted[0])
    even = _Asked("uniform", "even", wanted[0])
    settings |= {"bands": bands, "nodata": nodata}
    mapping = _Mapping(source, network, target, windows, settings)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="geodeform-") as name:
        folder = Path(name)
        plan = mapping.warm_up(even, folder)
        if labels is not None:
            check_truth(labels, plan, spec.n_classes)
        every = replace(even, budget=None)
        reference, why = _reference(spec, plan, own)
        notes += why
        asked = [replace(way, budget=budget) for way in (own, even) for budget in wanted]
        asked = list(dict.fromkeys([reference or every, every, *asked]))
        for number, one in enumerate(asked):
            mapped = folder / f"map{number}.tif"
            made = mapping.map(one, mapped, folder / f"confidence{number}.tif")
            if progress is not None:
                progress(number + 1, len(asked))
            if isinstance(made, str):
                notes.append(made)
                continue
            row, used = made
            if one.budget is not None:  # crops are of pixels, whatever was planned
                notes += used.notes
            row["agreement"] = np.nan
            if number > 0:  # the first is what the others are compared with
                row["agreement"] = _counts(mapped, folder / "map0.tif", used, spec).accuracy()
            if labels is not None:
                counts = _counts(mapped, labels, used, spec)
                row |= {"miou": counts.miou(), "accuracy": counts.accuracy()}
            rows.append(row)
    table = _sorted_table(rows)
    knee_of = table[table["sampler"] == own.title]
    figure = "miou" if labels is not None else "agreement"
    return BudgetCurve(
        scene=Path(plan.scene).name,
        own=own.title,
        table=table,
        knee=find_knee(knee_of["sampled_share"].to_numpy(), knee_of[figure].to_numpy()),
        windows=min(len(plan.active), windows or len(plan.active)),
        windows_of_scene=len(plan.active),
        device=describe_device(target),
        notes=tuple(dict.fromkeys(notes)),
    )


@dataclass(frozen=True)
class _Asked:
    """A run: how it samples, and its budget; None for every pixel, in crops."""

    sampler: str
    allocation: str
    budget: Budget | None

    @property
    def title(self) -> str:
        if self.budget is None:
            return EVERY_PIXEL
        return self.sampler + (BY_NEED if self.allocation == "need" else "")


@dataclass(frozen=True)
class _Mapping:
    """Maps a scene, or a part of its windows, in all the ways of a curve."""

    source: PathLike | xr.DataArray
    network: DeformSegmenter
    device: torch.device
    windows: int | None
    settings: dict[str, Any]

    def begun(self, asked: _Asked) -> AbstractContextManager[Run]:
        """The run over the whole scene, its budget not yet shared out."""
        return begin_run(
            self.source, model=self.network, device=self.device, sampler=asked.sampler,
            budget=asked.budget or Budget("share", 1.0), allocation="even", **self.settings,
        )  # fmt: skip

    def warm_up(self, asked: _Asked, folder: Path) -> SegmentationPlan:
        """Map one window, so that all is compiled, and return the plan of the whole scene."""
        with self.begun(asked) as run:
            first = replace(run, plan=replace(run.plan, active=run.plan.active[:1]))
            _map(first, "even", folder / "warm.tif", folder / "warm_confidence.tif")
            return run.plan

    def part(self, plan: SegmentationPlan, asked: _Asked) -> tuple[SegmentationPlan, float]:
        """What is mapped of a plan, and how many times as many windows the scene has."""
        few = plan.active if self.windows is None else plan.some_windows(self.windows)
        if asked.budget is not None:
            return replace(plan, active=few), len(plan.active) / len(few)
        every, spec = find_way("full"), self.network.spec
        crops = part = every.plan(plan, spec, every.overlap)
        if len(few) < len(plan.active):  # crops of the ground that the other rows are of
            ground = shapely.union_all([ground_of(plan.windows[k], plan.frame) for k in few])
            ground = ground if plan.aoi is None else ground & plan.aoi
            part = every.plan(replace(plan, aoi=ground), spec, every.overlap)
        return part, len(crops.active) / len(part.active)

    def map(
        self, asked: _Asked, labels: Path, confidence: Path
    ) -> tuple[dict[str, Any], SegmentationPlan] | str:
        """Map as asked; its row of the table and its plan, or why it is left out."""
        with self.begun(asked) as run:
            plan, times = self.part(run.plan, asked)
            if asked.budget is not None and math.prod(plan.sample_size) > MOST_SAMPLES:
                return (
                    f"The budget {asked.budget} would put {plan.shown_size()} samples of a window "
                    "through the network at once: left out."
                )
            row, plan = _map(replace(run, plan=plan), asked.allocation, labels, confidence)
        row["seconds"] *= times
        share = row.pop("sampled") * times / math.prod(plan.shape)
        row |= {
            "sampler": asked.title,
            "budget": str(asked.budget or Budget("share", 1.0)),
            "sampled_share": share if asked.budget is not None else 1.0,  # overlaps count once
        }
        return row, plan


def _reference(
    spec: ModelSpec, plan: SegmentationPlan, own: _Asked
) -> tuple[_Asked | None, list[str]]:
    """What maps are compared with where that is not every pixel, and why.

    A network that never saw single pixels of this scene is no judge with them: then it is its own
    map at the most samples of a window that it was trained with.
    """
    finest = spec.finest_spacing * plan.full_window[0] / spec.window_px[0]
    if finest <= _SCALE_TOLERANCE:
        return None, []
    most = Budget("window", max(math.prod(size) for size in spec.trained_sizes))
    return replace(own, budget=most), [
        f"The model was trained on samples {finest:.2g} pixels apart or more: over "
        f"{100 / finest**2:.2g}% it sees another scale, so agreement is with its own map at "
        f"{most} instead of every pixel."
    ]


def _counts(labels: Path, truth: Raster, plan: SegmentationPlan, spec: ModelSpec) -> Confusion:
    """A map against other class ids, where it maps."""
    return compare_maps(labels, truth, plan, spec.n_classes, mapped_only=True)


def _sorted_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows by sampler and share, one of each."""
    table = pd.DataFrame(rows)
    order = [
        "sampler", "budget", "sampled_share", "samples", "agreement", "confidence", "miou",
        "accuracy", "seconds", "peak_memory_bytes",
    ]  # fmt: skip
    table = table[[column for column in order if column in table]]
    table = table.sort_values(["sampler", "sampled_share"], ignore_index=True)
    return table.drop_duplicates(["sampler", "sampled_share"], ignore_index=True)


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
