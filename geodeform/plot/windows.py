"""What the warp sees: one window with its sampling grid, its samples, and both predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.windows import Window

from geodeform.classes import ClassScheme
from geodeform.deform.coords import pixels_to_grid
from geodeform.deform.sample import sample_image
from geodeform.errors import ConfigError
from geodeform.geo.affine import apply, compose
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.plot.layers import class_handles, class_picture
from geodeform.plot.views import Raster, draw, to_rgb
from geodeform.run import Run, begin_run

_LINES = 40  # of the mesh, each way, at most


@dataclass(frozen=True)
class WarpedWindow:
    """One window of a scene, as the model samples and segments it.

    Sizes: (H, W) pixels of the window, (h, w) samples.

    Attributes:
        index: Number of the window in the run's plan.
        sampler: ``learned``, ``uniform`` or ``interpolation``.
        classes: The model's class scheme.
        image: (H, W, 3) uint8, for display.
        positions: (h, w, 2) float32, where each sample reads: (x, y) in pixels of the window.
        magnification: (h, w) float32 sampled pixels per scene pixel.
        sampled: (h, w, 3) uint8, the sampled image for display: what the network sees.
        sampled_labels: (h, w) uint8, the most probable class of each sample.
        labels: (H, W) uint8, the same mapped back to every pixel of the window.
        frame: From pixels of the window to map coordinates.
        crs: Of the map coordinates, or None.
    """

    index: int
    sampler: str
    classes: ClassScheme
    image: NDArray[np.uint8]
    positions: NDArray[np.float32]
    magnification: NDArray[np.float32]
    sampled: NDArray[np.uint8]
    sampled_labels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    frame: Affine
    crs: CRS | None


def warp_window(
    source: Raster,
    *,
    at: tuple[float, float] | None = None,
    index: int | None = None,
    model: str | DeformSegmenter | None = None,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    device: str | torch.device = "auto",
    **settings: Any,
) -> WarpedWindow:
    """Sample and segment one window of a scene, and keep every stage.

    Args:
        source: As for :func:`geodeform.segment_scene`.
        at: (x, y) in the scene's CRS (pixels where it has none): the window whose centre is nearest
            to it.
        index: Number of the window instead, as in the samples' column ``window``. With neither, the
            window that is sampled most unevenly is taken.
        model: As for :func:`geodeform.segment_scene`.
        bands: As there.
        nodata: As there.
        device: As there.
        **settings: Those of :func:`geodeform.planning.plan_segmentation`, such as ``budget`` and
            ``sampler``.

    Returns:
        The window's stages, for :func:`warp`.

    Raises:
        ConfigError: If there is no such window, or it has no data.
        GeodeformError: As :func:`geodeform.segment_scene`.
    """
    if at is not None and index is not None:
        raise ConfigError("Give either at= or index= to choose a window, not both.")
    with begin_run(
        source, model=model, device=device, bands=bands, nodata=nodata, **settings
    ) as run:
        if index is None:
            index = _most_uneven(run) if at is None else _nearest(run, at)
        elif index not in run.plan.active:
            raise ConfigError(
                f"There is no window {index}: the run has {len(run.plan.windows)}, from 0."
            )
        return _look(run, index)


def warp(window: WarpedWindow, *, figure: Figure | SubFigure | None = None) -> Figure | SubFigure:
    """Draw what the warp sees, in four pictures.

    The window with its sampling grid (lines run where sampled rows and columns lie: close together
    where the scene is magnified), the sampled image, its prediction, and the prediction mapped back
    to the window.

    Args:
        window: Of :func:`warp_window`.
        figure: Where to draw; a new one if None.

    Returns:
        The figure; its first and last axes are in map coordinates, the others in samples.
    """
    if figure is None:
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=(10, 10.6), layout="constrained")
    axes = figure.subplots(2, 2)
    h, w = window.sampled_labels.shape
    H, W = window.labels.shape
    meshed, sampled, predicted, mapped = axes.ravel()
    draw(meshed, window.image, window.frame, window.crs)
    mesh(meshed, window)
    meshed.set_title(f"Window of {W} x {H} px, {window.sampler} sampling grid")
    for ax, picture, title in (
        (sampled, window.sampled, f"What the network sees: {w} x {h} samples"),
        (predicted, class_picture(window.sampled_labels, window.classes), "Predicted classes"),
    ):
        # samples are as many in each direction as the window's shape asks for
        ax.imshow(picture, extent=(0, w, h, 0), interpolation="nearest", aspect=(H / h) / (W / w))
        ax.set_xlabel("sampled column")
        ax.set_ylabel("sampled row")
        ax.set_title(title)
    draw(
        mapped,
        class_picture(window.labels, window.classes),
        window.frame,
        window.crs,
        interpolation_stage="rgba",
    )
    mapped.set_title("Mapped back to every pixel")
    figure.legend(
        handles=class_handles(window.classes, nodata=None),
        loc="outside lower center",
        ncols=min(8, len(window.classes)),
        frameon=False,
    )
    return figure


def mesh(ax: Axes, window: WarpedWindow, *, lines: int = _LINES, colour: str = "#FFE14D") -> None:
    """Draw a window's sampling grid on axes in map coordinates.

    Args:
        ax: Axes that show the window.
        window: Of :func:`warp_window`.
        lines: About how many rows and columns are drawn, evenly chosen among the sampled ones.
        colour: Of the lines.
    """
    limits = ax.get_xlim(), ax.get_ylim()
    step = max(1, round(max(window.positions.shape[:2]) / lines))
    x, y = apply(window.frame, window.positions[..., 0], window.positions[..., 1])
    places = np.stack([x, y], -1).astype(np.float64)
    rows, columns = places[step // 2 :: step], places[:, step // 2 :: step].swapaxes(0, 1)
    ax.add_collection(
        LineCollection([*rows, *columns], colors=colour, linewidths=0.7, alpha=0.9),
        autolim=False,
    )
    ax.set_xlim(limits[0])
    ax.set_ylim(limits[1])


def _most_uneven(run: Run) -> int:
    """The window whose magnification varies most; only low-resolution views are read."""
    spread: dict[int, float] = {}
    with run.predictor() as predictor:
        for index, samples in predictor.place(run.plan.active):
            if samples is not None:
                spread[index] = float(np.log(samples.magnification).std())
    if not spread:
        raise ConfigError(f"{run.plan.scene} has no window with data to show.")
    return max(spread, key=lambda index: spread[index])


def _nearest(run: Run, at: tuple[float, float]) -> int:
    """The active window whose centre is nearest to a place on the map."""
    x, y = apply(~run.plan.frame, *at)

    def distance(index: int) -> float:
        window: Window = run.plan.windows[index]
        return float(
            np.hypot(window.col_off + window.width / 2 - x, window.row_off + window.height / 2 - y)
        )

    return min(run.plan.active, key=distance)


def _look(run: Run, index: int) -> WarpedWindow:
    """Every stage of one window, through the run's own predictor."""
    plan, spec = run.plan, run.network.spec
    with run.predictor() as predictor:
        ((_, prediction),) = predictor.predict([index])
    if prediction is None:
        raise ConfigError(f"Window {index} of {plan.scene} has no data: choose another.")
    H, W = plan.window_size
    place = plan.scene_window(index)
    data, valid = run.scene.read(place)
    scaled = plan.scaling.apply(data)
    positions = prediction.samples.positions
    if plan.sampler == "learned":
        grid = torch.from_numpy(pixels_to_grid(positions, (H, W)))[None]
        image = torch.from_numpy(scaled)[None]
        seen = sample_image(image, grid, mode=spec.sample_mode)[0].numpy()
    else:  # an average over each cell
        seen = plan.scaling.apply(run.scene.read(place, plan.size_of(index))[0])
    window = plan.windows[index]
    return WarpedWindow(
        index=index,
        sampler=plan.sampler,
        classes=spec.classes,
        image=to_rgb(scaled, valid),
        positions=positions,
        magnification=prediction.magnification,
        sampled=to_rgb(seen),
        sampled_labels=prediction.probabilities.argmax(0).astype(np.uint8),
        labels=prediction.labels((0, H), (0, W))[0],
        frame=compose(plan.frame, Affine.translation(window.col_off, window.row_off)),
        crs=plan.crs,
    )
