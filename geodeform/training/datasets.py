"""Scenes with labels, and the windows that training and validation cut from them.

A scene is decoded once and kept in memory as bytes. Training never needs its finest pixels: samples
lie many pixels apart, so windows are cut from 2×2 means (:func:`base_level`), which makes a batch
four to sixteen times cheaper. A batch is a pure function of (seed, step): it does not depend on
workers, and a resumed run sees the same windows as one that never stopped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from geodeform.classes import NODATA_CLASS, RGB, ClassScheme
from geodeform.compiled import compiled
from geodeform.errors import ConfigError, DatasetError
from geodeform.models.spec import InputScaling

_LOG = logging.getLogger(__name__)

_SIDE_STEP = 16  # sides of windows are multiples of this at their base level: halves stay even
_INDEX_STEP = 16  # source pixels between the positions remembered of each class


@dataclass(frozen=True)
class LabelledScene:
    """A scene and its labels.

    Attributes:
        name: What it is called in messages.
        image: (H, W, 3) RGB.
        labels: (H, W) class ids, 255 unknown.
    """

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


class DubaiScenes:
    """Semantic segmentation of aerial imagery (Humans in the Loop, Dubai, CC0 1.0), by tile.

    The published layout, ``Tile N/images/image_part_001.jpg`` … ``_009.jpg`` with ``.png`` masks of
    the same names under ``Tile N/masks``. The nine parts of a tile stitch row-major, 3×3, into one
    large scene; sizes of parts differ by a pixel.

    Args:
        root: The folder that holds the tiles.

    Attributes:
        tiles: Numbers of the tiles that are there; the published set is 1…8.

    Raises:
        DatasetError: If the folder does not have that layout; the message shows the expected tree
            and what was found.
    """

    name = "dubai"
    bands = ("red", "green", "blue")
    # A 400 m running track in tile 7 measures 174 × 98 px; houses and roads agree in other tiles.
    gsd_m = 1.0
    licence = "CC0-1.0"
    purpose = (
        "Land cover of arid cities in RGB imagery of about 1 m (0.5 to 1.5 m). Fails on other "
        "landscapes, coarser imagery such as Sentinel-2 or Landsat, and other sensors' colours."
    )
    """What a model that was trained on it is for, and where it fails."""
    source = (
        "Semantic segmentation of aerial imagery, Humans in the Loop with the Mohammed Bin Rashid "
        "Space Centre, Dubai (CC0 1.0)"
    )
    classes = ClassScheme(
        names=("Building", "Land", "Road", "Vegetation", "Water"),
        colours=((214, 72, 62), (229, 206, 157), (92, 92, 100), (76, 153, 67), (58, 124, 200)),
    )
    """What the classes are called and how a map shows them."""

    mask_colours: tuple[RGB, ...] = (
        (0x3C, 0x10, 0x98),
        (0x84, 0x29, 0xF6),
        (0x6E, 0xC1, 0xE4),
        (0xFE, 0xDD, 0x3A),
        (0xE2, 0xA9, 0x29),
    )
    """The classes' colours in the published masks, in the order of :attr:`classes`."""

    ignored_colours: tuple[RGB, ...] = ((0x9B, 0x9B, 0x9B), (0, 0, 0))
    """Unlabelled, and pixels that the annotators left black."""

    published_tiles = tuple(range(1, 9))

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        numbers = []
        for folder in sorted(self.root.glob("Tile *")) if self.root.is_dir() else []:
            number = folder.name.removeprefix("Tile ")
            if number.isdecimal() and folder.is_dir():
                numbers.append(int(number))
        self.tiles = tuple(sorted(numbers))
        if not self.tiles:
            raise self._wrong_layout("no folder 'Tile N' is there")
        for tile in self.tiles:
            for paths in self._parts(tile):
                missing = [path for path in paths if not path.is_file()]
                if missing:
                    raise self._wrong_layout(f"'{missing[0].relative_to(self.root)}' is missing")
        absent = [str(tile) for tile in self.published_tiles if tile not in self.tiles]
        if absent:
            _LOG.warning(
                "%s has %d of the published 8 tiles; missing: %s.",
                self.root,
                len(self.tiles),
                ", ".join(absent),
            )

    def split(self, val_tiles: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tiles for training and those for validation; tiles are never cut in two.

        Raises:
            DatasetError: If a validation tile is not there or none is left for training.
        """
        have = ", ".join(map(str, self.tiles))
        for tile in val_tiles:
            if tile not in self.tiles:
                raise DatasetError(
                    f"Validation tile {tile} is not in {self.root}, which has tiles {have}."
                )
        rest = tuple(tile for tile in self.tiles if tile not in val_tiles)
        if not rest:
            raise DatasetError(f"No tile is left for training: {self.root} has tiles {have} only.")
        return rest, tuple(val_tiles)

    def load(self, tile: int) -> LabelledScene:
        """Decode and stitch a tile.

        Raises:
            DatasetError: If a file cannot be read, parts do not fit together, or a mask has a
                colour that is neither a class nor ignored.
        """
        scheme = ClassScheme(self.classes.names, self.mask_colours)
        image_paths, mask_paths = self._parts(tile)
        images = [_read_rgb(path) for path in image_paths]
        masks = [
            scheme.encode_rgb(_read_rgb(path), ignore=self.ignored_colours, where=str(path))
            for path in mask_paths
        ]
        for path, image, mask in zip(mask_paths, images, masks, strict=True):
            if image.shape[:2] != mask.shape:
                raise DatasetError(
                    f"{path} is {mask.shape[1]} x {mask.shape[0]} px but its image is "
                    f"{image.shape[1]} x {image.shape[0]} px."
                )
        where = self.root / f"Tile {tile}"
        return LabelledScene(f"tile {tile}", _stitch(images, where), _stitch(masks, where))

    def _parts(self, tile: int) -> tuple[list[Path], list[Path]]:
        folder = self.root / f"Tile {tile}"
        names = [f"image_part_{part:03d}" for part in range(1, 10)]
        return (
            [folder / "images" / f"{name}.jpg" for name in names],
            [folder / "masks" / f"{name}.png" for name in names],
        )

    def _wrong_layout(self, problem: str) -> DatasetError:
        expected = (
            "  Tile 1/images/image_part_001.jpg … image_part_009.jpg\n"
            "  Tile 1/masks/image_part_001.png … image_part_009.png\n"
            "  Tile 2/ …"
        )
        return DatasetError(
            f"{self.root} does not have the layout of the dubai dataset: {problem}.\n"
            f"Expected:\n{expected}\nFound:\n{_tree(self.root)}"
        )


def _tree(root: Path, most: int = 8) -> str:
    """The first names below a folder, two levels deep, as indented lines."""
    if not root.is_dir():
        return f"  ({root} is {'a file' if root.exists() else 'not there'})"
    lines = []
    for entry in sorted(root.iterdir()):
        inside = sorted(child.name for child in entry.iterdir())[:3] if entry.is_dir() else []
        lines.append(f"  {entry.name}{'/' if entry.is_dir() else ''} {', '.join(inside)}".rstrip())
    more = [f"  … and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join([*lines[:most], *more]) or "  (nothing)"


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNG chunks
        raise DatasetError(f"{path} cannot be read as an image ({error}).") from error


def _stitch(parts: Sequence[NDArray[np.uint8]], where: Path) -> NDArray[np.uint8]:
    """Join nine arrays row-major, 3×3.

    Raises:
        DatasetError: If the parts of a row differ in height, or the rows in width.
    """
    rows = [parts[start : start + 3] for start in (0, 3, 6)]
    widths = {tuple(part.shape[1] for part in row) for row in rows}
    if any(len({part.shape[0] for part in row}) > 1 for row in rows) or len(widths) > 1:
        sizes = ", ".join(f"{part.shape[1]} x {part.shape[0]}" for part in parts)
        raise DatasetError(f"The parts of {where} do not fit in three rows of three: {sizes} px.")
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


DATASETS = {DubaiScenes.name: DubaiScenes}
"""Datasets by name."""


class Batch(TypedDict):
    """One step's windows.

    ``image`` is (B, 3, n, n), network input values, at the batch's base level; ``labels`` is
    (B, m, m) uint8 at full resolution, 255 unknown, of the same ground; ``size`` is the side of the
    sampled image, ``uniform`` whether it is to be sampled uniformly.
    """

    image: Tensor
    labels: Tensor
    size: int
    uniform: bool


class ValWindow(TypedDict):
    """A validation window at full resolution: ``image`` (1, 3, h, w), ``labels`` (h, w) uint8."""

    image: Tensor
    labels: Tensor


def base_level(window: int, largest_size: int) -> int:
    """How often a window may be halved and still have four pixels a sample and axis.

    Samples of a uniform grid then read means of at least two such pixels, and still whole ones
    where a density draws them together to half their distance.

    >>> base_level(1024, 128), base_level(1024, 64), base_level(512, 128)
    (1, 2, 0)
    """
    return max(0, int(np.log2(window / (4 * largest_size))))


def halve(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """2×2 means, rounded, of (H, W, …); an odd last row or column is dropped."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    total = image[0:height:2, 0:width:2].astype(np.uint16)
    total += image[1:height:2, 0:width:2]
    total += image[0:height:2, 1:width:2]
    total += image[1:height:2, 1:width:2]
    return ((total + 2) >> 2).astype(np.uint8)


@dataclass(frozen=True)
class WindowSettings:
    """How training windows are drawn; see :class:`geodeform.config.DataConfig`.

    Attributes:
        window: Side in source pixels.
        scale: Range of the factor on it, one for each batch.
        sizes: Sides of the sampled image, one drawn for each batch.
        low_res: Side of the low-resolution view.
        batch_size: Windows a batch.
        balance: Share of windows that a class drawn evenly places.
        flips: Whether to mirror and turn.
        colour: Strength of the colour jitter.
        uniform_share: Share of batches to be sampled uniformly.
        seed: Of all of this.
    """

    window: int
    scale: tuple[float, float]
    sizes: tuple[int, ...]
    low_res: int
    batch_size: int
    balance: float
    flips: bool
    colour: float
    uniform_share: float
    seed: int


class TrainWindows(Dataset[Batch]):
    """Batches of random windows; item k is the batch of step k, whatever was asked before.

    Args:
        scenes: The training scenes.
        n_classes: Number of classes.
        scaling: From bytes to network input.
        settings: How windows are drawn.

    Raises:
        ConfigError: If a scene is smaller than the window.
    """

    def __init__(
        self,
        scenes: Sequence[LabelledScene],
        n_classes: int,
        scaling: InputScaling,
        settings: WindowSettings,
    ) -> None:
        self.settings = settings
        self.scaling = scaling
        smallest = min(scenes, key=lambda scene: min(scene.labels.shape))
        self._limit = int(min(smallest.labels.shape))
        if self._limit < settings.window:
            raise ConfigError(
                f"Windows of {settings.window} px do not fit in {smallest.name} "
                f"({smallest.labels.shape[1]} x {smallest.labels.shape[0]} px); use smaller ones."
            )
        self.level = base_level(settings.window, max(settings.sizes))
        self.labels = [scene.labels for scene in scenes]
        self.planes = []  # (3, H >> level, W >> level) of each scene
        for scene in scenes:
            image = scene.image
            for _ in range(self.level):
                image = halve(image)
            self.planes.append(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
        counts = sum(np.bincount(labels.ravel(), minlength=256) for labels in self.labels)
        self.class_counts: NDArray[np.int64] = np.asarray(counts)[:n_classes]
        areas = np.array([labels.size for labels in self.labels], float)
        self._share = areas / areas.sum()
        self._places = [self._find(value) for value in range(n_classes)]
        self._present = [value for value in range(n_classes) if len(self._places[value])]

    def _find(self, value: int) -> NDArray[np.int32]:
        """(n, 3) scene, row, column of every _INDEX_STEP-th pixel of a class."""
        found = []
        for index, labels in enumerate(self.labels):
            rows, columns = np.nonzero(labels[::_INDEX_STEP, ::_INDEX_STEP] == value)
            place = np.stack((np.full_like(rows, index), rows * _INDEX_STEP, columns * _INDEX_STEP))
            found.append(place.T.astype(np.int32))
        return np.concatenate(found)

    def __getitem__(self, step: int) -> Batch:
        s = self.settings
        rng = np.random.default_rng((s.seed, step))
        size = int(rng.choice(s.sizes))
        uniform = bool(rng.random() < s.uniform_share)
        sides = self._sides(size)
        side = int(sides[rng.integers(len(sides))])
        small = side >> self.level
        image = np.empty((s.batch_size, 3, small, small), np.float32)
        labels = np.empty((s.batch_size, side, side), np.uint8)
        for index in range(s.batch_size):
            scene, row, column = self._place(rng, side)
            turn = int(rng.integers(8)) if s.flips else 0
            table = colour_table(rng, s.colour, self.scaling)
            y, x = row >> self.level, column >> self.level
            plane = self.planes[scene][:, y : y + small, x : x + small]
            _look_up(_turned(plane, turn), table, image[index])
            window = self.labels[scene][row : row + side, column : column + side]
            labels[index] = _turned(window[None], turn)[0]
        return {
            "image": torch.from_numpy(image),
            "labels": torch.from_numpy(labels),
            "size": size,
            "uniform": uniform,
        }

    def _sides(self, size: int) -> list[int]:
        """Sides that a batch sampled at ``size`` may have, in source pixels, ascending.

        Multiples of the sampled size and of the view's at the base level where there are any: area
        averages over whole pixels are several times faster.
        """
        s = self.settings
        low, high = s.window * s.scale[0], min(s.window * s.scale[1], self._limit)
        for step in (math.lcm(size, s.low_res), _SIDE_STEP):
            step <<= self.level
            sides = list(range(math.ceil(low / step) * step, int(high) + 1, step))
            if sides:
                return sides
        return [s.window >> self.level << self.level]

    def _place(self, rng: np.random.Generator, side: int) -> tuple[int, int, int]:
        """Scene, row and column of a window's corner, on a pixel of the base level."""
        if rng.random() < self.settings.balance:
            places = self._places[self._present[rng.integers(len(self._present))]]
            scene, row, column = places[rng.integers(len(places))]
            height, width = self.labels[scene].shape
            # The chosen pixel lies anywhere in the window, not always in its middle.
            row = np.clip(row - rng.integers(side), 0, height - side)
            column = np.clip(column - rng.integers(side), 0, width - side)
        else:
            scene = rng.choice(len(self._share), p=self._share)
            height, width = self.labels[scene].shape
            row = rng.integers(height - side + 1)
            column = rng.integers(width - side + 1)
        return (
            int(scene),
            int(row) >> self.level << self.level,
            int(column) >> self.level << self.level,
        )


class StepSampler(Sampler[int]):
    """The steps that are still to do, in order.

    Args:
        steps: All steps of the training.
        done: Steps that a resumed run has behind it.
    """

    def __init__(self, steps: int, done: int = 0) -> None:
        self.steps = steps
        self.done = done

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.done, self.steps))

    def __len__(self) -> int:
        # Lightning counts batches from the beginning of the training, also when resumed.
        return self.steps


