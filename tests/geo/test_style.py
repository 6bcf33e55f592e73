from __future__ import annotations

import itertools
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import matplotlib
import numpy as np
import pyogrio
import pytest
import rasterio
from desktop import run_in_qgis
from matplotlib.colors import to_hex as matplotlib_hex
from PIL import Image
from qgis_maps import GEOREFERENCES, PLACES, SCHEME, open_in_qgis, write_maps

from geodeform.classes import ClassScheme, to_hex
from geodeform.errors import OutputError
from geodeform.geo import affine
from geodeform.geo.style import (
    class_raster_style,
    combined_style,
    confidence_style,
    density_range,
    density_style,
    embed_style,
    polygon_style,
    qml_files,
    sample_style,
    scene_style,
    style_path,
    write_style,
)

LEGEND = [[n, to_hex(c).lower()] for n, c in zip(SCHEME.names, SCHEME.colours, strict=True)]


def items_of(style: str) -> list[tuple[float, str, str]]:
    shader = ElementTree.fromstring(style).find(".//colorrampshader")
    assert shader is not None
    return [(float(i.get("value")), i.get("color"), i.get("label")) for i in shader.iter("item")]


def test_class_raster_lists_the_classes_alone() -> None:
    root = ElementTree.fromstring(class_raster_style(SCHEME))
    entries = [e.attrib for e in root.iter("paletteEntry")]
    assert [int(e["value"]) for e in entries] == list(range(len(SCHEME)))
    assert [[e["label"], e["color"]] for e in entries] == LEGEND


@pytest.mark.parametrize(
    ("style", "name"), [(confidence_style(), "magma"), (density_style(0.01, 1.0), "viridis")]
)
def test_ramps_are_matplotlibs(style: str, name: str) -> None:
    colours = [colour for _, colour, _ in items_of(style)]
    even = np.linspace(0, 1, len(colours))
    ramp = matplotlib.colormaps[name]
    wanted = [matplotlib_hex(ramp(x)) for x in even]
    if name == "viridis":  # the inner ones are every second of eleven
        assert (colours[0], colours[-1]) == (wanted[0], wanted[-1])
        full = [matplotlib_hex(ramp(x)) for x in np.linspace(0, 1, 11)]
        assert set(colours) <= set(full)
    else:
        assert colours == wanted


def test_confidence_is_in_percent_of_the_scaled_values() -> None:
    items = items_of(confidence_style())
    assert [(items[0][0], items[0][2]), (items[-1][0], items[-1][2])] == [(0, "0%"), (1, "100%")]


@pytest.mark.parametrize(
    ("low", "high", "first", "last"),
    [
        (0.0097, 0.0227, "1 in 100 pixels", "1 in 44 pixels"),
        (0.0004, 0.05, "1 in 2,500 pixels", "1 in 20 pixels"),
        (0.3, 4.04, "1 in 3.3 pixels", "4 per pixel"),
        (0.01, 0.0111, "1 in 100 pixels", "1 in 90 pixels"),
    ],
)
def test_density_legend_is_readable_and_logarithmic(
    low: float, high: float, first: str, last: str
) -> None:
    items = items_of(density_style(low, high))
    values = np.array([value for value, _, _ in items])
    assert (items[0][2], items[-1][2]) == (first, last)
    assert (np.diff(values) > 0).all()
    assert values[[0, -1]] == pytest.approx((low, high), rel=0.05)
    if high > 2 * low:
        steps = np.diff(np.log(values))
        assert steps == pytest.approx(np.full(5, np.log(high / low) / 5), rel=0.35)
    for value, _, label in items:  # what the legend says is where the colour is
        number = float(label.split()[2 if label.startswith("1 in") else 0].replace(",", ""))
        assert value == pytest.approx(1 / number if label.startswith("1 in") else number)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.5, 0.5), (2, 1), (0.1, np.inf), (-1, 1)])
