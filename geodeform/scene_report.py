"""The HTML report of a map: one page with viewer, areas, confidence and where the budget went.

The page is a single file that loads nothing: pictures, figures, style and script are inside, and a
content security policy keeps it so. Rasters are read decimated, through their overviews, for the
viewer, and block by block for the figures, so memory does not grow with the scene.
"""

from __future__ import annotations

import math
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
import pyogrio
import rasterio
from numpy.typing import NDArray
from pyarrow import parquet
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.windows import Window

from geodeform.classes import ClassScheme
from geodeform.errors import SceneError
from geodeform.geo.affine import frame_of
from geodeform.geo.legend import read_scheme
from geodeform.geo.outputs import REPORT_SUFFIXES, OutputSet, final_path
from geodeform.geo.raster import GDAL_CACHE_BYTES
from geodeform.geo.scene import Scaling, Scene
from geodeform.map_figures import (
    CellGrid,
    MapFigures,
    cell_grid,
    measure_map,
    open_classes,
    open_raster,
    read_band,
    read_classes,
    relative,
    stored_confidence,
)
from geodeform.report_charts import ramp_text
from geodeform.report_page import Layer, Page, Place

if TYPE_CHECKING:
    import xarray

_SCENE_SIDE = 2400  # px of the scene picture's longer side
_FIELD_SIDE = 1400  # px of confidence and density: they vary slowly, or are noise
_MAP_PIXELS = 16_000_000  # phones draw no canvas of more than 4096x4096
_MAP_SIDE = 8192
_JPEG_QUALITY = 85
_HOLE_GREY = 230  # of pixels without data in the scene's picture


@dataclass(frozen=True)
class RunFiles:
    """What lies beside a class raster and belongs to it.

    Attributes:
        scene: The scene, or None where it is not there.
        confidence: The confidence raster, or None.
        density: The density raster, or None.
        notes: What was looked for and not found.
    """

    scene: Path | None
    confidence: Path | None
    density: Path | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SceneReport:
    """A written report.

    Attributes:
        path: The page.
        figures: Its figures, JSON-ready: ``classes`` (a mapping each: id, name, pixels, share,
            area_m2, mean_confidence, doubtful_share, sample_share, sampling_factor, polygons),
            ``pixels``, ``nodata_pixels``, ``area_m2``, ``mean_confidence``, ``doubtful_share`` (of
            pixels under 50 % confidence), ``pixels_per_sample`` (``median``, ``densest_1_percent``,
            ``sparsest_1_percent`` of the mapped pixels). Shares and confidences are 0…1; what is
            not known is None.
        layers: Names of the viewer's layers.
        notes: What the page says to be careful about.
    """

    path: Path
    figures: dict[str, Any]
    layers: tuple[str, ...]
    notes: tuple[str, ...]


def find_run_files(labels: str | Path) -> RunFiles:
    """Find what a run wrote beside its class raster, and the scene if it lies there too.

    ``<stem>_confidence.tif`` and ``<stem>_density.tif`` are taken where they exist; the scene where
    a file has the name that the raster's ``source`` tag gives and covers the raster.

    Raises:
        SceneError: If the class raster cannot be read.
    """
    labels = Path(labels)
    siblings: dict[str, Path | None] = {}
    with open_classes(labels) as source:
        name = Path(source.tags().get("source", "")).name
        scene = labels.with_name(name) if name else None
        notes = []
        for kind in ("confidence", "density"):
            path = labels.with_name(f"{labels.stem}_{kind}{labels.suffix}")
            siblings[kind] = path if path.is_file() else None
            if path.is_file():
                with open_raster(path) as sibling:
                    try:
                        cell_grid(source, sibling)
                    except SceneError as error:  # left over from a run that was overwritten
                        notes.append(f"The {kind} is not shown: {error}")
                        siblings[kind] = None
        if scene is None:
            notes.append("The scene is not shown: the map does not say which one it was made from.")
        elif not scene.is_file():
            notes.append(f"The scene is not shown: {name} does not lie beside the map.")
            scene = None
        else:
            try:
                with _open_scene(scene, source) as opened:
                    _scene_window(opened, source)
            except SceneError as error:
                notes.append(f"The scene is not shown: {error}")
                scene = None
    return RunFiles(scene, siblings["confidence"], siblings["density"], tuple(notes))


