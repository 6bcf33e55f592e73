"""Cityscapes (Cordts et al. 2016): 2048×1024 px street scenes, 19 evaluated classes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
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
    read_ids,
)

_LOG = logging.getLogger(__name__)

_IMAGE = "_leftImg8bit.png"
_LABEL_IDS = "_gtFine_labelIds.png"
_TRAIN_IDS = "_gtFine_labelTrainIds.png"
_PUBLISHED_IMAGES = {"train": 2975, "val": 500}


class Cityscapes(ImagePairs):
    """Cityscapes with fine annotations, in the published layout.

    ``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` with ``gtFine/SPLIT/CITY/*_gtFine_labelIds.png``.
    Items are the images' names without the suffix, such as ``aachen_000000_000019``. The test
    labels are not public (their files hold nothing), so test images are no items.

    ``labelIds`` come first, since they are as published; ``labelTrainIds``, which users make with
    the dataset's scripts and may define otherwise, are read where an image has only them.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="cityscapes",
        title="Cityscapes, finely annotated street scenes, Cordts et al. 2016",
        layout=(
            "  leftImg8bit/train/CITY/*_leftImg8bit.png\n"
            "  gtFine/train/CITY/*_gtFine_labelIds.png (or *_gtFine_labelTrainIds.png)\n"
            "  leftImg8bit/val/ …\n"
            "  gtFine/val/ …"
        ),
        classes=(
            "road",
            "sidewalk",
            "building",
            "wall",
            "fence",
            "pole",
            "traffic light",
            "traffic sign",
            "vegetation",
            "terrain",
            "sky",
            "person",
            "rider",
            "car",
            "truck",
            "bus",
            "train",
            "motorcycle",
            "bicycle",
        ),
        licence=(
            "Cityscapes' own licence: non-commercial use only (research, teaching, personal "
            "experiments), with citation. The images may not be passed on; trained models may, for "
            "the same uses."
        ),
        get=(
            "Register at cityscapes-dataset.com and download leftImg8bit_trainvaltest.zip and "
            "gtFine_trainvaltest.zip; unpack both in one folder."
        ),
        purpose=(
            "The paper's benchmark of street scenes seen from a car in European cities. Not a "
            "model for maps, nor for other cameras and countries."
        ),
    )
    classes = ClassScheme(
        names=info.classes,
        colours=(
            (128, 64, 128),
            (244, 35, 232),
            (70, 70, 70),
            (102, 102, 156),
            (190, 153, 153),
            (153, 153, 153),
            (250, 170, 30),
            (220, 220, 0),
            (107, 142, 35),
            (152, 251, 152),
            (70, 130, 180),
            (220, 20, 60),
            (255, 0, 0),
            (0, 0, 142),
            (0, 0, 70),
            (0, 60, 100),
            (0, 80, 100),
            (0, 0, 230),
            (119, 11, 32),
        ),
    )
    """The official palette."""

    label_ids: tuple[int, ...] = (
        *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22),
        *(23, 24, 25, 26, 27, 28, 31, 32, 33),
    )
    """The classes' ids in ``labelIds`` files, in the order of :attr:`classes`."""

    ignored_ids: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
    """The other ids of 0…33: void, and classes too rare to be evaluated."""

    def __init__(self, root: str | Path, options: DatasetOptions | None = None) -> None:
        super().__init__(root, options)
        self.pairs: dict[str, tuple[Path, Path]] = {}
        self._names: dict[str, list[str]] = {"train": [], "val": []}
        for part, names in self._names.items():
            for image, labels in self._pairs(part):
                item = image.name.removesuffix(_IMAGE)
                if item in self.pairs:
                    raise DatasetError(
                        f"Cityscapes image {item} is there twice, as {self.pairs[item][0]} and "
                        f"{image}; keep one of them."
                    )
                self.pairs[item] = (image, labels)
                names.append(item)
        self.items = tuple(sorted(self.pairs))
        if not self.items:
            raise self.wrong_layout(f"no leftImg8bit/train/CITY/*{_IMAGE} is there")
        for part, published in _PUBLISHED_IMAGES.items():
            count = len(self._names[part])
            if count != published:
                _LOG.warning("%s has %d of %d %s images.", root, count, published, part)

    def published_split(self) -> Split:
        """Training and validation as published; there is no public test part."""
        return Split(tuple(sorted(self._names["train"])), tuple(sorted(self._names["val"])))

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        """Decode labels of either kind; ids that are none of Cityscapes' are an error."""
        ids = read_ids(path)
        if path.name.endswith(_TRAIN_IDS):
            classes = {value: value for value in range(len(self.classes))}
            return map_ids(ids, classes, (255,), str(path))
        classes = {value: target for target, value in enumerate(self.label_ids)}
        return map_ids(ids, classes, self.ignored_ids, str(path))

    def _pairs(self, part: str) -> Iterator[tuple[Path, Path]]:
        """Images of a part with their label files, city by city.

        Raises:
            DatasetError: If an image has no label file.
        """
        for image in sorted((self.root / "leftImg8bit" / part).glob(f"*/*{_IMAGE}")):
            folder = self.root / "gtFine" / part / image.parent.name
            item = image.name.removesuffix(_IMAGE)
            candidates = [folder / (item + suffix) for suffix in (_LABEL_IDS, _TRAIN_IDS)]
            labels = next((path for path in candidates if path.is_file()), None)
            if labels is None:
                raise self.wrong_layout(
                    f"'{candidates[0].relative_to(self.root)}', the labels of {image.name}, "
                    "is missing"
                )
            yield image, labels
