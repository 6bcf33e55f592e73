"""The places where a class raster says what its values mean, each read by itself.

Programs differ in which of them they look at: GDAL and QGIS read the colour table, category names
and the raster attribute table, QGIS a ``.qml`` of the same name first of all. So that they can be
compared, nothing is merged here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from geodeform.classes import RGB
from geodeform.geo.legend import read_table


@dataclass(frozen=True)
class Legend:
    """Names and colours by value, as one place has them (see also :mod:`geodeform.geo.legend`).

    Attributes:
        source: What the place is called.
        names: Name by value.
        colours: (red, green, blue) by value, each 0…255.
    """

    source: str
    names: dict[int, str]
    colours: dict[int, RGB]


@dataclass(frozen=True)
class Sidecar:
    """What GDAL's PAM sidecar (``.aux.xml``) says of the first band.

    Attributes:
        categories: Category names, value 0 first, or None.
        table: The raster attribute table, or None.
        bands: The largest band number that it describes.
        statistics: (minimum, maximum) as GDAL stored them, or None.
        approximate: Whether these are of a sample only.
    """

    categories: Legend | None
    table: Legend | None
    bands: int
    statistics: tuple[float, float] | None
    approximate: bool


def read_sidecar(path: Path) -> Sidecar:
    """Read a PAM sidecar.

    Args:
        path: The ``.aux.xml`` file.

    Raises:
        ElementTree.ParseError: If it is no XML.
        ValueError: If a number in it is none.
    """
    root = ElementTree.parse(path).getroot()
    bands = root.findall("PAMRasterBand")
    first = next((band for band in bands if band.get("band", "1") == "1"), None)
    largest = max((int(band.get("band", "1")) for band in bands), default=0)
    if first is None:
        return Sidecar(None, None, largest, None, False)
    categories = None
    listed = first.find("CategoryNames")
    if listed is not None:
        names = {k: entry.text or "" for k, entry in enumerate(listed.findall("Category"))}
        categories = Legend("category names", {k: name for k, name in names.items() if name}, {})
    table = first.find("GDALRasterAttributeTable")
    stored = {item.get("key", ""): item.text or "" for item in first.findall("Metadata/MDI")}
    low, high = stored.get("STATISTICS_MINIMUM"), stored.get("STATISTICS_MAXIMUM")
    return Sidecar(
        categories,
        None if table is None else _attribute_table(table),
        largest,
        None if low is None or high is None else (float(low), float(high)),
        stored.get("STATISTICS_APPROXIMATE") == "YES",
    )


def _attribute_table(table: ElementTree.Element) -> Legend:
    """Read names and colours of a raster attribute table."""
    names: dict[int, str] = {}
    colours: dict[int, RGB] = {}
    read_table(table, names, colours)
    return Legend("attribute table", names, colours)


def colour_table(dataset: Any) -> Legend | None:
    """Return the opaque colours of an open rasterio dataset's first band, or None."""
    try:
        table = dataset.colormap(1)
    except ValueError:  # it has none
        return None
    return Legend("colour table", {}, {k: c[:3] for k, c in table.items() if c[3] > 0})


def qml_legend(root: ElementTree.Element) -> Legend:
    """Read the paletted entries of a QGIS raster style."""
    names: dict[int, str] = {}
    colours: dict[int, RGB] = {}
    for value, label, colour in paletted_entries(root):
        names[value] = label
        if len(colour) >= 7:
            red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
            colours[value] = (red, green, blue)
    return Legend("QGIS style", names, colours)


def paletted_entries(root: ElementTree.Element) -> Iterator[tuple[int, str, str]]:
    """Value, label and ``#rrggbb`` of each entry of a QGIS paletted renderer."""
    for renderer in root.iter("rasterrenderer"):
        if renderer.get("type") == "paletted":
            for entry in renderer.iter("paletteEntry"):
                value = int(float(entry.get("value", "nan")))
                yield value, entry.get("label", ""), entry.get("color", "")
