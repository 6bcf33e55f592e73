"""QGIS styles: how geodeform's outputs look when they are opened, without a click.

A style is a QML document. QGIS loads ``map.qml`` with ``map.tif`` or ``map.fgb`` by itself, and a
GeoPackage's style from its table ``layer_styles``. The documents hold only what differs from QGIS's
defaults; QGIS 3.22 and all later versions read them. References: what QGIS itself writes by "Save
Style…", and https://docs.qgis.org/latest/en/docs/user_manual/style_library/
"""

from __future__ import annotations

import math
import sqlite3
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geodeform.classes import RGB, ClassScheme, from_hex, to_hex
from geodeform.errors import OutputError
from geodeform.geo.outputs import final_path

QGIS_VERSION = "3.22.0"
"""The oldest QGIS that the styles and projects are for; newer ones read them too."""

# matplotlib's viridis and magma at 0, 1/10 … 1: perceptually uniform, safe for the colour-blind,
# still ordered in grey print; https://bids.github.io/colormap/
# fmt: off
_VIRIDIS = (
    "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c",
    "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725",
)
_MAGMA = (
    "#000004", "#140e36", "#3b0f70", "#641a80", "#8c2981", "#b73779",
    "#de4968", "#f7705c", "#fe9f6d", "#fecf92", "#fcfdbf",
)
# fmt: on

_RASTER_PART, _VECTOR_PART = "pipe", "renderer-v2"  # what each kind of style is known by
_POINT, _POLYGON = "0", "2"  # QGIS's numbers of geometry types
_MEASURED_SIDE = 2048  # pixels a side from which a range is measured


def style_path(path: str | Path) -> Path:
    """Return where QGIS looks for the style of a raster or vector file.

    >>> style_path("maps/scene_landcover.tif").name
    'scene_landcover.qml'
    """
    return Path(path).with_suffix(".qml")


def class_raster_style(scheme: ClassScheme) -> str:
    """Return the style of a class raster: its classes by name and colour, nothing else.

    Without it QGIS lists all 256 entries of the file's colour table. Pixels of other values, and
    no data, are transparent.

    Args:
        scheme: Names and colours; ids are the raster's values.
    """
    root, renderer = _raster_style("paletted", band="1")
    palette = SubElement(renderer, "colorPalette")
    for value, (name, colour) in enumerate(zip(scheme.names, scheme.colours, strict=True)):
        SubElement(
            palette,
            "paletteEntry",
            value=str(value),
            color=to_hex(colour).lower(),
            alpha="255",
            label=name,
        )
    return _text(root)


def confidence_style() -> str:
    """Return the style of a confidence raster: 0 to 100 % from dark to light.

    The values are the confidence itself, 0…1: QGIS applies the band's scale of 1/255. The range is
    always all of it, so that maps can be compared.
    """
    values = np.linspace(0.0, 1.0, len(_MAGMA))
    root, shader = _pseudocolour_style(
        [(float(v), c, f"{v:.0%}") for v, c in zip(values, _MAGMA, strict=True)]
    )
    # one bar, which QGIS labels "0%" and "100%" by its percentage format
    legend = SubElement(shader, "rampLegendSettings", useContinuousLegend="1", orientation="2")
    number = SubElement(legend, "numericFormat", id="percentage")
    options = SubElement(number, "Option", type="Map")
    SubElement(options, "Option", name="input_values", type="int", value="1")  # fractions
    SubElement(options, "Option", name="decimals", type="int", value="0")
    return _text(root)


def density_style(low: float, high: float) -> str:
    """Return the style of a density raster: viridis on a logarithmic scale.

    The legend says ``1 in 50 pixels``: one sample for 50 pixels of the scene. Densities outside the
    range have the colours of its ends.

    Args:
        low: Sampled pixels per scene pixel of the darkest colour, above 0; as from
            :func:`density_range`.
        high: That of the lightest colour, at least a tenth more.

    Raises:
        ValueError: If the range is not positive, or narrower.
    """
    if not 0 < 1.1 * low <= high < math.inf:  # closer ones cannot be told apart by two digits
        raise ValueError(
            f"A density range is positive and spans a factor of 1.1 or more, not {low:g} to "
            f"{high:g}."
        )
    items: list[tuple[float, str, str]] = []
    # six rows in the legend are enough; between them QGIS interpolates
    for value, colour in zip(np.geomspace(low, high, 6), _VIRIDIS[::2], strict=True):
        rounded, label = _readable(float(value))
        if not items or items[-1][0] < rounded:  # a narrow range has fewer readable steps
            items.append((rounded, colour, label))
    items[-1] = (items[-1][0], _VIRIDIS[-1], items[-1][2])
    root, shader = _pseudocolour_style(items)
    # a bar would be linear: on it the lower half of a logarithmic scale is hardly seen
    SubElement(shader, "rampLegendSettings", useContinuousLegend="0")
    return _text(root)


