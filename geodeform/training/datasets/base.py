"""What every dataset is: items (scenes or images) with labels, found in a folder as published.

A dataset finds its items when it is opened, and decodes one only when asked; decoding once and
keeping the result is :mod:`geodeform.training.cache`'s work, cutting windows
:mod:`geodeform.training.windows`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.config import DataConfig
from geodeform.errors import DatasetError

Image.MAX_IMAGE_PIXELS = None  # scenes of more than 179 MP are what this is for, not an attack

_SHOWN_ENTRIES = 8  # names that an error shows of a folder


@dataclass(frozen=True)
class LabelledScene:
    """A scene or image and its labels.

    Attributes:
        name: What it is called in messages.
        image: (H, W, C) bands as 8-bit values, red, green, blue first where it has them.
        labels: (H, W) class ids, 255 unknown.
    """

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class DatasetInfo:
    """What ``geodeform datasets`` says of a dataset.

    Attributes:
        name: As ``--dataset`` takes it.
        title: Its full name and who made it.
        layout: The expected tree, a few indented lines.
        classes: Names of its classes, in order of their ids; empty where they are the user's own.
        licence: Licence of images and labels, and what it allows.
        get: How to get the data.
        purpose: What a model that was trained on it is for, and where it fails.
    """

    name: str
    title: str
    layout: str
    classes: tuple[str, ...]
    licence: str
    get: str
    purpose: str


@dataclass(frozen=True)
class DatasetOptions:
    """What a user may say about a dataset beside its folder; only ``folder`` needs any of it.

    Attributes:
        classes: CSV or YAML file with the classes, where they do not follow from the data.
        label_column: Column of labelled polygons that holds the class.
        bands: 1-based bands to read, in the model's order; all of them where empty.
        nodata: Value of pixels without data, where the files do not say it.
    """

    classes: Path | None = None
    label_column: str = "class"
    bands: tuple[int, ...] = ()
    nodata: float | None = None

    @classmethod
    def of(cls, config: DataConfig) -> DatasetOptions:
        """Return what a recipe says."""
        return cls(
            classes=None if config.classes is None else Path(config.classes),
            label_column=config.label_column,
            bands=config.bands,
            nodata=config.nodata,
        )


@dataclass(frozen=True)
class Split:
    """Names of the items for training, validation and test; no item is in two of them."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, list[str]]:
        """JSON-ready lists."""
        return {"train": list(self.train), "val": list(self.val), "test": list(self.test)}


class LabelledDataset(ABC):
    """Items with labels, in a folder of the published layout.

    Args:
        root: The folder.
        options: What the user says beside it.

    Attributes:
        classes: Names and colours, in order of the ids.
        bands: Names of the bands, such as ("red", "green", "blue").
        gsd_m: Ground sampling distance in metres, None where it is unknown or varies.
        items: Names of the labelled items, sorted.

    Raises:
        DatasetError: If the folder has another layout; the message shows the expected tree and what
            was found.
    """

    info: ClassVar[DatasetInfo]
    classes: ClassScheme
    bands: tuple[str, ...] = ("red", "green", "blue")
    gsd_m: float | None = None
    items: tuple[str, ...]

    def __init__(self, root: str | Path, options: DatasetOptions | None = None) -> None:
        self.root = Path(root)
        self.options = options or DatasetOptions()

    @abstractmethod
    def load(self, item: str) -> LabelledScene:
        """Decode an item.

        Raises:
            DatasetError: If a file cannot be read, image and labels differ in size, or a label is
                neither a class nor ignored.
        """

    @abstractmethod
    def files(self, item: str) -> tuple[Path, ...]:
        """The files that :meth:`load` reads for an item."""

    def published_split(self) -> Split | None:
        """The split that the dataset comes with, or None."""
        return None

    def shares(self) -> tuple[float, float]:
        """Shares of validation and test items of a seeded split, where none is published."""
        return 0.2, 0.0

    def split(self, val_items: Sequence[str] = (), *, seed: int = 0) -> Split:
        """Decide which items train and which are held out; items are never cut in two.

        Args:
            val_items: Items to hold out; the published split where empty, else a seeded one by
                :meth:`shares`.
            seed: Of that.

        Raises:
            DatasetError: If an item is not there or none is left for training or validation.
        """
        if val_items:
            for item in val_items:
                if item not in self.items:
                    raise DatasetError(
                        f"Validation item {item} is not in {self.root}, which has "
                        f"{listed(self.items)}."
                    )
            # What the dataset keeps for the test never trains.
            published = self.published_split()
            test = () if published is None else published.test
            rest = [item for item in self.items if item not in val_items]
            split = Split(
                tuple(item for item in rest if item not in test),
                tuple(val_items),
                tuple(item for item in rest if item in test),
            )
        else:
            split = self.published_split() or seeded_split(self.items, self.shares(), seed)
        if not split.train:
            raise DatasetError(
                f"No item is left for training: {self.root} has {listed(self.items)} only."
            )
        if not split.val:
            raise DatasetError(
                f"No item is left for validation: {self.root} has {listed(self.items)} only; "
                "name some with data.val_items."
            )
        return split

    def wrong_layout(self, problem: str) -> DatasetError:
        """The error for a folder of another layout: expected tree and what was found."""
        return DatasetError(
            f"{self.root} does not have the layout of the {self.info.name} dataset: {problem}.\n"
            f"Expected:\n{self.info.layout}\nFound:\n{found_tree(self.root)}"
        )


