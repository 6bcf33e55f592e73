"""DeepGlobe land cover (2018): 2448×2448 px satellite images of 0.5 m, six evaluated classes.

Masks follow the rule of the dataset's README: values may not be pure 0 and 255, so each channel is
set to 0 below 128 and to 255 from 128 on. Of the eight colours that this leaves, six are classes,
black is unknown, and red (255, 0, 0) is none of them and an error.

The paper's split of 455, 207 and 142 images makes 804, one more than the dataset has. A seeded
split here keeps its 207 and 142 and trains on the 454 that remain, the numbers of GLNet's lists.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from geodeform.classes import RGB, ClassScheme
from geodeform.errors import DatasetError
from geodeform.training.datasets.base import (
    DatasetInfo,
    DatasetOptions,
    ImagePairs,
    Split,
    read_rgb,
    seeded_split,
)

_LOG = logging.getLogger(__name__)

_IMAGE, _MASK = "_sat.jpg", "_mask.png"
_THRESHOLD = 128
_PUBLISHED_IMAGES = 803
_VAL_SHARE_OF_TRAINING = 0.2  # of torchgeo's training_data, as its DeepGlobe data module takes
_VAL_LISTS = ("val.txt", "crossvali.txt")


class DeepGlobeLandCover(ImagePairs):
    """DeepGlobe land cover: any folder, at any depth, with ``ID_sat.jpg`` and ``ID_mask.png``.

    A mask lies beside its image, or in ``masks/`` where the image lies in ``images/``. That covers
    the original download (``train/``) and torchgeo's (``data/training_data``, ``data/test_data``).
    Images without a mask are no items. Items are the images' IDs.

    The published split is the one of ``train.txt``, ``val.txt`` or ``crossvali.txt``, and
    ``test.txt`` in the root (GLNet's lists: a file name or an ID a line), else that of
    ``training_data`` and ``test_data``, whose validation items are a fixed share of the training
    data. Without either the split is seeded, in the paper's proportions.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="deepglobe",
        title="DeepGlobe 2018 land cover classification, Demir et al. (imagery by DigitalGlobe)",
        layout=(
            "  train/ID_sat.jpg, ID_mask.png                      (the original download)\n"
            "or\n"
            "  data/training_data/images/ID_sat.jpg               (torchgeo's)\n"
            "  data/training_data/masks/ID_mask.png\n"
            "  data/test_data/ …\n"
            "and, where they are there, the split in\n"
            "  train.txt, val.txt or crossvali.txt, test.txt"
        ),
        classes=(
            "Urban land",
            "Agriculture land",
            "Rangeland",
            "Forest land",
            "Water",
            "Barren land",
        ),
        licence=(
            "The challenge's own terms (imagery by DigitalGlobe): research use only, which goes "
            "for models trained on it as well; the images may not be passed on."
        ),
        get=(
            "Register at the challenge (deepglobe.org, CodaLab competition 18468), or download "
            "'DeepGlobe Land Cover Classification Dataset' from Kaggle. Only the 803 training "
            "images have public masks."
        ),
        purpose=(
            "Rural land cover in RGB imagery of 0.5 m, and the paper's benchmark. Fails on dense "
            "cities and coarser imagery; roads and small objects were not annotated."
        ),
    )
    gsd_m = 0.5
    classes = ClassScheme(
        names=info.classes,
        colours=(
            (0, 255, 255),
            (255, 255, 0),
            (255, 0, 255),
            (0, 255, 0),
            (0, 0, 255),
            (255, 255, 255),
        ),
    )
    """The colours are the masks' own."""

    ignored_colours: tuple[RGB, ...] = ((0, 0, 0),)
    """Unknown: clouds and others."""

    def __init__(self, root: str | Path, options: DatasetOptions | None = None) -> None:
        super().__init__(root, options)
        self.pairs, unlabelled = _find_pairs(self.root)
        self.items = tuple(sorted(self.pairs))
        if unlabelled:
            _LOG.info("%s has %d images without a mask; they are left out.", root, unlabelled)
        if not self.items:
            raise self.wrong_layout(f"no ID{_IMAGE} with its ID{_MASK} is there")
        if len(self.items) != _PUBLISHED_IMAGES:
            _LOG.warning(
                "%s has %d labelled images, the published set %d.",
                root,
                len(self.items),
                _PUBLISHED_IMAGES,
            )

    def published_split(self) -> Split | None:
        """The split of the list files, else of torchgeo's folders; None without either.

        Raises:
            DatasetError: If a list is missing, cannot be read, or shares an item with another.
        """
        return self._listed_split() or self._folder_split()

    def shares(self) -> tuple[float, float]:
        """The paper's 207 and 142 of 803."""
        return 207 / _PUBLISHED_IMAGES, 142 / _PUBLISHED_IMAGES

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        """Decode a mask, thresholded; a colour that is neither a class nor unknown is an error."""
        mask = _binarised(read_rgb(path), path)
        return self.classes.encode_rgb(mask, ignore=self.ignored_colours, where=str(path))

    def _listed_split(self) -> Split | None:
        train_list, test_list = self.root / "train.txt", self.root / "test.txt"
        val_lists = [self.root / name for name in _VAL_LISTS if (self.root / name).is_file()]
        if not (train_list.is_file() or test_list.is_file() or val_lists):
            return None
        if not train_list.is_file() or len(val_lists) != 1:
            raise DatasetError(
                f"The split lists of {self.root} are incomplete or ambiguous: it needs train.txt "
                f"with one of {' and '.join(_VAL_LISTS)}, or no list at all."
            )
        paths = [train_list, val_lists[0], *([test_list] if test_list.is_file() else [])]
        lists = {path: _listed_ids(path) for path in paths}
        self._check_lists(lists)
        present = [
            tuple(item for item in self.items if item in listed) for listed in lists.values()
        ]
        return Split(*present)

    def _check_lists(self, lists: Mapping[Path, set[str]]) -> None:
        """No item may be in two lists; lists and items that do not meet are warned of."""
        home: dict[str, Path] = {}
        for path, listed in lists.items():
            for item in sorted(listed):
                if item in home:
                    raise DatasetError(
                        f"{item} is in both {home[item]} and {path}; take it out of one of them."
                    )
                home[item] = path
        absent = len(home.keys() - self.pairs.keys())
        unlisted = len(self.pairs.keys() - home.keys())
        if absent:
            _LOG.warning("%d entries of the split lists of %s have no files.", absent, self.root)
        if unlisted:
            _LOG.warning("%d images of %s are in no split list: unused.", unlisted, self.root)

    def _folder_split(self) -> Split | None:
        test = tuple(
            item
            for item, (image, _) in sorted(self.pairs.items())
            if "test_data" in image.relative_to(self.root).parts
        )
        train = [item for item in self.items if item not in test]
        if not (train and test):
            return None
        split = seeded_split(train, (_VAL_SHARE_OF_TRAINING, 0.0), seed=0)
        return Split(split.train, split.val, test)


