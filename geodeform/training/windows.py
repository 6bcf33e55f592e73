"""Windows of labelled scenes: what training and validation cut from them, step by step.

Training often never needs a scene's finest pixels: area-averaged samples lie many pixels apart, so
windows are cut from 2×2 means (:func:`base_level`), which makes a batch four to sixteen times
cheaper. A step's windows are a pure function of (seed, step): they do not depend on workers, on how
many devices share the step or in how many parts it is worked off, and a resumed run sees the same
windows as one that never stopped.

Pixels travel as bytes; :func:`to_network` turns them into network input where the network is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from geodeform.budget import within_sides
from geodeform.classes import NODATA_CLASS
from geodeform.compiled import compiled
from geodeform.deform.coords import Size
from geodeform.errors import ConfigError
from geodeform.models.spec import InputScaling, Sizing
from geodeform.training.cache import CachedScene

_SIDE_STEP = 16  # sides of windows are multiples of this at their base level: halves stay even
_INDEX_STEP = 16  # source pixels between the positions remembered of each class


class Windows(TypedDict):
    """Windows of one shape that are sampled alike.

    ``image`` is (B, C, n, m) bytes at the base level; ``labels`` (B, H, W) uint8 at full
    resolution, 255 unknown, of the same ground; ``table`` (B, C, 256) the network input value of
    each byte; ``size`` the (h, w) of the sampled image, ``low_res`` that of the view.
    """

    image: Tensor
    labels: Tensor
    table: Tensor
    size: Size
    low_res: Size


class Batch(TypedDict):
    """What a device works on at once.

    ``groups`` holds one entry, or one for each image where images differ in shape; ``uniform``
    says whether it is to be sampled uniformly, and ``extra`` whether its windows are not the
    model's own; ``index`` is the item's number.
    """

    groups: list[Windows]
    uniform: bool
    extra: bool
    index: int


class Sizes(NamedTuple):
    """How windows are sampled.

    Attributes:
        sample: (h, w) of the sampled image.
        low_res: (hd, wd) of the low-resolution view.
        sizing: "area": as they are; "sides": by :func:`geodeform.budget.within_sides`.
    """

    sample: Size
    low_res: Size
    sizing: Sizing = "area"

    def of(self, shape: Size) -> tuple[Size, Size]:
        """Sample and view size of a window of a shape."""
        if self.sizing == "area":
            return self.sample, self.low_res
        return within_sides(shape, self.sample), within_sides(shape, self.low_res)


def base_level(window: int, largest_size: int) -> int:
    """How often a window may be halved and still have four pixels a sample and axis.

    Samples of a uniform grid then read means of at least two such pixels, and still whole ones
    where a density draws them together to half their distance.

    >>> base_level(1024, 128), base_level(1024, 64), base_level(512, 128)
    (1, 2, 0)
    """
    return max(0, int(np.log2(window / (4 * largest_size))))


@dataclass(frozen=True)
class WindowSettings:
    """How training windows are drawn; see :class:`geodeform.config.DataConfig`.

    Attributes:
        window: (H, W) in source pixels; None for whole images.
        crop: Central part of the images that is used; None for all.
        scale: Range of the factor on the window, one for each step.
        sizes: Sizes of the sampled image, one drawn for each step.
        extra: Other windows (H, W) with a size (h, w) each, that steps draw as well, to be sampled
            uniformly.
        low_res: Size of the low-resolution view.
        sizing: See :class:`Sizes`.
        halved: Whether windows may be cut from 2×2 means: not where single pixels are read.
        batch_size: Windows a step.
        accumulate: Parts that a step comes in.
        balance: Share of windows that a class drawn evenly places.
        flips: "none", "horizontal", or "all" mirrorings and right-angle turns.
        colour: Strength of the colour jitter.
        uniform_share: Share of steps to be sampled uniformly.
        seed: Of all of this.
    """

    window: Size | None
    scale: tuple[float, float]
    sizes: tuple[Size, ...]
    low_res: Size
    batch_size: int
    balance: float
    flips: str
    colour: float
    uniform_share: float
    seed: int
    extra: tuple[tuple[Size, Size], ...] = ()
    crop: Size | None = None
    sizing: Sizing = "area"
    halved: bool = True
    accumulate: int = 1


class _Place(NamedTuple):
    """A window: scene, corner and size in its pixels, how it is turned, and its tones."""

    scene: int
    row: int
    column: int
    height: int
    width: int
    turn: int
    table: NDArray[np.float32]


class TrainWindows(Dataset[Batch]):
    """Steps of random windows; item k is a part of a step, whatever was asked before.

    Item ``step · accumulate + part``. Of the step's windows, a part and a device (rank) gets an
    equal share: all of them together are the same windows however they are shared out.

    Args:
        scenes: The training scenes.
        n_classes: Number of classes.
        scaling: From bytes to network input.
        settings: How windows are drawn.

    Attributes:
        level: How often the images are halved.
        class_counts: (n_classes,) labelled pixels of each class.
        largest_shape: (H, W) that holds what is used of every scene.
        stacked: Whether all windows of a step have one shape.

    Raises:
        ConfigError: If a scene is smaller than the window or crop.
    """

    def __init__(
        self,
        scenes: Sequence[CachedScene],
        n_classes: int,
        scaling: InputScaling,
        settings: WindowSettings,
    ) -> None:
        s = self.settings = settings
        self.scaling = scaling
        self.rank, self.world = 0, 1
        self.scenes = scenes
        self._areas = [used_area(scene, s.crop) for scene in scenes]  # rows and columns used
        shapes = [extent_of(area) for area in self._areas]
        self._limit = (min(h for h, _ in shapes), min(w for _, w in shapes))
        self.largest_shape = (max(h for h, _ in shapes), max(w for _, w in shapes))
        for window in [s.window, *(window for window, _ in s.extra)]:
            if window is not None and (window[0] > self._limit[0] or window[1] > self._limit[1]):
                smallest = min(range(len(shapes)), key=lambda i: min(shapes[i]))
                h, w = shapes[smallest]
                raise ConfigError(
                    f"Windows of {_px(window)} px do not fit in {scenes[smallest].name} "
                    f"({w} x {h} px); use smaller ones."
                )
        self.stacked = s.window is not None or (len(set(shapes)) == 1 and s.sizing == "area")
        self.level = self._base_level(shapes) if s.halved else 0
        counts = sum(
            scene.counts
            if s.crop is None
            else np.bincount(scene.labels[area].ravel(), minlength=256)
            for scene, area in zip(scenes, self._areas, strict=True)
        )
        self.class_counts: NDArray[np.int64] = np.asarray(counts)[:n_classes]
        pixels = np.array([h * w for h, w in shapes], float)
        self._share = pixels / pixels.sum()
        self._places = self._find(n_classes) if s.balance > 0 else []
        self._present = [value for value, found in enumerate(self._places) if len(found)]
        covered = pixels.sum() / math.prod(s.window) if s.window is not None else len(scenes)
        self.steps_per_epoch = max(1, math.ceil(covered / s.batch_size))

    def share(self, rank: int, world: int) -> None:
        """Make this process's part of every step only.

        Args:
            rank: Its number among those that share a step.
            world: How many these are.

        Raises:
            ConfigError: If a step cannot be shared out evenly.
        """
        s = self.settings
        if s.batch_size % (s.accumulate * world):
            raise ConfigError(
                f"A step of {s.batch_size} windows cannot be shared by {world} processes in "
                f"{s.accumulate} parts each; make optim.batch_size a multiple of "
                f"{s.accumulate * world}."
            )
        self.rank, self.world = rank, world

    def _base_level(self, shapes: list[Size]) -> int:
        s = self.settings
        if s.window is not None:
            pairs = [(s.window, size) for size in s.sizes] + list(s.extra)
        else:
            pairs = [
                (shape, Sizes(size, s.low_res, s.sizing).of(shape)[0])
                for shape in shapes
                for size in s.sizes
            ]
        return min(
            base_level(n, m) for shape, size in pairs for n, m in zip(shape, size, strict=True)
        )

    def _find(self, n_classes: int) -> list[NDArray[np.int32]]:
        """Of each class (n, 3) scene, row, column of every _INDEX_STEP-th pixel."""
        found: list[list[NDArray[np.int32]]] = [[] for _ in range(n_classes)]
        for index, (scene, area) in enumerate(zip(self.scenes, self._areas, strict=True)):
            thinned = np.array(scene.labels[area][::_INDEX_STEP, ::_INDEX_STEP])
            for value in range(n_classes):
                rows, columns = np.nonzero(thinned == value)
                place = (np.full_like(rows, index), rows * _INDEX_STEP, columns * _INDEX_STEP)
                found[value].append(np.stack(place, 1).astype(np.int32))
        return [np.concatenate(places) for places in found]

    def __getitem__(self, index: int) -> Batch:
        s = self.settings
        step, part = divmod(index, s.accumulate)
        rng = np.random.default_rng((s.seed, step))
        choices = [(s.window, size) for size in s.sizes] + list(s.extra)
        number = int(rng.choice(len(choices)))
        window, size = choices[number]
        extra = number >= len(s.sizes)
        uniform = bool(rng.random() < s.uniform_share) or extra
        places = self._draw(rng, step, window, size)
        count = s.batch_size // (s.accumulate * self.world)
        first = (part * self.world + self.rank) * count
        mine = places[first : first + count]
        sizes = Sizes(size, s.low_res, s.sizing)
        groups = [mine] if self.stacked else [[place] for place in mine]
        return {
            "groups": [self._windows(group, sizes) for group in groups],
            "uniform": uniform,
            "extra": extra,
            "index": index,
        }

    def _draw(
        self, rng: np.random.Generator, step: int, window: Size | None, size: Size
    ) -> list[_Place]:
        """All windows of a step, about as large as ``window``."""
        s = self.settings
        places = []
        shape = None
        if window is not None:
            shapes = self._shapes(window, size)
            shape = shapes[rng.integers(len(shapes))]
        for number in range(s.batch_size):
            if shape is None:
                scene = self._in_turn(step * s.batch_size + number)
                area = self._areas[scene]
                corner, extent = (scene, area[0].start, area[1].start), extent_of(area)
            else:
                corner, extent = self._place(rng, shape), shape
            turn = 0
            if s.flips == "all":
                turn = int(rng.integers(8 if extent[0] == extent[1] else 4))
            elif s.flips == "horizontal":
                turn = 2 * int(rng.integers(2))
            table = colour_table(rng, s.colour, self.scaling)
            places.append(_Place(*corner, *extent, turn, table))
        return places

    def _in_turn(self, number: int) -> int:
        """Scene of the n-th window where every image comes once an epoch, in a new order each."""
        epoch, position = divmod(number, len(self.scenes))
        return int(_order(self.settings.seed, epoch, len(self.scenes))[position])

    def _shapes(self, window: Size, size: Size) -> list[Size]:
        """Shapes that a step's windows may have, in source pixels, ascending.

        Sides are multiples of the sampled size and of the view's at the base level where there are
        any: area averages over whole pixels are several times faster.
        """
        s = self.settings
        low = s.scale[0]
        high = min(s.scale[1], *(most / n for most, n in zip(self._limit, window, strict=True)))
        exact = (math.lcm(size[0], s.low_res[0]), math.lcm(size[1], s.low_res[1]))
        for steps in (exact, (_SIDE_STEP, _SIDE_STEP)):
            step_y, step_x = steps[0] << self.level, steps[1] << self.level
            heights = range(
                math.ceil(window[0] * low / step_y) * step_y,
                int(window[0] * high) + 1,
                step_y,
            )
            widths = [round(h * window[1] / window[0] / step_x) * step_x for h in heights]
            shapes = [
                (h, w) for h, w in zip(heights, widths, strict=True) if 0 < w <= self._limit[1]
            ]
            if shapes:
                return shapes
        return [(window[0] >> self.level << self.level, window[1] >> self.level << self.level)]

    def _place(self, rng: np.random.Generator, shape: Size) -> tuple[int, int, int]:
        """Scene, row and column of a window's corner, on a pixel of the base level."""
        if rng.random() < self.settings.balance:
            places = self._places[self._present[rng.integers(len(self._present))]]
            scene, row, column = places[rng.integers(len(places))]
            height, width = extent_of(self._areas[scene])
            # The chosen pixel lies anywhere in the window, not always in its middle.
            row = np.clip(row - rng.integers(shape[0]), 0, height - shape[0])
            column = np.clip(column - rng.integers(shape[1]), 0, width - shape[1])
        else:
            scene = rng.choice(len(self._share), p=self._share)
            height, width = extent_of(self._areas[scene])
            row = rng.integers(height - shape[0] + 1)
            column = rng.integers(width - shape[1] + 1)
        rows, cols = self._areas[scene]
        return (
            int(scene),
            rows.start + (int(row) >> self.level << self.level),
            cols.start + (int(column) >> self.level << self.level),
        )

    def _windows(self, places: list[_Place], sizes: Sizes) -> Windows:
        """Read windows of one shape."""
        level = self.level
        first = places[0]
        size, low_res = sizes.of((first.height, first.width))
        # Whole images may be odd: the labels lose the row that the halved image lacks.
        small = (first.height >> level, first.width >> level)
        bands = self.scenes[first.scene].image(level).shape[0]
        image = np.empty((len(places), bands, *small), np.uint8)
        labels = np.empty((len(places), small[0] << level, small[1] << level), np.uint8)
        for index, p in enumerate(places):
            scene = self.scenes[p.scene]
            y, x = p.row >> level, p.column >> level
            plane = scene.image(level)[:, y : y + small[0], x : x + small[1]]
            window = scene.labels[
                p.row : p.row + labels.shape[1], p.column : p.column + labels.shape[2]
            ]
            image[index] = _turned(plane, p.turn)
            labels[index] = _turned(window[None], p.turn)[0]
        return {
            "image": torch.from_numpy(image),
            "labels": torch.from_numpy(labels),
            "table": torch.from_numpy(np.stack([p.table for p in places])),
            "size": size,
            "low_res": low_res,
        }


