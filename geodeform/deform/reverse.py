"""The reverse map: from the sampled image back to every pixel of the window.

A sampling grid says where each sampled pixel reads in the window; the reverse map answers, for each
pixel of the window, what the sampled image says about it:

* B, the nearest sample: :meth:`ReverseMap.nearest_index`, :meth:`ReverseMap.nearest_labels`. Exact
  Voronoi cells, distances in pixels.
* C, inverse coordinates: :meth:`ReverseMap.inverse_coordinates`. Where the pixel reads in the
  sampled image, affine in each half of a cell between four samples, so that
  ``F.grid_sample(sampled, inverse, align_corners=False)`` undoes the sampling.
* D, scores: :meth:`ReverseMap.reverse_scores` (class and confidence, fused) and
  :meth:`ReverseMap.interpolate_scores` (all classes, for blending). Scores are interpolated
  affinely in the same triangles. grid_sample through C is bilinear in a cell instead: both agree
  at the samples, along the cell's sides, and for any scores affine in the sampled index; elsewhere
  they differ by a quarter of |s00 + s11 − s01 − s10| at most.

Beyond the outermost samples the nearest point of the grid's rim counts (``padding_mode="border"``).
Everything is asked for in blocks of rows and columns, and a pixel's answer never depends on the
block. Set-up is done once, lazily, so small blocks are cheap. numba's kernels release the GIL, so
blocks may be painted from several threads; their first call compiles them (some seconds, cached on
disk).

Two backends give the same answers: ``numba`` (CPU) and ``torch`` (any device with float64). On the
CPU C and D agree bit for bit; of B, only samples equally near but for rounding may differ. numpy
goes in and comes out; for tensors see :mod:`geodeform.deform.kernels.torch_reverse`.

A grid that folds is no error: where it lies over itself the last cell in row-major order counts (C,
D), and time grows with how often it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geodeform.deform.coords import Size, uniform_normalised
from geodeform.deform.kernels.blocks import MAX_CLASSES, Block, Span, resolve_block
from geodeform.deform.kernels.numba_nearest import NearestSetup, paint_nearest, prepare_nearest
from geodeform.deform.kernels.numba_raster import (
    RasterSetup,
    paint_channels,
    paint_scores,
    prepare_raster,
)

if TYPE_CHECKING:
    from torch import Tensor

    from geodeform.deform.kernels.torch_reverse import TorchReverse

Backend = Literal["numba", "torch"]


@dataclass(frozen=True, eq=False)
class ReverseMap:
    """The reverse map of one window.

    Attributes:
        grid: (h, w, 2) sampling grid, normalised (x, y): where each sampled pixel reads. Any
            floating type; kept as a float32 copy.
        size: (H, W) of the window in pixels.
        backend: ``"numba"`` or ``"torch"``.
        device: Where the torch backend computes, such as ``"cuda"``; None is the CPU.

    Raises:
        ValueError: If the grid is not a finite (h, w, 2), the size is not positive, the backend is
            unknown, or a device is given to numba.
    """

    grid: NDArray[np.float32]
    size: Size
    backend: Backend = "numba"
    device: str | None = None

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"size must be positive, got {self.size}")
        if self.backend not in ("numba", "torch"):
            raise ValueError(f"backend must be 'numba' or 'torch', got {self.backend!r}")
        if self.backend == "numba" and self.device is not None:
            raise ValueError(f"only the torch backend has a device, got {self.device!r}")
        grid = np.array(self.grid, np.float32, order="C")
        if grid.ndim != 3 or grid.shape[-1] != 2 or 0 in grid.shape:
            raise ValueError(f"grid must be (h, w, 2), got {grid.shape}")
        if not np.isfinite(grid).all():
            raise ValueError("grid holds NaN or infinite coordinates")
        object.__setattr__(self, "grid", grid)

    @property
    def grid_size(self) -> Size:
        """(h, w) of the sampled image."""
        h, w, _ = self.grid.shape
        return h, w

    def nearest_index(
        self, *, rows: Span | None = None, cols: Span | None = None
    ) -> NDArray[np.int32]:
        """Find the sample nearest to each pixel's centre, in pixels of the window (B).

        Args:
            rows: (y0, y1) of the block, ends excluded; default all.
            cols: (x0, x1) of the block.

        Returns:
            (rows, cols) index into the h·w samples, row-major. Of samples at the very same place
            it is the first.

        Raises:
            ValueError: If the block leaves the window; so do all methods.
        """
        if self.backend == "torch":
            return _array(self._torch.nearest_index(rows=rows, cols=cols))
        block = resolve_block(self.size, rows, cols)
        out = np.empty(_shape(block), np.int32)
        if out.size:
            paint_nearest(self._nearest_setup, self._nearest_setup.identity, block, out)
        return out

    def nearest_labels(
        self, labels: ArrayLike, *, rows: Span | None = None, cols: Span | None = None
    ) -> NDArray[np.uint8]:
        """Give each pixel the label of the sample that :meth:`nearest_index` names (B).

        Args:
            labels: (h, w) uint8.
            rows: (y0, y1) of the block, ends excluded; default all.
            cols: (x0, x1) of the block.

        Returns:
            (rows, cols) labels.

        Raises:
            ValueError: If the labels' shape is not the grid's, or their type not uint8.
        """
        if self.backend == "torch":
            return _array(self._torch.nearest_labels(self._tensor(labels), rows=rows, cols=cols))
        values = np.asarray(labels)
        if values.shape != self.grid_size or values.dtype != np.uint8:
            raise ValueError(
                f"labels must be uint8 {self.grid_size}, got {values.dtype} {values.shape}"
            )
        block = resolve_block(self.size, rows, cols)
        out = np.empty(_shape(block), np.uint8)
        if out.size:
            flat = np.require(values, requirements=("C", "W")).reshape(-1)
            paint_nearest(self._nearest_setup, flat, block, out)
        return out

    def inverse_coordinates(
        self, *, rows: Span | None = None, cols: Span | None = None
    ) -> NDArray[np.float32]:
        """Where each pixel reads in the sampled image (C).

        Args:
            rows: (y0, y1) of the block, ends excluded; default all.
            cols: (x0, x1) of the block.

        Returns:
            (rows, cols, 2) normalised (x, y) of the h × w image, for
            ``F.grid_sample(align_corners=False)``; between the outermost samples' centres. A view
            whose two planes lie one after the other in memory.
        """
        if self.backend == "torch":
            return _array(self._torch.inverse_coordinates(rows=rows, cols=cols))
        planes = self.interpolate_scores(self._centres, rows=rows, cols=cols)
        return np.moveaxis(planes, 0, -1)

    def reverse_scores(
        self, scores: ArrayLike, *, rows: Span | None = None, cols: Span | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Interpolate class scores and keep, for each pixel, the highest (D).

        Equal to the arg-max and the max over :meth:`interpolate_scores` (but for rounding), at a
        fraction of the time and memory.

        Args:
            scores: (C, h, w) scores, 1 to 255 classes; probabilities if the confidence is to mean
                something.
            rows: (y0, y1) of the block, ends excluded; default all.
            cols: (x0, x1) of the block.

        Returns:
            Labels (rows, cols) uint8, the lowest class if tied, and confidence (rows, cols) uint8,
            round(255 · highest score), the score clipped to 0…1.

        Raises:
            ValueError: If the scores are not (C, h, w) with the grid's (h, w) and 1 to 255 classes.
        """
        if self.backend == "torch":
            both = self._torch.reverse_scores(self._tensor(scores), rows=rows, cols=cols)
            return _array(both[0]), _array(both[1])
        values = self._checked_scores(scores)
        if len(values) > MAX_CLASSES:
            raise ValueError(f"at most {MAX_CLASSES} classes fit a uint8, got {len(values)}")
        block = resolve_block(self.size, rows, cols)
        labels, confidence = np.empty(_shape(block), np.uint8), np.empty(_shape(block), np.uint8)
        if labels.size:
            paint_scores(self._raster_setup, values, block, labels, confidence)
        return labels, confidence

    def interpolate_scores(
        self,
        scores: ArrayLike,
        *,
        rows: Span | None = None,
        cols: Span | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Interpolate all channels as :meth:`reverse_scores` does.

        Args:
            scores: (C, h, w), any channels.
            rows: (y0, y1) of the block, ends excluded; default all.
            cols: (x0, x1) of the block.
            out: (C, rows, cols) float32, of any strides, to write to.

        Returns:
            (C, rows, cols) float32; ``out`` if given.

        Raises:
            ValueError: If the scores are not (C, h, w) with the grid's (h, w), or ``out`` does not
                fit.
        """
        values = self._tensor(scores) if self.backend == "torch" else self._checked_scores(scores)
        block = resolve_block(self.size, rows, cols)
        shape = (len(values), *_shape(block))
        if out is None:
            out = np.empty(shape, np.float32)
        elif out.shape != shape or out.dtype != np.float32:
            raise ValueError(f"out must be float32 {shape}, got {out.dtype} {out.shape}")
        if isinstance(values, np.ndarray):
            if out.size:
                paint_channels(self._raster_setup, values, block, out)
        else:
            out[...] = _array(self._torch.interpolate_scores(values, rows=rows, cols=cols))
        return out

    def _checked_scores(self, scores: ArrayLike) -> NDArray[np.float32]:
        values = np.require(scores, np.float32, ("C", "W"))
        if values.ndim != 3 or values.shape[1:] != self.grid_size or not len(values):
            h, w = self.grid_size
            raise ValueError(f"scores must be (C, {h}, {w}), got {values.shape}")
        return values

    @cached_property
    def _nearest_setup(self) -> NearestSetup:
        return prepare_nearest(self.grid, self.size)

    @cached_property
    def _raster_setup(self) -> RasterSetup:
        return prepare_raster(self.grid, self.size)

    @cached_property
    def _centres(self) -> NDArray[np.float32]:
        """Normalised (x, y) of the sampled image's pixel centres, (2, h, w)."""
        h, w = self.grid_size
        x, y = np.meshgrid(uniform_normalised(w), uniform_normalised(h))
        return np.stack((x, y)).astype(np.float32)

    @cached_property
    def _torch(self) -> TorchReverse:
        import torch  # here, so that the CPU path needs no torch

        from geodeform.deform.kernels.torch_reverse import TorchReverse

        return TorchReverse(torch.as_tensor(self.grid, device=self.device), self.size)

    def _tensor(self, values: ArrayLike) -> Tensor:
        import torch

        return torch.as_tensor(values, device=self._torch.grid.device)


def nearest_index(
    grid: NDArray[np.float32], size: Size, *, rows: Span | None = None, cols: Span | None = None
) -> NDArray[np.int32]:
    """:meth:`ReverseMap.nearest_index` of a grid (h, w, 2) and a window of ``size``."""
    return ReverseMap(grid, size).nearest_index(rows=rows, cols=cols)


def nearest_labels(
    grid: NDArray[np.float32],
    labels: ArrayLike,
    size: Size,
    *,
    rows: Span | None = None,
    cols: Span | None = None,
) -> NDArray[np.uint8]:
    """:meth:`ReverseMap.nearest_labels` of a grid (h, w, 2) and a window of ``size``."""
    return ReverseMap(grid, size).nearest_labels(labels, rows=rows, cols=cols)


def inverse_coordinates(
    grid: NDArray[np.float32], size: Size, *, rows: Span | None = None, cols: Span | None = None
) -> NDArray[np.float32]:
    """:meth:`ReverseMap.inverse_coordinates` of a grid (h, w, 2) and a window of ``size``."""
    return ReverseMap(grid, size).inverse_coordinates(rows=rows, cols=cols)


def reverse_scores(
    grid: NDArray[np.float32],
    scores: ArrayLike,
    size: Size,
    *,
    rows: Span | None = None,
    cols: Span | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """:meth:`ReverseMap.reverse_scores` of a grid (h, w, 2) and a window of ``size``."""
    return ReverseMap(grid, size).reverse_scores(scores, rows=rows, cols=cols)


def interpolate_scores(
    grid: NDArray[np.float32],
    scores: ArrayLike,
    size: Size,
    *,
    rows: Span | None = None,
    cols: Span | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """:meth:`ReverseMap.interpolate_scores` of a grid (h, w, 2) and a window of ``size``."""
    return ReverseMap(grid, size).interpolate_scores(scores, rows=rows, cols=cols, out=out)


def _shape(block: Block) -> Size:
    y0, y1, x0, x1 = block
    return y1 - y0, x1 - x0


def _array(values: Tensor) -> NDArray[Any]:
    return values.cpu().numpy()