class ImagePairs(LabelledDataset):
    """Images with a mask each.

    Attributes:
        pairs: Image and mask of each item.
    """

    pairs: dict[str, tuple[Path, Path]]

    def files(self, item: str) -> tuple[Path, ...]:
        """The image and its mask."""
        return self.pairs[item]

    @abstractmethod
    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        """Decode a mask as (H, W) class ids, 255 unknown.

        Raises:
            DatasetError: If it cannot be read, or has a value that is neither a class nor ignored.
        """

    def load(self, item: str) -> LabelledScene:
        """Decode an image and its mask.

        Raises:
            DatasetError: If a file cannot be read, their sizes differ, or the mask has a value that
                is neither a class nor ignored.
        """
        image_path, mask_path = self.pairs[item]
        image, labels = read_rgb(image_path), self.read_labels(mask_path)
        check_sizes(image_path, image, mask_path, labels)
        return LabelledScene(f"image {item}", image, labels)


def seeded_split(items: Iterable[str], shares: tuple[float, float], seed: int) -> Split:
    """Shuffle items by a seed and cut: (validation, test) shares, the rest trains.

    Both get at least one item where their share is above 0 and there are enough items.

    >>> seeded_split("abcdefghij", (0.2, 0.1), 0).to_dict()["val"]
    ['c', 'e']
    """
    names = sorted(items)
    order = np.random.default_rng(seed).permutation(len(names))
    counts = [max(1, round(len(names) * share)) if share > 0 else 0 for share in shares]
    n_val = min(counts[0], max(0, len(names) - 1))
    n_test = min(counts[1], max(0, len(names) - 1 - n_val))
    val = sorted(names[i] for i in order[:n_val])
    test = sorted(names[i] for i in order[n_val : n_val + n_test])
    train = sorted(names[i] for i in order[n_val + n_test :])
    return Split(tuple(train), tuple(val), tuple(test))


def listed(items: Sequence[str], most: int = 12) -> str:
    """Names for a sentence, the first few of many.

    >>> listed([str(i) for i in range(20)], 3)
    '0, 1, 2 and 17 more'
    """
    shown = ", ".join(items[:most]) or "nothing"
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown


def found_tree(root: Path) -> str:
    """The first names below a folder, two levels deep, as indented lines."""
    if not root.is_dir():
        return f"  ({root} is {'a file' if root.exists() else 'not there'})"
    lines = []
    for entry in sorted(root.iterdir()):
        inside = sorted(child.name for child in entry.iterdir())[:3] if entry.is_dir() else []
        lines.append(f"  {entry.name}{'/' if entry.is_dir() else ''} {', '.join(inside)}".rstrip())
    more = [f"  … and {len(lines) - _SHOWN_ENTRIES} more"] if len(lines) > _SHOWN_ENTRIES else []
    return "\n".join([*lines[:_SHOWN_ENTRIES], *more]) or "  (nothing)"


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode an image file as (H, W, 3) RGB.

    Raises:
        DatasetError: If it cannot be read.
    """
    return np.asarray(_decode(path, "RGB"))


def read_ids(path: Path) -> NDArray[np.uint8]:
    """Decode a mask whose pixel values are ids, (H, W); palettes are left unapplied.

    Raises:
        DatasetError: If it cannot be read, or is a colour image.
    """
    image = _decode(path, None)
    ids = np.asarray(image)
    if ids.ndim != 2:
        raise DatasetError(
            f"{path} is a colour image ({image.mode}) where a mask of class ids (one band) is "
            "expected."
        )
    if ids.dtype != np.uint8:
        if ids.size and (int(ids.min()) < 0 or int(ids.max()) > NODATA_CLASS):
            raise DatasetError(
                f"{path} has ids of {ids.min()} to {ids.max()}; only 0 to 255 can be classes."
            )
        ids = ids.astype(np.uint8)
    return ids


def _decode(path: Path, mode: str | None) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image if mode is None else image.convert(mode)
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: broken PNG chunks
        raise DatasetError(f"{path} cannot be read as an image ({error}).") from error


def map_ids(
    ids: NDArray[np.uint8], classes: Mapping[int, int], ignore: Iterable[int], where: str
) -> NDArray[np.uint8]:
    """Turn a mask's own ids into class ids.

    Args:
        ids: (H, W) values of the mask.
        classes: Value of the mask → class id.
        ignore: Values that mean "unknown" and become 255.
        where: What the mask is called in the error, normally its path.

    Raises:
        DatasetError: If a value is neither: an unlisted value never becomes a class in silence.
    """
    table = np.full(256, NODATA_CLASS, np.uint8)
    known = np.zeros(256, bool)
    for value, target in classes.items():
        table[value], known[value] = target, True
    known[list(ignore)] = True
    present = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
    strange = present[~known[present]]
    if strange.size:
        raise DatasetError(
            f"{where} has pixels of the unlisted id {strange[0]}; list it as a class or as ignored."
        )
    return table[ids]


def check_sizes(
    image_path: Path, image: NDArray[np.uint8], mask_path: Path, labels: NDArray[np.uint8]
) -> None:
    """Check that a mask fits its image.

    Raises:
        DatasetError: If their sizes differ.
    """
    if image.shape[:2] != labels.shape:
        raise DatasetError(
            f"{mask_path} is {labels.shape[1]} x {labels.shape[0]} px but its image "
            f"{image_path.name} is {image.shape[1]} x {image.shape[0]} px."
        )


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
    image_of = by_stem(images, image_suffixes)
    mask_of = by_stem(masks, mask_suffixes)
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


def by_stem(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Files of a folder by their names without suffix, sorted; none where there is no folder.

    Args:
        folder: The folder.
        suffixes: In lower case; files of other suffixes, and hidden ones, are passed over.

    Raises:
        DatasetError: If two files have the same name.
    """
    wanted = frozenset(suffixes)
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() not in wanted or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DatasetError(
                f"{found[path.stem]} and {path} have the same name; remove one of them."
            )
        found[path.stem] = path
    return found
