"""SegmentationPlan: which windows and how many samples, decided before any pixel is predicted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.features import geometry_mask
from rasterio.transform import Affine
from rasterio.windows import Window
from shapely.errors import GEOSException
from shapely.geometry import MultiPoint, Polygon, box
from shapely.geometry.base import BaseGeometry

from geodeform.budget import BY_NEED, Budget, view_size, within_sides
from geodeform.errors import ConfigError, SceneError
from geodeform.geo.affine import apply, cells_transform, compose, frame_of
from geodeform.geo.project import project_near
from geodeform.geo.raster import Gcps
from geodeform.geo.scene import Scaling, Scene
from geodeform.geo.vector import read_shapes
from geodeform.geo.windows import WindowPlan, plan_windows
from geodeform.models.spec import ModelSpec, nearest_names
from geodeform.priority import Priority

Shapes: TypeAlias = "str | Path | gpd.GeoDataFrame | gpd.GeoSeries | BaseGeometry"

_ZERO_SHARE = 0.01  # more black pixels than this look like a forgotten nodata value
_SCALE_TOLERANCE = 1.25  # resolutions within this ratio of the model's count as the same
_FINER = 32  # parts of a cell's side at which an area's share of it is measured
_REACH_CELLS = 64  # a side, in which a priority raster is looked for in what is mapped


@dataclass(frozen=True)
class SegmentationPlan:
    """Everything that is decided before the first pixel is read.

    Attributes:
        scene: The scene's name.
        region: The mapped part of the scene, in scene pixels.
        windows: Windows over the region; offsets count from the region's corner.
        active: Indices of the windows that touch the area of interest.
        sample_size: (h, w) samples of every window, or where ``sizes`` are given, of a window that
            gets an even part of them.
        low_res_size: (hd, wd) of the low-resolution view of every window.
        full_window: (H, W) of the model's own window in scene pixels; windows are smaller where the
            scene is.
        sampler: ``"learned"``, ``"uniform"`` or ``"interpolation"``.
        budget: What was asked for.
        scaling: How raw values become 0…1.
        transform: Affine transform of the region's rasters; the identity for scenes with ground
            control points alone, whose rasters keep these.
        frame: (x, y) pixels of the region → map coordinates: the transform, or the affine fitted to
            the ground control points. Vectors and areas are in it.
        crs: CRS of the frame, or None.
        aoi: Area of interest in the scene's CRS, or None.
        notes: Sentences that the user should read.
        priority: What an error counts where, and of which class; None where all count the same.
        sizes: (h, w) samples of each window of ``active`` where these differ, in its order; see
            :mod:`geodeform.allocation`. Empty where all get ``sample_size``.
        refined: Which pass of :mod:`geodeform.refine` it is, ``"2 of 3"``; empty for none.
        earlier_samples: Samples of earlier passes, on top of which ``sizes`` come.
        empty: Windows of ``active`` that hold no data and are skipped; None before it is known.
    """

    scene: str
    region: Window
    windows: WindowPlan
    active: tuple[int, ...]
    sample_size: tuple[int, int]
    low_res_size: tuple[int, int]
    full_window: tuple[float, float]
    sampler: str
    budget: Budget
    scaling: Scaling
    transform: Affine
    frame: Affine
    crs: CRS | None
    aoi: BaseGeometry | None = None
    notes: tuple[str, ...] = field(default=())
    priority: Priority | None = None
    sizes: tuple[tuple[int, int], ...] = field(default=())
    refined: str = ""
    earlier_samples: int = 0
    empty: frozenset[int] | None = None

    def knowing_empty(self, indices: Iterable[int]) -> SegmentationPlan:
        """The plan once it is known which of its windows hold no data, which its notes say."""
        empty = frozenset(indices)
        note = (
            f"{len(empty)} of {len(self.active)} windows have no data: they are skipped, and their "
            "part of the budget is not spent."
        )
        return replace(self, empty=empty, notes=(*self.notes, note) if empty else self.notes)

    def size_of(self, index: int) -> tuple[int, int]:
        """(h, w) samples of window ``index``, one of :attr:`active`."""
        return self._size_of.get(index, self.sample_size)

    @cached_property
    def _size_of(self) -> dict[int, tuple[int, int]]:
        return dict(zip(self.active, self.sizes, strict=True)) if self.sizes else {}

    @property
    def sizes_used(self) -> tuple[tuple[int, int], ...]:
        """The different (h, w) of all windows, from few samples to many."""
        return tuple(sorted(set(self.sizes) or {self.sample_size}, key=math.prod))

    def shown_size(self) -> str:
        """Samples of a window in words: ``128x128``, or ``32x32 to 192x192``."""
        used = self.sizes_used
        return " to ".join(f"{h}x{w}" for h, w in dict.fromkeys((used[0], used[-1])))

    @property
    def way(self) -> str:
        """How it samples, in words: ``learned``, ``learned by need`` or ``learned, refined``."""
        if self.refined:
            return f"{self.sampler}, refined"
        return self.sampler + (BY_NEED if self.sizes else "")

    def allocation(self) -> dict[str, Any]:
        """How the budget is shared out, JSON-ready: ``allocation``, and what belongs to it."""
        how = "refine" if self.refined else "need" if self.sizes else "even"
        found: dict[str, Any] = {"allocation": how}
        if self.refined:
            found["refine_pass"] = self.refined
        if self.sizes:
            counts = Counter(self.sizes)
            found["sample_sizes"] = {f"{h}x{w}": counts[h, w] for h, w in self.sizes_used}
        if self.priority is not None:
            found["priority"] = self.priority.describe()
        return found

    def some_windows(self, most: int) -> tuple[int, ...]:
        """At most so many of the active windows, spread evenly over their order."""
        if len(self.active) <= most:
            return self.active
        picks = np.linspace(0, len(self.active) - 1, most).round().astype(int)
        return tuple(self.active[k] for k in picks)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the region."""
        return int(self.region.height), int(self.region.width)

    @property
    def window_size(self) -> tuple[int, int]:
        """(H, W) of every window, in scene pixels."""
        return self.windows.window

    @property
    def sampled_pixels(self) -> int:
        """Samples over all active windows not known to be empty, with those of earlier passes."""
        return self.earlier_samples + sum(math.prod(self.size_of(index)) for index in self._seen)

    @property
    def seen_windows(self) -> int:
        """Number of the active windows that are not known to be empty."""
        return len(self._seen)

    @cached_property
    def _seen(self) -> tuple[int, ...]:
        empty = self.empty or frozenset()
        return tuple(index for index in self.active if index not in empty)

    @property
    def density_factor(self) -> int:
        """Scene pixels per cell of the density raster: about the mean sample spacing."""
        # where all windows are empty, that of an even one
        samples = self.sampled_pixels / max(1, self.seen_windows) or math.prod(self.sample_size)
        return max(1, round(math.sqrt(math.prod(self.window_size) / samples)))

    @property
    def share(self) -> float:
        """Sampled pixels over the region's pixels; too high while empty windows are not known."""
        return self.sampled_pixels / (self.shape[0] * self.shape[1])

    @property
    def share_tag(self) -> dict[str, str]:
        """:attr:`share` as a raster's tag, to be set once more when empty windows are known."""
        return {"sampled_share": f"{self.share:.6f}"}

    def scene_window(self, index: int) -> Window:
        """Window ``index`` in scene pixels."""
        return self.to_scene(self.windows[index])

    def to_scene(self, window: Window) -> Window:
        """A window of the region in scene pixels."""
        return Window(
            window.col_off + self.region.col_off,
            window.row_off + self.region.row_off,
            window.width,
            window.height,
        )

    def gcps(self, scene: Scene) -> Gcps:
        """The scene's ground control points, counted from the region's corner, and their CRS."""
        points, crs = scene.gcps
        left, top = self.region.col_off, self.region.row_off
        moved = [
            GroundControlPoint(p.row - top, p.col - left, p.x, p.y, p.z, p.id, p.info)
            for p in points
        ]
        return (moved if (left, top) != (0, 0) else points), crs

    def known(self, scene: Scene, window: Window) -> NDArray[np.bool_]:
        """Where a block of the region has data and lies inside the area of interest."""
        known = scene.valid_mask(self.to_scene(window))
        inside = self.inside(window)
        return known if inside is None else known & inside

    def inside(self, window: Window) -> NDArray[np.bool_] | None:
        """Which pixels of a block of the region lie in the area of interest; None for all."""
        return self._inside(window, (int(window.height), int(window.width)))

    def inside_share(self, window: Window, cells: tuple[int, int]) -> NDArray[np.float32] | None:
        """How much of each cell of a block the area of interest covers, 0…1; None without one.

        Args:
            window: The block, in pixels of the region.
            cells: (h, w) that it is divided in.
        """
        h, w = cells
        mask = self._inside(window, (h * _FINER, w * _FINER))
        if mask is None:
            return None
        # a river is narrower than a cell, whose centre says nothing of it
        share: NDArray[np.float32] = mask.reshape(h, _FINER, w, _FINER).mean((1, 3), np.float32)
        return share

    def _inside(self, window: Window, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Whether the centres of a block's (h, w) parts lie in the area of interest."""
        if self.aoi is None:
            return None
        transform = cells_transform(self.frame, window, shape)
        mask: NDArray[np.bool_] = geometry_mask([self.aoi], shape, transform, invert=True)
        return mask


def plan_segmentation(
    scene: Scene,
    spec: ModelSpec,
    *,
    budget: str | float | Budget | None = None,
    sampler: str | None = None,
    gsd: float | None = None,
    overlap: float = 0.125,
    stretch: str | tuple[float, float] = "auto",
    bbox: Sequence[float] | None = None,
    aoi: Shapes | None = None,
    focus: Shapes | None = None,
    focus_classes: Sequence[str] = (),
    priority: str | Path | None = None,
) -> SegmentationPlan:
    """Decide windows, sampled size and scaling for a scene.

    Args:
        scene: The open scene.
        spec: The model's specification.
        budget: See :meth:`Budget.parse`; the model's own sampled size by default.
        sampler: ``"learned"``, ``"uniform"`` or ``"interpolation"``, as far as the model was
            trained with it; the model's default where None.
        gsd: Ground sampling distance of the scene in metres, where the file does not say it or
            says it wrongly.
        overlap: Part of a window that it shares with each neighbour, 0…0.5.
        stretch: ``"auto"``, ``"none"`` or two percentiles; see :meth:`Scaling.for_scene`.
        bbox: (xmin, ymin, xmax, ymax) in the scene's CRS (pixels where it has none): only this
            part is mapped, its edges snapped outward to whole pixels.
        aoi: Area of interest (vector file, GeoDataFrame or geometry in the scene's CRS): its
            bounding box is mapped and pixels outside it are nodata.
        focus: Area that more of the budget goes to, given like an area of interest.
        focus_classes: Names of classes, in any case, that more of the budget goes to.
        priority: Raster of weights ≥ 0, in any CRS: what an error counts at each place.

    Raises:
        ConfigError: If a setting is out of range.
        SceneError: If the bbox or area of interest does not touch the scene, or a focus or priority
            what is mapped of it.
    """
    if not 0 <= overlap <= 0.5:
        raise ConfigError(f"The overlap must be 0 to 0.5 of a window, not {overlap:g}.")
    sampler = sampler or spec.sampler
    _check_sampler(sampler, spec)
    notes: list[str] = []
    name = Path(scene.name).name
    frame, crs = frame_of(scene)
    if crs is None:
        notes.append(f"{name} has no CRS: outputs keep its pixel coordinates.")
    if scene.bands_guessed:
        notes.append(f"{scene.band_note}.".capitalize())
    area = _read_area(aoi, "area of interest", name, scene.shape, frame, crs, notes)
    focused = _read_area(focus, "focus area", name, scene.shape, frame, crs, notes)
    region = plan_region(name, scene.shape, frame, bbox, area)
    if (zero := scene.zero_share(region)) > _ZERO_SHARE:
        notes.append(
            f"{zero:.1%} of the pixels of {name} are 0 in every band and count as data; if "
            "they are empty, say so with --nodata 0."
        )
    shape = (int(region.height), int(region.width))
    wanted = (
        Budget.parse(budget)
        if budget is not None
        else Budget("window", math.prod(spec.sample_size))
    )
    full = _ground_window(scene, spec, gsd, wanted, notes)
    window = (min(round(full[0]), shape[0]), min(round(full[1]), shape[1]))
    windows = plan_windows(
        shape, window, overlap=(math.floor(window[0] * overlap), math.floor(window[1] * overlap))
    )
    transform = scene.transform
    if (region.col_off, region.row_off) != (0, 0):  # else bit-equal to the scene's
        corner = Affine.translation(region.col_off, region.row_off)
        transform, frame = compose(transform, corner), compose(frame, corner)
    active = tuple(
        i for i in range(len(windows)) if area is None or touches(windows[i], frame, area)
    )
    if not active or (area is not None and _grazes(area, frame, shape)):
        raise SceneError(f"The area of interest lies outside {name}: it covers no pixel's centre.")
    if focused is not None:
        mapped = ground_of(Window(0, 0, shape[1], shape[0]), frame)
        if not (focused & (mapped if area is None else mapped & area)).area > 0:
            raise SceneError(
                f"What is mapped of {name} lies outside {_called(focus, 'focus area')}."
            )
    size = wanted.sample_size(
        window, full_window=full, windows=len(active), scene_pixels=shape[0] * shape[1]
    )
    low_res = view_size(spec.low_res_size, window, full)
    if spec.sizing == "sides" and len(windows) == 1:
        low_res = within_sides(window, spec.low_res_size)
        if budget is None:
            size = within_sides(window, spec.sample_size)
    elif budget is None:
        size = _at_least_trained(size, window, spec, notes)
    plan = SegmentationPlan(
        scene=scene.name,
        region=region,
        windows=windows,
        active=active,
        sample_size=size,
        low_res_size=low_res,
        full_window=full,
        sampler=sampler,
        budget=wanted,
        scaling=Scaling.for_scene(scene, spec.scaling.max_value, stretch, region),
        transform=transform,
        frame=frame,
        crs=crs,
        aoi=area,
        notes=tuple(notes),
        priority=_priority(focused, focus, focus_classes, priority, spec, frame, crs),
    )
    _check_raster(plan, name)
    return plan


def _priority(
    area: BaseGeometry | None,
    focus: Shapes | None,
    classes: Sequence[str],
    raster: str | Path | None,
    spec: ModelSpec,
    frame: Affine,
    crs: CRS | None,
) -> Priority | None:
    """What the user wants more of; None where nothing is said."""
    named = {name.casefold(): name for name in spec.classes.names}
    for name in classes:
        if name.casefold() not in named:
            raise ConfigError(
                f"The model has no class '{name}'{nearest_names(name, list(spec.classes.names))}; "
                f"it has {', '.join(spec.classes.names)}."
            )
    if area is None and raster is None and not classes:
        return None
    path = None if raster is None else Path(raster)
    known = tuple(dict.fromkeys(named[name.casefold()] for name in classes))
    area_name = Path(focus).name if isinstance(focus, str | Path) else ""
    return Priority(frame, crs, area=area, area_name=area_name, raster=path, classes=known)


def _check_raster(plan: SegmentationPlan, name: str) -> None:
    """Check that a priority raster has data where something is mapped."""
    if plan.priority is None or plan.priority.raster is None:
        return
    whole = Window(0, 0, plan.shape[1], plan.shape[0])
    cells = (min(_REACH_CELLS, plan.shape[0]), min(_REACH_CELLS, plan.shape[1]))
    said = np.isfinite(plan.priority.raster_weights(whole, cells))
    share = plan.inside_share(whole, cells)
    if not (said if share is None else said & (share > 0)).any():
        raise SceneError(
            f"What is mapped of {name} lies outside the data of {plan.priority.raster}."
        )


def _check_sampler(sampler: str, spec: ModelSpec) -> None:
    usable = [name for name in spec.samplers if name != "oracle"]
    if sampler == "oracle":
        raise ConfigError(
            "The model samples where labels have edges, which only an evaluation with labels can: "
            f"use the sampler '{usable[0]}'."
        )
    if sampler not in ("learned", "uniform", "interpolation"):
        raise ConfigError(f"Unknown sampler '{sampler}': use {' or '.join(usable)}.")
    if sampler not in usable:
        raise ConfigError(
            f"The model was trained without {sampler} sampling: use the sampler "
            f"'{' or '.join(usable)}'."
        )


def _at_least_trained(
    size: tuple[int, int], window: tuple[int, int], spec: ModelSpec, notes: list[str]
) -> tuple[int, int]:
    """Give a scene that is smaller than a window no fewer samples than the model ever saw.

    A scene far finer than the model fills a corner of a window, and its part of the window's budget
    would be a handful of samples.
    """
    smallest = min(spec.trained_sizes)
    if max(size) >= max(smallest) or max(size) >= max(window):
        return size
    grow = max(smallest) / max(window)
    larger = (
        min(window[0], max(size[0], round(window[0] * grow))),
        min(window[1], max(size[1], round(window[1] * grow))),
    )
    notes.append(
        f"The scene is small for the model's window: {larger[0]}x{larger[1]} samples are taken "
        f"instead of {size[0]}x{size[1]}; choose with --budget."
    )
    return larger


def _ground_window(
    scene: Scene, spec: ModelSpec, gsd: float | None, budget: Budget, notes: list[str]
) -> tuple[float, float]:
    """Size (H, W) in scene pixels of a window with the model's ground extent."""
    if gsd is not None and not 0 < gsd < math.inf:
        raise ConfigError(f"The ground sampling distance must be positive, not {gsd:g}.")
    name = Path(scene.name).name
    pixel = (gsd, gsd) if gsd is not None else scene.pixel_size_m
    window = (float(spec.window_px[0]), float(spec.window_px[1]))
    if spec.gsd_m is None or spec.window_m is None:
        notes.append("The model does not say its ground sampling distance: taken for the scene's.")
    elif pixel is None:
        notes.append(
            f"{name} does not say its ground sampling distance: taken for the model's "
            f"{spec.gsd_m:g} m; give --gsd if it is another."
        )
    else:
        window = (spec.window_m[0] / pixel[0], spec.window_m[1] / pixel[1])
        mean = math.sqrt(pixel[0] * pixel[1])
        if not 1 / _SCALE_TOLERANCE < mean / spec.gsd_m < _SCALE_TOLERANCE:
            notes.append(
                f"{name} has pixels of {mean:.3g} m, the model's are {spec.gsd_m:g} m: "
                f"windows of {window[0]:.0f}x{window[1]:.0f} px cover the model's "
                f"{spec.window_m[0]:g}x{spec.window_m[1]:g} m."
            )
    # A window smaller than its own samples would read every pixel several times: grow it until
    # one sample is one pixel, and say that the network then sees another scale.
    count = budget.value if budget.kind == "window" else math.prod(spec.sample_size)
    if math.prod(window) < count:
        grow = math.sqrt(count / math.prod(window))
        window = (window[0] * grow, window[1] * grow)
        notes.append(
            f"{name} is coarser than the model's samples, so windows are widened to "
            f"{window[0]:.0f}x{window[1]:.0f} px (one sample a pixel at most); the model was "
            "trained on finer imagery and its map will be poor."
        )
    return window


def plan_region(
    name: str,
    shape: tuple[int, int],
    frame: Affine,
    bbox: Sequence[float] | None,
    area: BaseGeometry | None,
) -> Window:
    """The mapped part of the scene: all of it, or where bbox and area of interest meet it."""
    H, W = shape
    if bbox is None and area is None:
        return Window(0, 0, W, H)
    part: BaseGeometry = box(0, 0, W, H)
    for bounds in (bbox, area.bounds if area is not None else None):
        if bounds is None:
            continue
        if len(bounds) != 4:
            raise ConfigError(f"A bounding box is four numbers, not {len(bounds)}.")
        xmin, ymin, xmax, ymax = bounds
        if not (xmin < xmax and ymin < ymax):
            raise ConfigError(
                "A bounding box is xmin,ymin,xmax,ymax with xmin < xmax, ymin < ymax."
            )
        corners = [apply(~frame, *p) for p in product((xmin, xmax), (ymin, ymax))]
        part = part.intersection(MultiPoint(corners).envelope)
    if part.is_empty or part.area == 0:
        raise SceneError(f"The bounding box or area of interest lies outside {name}.")
    left, top, right, bottom = part.bounds
    tiny = 1e-6  # so that an edge on a pixel boundary is not pushed one pixel further
    x0, y0 = math.floor(left + tiny), math.floor(top + tiny)
    x1, y1 = math.ceil(right - tiny), math.ceil(bottom - tiny)
    if x1 <= x0 or y1 <= y0:  # it grazes an edge
        raise SceneError(f"The bounding box or area of interest lies outside {name}.")
    return Window(x0, y0, x1 - x0, y1 - y0)


def _called(shapes: Shapes | None, role: str) -> str:
    """An area in the middle of a sentence: its file, or what it is there for."""
    return str(shapes) if isinstance(shapes, str | Path) else f"the {role}"


def _read_area(
    area: Shapes | None,
    role: str,
    name: str,
    shape: tuple[int, int],
    frame: Affine,
    crs: CRS | None,
    notes: list[str],
) -> BaseGeometry | None:
    """Return an area in the scene's CRS.

    Args:
        area: As users give it.
        role: What it is there for: ``"area of interest"`` or ``"focus area"``.
        name: The scene's.
        shape: (H, W) of the scene.
        frame: (x, y) pixels of the scene → map coordinates.
        crs: CRS of the frame, or None.
        notes: Gets what the user should know.
    """
    if area is None:
        return None
    what = _called(area, role)
    if isinstance(area, BaseGeometry):
        table = gpd.GeoSeries([area], crs=crs and crs.to_wkt())
    elif isinstance(area, gpd.GeoDataFrame | gpd.GeoSeries):
        table = area
    else:
        try:
            table = read_shapes(area)
        except (RuntimeError, OSError, ValueError) as error:  # pyogrio's errors are RuntimeErrors
            raise SceneError(f"{what} cannot be read as the {role}: {error}.") from error
    empty = f"{what} holds no polygon: give the {role} as polygons with an area."
    if isinstance(table, gpd.GeoDataFrame) and table.active_geometry_name is None:
        raise SceneError(empty)
    shapes = getattr(table, "geometry", None)
    if shapes is None:  # a table without any geometry comes back as a plain DataFrame
        raise SceneError(empty)
    shapes = shapes[shapes.notna()].make_valid()  # bow-ties break every overlay
    if shapes.is_empty.all() or not (shapely.area(shapes.values) > 0).any():
        raise SceneError(empty)
    if shapes.crs is not None and crs is None:
        raise SceneError(
            f"{name} has no CRS but {what} has one: give the area in pixel coordinates, without."
        )
    if shapes.crs is None and crs is not None:
        notes.append(f"{what} has no CRS: taken for the scene's.")
    elif crs is not None and shapes.crs != crs.to_wkt():
        shapes = _project(shapes, what, shape, frame, crs)
    try:
        geometry: BaseGeometry = shapes.union_all()
    except GEOSException as error:
        raise SceneError(f"{what} cannot be brought to the CRS of {name}: {error}.") from error
    if geometry.is_empty or not geometry.area > 0:
        raise SceneError(f"{name} lies outside {what}.")
    return geometry


def _project(
    shapes: gpd.GeoSeries, what: str, shape: tuple[int, int], frame: Affine, crs: CRS
) -> gpd.GeoSeries:
    """Bring the shapes' union to the scene's CRS, as far as it is near the scene."""
    H, W = shape
    corners = MultiPoint([apply(frame, *p) for p in product((0, W), (0, H))])
    target = pyproj.CRS(crs.to_wkt())
    try:
        whole = np.array([shapes.union_all()], object)
        pieces, _ = project_near(whole, shapes.crs, corners.bounds, target)
        return gpd.GeoSeries(pieces, crs=target).make_valid()
    except (ProjError, GEOSException) as error:
        raise SceneError(f"{what} cannot be brought to the scene's CRS: {error}.") from error


def _grazes(area: BaseGeometry, frame: Affine, shape: tuple[int, int]) -> bool:
    """Whether an area of interest meets a thin region but none of its pixels' centres.

    A neighbouring tile's outline, brought here from another CRS, touches by less than a pixel.
    """
    return min(shape) <= 2 and not geometry_mask([area], shape, frame, invert=True).any()


def touches(window: Window, transform: Affine, area: BaseGeometry) -> bool:
    """Whether a window of pixels meets an area, by the transform from pixels to its coordinates."""
    return bool(ground_of(window, transform).intersects(area))


def ground_of(window: Window, transform: Affine) -> Polygon:
    """The outline of a window of pixels, in the transform's coordinates."""
    x0, y0 = window.col_off, window.row_off
    x1, y1 = x0 + window.width, y0 + window.height
    corners = [apply(transform, *p) for p in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
    return Polygon(corners)