def test_impossible_density_ranges(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="density range"):
        density_style(low, high)


def test_density_range_is_that_of_percentiles(tmp_path: Path) -> None:
    field = np.geomspace(0.01, 0.1, 10_001).astype(np.float32)
    field[::2000] = np.nan
    field[-1] = 50.0  # one cell must not spend the colours
    low, high = density_range(field)
    assert (low, high) == pytest.approx((0.01 * 10**0.01, 0.01 * 10**0.99), rel=1e-3)
    assert density_range(np.full((4, 4), np.nan, np.float32)) == (0.5, 1.0)
    low, high = density_range(np.full((4, 4), 0.02, np.float32))
    assert high / low == pytest.approx(1.44)
    paths = write_maps(tmp_path, GEOREFERENCES["projected"])
    with rasterio.open(paths["density"]) as raster:
        assert density_range(paths["density"]) == density_range(raster.read(1))
    broken = tmp_path / "broken.tif"
    broken.write_text("no raster")
    with pytest.raises(OutputError, match=r"broken\.tif cannot be read"):
        density_range(broken)


def test_scene_bands_and_ranges() -> None:
    colour = ElementTree.fromstring(scene_style((4, 3, 2, 1), [(0, 9), (1, 8), (2, 7), (3, 6)]))
    renderer = colour.find("pipe/rasterrenderer")
    assert renderer is not None
    assert [renderer.get(f"{c}Band") for c in ("red", "green", "blue")] == ["4", "3", "2"]
    assert renderer.findtext("blueContrastEnhancement/maxValue") == "7.0"
    grey = ElementTree.fromstring(scene_style((2,), [(5, 6)])).find("pipe/rasterrenderer")
    assert grey is not None
    assert (grey.get("type"), grey.get("grayBand")) == ("singlebandgray", "2")
    with pytest.raises(ValueError, match="ranges"):
        scene_style((1, 2, 3), [(0, 1)])


@pytest.mark.parametrize(("style", "kind"), [(polygon_style, "2"), (sample_style, "0")])
def test_vectors_have_a_symbol_a_class(style: object, kind: str) -> None:
    root = ElementTree.fromstring(style(SCHEME))  # type: ignore[operator]
    assert root.findtext("layerGeometryType") == kind
    categories = [c.attrib for c in root.iter("category")]
    assert [c["label"] for c in categories] == list(SCHEME.names)
    colours = {
        s.get("name"): o.get("value")
        for s in root.iter("symbol")
        for o in s.iter("Option")
        if o.get("name") == "color"
    }
    assert [colours[c["symbol"]] for c in categories] == [
        "{},{},{},255".format(*c) for c in SCHEME.colours
    ]


def test_one_file_serves_a_raster_and_vectors_of_the_same_stem() -> None:
    raster, vector = class_raster_style(SCHEME), polygon_style(SCHEME)
    samples, confidence = sample_style(SCHEME), confidence_style()
    named = {
        "a": {Path("map.tif"): raster, Path("map.fgb"): vector, Path("map.geojson"): samples},
        "b": {Path("map.fgb"): vector, Path("map.tif"): raster, Path("map.tiff"): confidence},
    }
    for styles in named.values():
        assert qml_files(styles) == {Path("map.qml"): combined_style(raster, vector)}
    alone = {Path("o/a.b.tif"): raster, Path("o/p.gpkg"): vector, Path("o/p.parquet"): samples}
    assert qml_files(alone) == {Path("o/a.b.qml"): raster, Path("o/p.qml"): samples}
    assert style_path("o/a.b.tif") == Path("o/a.b.qml")


def test_a_style_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"Cannot write .*map\.qml \(No such file"):
        write_style(tmp_path / "missing" / "map.qml", confidence_style())


def styles_in(gpkg: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(gpkg)) as database:
        return database.execute(
            "SELECT f_table_name, f_geometry_column, styleName, useAsDefault, styleQML"
            " FROM layer_styles ORDER BY id"
        ).fetchall()