def density_range(density: str | Path | NDArray[np.float32]) -> tuple[float, float]:
    """Measure the range that a density is shown in: percentiles 1 and 99, at least a factor 1.44.

    Args:
        density: Density raster, or its values: sampled pixels per scene pixel, any shape, NaN for
            no data. A large file is measured on an overview.

    Returns:
        (low, high) for :func:`density_style`; (0.5, 1) where there is no density at all.

    Raises:
        OutputError: If the file cannot be read.
    """
    values = _read_density(density) if isinstance(density, str | Path) else density
    known = values[np.isfinite(values) & (values > 0)]
    return wide_enough(*np.percentile(known, (1, 99))) if known.size else (0.5, 1.0)


def wide_enough(low: float, high: float) -> tuple[float, float]:
    """Widen a range of densities to a factor of 1.2: mere noise does not get all the colours."""
    return float(min(low, high / 1.2)), float(max(high, low * 1.2))


def scene_style(bands: Sequence[int], ranges: Sequence[tuple[float, float]]) -> str:
    """Return the style of a scene: three bands as red, green and blue, or one as grey.

    Args:
        bands: 1-based bands to show; the first three, or the first of fewer than three.
        ranges: (low, high) of each band, shown black and full.

    Raises:
        ValueError: If there is no band, or not a range for each.
    """
    if not bands or len(bands) != len(ranges):
        raise ValueError(f"A scene needs bands and as many ranges, not {bands} and {ranges}.")
    if len(bands) < 3:
        root, renderer = _raster_style("singlebandgray", grayBand=str(bands[0]))
        colours = {"contrastEnhancement": ranges[0]}
    else:
        red, green, blue = (str(band) for band in bands[:3])
        root, renderer = _raster_style(
            "multibandcolor", redBand=red, greenBand=green, blueBand=blue
        )
        names = ("redContrastEnhancement", "greenContrastEnhancement", "blueContrastEnhancement")
        colours = dict(zip(names, ranges, strict=False))
    for name, (low, high) in colours.items():
        contrast = SubElement(renderer, name)
        SubElement(contrast, "minValue").text = repr(float(low))
        SubElement(contrast, "maxValue").text = repr(float(high))
        SubElement(contrast, "algorithm").text = "StretchToMinimumMaximum"
    return _text(root)


def polygon_style(scheme: ClassScheme, ids: Sequence[int] | None = None) -> str:
    """Return the style of polygons: filled by ``class_id``, with thin outlines of a darker shade.

    Args:
        scheme: Names and colours; classes that do not occur do no harm.
        ids: The ``class_id`` of each class, where it is not its position in the scheme.
    """
    return _categorised_style(
        scheme,
        ids=range(len(scheme)) if ids is None else ids,
        geometry=_POLYGON,
        symbol="fill",
        layer="SimpleFill",
        properties=lambda colour: {
            "color": _rgba(colour),
            "style": "solid",
            "outline_color": _rgba(_darker(colour)),
            "outline_style": "solid",
            "outline_width": "0.1",
            "outline_width_unit": "MM",
            "joinstyle": "round",
        },
    )


def sample_style(scheme: ClassScheme) -> str:
    """Return the style of sampled points: small dots by ``class_id``, rimmed to be seen on the map.

    Args:
        scheme: Names and colours; classes that do not occur do no harm.
    """
    return _categorised_style(
        scheme,
        ids=range(len(scheme)),
        geometry=_POINT,
        symbol="marker",
        layer="SimpleMarker",
        properties=lambda colour: {
            "name": "circle",
            "color": _rgba(colour),
            "outline_color": _rgba(_darker(colour)),
            "outline_style": "solid",
            "outline_width": "0.1",
            "outline_width_unit": "MM",
            "size": "0.9",
            "size_unit": "MM",
        },
    )


def combined_style(raster: str, vector: str) -> str:
    """Return one document with the styles of a raster and of a vector file of the same stem.

    ``map.tif`` and ``map.fgb`` both look for ``map.qml``; each takes its own part of it.

    Args:
        raster: Style of the raster.
        vector: Style of the vector file.
    """
    root = ElementTree.fromstring(raster)
    root.extend(ElementTree.fromstring(vector))
    return _text(root)


