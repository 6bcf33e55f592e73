"""The reverse map in plain torch operations, for any device: methods B, C and D.

The same answers as the numba kernels, found breadth-first instead of one after the other:

* C and D list the triangles that touch a chunk of pixels, their rows, and the pixels of each row
  (two ``repeat_interleave``); the highest triangle number a pixel gets is the one that stays.
* B keeps a list of (tile, sample) pairs, halves the tiles, drops the pairs that cannot matter any
  more, and at last compares what is left pixel by pixel.

See numba_raster.py and numba_nearest.py for the geometry. Memory is bounded by chunks of
``chunk_pixels`` pixels, some 100 bytes each at the peak. Arithmetic is float64. Nothing here is
differentiable: gradients go through the sampling grid, not through its inverse.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from geodeform.deform.coords import Size, grid_to_pixels
from geodeform.deform.kernels.blocks import (
    MARGIN,
    MAX_CLASSES,
    MIN_AREA,
    Block,
    Span,
    resolve_block,
)

_LEAF = 4  # tiles of at most 4 × 4 pixels are compared pixel by pixel
_STUBBORN = 64  # pairs a tile: with more, and few dropped, prune against the tiles' corners too


def nearest_index(
    grid: Tensor, size: Size, *, rows: Span | None = None, cols: Span | None = None
) -> Tensor:
    """See :func:`geodeform.deform.reverse.nearest_index`; tensors in, int32 tensor out."""
    return TorchReverse(grid, size).nearest_index(rows=rows, cols=cols)


def nearest_labels(
    grid: Tensor, labels: Tensor, size: Size, *, rows: Span | None = None, cols: Span | None = None
) -> Tensor:
    """See :func:`geodeform.deform.reverse.nearest_labels`; uint8 tensors in and out."""
    return TorchReverse(grid, size).nearest_labels(labels, rows=rows, cols=cols)


def inverse_coordinates(
    grid: Tensor, size: Size, *, rows: Span | None = None, cols: Span | None = None
) -> Tensor:
    """See :func:`geodeform.deform.reverse.inverse_coordinates`; float32 tensor out."""
    return TorchReverse(grid, size).inverse_coordinates(rows=rows, cols=cols)


def reverse_scores(
    grid: Tensor, scores: Tensor, size: Size, *, rows: Span | None = None, cols: Span | None = None
) -> tuple[Tensor, Tensor]:
    """See :func:`geodeform.deform.reverse.reverse_scores`; two uint8 tensors out."""
    return TorchReverse(grid, size).reverse_scores(scores, rows=rows, cols=cols)


def interpolate_scores(
    grid: Tensor, scores: Tensor, size: Size, *, rows: Span | None = None, cols: Span | None = None
) -> Tensor:
    """See :func:`geodeform.deform.reverse.interpolate_scores`; float32 tensor out."""
    return TorchReverse(grid, size).interpolate_scores(scores, rows=rows, cols=cols)


@dataclass(frozen=True, eq=False)
class TorchReverse:
    """The reverse map of one window; computes on the device of ``grid`` and returns tensors there.

    Attributes:
        grid: (h, w, 2) normalised (x, y), float32, finite.
        size: (H, W) of the window in pixels.
        chunk_pixels: How many pixels are computed at once.
    """

    grid: Tensor
    size: Size
    chunk_pixels: int = 1 << 20

    def __post_init__(self) -> None:
        if self.grid.ndim != 3 or self.grid.shape[-1] != 2 or 0 in self.grid.shape:
            raise ValueError(f"grid must be (h, w, 2), got {tuple(self.grid.shape)}")
        if not bool(self.grid.isfinite().all()):
            raise ValueError("grid holds NaN or infinite coordinates")
        object.__setattr__(self, "grid", self.grid.detach().float().contiguous())

    def nearest_index(self, *, rows: Span | None = None, cols: Span | None = None) -> Tensor:
        """Index into the h·w samples of the nearest one, (rows, cols) int32."""
        block = resolve_block(self.size, rows, cols)
        out = self._empty(block, torch.int32)
        for chunk in self._chunks(block):
            _view(out, block, chunk).copy_(self._nearest(chunk))
        return out

    def nearest_labels(
        self, labels: Tensor, *, rows: Span | None = None, cols: Span | None = None
    ) -> Tensor:
        """Label of the nearest sample, (rows, cols) uint8, from ``labels`` (h, w) uint8."""
        size = tuple(self.grid.shape[:2])
        if labels.shape != size or labels.dtype != torch.uint8:
            raise ValueError(
                f"labels must be uint8 {size}, got {labels.dtype} {tuple(labels.shape)}"
            )
        block = resolve_block(self.size, rows, cols)
        out = self._empty(block, labels.dtype)
        for chunk in self._chunks(block):
            _view(out, block, chunk).copy_(labels.flatten()[self._nearest(chunk)])
        return out

    def inverse_coordinates(self, *, rows: Span | None = None, cols: Span | None = None) -> Tensor:
        """Where each pixel reads in the sampled image, (rows, cols, 2) normalised (x, y)."""
        h, w = self.grid.shape[:2]
        x = (2 * torch.arange(w, device=self.grid.device, dtype=torch.float64) + 1) / w - 1
        y = (2 * torch.arange(h, device=self.grid.device, dtype=torch.float64) + 1) / h - 1
        centres = torch.stack((x.expand(h, w), y.unsqueeze(1).expand(h, w)))  # 2,h,w
        return self.interpolate_scores(centres.float(), rows=rows, cols=cols).movedim(0, -1)

    def interpolate_scores(
        self, scores: Tensor, *, rows: Span | None = None, cols: Span | None = None
    ) -> Tensor:
        """All channels of ``scores`` (C, h, w) at each pixel, (C, rows, cols) float32."""
        self._check_scores(scores)
        block = resolve_block(self.size, rows, cols)
        out = self._empty(block, torch.float32, len(scores))
        for chunk in self._chunks(block):
            for channel, values in enumerate(self._interpolate(scores, chunk)):
                _view(out[channel], block, chunk).copy_(values)
        return out

    def reverse_scores(
        self, scores: Tensor, *, rows: Span | None = None, cols: Span | None = None
    ) -> tuple[Tensor, Tensor]:
        """Class of the highest score and round(255·score), both (rows, cols) uint8."""
        self._check_scores(scores)
        if len(scores) > MAX_CLASSES:
            raise ValueError(f"at most {MAX_CLASSES} classes fit a uint8, got {len(scores)}")
        block = resolve_block(self.size, rows, cols)
        labels, confidence = self._empty(block, torch.uint8), self._empty(block, torch.uint8)
        for chunk in self._chunks(block):
            best, label = self._highest(scores, chunk)
            _view(labels, block, chunk).copy_(label)
            share = torch.where(best > 0, best.clamp_max(1), 0)  # NaN → 0
            _view(confidence, block, chunk).copy_(255 * share + 0.5)
        return labels, confidence

    def _highest(self, scores: Tensor, chunk: Block) -> tuple[Tensor, Tensor]:
        """Highest score and its class, the lowest if tied."""
        channels = self._interpolate(scores, chunk)
        best = next(channels)
        label = torch.zeros_like(best, dtype=torch.uint8)
        for c, score in enumerate(channels, 1):
            higher = score > best
            best = torch.where(higher, score, best)
            label = torch.where(higher, c, label).to(torch.uint8)
        return best, label

    def _check_scores(self, scores: Tensor) -> None:
        if scores.ndim != 3 or scores.shape[1:] != self.grid.shape[:2] or not len(scores):
            h, w = self.grid.shape[:2]
            raise ValueError(f"scores must be (C, {h}, {w}), got {tuple(scores.shape)}")

    def _empty(self, block: Block, dtype: torch.dtype, *leading: int) -> Tensor:
        y0, y1, x0, x1 = block
        return torch.empty(*leading, y1 - y0, x1 - x0, dtype=dtype, device=self.grid.device)

    def _chunks(self, block: Block) -> Iterator[Block]:
        """Cut a block into about square parts of at most ``chunk_pixels``."""
        y0, y1, x0, x1 = block
        width = min(x1 - x0, max(math.isqrt(self.chunk_pixels), 1))
        height = max(self.chunk_pixels // max(width, 1), 1)
        for y in range(y0, y1, height):
            for x in range(x0, x1, max(width, 1)):
                yield y, min(y + height, y1), x, min(x + width, x1)

    # Methods C and D

    @cached_property
    def _vertices(self) -> tuple[Tensor, Tensor]:
        """Return x and y of the padded grid, (h + 2, w + 2) each; as ``prepare_raster``."""
        height, width = self.size
        h, w = self.grid.shape[:2]
        inner = grid_to_pixels(self.grid.double(), self.size) - 0.5
        rows = torch.arange(-1, h + 1, device=inner.device).clamp(0, h - 1)
        cols = torch.arange(-1, w + 1, device=inner.device).clamp(0, w - 1)
        padded = inner[rows][:, cols]
        x, y = padded[..., 0].contiguous(), padded[..., 1].contiguous()
        x[:, 0], x[:, -1] = (x.min() - 1).clamp_max(-1), (x.max() + 1).clamp_min(width)
        y[0], y[-1] = (y.min() - 1).clamp_max(-1), (y.max() + 1).clamp_min(height)
        return x, y

    @cached_property
    def _cell_extents(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Lowest and highest y, then x, of each cell, (h + 1, w + 1) each."""
        x, y = self._vertices
        return *_extremes(y), *_extremes(x)

    def _interpolate(self, scores: Tensor, chunk: Block) -> Iterator[Tensor]:
        """Each channel of ``scores`` at the pixels of a chunk, float64."""
        y0, y1, x0, x1 = chunk
        h, w = self.grid.shape[:2]
        x, y = self._vertices
        low_y, high_y, low_x, high_x = self._cell_extents
        touches = (high_y > y0) & (low_y <= y1 - 1) & (high_x > x0) & (low_x <= x1 - 1)
        i, j = touches.nonzero(as_tuple=True)
        second = torch.arange(2, device=x.device)  # a cell's triangles: (00, 01, 10), (11, 10, 01)
        ai, aj = (i[:, None] + second).flatten(), (j[:, None] + second).flatten()
        i, j = i.repeat_interleave(2), j.repeat_interleave(2)
        corners = ((ai, aj), (i, j + 1), (i + 1, j))
        xa, xb, xc = (x[at] for at in corners)
        ya, yb, yc = (y[at] for at in corners)
        chosen = self._triangle_of_pixel((xa, xb, xc), (ya, yb, yc), chunk)  # rows,cols

        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        solid = area.abs() >= MIN_AREA
        inverse = torch.where(solid, 1 / area, 0)
        ux, uy = (yc - ya) * inverse, (xa - xc) * inverse
        vx, vy = (ya - yb) * inverse, (xb - xa) * inverse
        row = torch.arange(y0, y1, device=x.device, dtype=torch.float64)[:, None]
        col = torch.arange(x0, x1, device=x.device, dtype=torch.float64)
        down = row - ya[chosen]
        first = xa[chosen]
        samples = [((r - 1).clamp(0, h - 1), (c - 1).clamp(0, w - 1)) for r, c in corners]
        for channel in scores.to(x.device):
            sa, sb, sc = (channel[at].double() for at in samples)
            db, dc = sb - sa, sc - sa
            base = torch.where(solid, sa, sa + (db + dc) / 3)[chosen]
            slope_x = (ux * db + vx * dc)[chosen]
            slope_y = (uy * db + vy * dc)[chosen]
            yield (base + (slope_y * down - slope_x * first)) + slope_x * col

    def _triangle_of_pixel(
        self, xs: tuple[Tensor, ...], ys: tuple[Tensor, ...], chunk: Block
    ) -> Tensor:
        """Number of the last triangle that covers each pixel of the chunk, (rows, cols) int64."""
        row0, row1, col0, col1 = chunk
        y, order = torch.stack(ys).sort(0)
        x = torch.stack(xs).gather(0, order)
        (x0, x1, x2), (y0, y1, y2) = x, y
        long, top, bottom = _slope(x0, y0, x2, y2), _slope(x0, y0, x1, y1), _slope(x1, y1, x2, y2)
        first = y0.ceil().clamp_min(row0).long()
        last = y2.ceil().clamp_max(row1).long()
        triangle, row = _enumerate(first, last)
        above = row - y0[triangle]
        one = x0[triangle] + long[triangle] * above
        other = torch.where(
            row < y1[triangle],
            x0[triangle] + top[triangle] * above,
            x1[triangle] + bottom[triangle] * (row - y1[triangle]),
        )
        start = torch.minimum(one, other).ceil().clamp_min(col0).long()
        stop = torch.maximum(one, other).ceil().clamp_max(col1).long()

        width = col1 - col0
        chosen = torch.full(((row1 - row0) * width,), -1, device=x.device)
        # Folds cover a pixel many times: no more than a few chunks' worth at once.
        ends = (stop - start).clamp_min(0).cumsum(0)
        total = int(ends[-1])
        limits = torch.arange(0, total, 4 * self.chunk_pixels, device=x.device)
        cuts = [*torch.searchsorted(ends, limits, right=True).tolist(), len(ends)]
        for begin, end in pairwise(cuts):
            span, col = _enumerate(start[begin:end], stop[begin:end])
            pixel = (row[begin:end][span] - row0) * width + (col - col0)
            chosen.scatter_reduce_(0, pixel, triangle[begin:end][span], "amax")
        return chosen.view(row1 - row0, width)

    # Method B

    @cached_property
    def _samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Index of the first of each group of samples at the very same place, their x and y."""
        flat = self.grid.view(-1, 2)
        keys = (flat + 0).view(torch.int64).flatten()  # one number a point; + 0 turns −0 into 0
        index = torch.arange(len(keys), device=keys.device)
        distinct, group = torch.unique(keys, return_inverse=True)
        if len(distinct) < len(keys):
            first = torch.full_like(distinct, len(keys)).scatter_reduce_(0, group, index, "amin")
            index = first.sort().values
        points = grid_to_pixels(flat[index].double(), self.size) - 0.5
        return index, points[:, 0].contiguous(), points[:, 1].contiguous()

    def _nearest(self, chunk: Block) -> Tensor:
        """Index of the sample nearest to each pixel of the chunk, (rows, cols) int64."""
        row0, row1, col0, col1 = chunk
        index, x, y = self._samples
        width = height = _LEAF
        while width < col1 - col0:
            width *= 2
        while height < row1 - row0:
            height *= 2
        left, top = (torch.tensor([first], device=x.device) for first in (col0, row0))
        tiles = _Tiles(left, top, width, height, col1, row1)
        sample = torch.arange(len(index), device=x.device)
        tile = torch.zeros_like(sample)
        tile, sample = _drop(tiles, tile, sample, x, y)
        while max(tiles.width, tiles.height) > _LEAF:
            before = len(tile)
            tiles, tile, sample = tiles.halve(tile, sample)
            tile, sample = _drop(tiles, tile, sample, x, y)
            if len(tile) > max(_STUBBORN * len(tiles.x), 1.5 * before):
                for corner in (-1, -1), (-1, 1), (1, -1), (1, 1):
                    tile, sample = _drop(tiles, tile, sample, x, y, corner)
        out = torch.empty(row1 - row0, col1 - col0, dtype=torch.int64, device=x.device)
        for down in range(tiles.height):
            for right in range(tiles.width):
                col, row = tiles.x + right, tiles.y + down
                inside = (col < col1) & (row < row1)
                nearest = _closest(tile, sample, x, y, col, row)[inside]
                out[row[inside] - row0, col[inside] - col0] = index[nearest]
        return out


@dataclass(frozen=True)
class _Tiles:
    """Tiles of one size.

    Attributes:
        x: (T,) first columns.
        y: (T,) first rows.
        width: The leaf's width times a power of two.
        height: Likewise.
        right: One past the chunk's last column; tiles may reach beyond.
        bottom: One past its last row.
    """

    x: Tensor
    y: Tensor
    width: int
    height: int
    right: int
    bottom: int

    def extent(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Centre (x, y) and half sides (x, y) of the pixel centres of each tile."""
        a = ((self.x + self.width).clamp_max(self.right) - 1 - self.x) / 2.0
        b = ((self.y + self.height).clamp_max(self.bottom) - 1 - self.y) / 2.0
        return self.x + a.double(), self.y + b.double(), a.double(), b.double()

    def halve(self, tile: Tensor, sample: Tensor) -> tuple[_Tiles, Tensor, Tensor]:
        """Cut along the longer side; both halves take over the tile's pairs."""
        width, height = self.width, self.height
        if width >= height:
            width //= 2
            x, y = torch.stack((self.x, self.x + width), 1), self.y.repeat_interleave(2)
        else:
            height //= 2
            x, y = self.x.repeat_interleave(2), torch.stack((self.y, self.y + height), 1)
        x, y = x.flatten(), y.flatten()
        inside = (x < self.right) & (y < self.bottom)
        number = inside.cumsum(0) - 1
        child = (2 * tile[:, None] + torch.arange(2, device=x.device)).flatten()
        kept = inside[child]
        tiles = _Tiles(x[inside], y[inside], width, height, self.right, self.bottom)
        return tiles, number[child[kept]], sample.repeat_interleave(2)[kept]