def used_area(scene: CachedScene, crop: Size | None) -> tuple[slice, slice]:
    """Rows and columns of a scene that are used: all, or the central crop.

    The crop's corner lies on a multiple of 16, so that halved images have it too.

    Raises:
        ConfigError: If the scene is smaller than the crop.
    """
    H, W = scene.shape
    if crop is None:
        return slice(0, H), slice(0, W)
    if crop[0] > H or crop[1] > W:
        raise ConfigError(f"A crop of {_px(crop)} px does not fit in {scene.name} ({W} x {H} px).")
    top, left = (
        (n - part) // 2 // _INDEX_STEP * _INDEX_STEP for n, part in ((H, crop[0]), (W, crop[1]))
    )
    return slice(top, top + crop[0]), slice(left, left + crop[1])


def extent_of(area: tuple[slice, slice]) -> Size:
    """(H, W) of rows and columns as :func:`used_area` gives them."""
    rows, cols = area
    return rows.stop - rows.start, cols.stop - cols.start


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of an epoch's images."""
    return np.random.default_rng((seed, 1, epoch)).permutation(count)


class StepSampler(Sampler[int]):
    """The items that are still to do, in order.

    Args:
        steps: All steps of the training.
        done: Steps that a resumed run has behind it.
        accumulate: Items a step.
    """

    def __init__(self, steps: int, done: int = 0, accumulate: int = 1) -> None:
        self.steps = steps
        self.done = done
        self.accumulate = accumulate

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.done * self.accumulate, self.steps * self.accumulate))

    def __len__(self) -> int:
        # Lightning counts batches from the beginning of the training, also when resumed.
        return self.steps * self.accumulate


