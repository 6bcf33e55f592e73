"""Histology and other long images of varying size, in folders of images and masks of ids.

The layout and the classes are those of the paper's PCa-Histo (266 prostate biopsies, appendix A.6),
which is not public; with a ``classes.csv`` the same folders hold any other set. "Background" (all
unlabelled pixels, 94 % of PCa-Histo) is one of the paper's six classes and is evaluated as such;
only id 255 is unknown and left out.
"""

from __future__ import annotations

import colorsys
import csv
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from geodeform.classes import NODATA_CLASS, RGB, ClassScheme
from geodeform.errors import ConfigError, DatasetError
from geodeform.training.datasets.base import (
    DatasetInfo,
    DatasetOptions,
    ImagePairs,
    Split,
    map_ids,
    pairs_by_stem,
    read_ids,
)

_PARTS = ("train", "val", "test")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_MASK_SUFFIXES = (".png", ".tif", ".tiff")
_CLASS_FILE = "classes.csv"
_HUE_STEP = 0.618034  # golden ratio: successive hues are far apart for any number of classes


class HistologyImages(ImagePairs):
    """Images of varying size with masks of class ids, as the paper's PCa-Histo.

    ``train/images/NAME.png`` with ``train/masks/NAME.png``, likewise ``val`` and ``test``; or
    ``images/`` and ``masks/`` in the root, which are split by a seed in the paper's proportions.
    Items are the names without suffix, after the split's folder where there is one ("train/a").

    The classes are the paper's, or those of ``classes.csv`` in the root: a row a class in the order
    of the ids, ``name`` or ``name,r,g,b``, with or without that as its header.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="pca-histo",
        title=(
            "Histology or other long images of varying size, laid out as PCa-Histo of Jin et al. "
            "2022"
        ),
        layout=(
            "  train/images/NAME.png (or .jpg, .jpeg, .tif, .tiff)\n"
            "  train/masks/NAME.png (or .tif, .tiff), ids 0, 1, … and 255 for unknown\n"
            "  val/ …, test/ …\n"
            "or\n"
            "  images/NAME.png\n"
            "  masks/NAME.png\n"
            "and, where the classes are others,\n"
            "  classes.csv with a row 'name' or 'name,r,g,b' for each id"
        ),
        classes=(
            "Background",
            "Benign",
            "Gleason Grade 3",
            "Gleason Grade 4",
            "Atrophy",
            "HGPIN",
        ),
        licence=(
            "Your data's own. PCa-Histo itself is local to its authors' institutions and not "
            "public."
        ),
        get="Bring your own images and masks; PCa-Histo cannot be downloaded.",
        purpose=(
            "Whole slide images, strips and other images of varying shape; each is sampled at its "
            "own size (80 x 800 in the paper). Nothing that it gives is a diagnosis."
        ),
    )

    classes = ClassScheme(
        names=info.classes,
        colours=(
            (228, 228, 232),
            (96, 174, 108),
            (242, 190, 66),
            (206, 62, 58),
            (92, 138, 206),
            (142, 92, 172),
        ),
    )
    """Table 7 of the paper, with colours of our own; ``classes.csv`` replaces it."""

    def __init__(self, root: str | Path, options: DatasetOptions | None = None) -> None:
        super().__init__(root, options)
        self._names: dict[str, tuple[str, ...]] = {}
        self.pairs: dict[str, tuple[Path, Path]] = {}
        parts = [part for part in _PARTS if (self.root / part).is_dir()]
        flat = any((self.root / name).is_dir() for name in ("images", "masks"))
        if parts and flat:
            raise self.wrong_layout(
                f"it has both '{parts[0]}' and 'images' or 'masks' beside it, so the split is "
                "ambiguous"
            )
        for part in parts:
            pairs = {f"{part}/{name}": pair for name, pair in self._pairs(part).items()}
            self._names[part] = tuple(sorted(pairs))
            self.pairs |= pairs
        if flat:
            self.pairs = self._pairs("")
        self.items = tuple(sorted(self.pairs))
        if not self.items:
            raise self.wrong_layout("no image is in 'train/images' or 'images'")
        class_file = self.root / _CLASS_FILE
        if class_file.is_file():
            self.classes = read_classes(class_file)

    def published_split(self) -> Split | None:
        """The split's folders; None where images and masks lie in the root."""
        if not self._names:
            return None
        return Split(*(self._names.get(part, ()) for part in _PARTS))

    def shares(self) -> tuple[float, float]:
        """The paper's 27 and 39 of 266."""
        return 27 / 266, 39 / 266

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        """Decode a mask; ids that are neither a class nor 255 are an error."""
        classes = {value: value for value in range(len(self.classes))}
        return map_ids(read_ids(path), classes, (NODATA_CLASS,), str(path))

    def _pairs(self, part: str) -> dict[str, tuple[Path, Path]]:
        folder = self.root / part
        for name in ("images", "masks"):
            if not (folder / name).is_dir():
                missing = (folder / name).relative_to(self.root)
                raise self.wrong_layout(f"the folder '{missing}' is missing")
        return pairs_by_stem(folder / "images", folder / "masks", _IMAGE_SUFFIXES, _MASK_SUFFIXES)


def read_classes(path: Path) -> ClassScheme:
    """Read ``classes.csv``: a row a class in the order of the ids, ``name`` or ``name,r,g,b``.

    A first row whose first cell is "name" is the header. Classes without a colour get one.

    Raises:
        DatasetError: If the file cannot be read, a row is neither form, a name is there twice, or
            there are none or more than 255.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a CSV file of classes ({error}).") from error
    if rows and rows[0][0].lower() == "name":
        del rows[0]
    try:
        return ClassScheme(
            tuple(row[0] for row in rows),
            tuple(_colour(row, index) for index, row in enumerate(rows)),
        )
    except (ConfigError, ValueError) as error:
        raise DatasetError(f"{path} does not list classes: {error}") from error


def _colour(row: list[str], index: int) -> RGB:
    """Colour of a row of ``classes.csv``, or one by the class's id where it has none.

    Raises:
        ValueError: If it has another form.
    """
    if not row[0] or len(row) not in (1, 4):
        raise ValueError(f"'{','.join(row)}' is neither 'name' nor 'name,r,g,b'.")
    if len(row) == 4 and all(cell.isdecimal() for cell in row[1:]):
        return int(row[1]), int(row[2]), int(row[3])
    if len(row) == 4:
        raise ValueError(f"the colour of '{','.join(row)}' is not three numbers of 0 to 255.")
    red, green, blue = colorsys.hsv_to_rgb(index * _HUE_STEP % 1.0, 0.6, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)
