"""Semantic segmentation of aerial imagery (Humans in the Loop, Dubai, CC0 1.0), by tile."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from geodeform.classes import RGB, ClassScheme
from geodeform.errors import DatasetError
from geodeform.training.datasets.base import (
    DatasetInfo,
    DatasetOptions,
    LabelledDataset,
    LabelledScene,
    Split,
    check_sizes,
    read_rgb,
)

_LOG = logging.getLogger(__name__)


class DubaiScenes(LabelledDataset):
    """Semantic segmentation of aerial imagery, in the published layout.

    ``Tile N/images/image_part_001.jpg`` … ``_009.jpg`` with ``.png`` masks of the same names under
    ``Tile N/masks``. The nine parts of a tile stitch row-major, 3×3, into one large scene; sizes of
    parts differ by a pixel. Items are the tiles' numbers; the published set is 1…8.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="dubai",
        title=(
            "Semantic segmentation of aerial imagery, Humans in the Loop with the Mohammed Bin "
            "Rashid Space Centre, Dubai"
        ),
        layout=(
            "  Tile 1/images/image_part_001.jpg … image_part_009.jpg\n"
            "  Tile 1/masks/image_part_001.png … image_part_009.png\n"
            "  Tile 2/ …"
        ),
        classes=("Building", "Land", "Road", "Vegetation", "Water"),
        licence="CC0-1.0",
        get=(
            "Free download from humansintheloop.org (Semantic Segmentation Dataset, Dubai), also "
            "on Kaggle."
        ),
        purpose=(
            "Land cover of arid cities in RGB imagery of about 1 m (0.5 to 1.5 m). Fails on other "
            "landscapes, coarser imagery such as Sentinel-2 or Landsat, and other sensors' "
            "colours."
        ),
    )
    # A 400 m running track in tile 7 measures 174 × 98 px; houses and roads agree in other tiles.
    gsd_m = 1.0
    classes = ClassScheme(
        names=info.classes,
        colours=((214, 72, 62), (229, 206, 157), (92, 92, 100), (76, 153, 67), (58, 124, 200)),
    )

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

    published_tiles = tuple(str(number) for number in range(1, 9))

    def __init__(self, root: str | Path, options: DatasetOptions | None = None) -> None:
        super().__init__(root, options)
        numbers = []
        for folder in sorted(self.root.glob("Tile *")) if self.root.is_dir() else []:
            number = folder.name.removeprefix("Tile ")
            if number.isdecimal() and folder.is_dir():
                numbers.append(int(number))
        self.items = tuple(str(number) for number in sorted(numbers))
        if not self.items:
            raise self.wrong_layout("no folder 'Tile N' is there")
        for tile in self.items:
            missing = [path for path in self.files(tile) if not path.is_file()]
            if missing:
                raise self.wrong_layout(f"'{missing[0].relative_to(self.root)}' is missing")
        absent = [tile for tile in self.published_tiles if tile not in self.items]
        if absent:
            _LOG.warning(
                "%s has %d of the published 8 tiles; missing: %s.",
                self.root,
                len(self.items),
                ", ".join(absent),
            )

    def published_split(self) -> Split | None:
        """Tile 7 is held out, as for the packaged model; None where it is not there."""
        if "7" not in self.items:
            return None
        return Split(tuple(tile for tile in self.items if tile != "7"), ("7",))

    def files(self, item: str) -> tuple[Path, ...]:
        """The nine images and nine masks of a tile."""
        images, masks = self._parts(item)
        return (*images, *masks)

    def load(self, item: str) -> LabelledScene:
        """Decode and stitch a tile.

        Raises:
            DatasetError: If a file cannot be read, parts do not fit together, or a mask has a
                colour that is neither a class nor ignored.
        """
        scheme = ClassScheme(self.classes.names, self.mask_colours)
        image_paths, mask_paths = self._parts(item)
        images = [read_rgb(path) for path in image_paths]
        masks = [
            scheme.encode_rgb(read_rgb(path), ignore=self.ignored_colours, where=str(path))
            for path in mask_paths
        ]
        for image_path, image, mask_path, mask in zip(
            image_paths, images, mask_paths, masks, strict=True
        ):
            check_sizes(image_path, image, mask_path, mask)
        where = self.root / f"Tile {item}"
        return LabelledScene(f"tile {item}", _stitch(images, where), _stitch(masks, where))

    def _parts(self, item: str) -> tuple[list[Path], list[Path]]:
        folder = self.root / f"Tile {item}"
        names = [f"image_part_{part:03d}" for part in range(1, 10)]
        return (
            [folder / "images" / f"{name}.jpg" for name in names],
            [folder / "masks" / f"{name}.png" for name in names],
        )


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