def qml_files(styles: Mapping[Path, str]) -> dict[Path, str]:
    """Return the ``.qml`` files that belong beside files, and what each holds.

    A raster and a vector file of one stem share a file. A GeoPackage has its style inside, see
    :func:`embed_style`, and none beside it. Where two rasters or two vector files have one stem,
    the style is that of the first.

    Args:
        styles: Style of each file.
    """
    files: dict[Path, str] = {}
    for path, style in styles.items():
        beside = style_path(path)
        if path.suffix.lower() == ".gpkg":
            continue
        other = files.get(beside)
        if other is None:
            files[beside] = style
        elif not _is_raster_style(other) and _is_raster_style(style):
            files[beside] = combined_style(style, other)
        elif _is_raster_style(other) and not _is_raster_style(style):
            known = ElementTree.fromstring(other).find(_VECTOR_PART)
            files[beside] = other if known is not None else combined_style(other, style)
    return files


def write_style(path: str | Path, style: str) -> None:
    """Write a style to a ``.qml`` file, which is normally staged.

    Raises:
        OutputError: If the file cannot be written.
    """
    try:
        Path(path).write_text(style, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"Cannot write {final_path(path)} ({error.strerror}).") from error


def joinable(path: Path, *, raster: bool) -> bool:
    """Whether a ``.qml`` file is the style of the other kind alone, which one can join.

    Args:
        path: The file, which need not exist.
        raster: Whether the style that would join it is that of a raster.
    """
    root = _read(path)
    own, other = (_RASTER_PART, _VECTOR_PART) if raster else (_VECTOR_PART, _RASTER_PART)
    return root is not None and root.find(own) is None and root.find(other) is not None


def joined_style(path: Path, style: str) -> str:
    """Return a style with the other kind's part of the file that it replaces, if it has one.

    Args:
        path: The ``.qml`` file, which need not exist.
        style: Of a raster, of a vector file, or of both.
    """
    former, new = _read(path), ElementTree.fromstring(style)
    for own, other in ((_RASTER_PART, _VECTOR_PART), (_VECTOR_PART, _RASTER_PART)):
        alone = new.find(own) is not None and new.find(other) is None
        if alone and former is not None and former.find(other) is not None:
            for part in former.findall(own):
                former.remove(part)
            kept = _text(former)
            return combined_style(*((style, kept) if own == _RASTER_PART else (kept, style)))
    return style


def _read(path: Path) -> Element | None:
    """Read a style file; None where there is none, or it is no XML."""
    try:
        return ElementTree.fromstring(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ElementTree.ParseError):
        return None


def embed_style(gpkg: str | Path, layer: str, qml: str, *, name: str) -> None:
    """Put a style into a GeoPackage as the default of one of its layers.

    The table is the one that QGIS makes for "Save Style in Database". A default that the layer had
    stays as a style that can be chosen; one of the same name is replaced.

    Args:
        gpkg: The file, while it is staged: what is published does not change any more.
        layer: Table of the layer.
        qml: The style.
        name: What QGIS lists it as, up to 30 characters.

    Raises:
        OutputError: If the file has no such layer, or cannot be written.
    """
    gpkg = Path(gpkg)
    try:
        # SQLite would make a missing file
        address = f"{gpkg.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, uri=True)) as database, database:
            _embed(database, gpkg, layer, qml, name)
    except sqlite3.Error as error:
        raise OutputError(
            f"Cannot write the style of {final_path(gpkg)} ({error}); check that it is a "
            "GeoPackage and that there is free disk space."
        ) from error


def _embed(database: sqlite3.Connection, gpkg: Path, layer: str, qml: str, name: str) -> None:
    column = database.execute(
        "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (layer,)
    ).fetchone()
    if column is None:
        raise OutputError(f"{final_path(gpkg)} has no layer {layer} to put a style on.")
    database.execute(_STYLE_TABLE)
    now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    database.execute(
        "INSERT OR IGNORE INTO gpkg_contents"
        " (table_name, data_type, identifier, description, last_change, srs_id)"
        f" VALUES ('layer_styles', 'attributes', 'layer_styles', '', {now}, 0)"
    )
    own = "f_table_name = ? AND f_geometry_column = ?"
    database.execute(
        f"DELETE FROM layer_styles WHERE {own} AND styleName = ?", (layer, *column, name)
    )
    database.execute(f"UPDATE layer_styles SET useAsDefault = 0 WHERE {own}", (layer, *column))
    database.execute(
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name,"
        " f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner,"
        f" update_time) VALUES ('', '', ?, ?, ?, ?, '', 1, ?, '', {now})",
        (layer, *column, name, qml, f"{name}, by geodeform"),
    )


