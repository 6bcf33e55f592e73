"""What every run over a scene begins and ends with: model, scene, tags, rasters as arrays."""

from __future__ import annotations

import datetime
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rasterio
import rioxarray
import torch
import xarray as xr
from rasterio.errors import NotGeoreferencedWarning

from geodeform.allocation import allocate_windows
from geodeform.device import resolve_device
from geodeform.errors import ConfigError, OutputError, SceneError
from geodeform.geo.raster import GDAL_CACHE_BYTES
from geodeform.geo.scene import Scene
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.models.model_file import load_model
from geodeform.planning import SegmentationPlan, plan_segmentation
from geodeform.predict import WindowPredictor

PathLike = str | Path

Progress = Callable[[int, int], None]
"""Called with (windows done, windows in all)."""


@dataclass(frozen=True)
class Run:
    """An open scene with the model that maps it, where, and the plan.

    Attributes:
        scene: The open scene.
        network: The model, in evaluation mode.
        device: Where it computes.
        plan: What is decided before the first pixel is predicted.
    """

    scene: Scene
    network: DeformSegmenter
    device: torch.device
    plan: SegmentationPlan

    def predictor(self) -> WindowPredictor:
        """What predicts the plan's windows; a context manager."""
        return WindowPredictor(self.scene, self.network, self.plan, self.device)

    def allocated(self, allocation: str) -> Run:
        """Share the plan's budget out over its windows, as :func:`check_allocation` returned."""
        if allocation == "even":
            return self
        with self.predictor() as predictor:
            return replace(self, plan=allocate_windows(predictor))


@contextmanager
def begin_run(
    source: PathLike | xr.DataArray,
    *,
    model: PathLike | DeformSegmenter | None,
    device: str | torch.device,
    bands: Sequence[int] | None,
    nodata: float | None,
    allocation: str | None = None,
    followed: bool = False,
    **settings: Any,
) -> Iterator[Run]:
    """Load the model (the packaged one if None), open the scene, plan; for a ``with`` statement.

    Args:
        source: As for :func:`geodeform.segment_scene`.
        model: As there.
        device: As there.
        bands: As there.
        nodata: As there.
        allocation: As there.
        followed: Whether what comes after an even allocation follows classes and priorities.
        **settings: Those of :func:`geodeform.planning.plan_segmentation`.

    Raises:
        GeodeformError: For bad input or settings.
    """
    target = device if isinstance(device, torch.device) else resolve_device(device)
    network = model if isinstance(model, DeformSegmenter) else load_model(model)
    allocation = check_allocation(allocation, network)
    with (
        rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES),
        _open_scene(source, network, bands, nodata) as scene,
    ):
        plan = plan_segmentation(scene, network.spec, **settings)
        places = plan.sampler == "learned" and network.grid_net is None
        if plan.priority is not None and not (places or allocation == "need" or followed):
            raise ConfigError(
                "Nothing can follow the focus or priority: it needs a learned density, or the "
                "allocation 'need'."
            )
        run = Run(scene, network.eval(), target, plan).allocated(allocation)
        yield replace(run, plan=_heeded(run.plan, places=places, passes=followed))


def check_allocation(allocation: str | None, network: DeformSegmenter) -> str:
    """Return how a budget is shared out over windows: ``"even"`` or ``"need"``.

    Args:
        allocation: What was asked for; None for ``"need"`` where the model can.
        network: The model.

    Raises:
        ConfigError: If there is none of that name, or the model cannot.
    """
    if allocation is None:
        return "need" if network.spec.error_net else "even"
    if allocation not in ("even", "need"):
        raise ConfigError(f"Unknown allocation '{allocation}': use 'even' or 'need'.")
    if allocation == "need" and not network.spec.error_net:
        raise ConfigError(
            "This model does not know how wrong it is at which budget: train one with "
            "model.error_net, or use the allocation 'even'."
        )
    return allocation


def _heeded(plan: SegmentationPlan, *, places: bool, passes: bool) -> SegmentationPlan:
    """The plan without a priority where nothing follows it, which a note says.

    Args:
        plan: Its budget shared out.
        places: Whether samples inside windows move to places that count more.
        passes: Whether later passes choose windows, as a refinement's do.
    """
    priority = plan.priority
    several = plan.seen_windows > 1
    if priority is None or places or (several and (passes or plan.sizes)):
        return plan
    why = "Every window gets the same samples" if several else "Only one window is mapped"
    note = f"{why}, so this has no effect: {priority.describe()}."
    return replace(plan, priority=None, notes=(*plan.notes, note))


def _open_scene(
    source: PathLike | xr.DataArray,
    network: DeformSegmenter,
    bands: Sequence[int] | None,
    nodata: float | None,
) -> Scene:
    """Open the scene with as many bands as the model takes."""
    scene = Scene.open(source, bands=bands, want=network.spec.bands, nodata=nodata)
    if scene.n_bands != network.spec.in_channels:
        scene.close()
        raise SceneError(
            f"{scene.name} was opened with {scene.n_bands} bands, the model takes "
            f"{network.spec.in_channels} ({', '.join(network.spec.bands)}): choose them by --bands."
        )
    return scene


def run_tags(run: Run) -> dict[str, str]:
    """What every output says of itself."""
    scene, network, plan = run.scene, run.network, run.plan
    spec = network.spec
    return {
        "TIFFTAG_SOFTWARE": f"geodeform {version('geodeform')}",
        "TIFFTAG_DATETIME": datetime.datetime.now().strftime("%Y:%m:%d %H:%M:%S"),
        "source": Path(scene.name).name,
        "model": network.name or "not from a file",
        "model_architecture": spec.architecture,
        "model_training_data": spec.training_data,
        "model_licence": spec.licence,
        "classes": ", ".join(f"{k}={n}" for k, n in enumerate(spec.classes.names)),
        "budget": str(plan.budget),
        **{key: _as_tag(value) for key, value in plan.allocation().items()},
        "sampler": plan.sampler,
        **plan.share_tag,
        "window_px": f"{plan.window_size[0]}x{plan.window_size[1]}",
        "sample_size": plan.shown_size(),
        "bands": f"{','.join(map(str, scene.bands))} ({scene.band_note})",
        "scaling": plan.scaling.describe(),
    }


def _as_tag(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def open_raster(path: Path, kind: str) -> xr.DataArray:
    """A raster as a DataArray (y, x), lazily; confidence in 0…1."""
    # mask_and_scale applies the confidence's scale and makes its nodata NaN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # said in the plan's notes
        opened = rioxarray.open_rasterio(path, mask_and_scale=kind == "confidence")
    if not isinstance(opened, xr.DataArray):
        raise OutputError(f"{path} is not the single raster that was written.")
    # of the density's bands the one that needs no ground
    array: xr.DataArray = opened.isel(band=0, drop=True)
    for key in ("long_name", "units"):  # one for each band
        if isinstance(array.attrs.get(key), tuple):
            array.attrs[key] = array.attrs[key][0]
    array.name = kind
    return array