class ValWindows(Dataset[Windows]):
    """Windows on a regular grid over the held-out scenes, one at a time, at full resolution.

    The grid covers every pixel; where the last row or column of windows reaches back over the one
    before, labels already counted are 255, so that no pixel counts twice.

    Args:
        scenes: The held-out scenes.
        window: (H, W) in pixels; scenes smaller than that give one window of their own size. None
            for whole images.
        scaling: From bytes to network input.
        sizes: How windows are sampled.
        crop: Central part of the images that is used.
        most: At most this many windows, spread evenly; None for all.
        rank: Number of this process among those that share the windows.
        world: How many these are; each takes every ``world``-th window.
        repeated: Whether labels that another window counts stay as they are: for pictures.
    """

    def __init__(
        self,
        scenes: Sequence[CachedScene],
        window: Size | None,
        scaling: InputScaling,
        sizes: Sizes,
        *,
        crop: Size | None = None,
        most: int | None = None,
        rank: int = 0,
        world: int = 1,
        repeated: bool = False,
    ) -> None:
        self.scenes = scenes
        self.sizes = sizes
        self.repeated = repeated
        self.table = torch.from_numpy(plain_table(scaling))[None]
        self._areas = [used_area(scene, crop) for scene in scenes]
        places = []
        for index, area in enumerate(self._areas):
            extent = extent_of(area)
            height, width = window or extent
            places += [
                (index, (row, min(height, extent[0])), (column, min(width, extent[1])))
                for row in _spans(extent[0], height)
                for column in _spans(extent[1], width)
            ]
        if most is not None and most < len(places):
            chosen = np.linspace(0, len(places) - 1, most).round().astype(int)
            places = [places[i] for i in chosen]
        own = places[rank::world]
        # Every process must take part: one that no window is left for looks at another's, and of it
        # no pixel counts.
        self._uncounted = not own
        self._places = own or places[:1]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Windows:
        scene, ((row, fresh_row), height), ((column, fresh_column), width) = self._places[index]
        rows, cols = self._areas[scene]
        y, x = rows.start + row, cols.start + column
        area = (slice(y, y + height), slice(x, x + width))
        labels = np.array(self.scenes[scene].labels[area])
        if not self.repeated:
            labels[: fresh_row - row] = NODATA_CLASS
            labels[:, : fresh_column - column] = NODATA_CLASS
        if self._uncounted:
            labels[:] = NODATA_CLASS
        image = np.array(self.scenes[scene].image()[:, area[0], area[1]])
        size, low_res = self.sizes.of((height, width))
        return {
            "image": torch.from_numpy(image)[None],
            "labels": torch.from_numpy(labels)[None],
            "table": self.table,
            "size": size,
            "low_res": low_res,
        }