def _drop(
    tiles: _Tiles, tile: Tensor, sample: Tensor, x: Tensor, y: Tensor, corner: Span = (0, 0)
) -> tuple[Tensor, Tensor]:
    """Keep the pairs whose sample is not beaten all over the tile by the one nearest to a point.

    The point is the tile's centre or, moved by ``corner`` half sides, one of its corners.
    """
    cx, cy, a, b = tiles.extent()
    r = _closest(tile, sample, x, y, cx + corner[0] * a, cy + corner[1] * b)[tile]
    dx, dy = x[sample] - x[r], y[sample] - y[r]
    most = dx * (2 * cx[tile] - x[sample] - x[r]) + dy * (2 * cy[tile] - y[sample] - y[r])
    kept = most + 2 * (a[tile] * dx.abs() + b[tile] * dy.abs()) >= -MARGIN
    return tile[kept], sample[kept]


def _closest(tile: Tensor, sample: Tensor, x: Tensor, y: Tensor, px: Tensor, py: Tensor) -> Tensor:
    """Of each tile's samples the one nearest to the tile's point, the lowest if tied; (T,)."""
    distance = (x[sample] - px[tile]) ** 2 + (y[sample] - py[tile]) ** 2
    least = torch.full_like(px, math.inf, dtype=torch.float64)
    least.scatter_reduce_(0, tile, distance, "amin")
    tied = distance == least[tile]
    nearest = torch.full_like(px, len(x), dtype=torch.int64)
    return nearest.scatter_reduce_(0, tile[tied], sample[tied], "amin")


def _slope(xa: Tensor, ya: Tensor, xb: Tensor, yb: Tensor) -> Tensor:
    """Change of x per row of the edge from a down to b; ya ≤ yb."""
    return torch.where(yb > ya, (xb - xa) / (yb - ya), 0)


def _enumerate(start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """For each integer of each range start…stop − 1: the range's number, and the integer."""
    count = (stop - start).clamp_min(0)
    number = torch.repeat_interleave(count)
    before = count.cumsum(0) - count
    return number, torch.arange(len(number), device=count.device) - (before - start)[number]


def _extremes(corner: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest of the four corners of each cell."""
    four = torch.stack((corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]))
    return four.amin(0), four.amax(0)


def _view(out: Tensor, block: Block, part: Block) -> Tensor:
    """The part of ``out``, which holds ``block``, that a part of the block fills."""
    y0, x0 = block[0], block[2]
    return out[part[0] - y0 : part[1] - y0, part[2] - x0 : part[3] - x0]
