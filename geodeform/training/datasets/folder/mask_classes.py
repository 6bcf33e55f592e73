"""The classes that masks bring themselves: names, colours, or just ids."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio.shutil

from geodeform.classes import NODATA_CLASS, RGB
from geodeform.errors import DatasetError
from geodeform.training.datasets.base import listed
from geodeform.training.datasets.folder.class_files import CLASS_FILES
from geodeform.training.datasets.folder.classes import ClassRow, Legend, means_unknown
from geodeform.training.datasets.folder.masks import mask_bands, read_ids
from geodeform.training.datasets.folder.rasters import open_raster, row_blocks

_LOG = logging.getLogger(__name__)


def legend_of_masks(paths: Sequence[Path]) -> Legend:
    """Learn the classes from masks: from their category names, else from the ids in them.

    Raises:
        DatasetError: If masks name an id differently, hold colours, or cannot be read.
    """
    named: dict[int, ClassRow] = {}
    source: dict[int, Path] = {}
    for path in paths:
        for row in _category_rows(path):
            number = row.id or 0
            if named.setdefault(number, row).name != row.name:
                raise DatasetError(
                    f"{path} calls id {number} '{row.name}' but {source[number]} calls it "
                    f"'{named[number].name}'; list the classes in {CLASS_FILES[0]}."
                )
            source.setdefault(number, path)
    if named:
        rows = _tellable(list(named.values()))
        return Legend(rows, f"the category names of {paths[0].parent}")
    ids = sorted({number for path in paths for number in _found_ids(path)})
    where = f"the ids found in {paths[0].parent}"
    if not ids:
        raise DatasetError(f"No mask in {paths[0].parent} holds anything but unknown pixels.")
    if len(ids) > NODATA_CLASS:
        raise DatasetError(
            f"{paths[0].parent} holds {len(ids)} different ids, from {ids[0]} to {ids[-1]}: these "
            "cannot be masks of classes; give masks of at most 255 ids."
        )
    colours = next(filter(None, map(_table_colours, paths)), {})
    rows = _tellable([ClassRow(f"class {k}", k, colours.get(k)) for k in ids])
    _LOG.warning(
        "Nothing says what the ids in %s mean: the classes are those that are there, %s. Name them "
        "in a file %s beside the masks' folder, with the columns id, name and colour.",
        paths[0].parent,
        listed([row.name for row in rows]),
        CLASS_FILES[0],
    )
    return Legend(rows, where)


def _tellable(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """Rows without their colours where two have the same: tables are often half empty."""
    given = [row.colour for row in rows if row.colour is not None]
    if len(set(given)) == len(given):
        return list(rows)
    return [replace(row, colour=None) for row in rows]


def _category_rows(path: Path) -> list[ClassRow]:
    """Names and colours that a mask gives its ids: attribute table, else category names.

    rasterio has no interface for either, but GDAL writes both into a VRT of any raster.

    Raises:
        DatasetError: If the mask cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder, open_raster(path) as mask:
        target = Path(folder) / "mask.vrt"
        rasterio.shutil.copy(mask, str(target), driver="VRT")
        band = ElementTree.parse(target).getroot().find("VRTRasterBand")
    if band is None:
        return []
    rows = _table_rows(band)
    if not rows:
        colours = _table_colours(path)
        names = [(category.text or "").strip() for category in band.iterfind("CategoryNames/*")]
        rows = [
            ClassRow(name, k, colours.get(k), means_unknown(name))
            for k, name in enumerate(names)
            if name
        ]
    return [row for row in rows if row.id != NODATA_CLASS]


def _table_rows(band: ElementTree.Element) -> list[ClassRow]:
    """Classes of a raster attribute table; none where it has no values or no names."""
    fields = list(band.iterfind("GDALRasterAttributeTable/FieldDefn"))
    columns = {field.findtext("Usage"): index for index, field in enumerate(fields)}
    # GDALRATFieldUsage: 2 name, 5 value, 6 to 8 red, green, blue
    if not {"2", "5"} <= columns.keys():
        return []
    coloured = {"6", "7", "8"} <= columns.keys() and all(
        fields[columns[usage]].findtext("Type") == "0"  # whole numbers of 0…255
        for usage in "678"
    )
    rows = []
    for row in band.iterfind("GDALRasterAttributeTable/Row"):
        cells = [cell.text or "" for cell in row.iterfind("F")]
        name = cells[columns["2"]].strip()
        colour: RGB | None = None
        if coloured:
            r, g, b = (int(cells[columns[usage]]) for usage in "678")
            colour = (r, g, b)
        if name:
            number = int(float(cells[columns["5"]]))
            rows.append(ClassRow(name, number, colour, means_unknown(name)))
    return rows


def _table_colours(path: Path) -> dict[int, RGB]:
    """Colours of a mask's colour table by id; none where it has no table."""
    with open_raster(path) as mask:
        try:
            return {index: colour[:3] for index, colour in mask.colormap(1).items()}
        except ValueError:
            return {}


def _found_ids(path: Path) -> set[int]:
    """The ids in a mask, without 255 and nodata.

    Raises:
        DatasetError: If it holds colours.
    """
    found: set[int] = set()
    with open_raster(path) as mask:
        bands = mask_bands(mask, path)
        if len(bands) == 3:
            raise DatasetError(
                f"{path} is a coloured mask, but nothing says what its colours mean; list them in "
                f"{CLASS_FILES[0]} with the columns name, r, g and b."
            )
        for window in row_blocks(mask.shape, 2):
            values, known = read_ids(mask, bands[0], window, path)
            if values.dtype == np.uint8:
                found.update(np.flatnonzero(np.bincount(values[known], minlength=256)).tolist())
            else:
                found.update(int(value) for value in np.unique(values[known]))
    return found - {NODATA_CLASS}