def _spans(length: int, window: int) -> list[tuple[int, int]]:
    """(start, first pixel not covered before) of windows that cover an axis."""
    spans = [(0, 0)]
    while spans[-1][0] + window < length:
        covered = spans[-1][0] + window
        spans.append((min(covered, length - window), covered))
    return spans


def plain_table(scaling: InputScaling) -> NDArray[np.float32]:
    """(bands, 256): network input value of each byte."""
    mean, std = np.array(scaling.mean)[:, None], np.array(scaling.std)[:, None]
    table: NDArray[np.float64] = (np.arange(256) / scaling.max_value - mean) / std
    return table.astype(np.float32)


def colour_table(
    rng: np.random.Generator, strength: float, scaling: InputScaling
) -> NDArray[np.float32]:
    """(bands, 256): network input value of each byte after a random change of tone.

    Gamma, contrast and brightness for all bands and a gain for each; scenes of one sensor differ by
    that much. One table does what four passes over the pixels would.

    Args:
        rng: Draws the change.
        strength: 0 changes nothing, 1 is gamma and contrast within a factor of 1.35, brightness
            within ±0.1 of the range, and gains within 8 %.
        scaling: From bytes to network input.
    """
    bands = len(scaling.mean)
    gamma, contrast = np.exp(strength * rng.uniform(-0.3, 0.3, 2))
    brightness = strength * rng.uniform(-0.1, 0.1)
    gain = np.exp(strength * rng.uniform(-0.08, 0.08, (bands, 1)))
    value = (np.arange(256) / scaling.max_value) ** gamma
    value = np.clip((gain * value - 0.5) * contrast + 0.5 + brightness, 0, 1)
    mean, std = np.array(scaling.mean)[:, None], np.array(scaling.std)[:, None]
    table: NDArray[np.float64] = (value - mean) / std
    return table.astype(np.float32)


