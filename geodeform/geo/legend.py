"""What the values of a class raster mean, as far as its file says it.

rasterio has no interface for category names and raster attribute tables, so they are read from
where GDAL keeps them: the PAM sidecar (``.aux.xml``) beside the file, or the XML of a VRT.
References: https://gdal.org/en/stable/user/raster_data_model.html and
https://gdal.org/en/stable/doxygen/classGDALRasterAttributeTable.html
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from geodeform.classes import NODATA_CLASS, RGB, ClassScheme, distinct_colours
from geodeform.errors import SceneError

CLASSES_TAG = "classes"
"""Tag of geodeform's own rasters: ``0=building, 1=land``."""

# columns of an attribute table by GDALRATFieldUsage, and what ESRI calls them
_USAGES = {
    "name": (2, ("class", "class_name", "class_names", "classname", "label", "name")),
    "value": (5, ("value",)),
    "low": (3, ()),
    "red": (6, ("red",)),
    "green": (7, ("green",)),
    "blue": (8, ("blue",)),
}
_REAL = 1  # GDALRATFieldType of a column of floating-point numbers

_BANDS = ("PAMRasterBand", "VRTRasterBand")

_WINDOW_PIXELS = 1 << 23


@dataclass(frozen=True)
class Legend:
    """What a class raster's file says about its values, and nothing more.

    Attributes:
        names: Value → name.
        colours: Value → (red, green, blue), each 0…255.
    """

    names: Mapping[int, str]
    colours: Mapping[int, RGB]

    def scheme(self, values: Sequence[int]) -> ClassScheme:
        """Name and colour each of 1 to 255 values, in their order.

        A value without a name is called ``class 12``, one without a colour gets a distinct one. Of
        values with the same name, each but the first has the value added to it: ``forest (12)``.

        Args:
            values: Values of the raster.

        Raises:
            ConfigError: If there is none, or there are more than 255.
        """
        names = [self.names.get(value, f"class {value}") for value in values]
        counts = Counter(names)
        seen: set[str] = set()
        for k, (name, value) in enumerate(zip(names, values, strict=True)):
            if name in seen or (counts[name] > 1 and value not in self.names):
                names[k] = f"{name} ({value})"
            seen.add(names[k])
        given = [self.colours[value] for value in values if value in self.colours]
        fresh = iter(distinct_colours(len(values) - len(given), given))
        return ClassScheme(
            tuple(names), tuple(self.colours.get(value) or next(fresh) for value in values)
        )


def read_legend(path: str | Path, values: Sequence[int] | None = None) -> Legend:
    """Read what a class raster says about its values: one of geodeform or of another tool.

    Names come from the raster attribute table, else from the category names, else from geodeform's
    own tag. Colours come from the attribute table, else from the colour table: of that only the
    values that have a name or, without names, those that occur, since a TIFF's always has 256
    entries and fills the unused ones with black or greys.

    Args:
        path: The raster; its first band counts.
        values: The values that occur, where they are known. Otherwise the pixels are read, if there
            is a colour table and there are no names.

    Returns:
        The names and colours; values of nodata may be among them where the file names them.

    Raises:
        SceneError: If the raster or its ``.aux.xml`` cannot be read.
    """
    with _opened(path) as dataset:
        names, colours = _described(path, dataset)
        try:
            table = dataset.colormap(1)
        except ValueError:  # it has none
            return Legend(names, colours)
        shown = names or (_occurring(dataset) if values is None else values)
    return Legend(names, {v: table[v][:3] for v in shown if v in table} | colours)


def read_scheme(path: str | Path) -> ClassScheme:
    """Return the classes of a class raster, with ids from 0 to the highest one.

    That is the highest value that has a name or occurs, whichever is higher; the pixels are read
    unless the raster is geodeform's own, whose tags list every class. See :meth:`Legend.scheme` for
    values without a name or a colour.

    Args:
        path: The raster; its first band counts.

    Raises:
        SceneError: If it cannot be read, has no class, or has values that are not 0…254.
    """
    with _opened(path) as dataset:
        occurring = [] if _tagged(dataset) else _occurring(dataset)
        unseen = {NODATA_CLASS, dataset.nodata}  # files often name their nodata value, too
    legend = read_legend(path, occurring or None)
    values = sorted({*occurring, *(legend.names.keys() - unseen)})
    if not values:
        raise SceneError(f"{path} has no classes: every pixel is nodata, and no value has a name.")
    for value in (values[0], values[-1]):
        if not 0 <= value < NODATA_CLASS:
            raise SceneError(
                f"{path} has the value {value}, but classes are 0 to 254: renumber its values."
            )
    return legend.scheme(range(values[-1] + 1))