def write_report(
    path: str | Path,
    *,
    labels: str | Path,
    scene: str | Path | xarray.DataArray | Scene | None = None,
    confidence: str | Path | None = None,
    density: str | Path | None = None,
    polygons: str | Path | None = None,
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    title: str | None = None,
    overwrite: bool = False,
) -> SceneReport:
    """Write a self-contained HTML page about a map: viewer, areas, confidence, budget, facts.

    Args:
        path: The page to write (``.html``).
        labels: Class raster; names and colours of the classes are read from it.
        scene: What it was made from: a file, a DataArray, or an open scene with the bands to show
            (which stays open). The page has no picture of it where it is None.
        confidence: Confidence raster of the same shape, or None.
        density: Sampling-density raster, or None.
        polygons: Vector file of the map's polygons, for their number by class, or None.
        facts: More rows, or other values, for the table about the run: label → text.
        notes: What readers should be careful about, a sentence each.
        title: Heading; by default it names the scene.
        overwrite: Whether an existing page may be replaced.

    Returns:
        The page's figures, layers and notes.

    Raises:
        OutputError: If the page exists, has another suffix, or cannot be written.
        SceneError: If a raster cannot be read or does not fit the class raster.
    """
    inputs = [
        p for p in (labels, scene, confidence, density, polygons) if isinstance(p, str | Path)
    ]
    with ExitStack() as stack:
        outputs = stack.enter_context(OutputSet(overwrite=overwrite, inputs=inputs))
        staged = outputs.add(path, suffixes=REPORT_SUFFIXES)
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES))
        scheme = read_scheme(labels)
        source = stack.enter_context(open_classes(labels))
        figures = measure_map(labels, scheme=scheme, confidence=confidence, density=density)
        counted = None if polygons is None else _count_polygons(polygons, scheme)
        place = Place.of(source)
        layers = _layers(source, scene, confidence, density, figures)
        page = Page(
            place=place,
            scheme=scheme,
            figures=figures,
            polygons=counted,
            layers=layers,
            tags=source.tags(),
            facts=dict(facts or {}),
            notes=(*notes, *_own_notes(place, figures)),
            title=title or _title(source, labels),
            name=final_path(path).stem,
        )
        staged.write_text(page.html(), encoding="utf-8")
    return SceneReport(final_path(path), page.summary(), tuple(layers), page.notes)


# ---- layers -----------------------------------------------------------------------------------


def _layers(
    source: Any,
    scene: Any,
    confidence: str | Path | None,
    density: str | Path | None,
    figures: MapFigures,
) -> dict[str, Layer]:
    H, W = source.shape
    layers = {}
    if scene is not None:
        layers["scene"] = _scene_layer(scene, source)
    view = _view((H, W), _MAP_SIDE, _MAP_PIXELS)
    ids = read_classes(source, out_shape=view, resampling=Resampling.mode)
    layers["map"] = _field_layer(ids, (0, 0, W, H))
    if confidence is not None:
        with open_raster(confidence) as plane:
            values = read_band(
                plane, out_shape=_view((H, W), _FIELD_SIDE), resampling=Resampling.average
            )
            stored = stored_confidence(plane, values).astype(np.uint8)
        low = figures.confidence_quantile(0.02)
        # round, so that the legend is; a map that is sure everywhere still gets a ramp
        start = 0.0 if low is None else min(math.floor(20 * low) / 20, 0.9)
        layers["confidence"] = _field_layer(
            stored,
            (0, 0, W, H),
            **{"from": 255 * start, "to": 255, "ramp": ramp_text("cividis")},
        )
    if density is not None:
        with open_raster(density) as field:
            cells = cell_grid(source, field)
            shape = field.shape
            view = _view(shape, _FIELD_SIDE)
            values = read_band(field, out_shape=view, resampling=Resampling.average)
            if field.nodata is not None:
                values = np.where(values == field.nodata, np.nan, values)
        layers["density"] = _density_layer(values, cells, shape, figures)
    return layers


def _field_layer(
    values: NDArray[np.uint8], reach: tuple[float, float, float, float], **about: Any
) -> Layer:
    """A layer of bytes, which the page colours; reach is left, top, right, bottom in map pixels."""
    height, width = values.shape
    return Layer(
        {"width": width, "height": height, "reach": list(reach), **about},
        zlib.compress(np.ascontiguousarray(values).tobytes(), 9),
    )


def _density_layer(
    values: NDArray[Any], cells: CellGrid, shape: tuple[int, int], figures: MapFigures
) -> Layer:
    """Density in 254 steps of its logarithm."""
    known = np.isfinite(values) & (values > 0)
    octaves = np.log2(values, where=known, out=np.zeros(values.shape))
    low, high = (octaves[known].min(), octaves[known].max()) if known.any() else (0.0, 1.0)
    span = max(float(high - low), 1e-6)
    stored = np.where(known, np.rint(1 + 254 * (octaves - low) / span).clip(1, 255), 0)
    start, end = figures.density_range()

    def step(density: float) -> float:
        return 1 + 254 * (math.log2(density) - float(low)) / span

    return _field_layer(
        stored.astype(np.uint8),
        (
            cells.left,
            cells.top,
            cells.left + shape[1] * cells.width,
            cells.top + shape[0] * cells.height,
        ),
        low=float(low),
        high=float(low) + span,
        ramp=ramp_text("viridis"),
        **{"from": step(start), "to": step(end)},
    )