def _turned(planes: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """One of the eight mirrorings and right-angle turns of (C, n, n), as a view."""
    if turn & 1:
        planes = planes[:, ::-1]
    if turn & 2:
        planes = planes[:, :, ::-1]
    if turn & 4:
        planes = planes.transpose(0, 2, 1)
    return planes


def to_network(image: Tensor, table: Tensor) -> Tensor:
    """Turn bytes into network input: conversion, jitter and scaling in one pass, on any device.

    Args:
        image: (B, C, H, W) uint8.
        table: (B, C, 256) float32, the value of each byte.

    Returns:
        (B, C, H, W) float32.
    """
    if image.device.type == "cpu":
        out = torch.empty(image.shape, dtype=torch.float32)
        _look_up(image.numpy(), table.numpy(), out.numpy())
        return out
    return look_up_by_index(image, table)


def look_up_by_index(image: Tensor, table: Tensor) -> Tensor:
    """:func:`to_network` as one indexing a plane: what GPUs do fast."""
    looked_up = [
        values[plane.long()]
        for planes, tables in zip(image, table, strict=True)
        for plane, values in zip(planes, tables, strict=True)
    ]
    return torch.stack(looked_up).view(image.shape)


@compiled
def _look_up(
    planes: NDArray[np.uint8], table: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """out[b, c, y, x] = table[b, c, planes[b, c, y, x]]."""
    for b in range(planes.shape[0]):
        for c in range(planes.shape[1]):
            for y in range(planes.shape[2]):
                for x in range(planes.shape[3]):
                    out[b, c, y, x] = table[b, c, planes[b, c, y, x]]


def _px(size: Size) -> str:
    return f"{size[0]}" if size[0] == size[1] else f"{size[1]} x {size[0]}"