_STYLE_TABLE = """
CREATE TABLE IF NOT EXISTS layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    f_table_catalog TEXT(256),
    f_table_schema TEXT(256),
    f_table_name TEXT(256),
    f_geometry_column TEXT(256),
    styleName TEXT(30),
    styleQML TEXT,
    styleSLD TEXT,
    useAsDefault BOOLEAN,
    description TEXT,
    owner TEXT(30),
    ui TEXT(30),
    update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)
"""


def _raster_style(kind: str, **settings: str) -> tuple[Element, Element]:
    """Return a raster style and its renderer, to be filled in."""
    root = Element("qgis", version=QGIS_VERSION, styleCategories="Symbology")
    renderer = SubElement(
        SubElement(root, "pipe"),
        "rasterrenderer",
        {"type": kind, "opacity": "1", "alphaBand": "-1", **settings},
    )
    return root, renderer


def _pseudocolour_style(items: Sequence[tuple[float, str, str]]) -> tuple[Element, Element]:
    """Return a style that interpolates between (value, colour, label), and its shader."""
    low, high = items[0][0], items[-1][0]
    root, renderer = _raster_style(
        "singlebandpseudocolor",
        band="1",
        classificationMin=repr(low),
        classificationMax=repr(high),
    )
    shader = SubElement(
        SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",  # these stops, and not equal ones
        clip="0",
        minimumValue=repr(low),
        maximumValue=repr(high),
    )
    # the ramp that the editor of the style shows, and the continuous legend
    ramp = SubElement(shader, "colorramp", name="[source]", type="gradient")
    inner = [
        f"{(value - low) / (high - low):.6g};{_rgba(from_hex(colour))}"
        for value, colour, _ in items[1:-1]
    ]
    _options(
        ramp,
        {
            "color1": _rgba(from_hex(items[0][1])),
            "color2": _rgba(from_hex(items[-1][1])),
            "discrete": "0",
            "rampType": "gradient",
            "stops": ":".join(inner),
        },
    )
    for value, colour, label in items:
        SubElement(shader, "item", value=repr(value), color=colour, alpha="255", label=label)
    return root, shader


def _categorised_style(
    scheme: ClassScheme,
    *,
    ids: Sequence[int],
    geometry: str,
    symbol: str,
    layer: str,
    properties: Callable[[RGB], dict[str, str]],
) -> str:
    """Return a style with a symbol of one layer for each class."""
    root = Element("qgis", version=QGIS_VERSION, styleCategories="Symbology")
    renderer = SubElement(root, "renderer-v2", type="categorizedSymbol", attr="class_id")
    categories = SubElement(renderer, "categories")
    symbols = SubElement(renderer, "symbols")
    for value, name, colour in zip(ids, scheme.names, scheme.colours, strict=True):
        number = str(value)
        SubElement(
            categories,
            "category",
            value=number,
            type="long",
            symbol=number,
            label=name,
            render="true",
        )
        drawn = SubElement(symbols, "symbol", name=number, type=symbol, alpha="1")
        _options(SubElement(drawn, "layer", {"class": layer, "enabled": "1"}), properties(colour))
    SubElement(root, "layerGeometryType").text = geometry
    return _text(root)


def _options(parent: Element, values: Mapping[str, str]) -> None:
    """Add a map of text options, as QGIS stores a symbol's properties."""
    options = SubElement(parent, "Option", type="Map")
    for name, value in values.items():
        SubElement(options, "Option", name=name, type="QString", value=value)


def _text(root: Element) -> str:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _is_raster_style(style: str) -> bool:
    return ElementTree.fromstring(style).find(_RASTER_PART) is not None


def _rgba(colour: RGB) -> str:
    return "{},{},{},255".format(*colour)


def _darker(colour: RGB) -> RGB:
    red, green, blue = (round(0.7 * value) for value in colour)
    return red, green, blue


def _readable(density: float) -> tuple[float, str]:
    """Return a density of two digits, and how it is said.

    >>> _readable(0.01998), _readable(2.54)
    ((0.02, '1 in 50 pixels'), (2.5, '2.5 per pixel'))
    """
    if density < 1:
        pixels = float(f"{1 / density:.2g}")
        return 1 / pixels, f"1 in {pixels:,g} pixels"
    rounded = float(f"{density:.2g}")
    return rounded, f"{rounded:,g} per pixel"


def _read_density(path: str | Path) -> NDArray[np.float32]:
    """Read the values of a density raster, thinned to a bounded size."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as raster:
                shape = tuple(min(side, _MEASURED_SIDE) for side in raster.shape)
                values: NDArray[np.float32] = raster.read(1, out_shape=shape)
    except RasterioError as error:
        raise OutputError(f"{final_path(path)} cannot be read ({error}).") from error
    return values