def _open_scene(scene: Any, labels: Any) -> Scene:
    """Open a scene with the bands that the model read, as far as they make a picture."""
    match = re.match(r"[\d,]+", labels.tags().get("bands", ""))
    chosen = tuple(int(n) for n in match[0].split(",") if n)[:3] if match else ()
    if chosen:
        chosen = (*chosen, chosen[-1], chosen[-1])[:3]
        try:
            return Scene.open(scene, bands=chosen)
        except SceneError:
            pass  # the bands of a colour table, or of a DataArray that was saved in another order
    try:
        return Scene.open(scene, want=("red", "green", "blue"))
    except SceneError:
        return Scene.open(scene, bands=(1,))


def _scene_window(scene: Scene, labels: Any) -> Window:
    """Return the part of a scene that a class raster shows.

    Raises:
        SceneError: If the scene does not cover it.
    """
    (frame, crs), (map_frame, map_crs) = frame_of(scene), frame_of(labels)
    grid = relative(frame, crs, map_frame, map_crs)
    H, W = scene.shape
    if grid is not None:
        left, top = round(grid.left), round(grid.top)
        right = round(grid.left + labels.width * grid.width)
        bottom = round(grid.top + labels.height * grid.height)
        # a pixel of slack: scenes that were resampled are seldom cut to the very pixel
        if left >= -1 and top >= -1 and right <= W + 1 and bottom <= H + 1:
            left, top, right, bottom = max(left, 0), max(top, 0), min(right, W), min(bottom, H)
            if right > left and bottom > top:
                return Window(left, top, right - left, bottom - top)
    raise SceneError(
        f"{scene.name} does not cover {labels.name}, or lies in another CRS: give the scene that "
        "the map was made from."
    )


def _scene_layer(scene: Any, labels: Any) -> Layer:
    """The scene as a JPEG, scaled as geodeform scales it for a model of 8-bit imagery."""
    with ExitStack() as stack:
        opened = scene
        if not isinstance(scene, Scene):
            opened = stack.enter_context(_open_scene(scene, labels))
        window = _scene_window(opened, labels)
        view = _view((int(window.height), int(window.width)), _SCENE_SIDE)
        data, valid = opened.read(window, view)
        scaled = Scaling.for_scene(opened, 255, region=window).apply(data)
    order = (0, 1, 2) if len(scaled) >= 3 else (0,)
    pixels = np.where(valid, np.rint(255 * scaled[list(order)]), _HOLE_GREY).astype(np.uint8)
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(
            driver="JPEG",
            count=len(order),
            height=view[0],
            width=view[1],
            dtype="uint8",
            QUALITY=_JPEG_QUALITY,
        ) as picture:
            picture.write(pixels)
        payload = bytes(memory.getbuffer())
    about = {"width": view[1], "height": view[0], "reach": [0, 0, labels.width, labels.height]}
    return Layer(about, payload)


def _view(shape: tuple[int, int], side: int, pixels: int | None = None) -> tuple[int, int]:
    """Return the shape of a view within a longer side, and a number of pixels."""
    H, W = shape
    scale = min(1.0, side / max(H, W))
    if pixels is not None:
        scale = min(scale, math.sqrt(pixels / (H * W)))
    return max(1, round(H * scale)), max(1, round(W * scale))


def _count_polygons(path: str | Path, scheme: ClassScheme) -> list[int]:
    """Count a vector file's polygons by class, without reading their shapes.

    Raises:
        SceneError: If it cannot be read, or has no class_id.
    """
    try:
        if Path(path).suffix.lower() == ".parquet":
            ids = parquet.read_table(path, columns=["class_id"])["class_id"].to_numpy()
        else:
            # styles are a layer of the file as well
            shapes = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
            frame = pyogrio.read_dataframe(
                path, layer=shapes[0] if shapes else 0, columns=["class_id"], read_geometry=False
            )
            ids = frame["class_id"].to_numpy()
    except (DataSourceError, DataLayerError, pyarrow.ArrowException, OSError) as error:
        raise SceneError(f"{path} cannot be read ({error}).") from error
    except KeyError as error:
        raise SceneError(
            f"{path} has no column class_id: give the polygons that geodeform wrote."
        ) from error
    counts = np.bincount(np.asarray(ids, np.int64), minlength=len(scheme))
    return [int(n) for n in counts[: len(scheme)]]


def _title(source: Any, labels: str | Path) -> str:
    name = source.tags().get("source", "")
    return f"Land cover of {Path(name).stem}" if name else f"Land cover: {final_path(labels).stem}"


def _own_notes(place: Place, figures: MapFigures) -> tuple[str, ...]:
    notes = []
    if place.crs is None:
        notes.append("The map has no coordinate reference system: areas are known in pixels only.")
    if figures.pixels == 0:
        notes.append("No pixel of the map has a class.")
    return tuple(notes)