def test_a_geopackage_holds_styles_of_several_layers_and_stays_valid(tmp_path: Path) -> None:
    gpkg = write_maps(tmp_path, GEOREFERENCES["projected"])["polygons"]
    before = gpd.read_file(gpkg)
    pyogrio.write_dataframe(before.set_geometry(before.centroid), gpkg, layer="it's", append=True)
    first, second = polygon_style(SCHEME), sample_style(SCHEME)
    embed_style(gpkg, "polygons", first, name="Old")
    embed_style(gpkg, "polygons", second, name="Land cover")
    embed_style(gpkg, "polygons", first, name="Land cover")
    embed_style(gpkg, "it's", second, name="Samples")
    assert styles_in(gpkg) == [
        ("polygons", "geom", "Old", 0, first),
        ("polygons", "geom", "Land cover", 1, first),
        ("it's", "geom", "Samples", 1, second),
    ]
    with closing(sqlite3.connect(gpkg)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        kinds = dict(database.execute("SELECT table_name, data_type FROM gpkg_contents"))
    assert kinds == {"polygons": "features", "it's": "features", "layer_styles": "attributes"}
    assert gpd.read_file(gpkg, layer="polygons").equals(before)
    assert len(pyogrio.read_dataframe(gpkg, layer="layer_styles")) == 3
    # GDAL still writes to it
    pyogrio.write_dataframe(before, gpkg, layer="polygons", append=True)
    assert len(gpd.read_file(gpkg, layer="polygons")) == 2 * len(before)


def test_what_cannot_hold_a_style(tmp_path: Path) -> None:
    gpkg = write_maps(tmp_path, GEOREFERENCES["projected"])["polygons"]
    with pytest.raises(OutputError, match=r"map\.gpkg has no layer roads"):
        embed_style(gpkg, "roads", "", name="Roads")
    with closing(sqlite3.connect(gpkg)) as database:
        assert not database.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'layer_styles'"
        ).fetchall()
    missing = tmp_path / "missing.gpkg"
    with pytest.raises(OutputError, match=r"missing\.gpkg"):
        embed_style(missing, "polygons", "", name="Land cover")
    assert not missing.exists()
    other = tmp_path / "other.gpkg"
    other.write_bytes(b"no database" * 1000)
    with pytest.raises(OutputError, match=r"other\.gpkg .*GeoPackage"):
        embed_style(other, "polygons", "", name="Land cover")


