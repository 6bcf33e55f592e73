"""geodeform: land-cover maps from very large scenes, for a small pixel budget.

A scene becomes a map in nine steps, each with one implementation::

    Scene.open          any raster that GDAL reads, or an xarray.DataArray
    plan_segmentation   windows over it, and how many pixels each may sample
    Scene.read          a low-resolution view of a window
    DensityNet          view → sampling density
    density_to_grid     density → where each sampled pixel reads (eq. 3 of Jin et al., ICLR 2022)
    sample_image        window → sampled image
    DeformSegmenter     sampled image → class scores
    ReverseMap          scores → every pixel of the window
    Mosaic              windows → scene, blended; then rasters and polygons

:func:`segment_scene` walks them all. Names are loaded when first used: importing geodeform is
instant, and torch is imported only by what needs it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geodeform.budget import Budget as Budget
    from geodeform.budget_choice import budget_for_confidence as budget_for_confidence
    from geodeform.budget_choice import budget_for_time as budget_for_time
    from geodeform.classes import ClassScheme as ClassScheme
    from geodeform.deform.grid import GridKernel as GridKernel
    from geodeform.deform.grid import density_to_grid as density_to_grid
    from geodeform.deform.reverse import ReverseMap as ReverseMap
    from geodeform.deform.sample import sample_image as sample_image
    from geodeform.deform.sample import sample_labels as sample_labels
    from geodeform.demo import demo_labels as demo_labels
    from geodeform.demo import demo_scene as demo_scene
    from geodeform.errors import GeodeformError as GeodeformError
    from geodeform.evaluation.budget_curve import budget_curve as budget_curve
    from geodeform.geo.mosaic import Mosaic as Mosaic
    from geodeform.geo.scene import Scene as Scene
    from geodeform.geo.vector import polygonize as polygonize
    from geodeform.geo.windows import plan_windows as plan_windows
    from geodeform.models.deform_segmenter import DeformSegmenter as DeformSegmenter
    from geodeform.models.density_net import DensityNet as DensityNet
    from geodeform.models.model_file import load_model as load_model
    from geodeform.models.model_file import read_spec as read_spec
    from geodeform.models.model_file import save_model as save_model
    from geodeform.models.spec import ModelSpec as ModelSpec
    from geodeform.pipeline import estimate as estimate
    from geodeform.pipeline import segment_scene as segment_scene
    from geodeform.planning import plan_segmentation as plan_segmentation
    from geodeform.result import SegmentationResult as SegmentationResult
    from geodeform.sampling import density_map as density_map

__version__ = _version("geodeform")

_HOMES = {
    "Budget": "budget",
    "ClassScheme": "classes",
    "DeformSegmenter": "models.deform_segmenter",
    "DensityNet": "models.density_net",
    "GeodeformError": "errors",
    "GridKernel": "deform.grid",
    "ModelSpec": "models.spec",
    "Mosaic": "geo.mosaic",
    "ReverseMap": "deform.reverse",
    "Scene": "geo.scene",
    "SegmentationResult": "result",
    "budget_curve": "evaluation.budget_curve",
    "budget_for_confidence": "budget_choice",
    "budget_for_time": "budget_choice",
    "demo_labels": "demo",
    "demo_scene": "demo",
    "density_map": "sampling",
    "density_to_grid": "deform.grid",
    "estimate": "pipeline",
    "load_model": "models.model_file",
    "plan_segmentation": "planning",
    "plan_windows": "geo.windows",
    "polygonize": "geo.vector",
    "read_spec": "models.model_file",
    "sample_image": "deform.sample",
    "sample_labels": "deform.sample",
    "save_model": "models.model_file",
    "segment_scene": "pipeline",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'geodeform' has no attribute '{name}'")
    value = getattr(import_module(f"geodeform.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