def _find_pairs(root: Path) -> tuple[dict[str, tuple[Path, Path]], int]:
    """Image and mask by ID, and the number of images without a mask.

    Raises:
        DatasetError: If an ID is there twice, or an image has two masks.
    """
    pairs: dict[str, tuple[Path, Path]] = {}
    unlabelled = 0
    for image in _images(root):
        item = image.name.removesuffix(_IMAGE)
        mask = _mask_of(image, item)
        if mask is None:
            unlabelled += 1
        elif item in pairs:
            raise DatasetError(
                f"DeepGlobe image {item} is there twice, as {pairs[item][0]} and {image}; "
                "keep one of them."
            )
        else:
            pairs[item] = (image, mask)
    return pairs, unlabelled


def _images(root: Path) -> Iterator[Path]:
    """Every ``ID_sat.jpg`` below a folder; linked folders are followed, each folder once."""
    seen = set()
    for name, folders, files in os.walk(root, followlinks=True):
        folder = Path(name)
        if folder.resolve() in seen:  # a link to a folder that was walked, or a loop
            folders.clear()
            continue
        seen.add(folder.resolve())
        folders.sort()
        for file in sorted(files):
            if file.endswith(_IMAGE) and not file.startswith("."):
                yield folder / file


def _mask_of(image: Path, item: str) -> Path | None:
    """The mask of an image, beside it or in the sibling folder.

    Raises:
        DatasetError: If both are there.
    """
    candidates = [image.with_name(item + _MASK)]
    if image.parent.name == "images":
        candidates.append(image.parent.with_name("masks") / (item + _MASK))
    found = [path for path in candidates if path.is_file()]
    if len(found) > 1:
        raise DatasetError(f"{image} has two masks, {found[0]} and {found[1]}; remove one of them.")
    return found[0] if found else None


def _listed_ids(path: Path) -> set[str]:
    """IDs of a list file, whose lines are IDs or names of images or masks.

    Raises:
        DatasetError: If it is not a text file.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as a list of image names ({error}).") from error
    names = (PurePosixPath(line.strip()).name for line in lines)
    return {name.removesuffix(_IMAGE).removesuffix(_MASK) for name in names if name}


def _binarised(mask: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """Set each channel of a mask to 0 or 255, at the published threshold.

    Raises:
        DatasetError: If no value reaches the threshold though the mask is not black: such a mask
            holds class ids and would become unknown as a whole.
    """
    bright = mask >= _THRESHOLD
    if mask.any() and not bright.any():
        raise DatasetError(
            f"{path} has no value of {_THRESHOLD} or more, so none of DeepGlobe's colours; masks "
            "must be the published colour images, not class ids."
        )
    pure = np.where(bright, np.uint8(255), np.uint8(0))
    impure = int((pure != mask).any(axis=-1).sum())
    if impure:
        _LOG.info("%s has %d pixels of impure colours; they are thresholded.", path, impure)
    return pure