class ValWindows(Dataset[ValWindow]):
    """Windows on a regular grid over the held-out scenes, at full resolution.

    The grid covers every pixel; where the last row or column of windows reaches back over the one
    before, labels already counted are 255, so that no pixel counts twice.

    Args:
        scenes: The held-out scenes.
        window: Side in pixels; scenes smaller than that give one window of their own size.
        scaling: From bytes to network input.
        most: At most this many windows, spread evenly; None for all.
    """

    def __init__(
        self,
        scenes: Sequence[LabelledScene],
        window: int,
        scaling: InputScaling,
        most: int | None = None,
    ) -> None:
        self.scenes = scenes
        self.scaling = scaling
        self.window = window
        places = [
            (index, row, column)
            for index, scene in enumerate(scenes)
            for row in _spans(scene.labels.shape[0], window)
            for column in _spans(scene.labels.shape[1], window)
        ]
        if most is not None and most < len(places):
            chosen = np.linspace(0, len(places) - 1, most).round().astype(int)
            places = [places[i] for i in chosen]
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> ValWindow:
        scene, (row, fresh_row), (column, fresh_column) = self._places[index]
        area = (slice(row, row + self.window), slice(column, column + self.window))
        labels = self.scenes[scene].labels[area].copy()
        labels[: fresh_row - row] = NODATA_CLASS
        labels[:, : fresh_column - column] = NODATA_CLASS
        bands = np.moveaxis(self.scenes[scene].image[area], -1, 0)
        image = np.empty(bands.shape, np.float32)
        _look_up(bands, plain_table(self.scaling), image)
        return {"image": torch.from_numpy(image)[None], "labels": torch.from_numpy(labels)}


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


@compiled
def _look_up(
    planes: NDArray[np.uint8], table: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """out[c, y, x] = table[c, planes[c, y, x]]: conversion, jitter and scaling in one pass."""
    for c in range(planes.shape[0]):
        for y in range(planes.shape[1]):
            for x in range(planes.shape[2]):
                out[c, y, x] = table[c, planes[c, y, x]]