@pytest.mark.qgis
def test_qgis_opens_everything_styled_without_a_click(tmp_path: Path) -> None:
    where = GEOREFERENCES["projected"]
    paths = write_maps(tmp_path, where)
    twin = tmp_path / "map.fgb"
    pyogrio.write_dataframe(gpd.read_file(paths["polygons"]), twin)
    points = tmp_path / "points.geojson"
    gpd.read_file(paths["samples"]).to_crs(4326).to_file(points)
    embed_style(paths["polygons"], "polygons", polygon_style(SCHEME), name="Land cover")
    embed_style(paths["samples"], "samples", sample_style(SCHEME), name="Samples")
    styles = {
        paths["labels"]: class_raster_style(SCHEME),
        twin: polygon_style(SCHEME),
        points: sample_style(SCHEME),
        paths["confidence"]: confidence_style(),
        paths["density"]: density_style(*density_range(paths["density"])),
        paths["scene"]: scene_style((3, 2, 1), [(0, 600), (0, 400), (0, 200)]),
    }
    for path, style in qml_files(styles).items():
        write_style(path, style)
    sources = {
        str(paths["labels"]): "gdal",
        str(paths["confidence"]): "gdal",
        str(paths["density"]): "gdal",
        str(paths["scene"]): "gdal",
        f"{paths['polygons']}|layername=polygons": "ogr",
        f"{paths['samples']}|layername=samples": "ogr",
        str(twin): "ogr",
        str(points): "ogr",
    }
    height, width = (4 * side for side in (64, 96))
    corner = affine.apply(where.transform, 0, 64)
    extent = [*corner, corner[0] + 192, corner[1] + 128]
    pictures = {
        str(tmp_path / f"{k}.png"): {"layers": [source], "extent": extent, "size": [width, height]}
        for k, source in enumerate(sources)
    }
    (report,) = open_in_qgis(
        [{"files": [[p, s] for s, p in sources.items()], "draw": pictures}], tmp_path
    )
    layers = list(report["layers"].values())
    assert all(layer["valid"] for layer in layers)
    assert [layer["renderer"] for layer in layers] == [
        "paletted",
        "singlebandpseudocolor",
        "singlebandpseudocolor",
        "multibandcolor",
        *["categorizedSymbol"] * 4,
    ]
    # QGIS puts the band's name above a raster's legend
    assert layers[0]["legend"] == [["Band 1: class (Palette)", None], *LEGEND]
    for layer in (*layers[4:6], *layers[6:]):
        assert layer["legend"] == LEGEND
    assert layers[1]["number_format"] == "percentage"
    labels = [label for _, _, label in items_of(styles[paths["density"]])]
    assert [text for text, _ in layers[2]["legend"][1:]] == labels

    def drawn(number: int) -> np.ndarray:
        return np.asarray(Image.open(tmp_path / f"{number}.png").convert("RGB"))

    palette = [*map(tuple, SCHEME.colours)]
    for number, ((x, y), kind) in itertools.product((0, 4, 6), PLACES.items()):
        wanted = (255, 255, 255) if kind is None else palette[kind]
        assert tuple(drawn(number)[4 * y, 4 * x]) == wanted, (number, x, y)
    # the scale of the confidence is applied: its right end is 100 %, its left end 20 %
    ramp = matplotlib.colormaps["magma"]
    for x in (2, 40, 94):
        share = (51 + 204 * x / 95) / 255
        assert drawn(1)[40, 4 * x + 2] == pytest.approx(np.array(ramp(share)[:3]) * 255, abs=5)
    assert tuple(drawn(1)[4 * 48, 4 * 48]) == (255, 255, 255)
    # the density rises row by row, from the dark to the light end of viridis
    assert tuple(drawn(2)[2, 2]) == (0x44, 0x01, 0x54)
    assert tuple(drawn(2)[-3, -3]) == (0xFD, 0xE7, 0x25)
    assert drawn(3)[10, 10] == pytest.approx((127.5, 127.5, 127.5), abs=1)  # half of each range


@pytest.mark.qgis
def test_qgis_manages_the_styles_of_a_geopackage(tmp_path: Path) -> None:
    gpkg = write_maps(tmp_path, GEOREFERENCES["projected"])["polygons"]
    embed_style(gpkg, "polygons", polygon_style(SCHEME), name="Land cover")
    script = """
        import json
        from qgis.core import QgsVectorLayer
        layer = QgsVectorLayer(sys.argv[1] + "|layername=polygons", "map", "ogr")
        error = layer.saveStyleToDatabase("Mine", "of the user", False, "")
        count, ids, names, about, _ = layer.listStylesInDatabase()
        listed = sorted(zip(names, about))
        sublayers = layer.dataProvider().subLayers()
        print(json.dumps([error, listed, len(sublayers)]))
        del layer
    """
    answer = json.loads(run_in_qgis(script, gpkg, cwd=tmp_path).splitlines()[-1])
    assert answer == [
        "",
        [["Land cover", "Land cover, by geodeform"], ["Mine", "of the user"]],
        1,  # the table of styles is not offered as a layer
    ]


def test_any_number_of_classes() -> None:
    scheme = ClassScheme(tuple(f"class {k}" for k in range(255)), ((1, 2, 3),) * 255)
    for style in (class_raster_style(scheme), polygon_style(scheme)):
        assert style.count('label="class ') == 255