def distinct_values(pixels: NDArray[Any]) -> list[int]:
    """Return the distinct values of an array of whole numbers, ascending.

    >>> distinct_values(np.array([[7, 3], [3, -1]], np.int16))
    [-1, 3, 7]
    """
    if pixels.size == 0:
        return []
    low, high = int(pixels.min()), int(pixels.max())
    if high - low < 1 << 16:  # counting is many times faster than sorting
        counts = np.bincount(pixels.ravel().astype(np.int64) - low)
        return [low + int(k) for k in np.flatnonzero(counts)]
    return [int(v) for v in np.unique(pixels)]


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as dataset:
                if not np.issubdtype(dataset.dtypes[0], np.integer):
                    raise SceneError(
                        f"{path} is {dataset.dtypes[0]}; a class raster holds whole numbers."
                    )
                yield dataset
        except RasterioError as error:
            raise SceneError(f"{path} cannot be read ({error}).") from error


def _occurring(dataset: Any) -> list[int]:
    """Return the values of the first band's pixels that are not masked, ascending."""
    found: set[int] = set()
    masked = MaskFlags.all_valid not in dataset.mask_flag_enums[0]
    rows = max(1, _WINDOW_PIXELS // dataset.width)
    for top in range(0, dataset.height, rows):
        window = Window(0, top, dataset.width, min(rows, dataset.height - top))
        pixels = dataset.read(1, window=window)
        if masked:
            pixels = pixels[dataset.read_masks(1, window=window) > 0]
        found.update(distinct_values(pixels))
    return sorted(found)


def _described(path: str | Path, dataset: Any) -> tuple[dict[int, str], dict[int, RGB]]:
    """Return names and colours from attribute table, category names or tags."""
    names: dict[int, str] = {}
    colours: dict[int, RGB] = {}
    vrt = str(path) if dataset.driver == "VRT" else None
    for source in (vrt, f"{path}.aux.xml"):
        if source is None or not Path(source).is_file():
            continue
        try:
            root = ElementTree.parse(source).getroot()
            for band in root:
                if band.tag in _BANDS and band.get("band") == "1":
                    _read_band(band, names, colours)
        except (ElementTree.ParseError, ValueError, OSError) as error:
            raise SceneError(
                f"{source} cannot be read ({error}); repair it or delete it."
            ) from error
    return names or _tagged(dataset), colours


def _read_band(band: ElementTree.Element, names: dict[int, str], colours: dict[int, RGB]) -> None:
    """Add what a band's category names and attribute table say; the table's names win."""
    for value, name in enumerate(band.iterfind("CategoryNames/Category")):
        if name.text and name.text.strip():
            names[value] = name.text.strip()
    for table in band.iterfind("GDALRasterAttributeTable"):
        read_table(table, names, colours)


def _tagged(dataset: Any) -> dict[int, str]:
    """Return the names in geodeform's own tag; a name may hold commas."""
    found = re.findall(
        r"(\d+)=(.+?)(?:, (?=\d+=)|$)", dataset.tags().get(CLASSES_TAG, ""), re.DOTALL
    )
    return {int(value): name for value, name in found}


def read_table(table: ElementTree.Element, names: dict[int, str], colours: dict[int, RGB]) -> None:
    """Add what a raster attribute table says."""
    columns, real = _columns(table)
    # tables of ERDAS Imagine have no column of values: the rows are equal steps
    start, step = float(table.get("Row0Min", 0)), float(table.get("BinSize", 1))
    for index, row in enumerate(table.iterfind("Row")):
        cells = [(cell.text or "").strip() for cell in row.iterfind("F")]
        entry = {what: cells[k] for what, k in columns.items() if k < len(cells)}
        written = entry.get("value", entry.get("low"))
        try:
            value = math.ceil(start + index * step) if written is None else int(float(written))
            if entry.get("name"):
                names[value] = entry["name"]
            levels = [float(entry[c]) for c in ("red", "green", "blue") if c in entry]
        except (ValueError, OverflowError):  # a row without a number says nothing
            continue
        if len(levels) == 3 and not all(map(math.isnan, levels)):
            scale = 255 if real else 1  # Imagine's colours are parts of 1
            red, green, blue = (min(max(round(scale * level), 0), 255) for level in levels)
            colours[value] = (red, green, blue)


def _columns(table: ElementTree.Element) -> tuple[dict[str, int], bool]:
    """Return where each kind of column is, and whether colours are parts of 1."""
    fields = [
        (
            (field.findtext("Name") or "").strip().lower(),
            int(field.findtext("Usage") or 0),
            int(field.findtext("Type") or 0),
        )
        for field in table.iterfind("FieldDefn")
    ]
    columns = {}
    for what, (usage, titles) in _USAGES.items():
        by_usage = [k for k, field in enumerate(fields) if field[1] == usage]
        by_title = [k for title in titles for k, field in enumerate(fields) if field[0] == title]
        if by_usage or by_title:
            columns[what] = (by_usage or by_title)[0]
    return columns, "red" in columns and fields[columns["red"]][2] == _REAL
