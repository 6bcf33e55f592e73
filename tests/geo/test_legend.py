from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window
from scene_files import scene_file

from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.errors import SceneError
from geodeform.geo.legend import Legend, distinct_values, read_legend, read_scheme
from geodeform.geo.raster import ClassRasterWriter

SCHEME = ClassScheme(
    ("building, tall", "land", "road"), ((60, 16, 152), (132, 41, 246), (110, 193, 228))
)
RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)


def class_file(path: Path, pixels: Any, **profile: Any) -> Path:
    place = {"transform": Affine(1, 0, 5, 0, -1, 9)}
    return scene_file(path, np.asarray(pixels)[None], **place, **profile)


def own_file(path: Path, tags: dict[str, str]) -> Path:
    with ClassRasterWriter(
        path, shape=(2, 3), transform=None, crs=None, scheme=SCHEME, tags=tags
    ) as writer:
        writer.write(Window(0, 0, 3, 2), np.array([[0, 1, 1], [255, 0, 0]], np.uint8))
    return path


def sidecar(path: Path, inside: str) -> None:
    path.with_name(path.name + ".aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1">{inside}</PAMRasterBand></PAMDataset>'
    )


def colour_table(path: Path, colours: dict[int, tuple[int, ...]]) -> None:
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, colours)


def attribute_table(
    fields: list[tuple[str, int, int]], rows: list[tuple[object, ...]], attributes: str = ""
) -> str:
    """GDAL's XML; the fields are names, types and usages."""
    definitions = "".join(
        f'<FieldDefn index="{k}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage>'
        "</FieldDefn>"
        for k, (name, kind, usage) in enumerate(fields)
    )
    lines = "".join(
        f'<Row index="{k}">{"".join(f"<F>{cell}</F>" for cell in row)}</Row>'
        for k, row in enumerate(rows)
    )
    return f"<GDALRasterAttributeTable {attributes}>{definitions}{lines}</GDALRasterAttributeTable>"


def test_our_own_rasters_give_their_scheme_back(tmp_path: Path) -> None:
    path = own_file(tmp_path / "map.tif", {})
    assert read_scheme(path) == SCHEME
    legend = read_legend(path)
    assert legend.names == dict(enumerate(SCHEME.names))
    assert legend.colours == dict(enumerate(SCHEME.colours))


def test_our_own_rasters_are_known_without_their_sidecar(tmp_path: Path) -> None:
    tags = {"classes": ", ".join(f"{k}={name}" for k, name in enumerate(SCHEME.names))}
    path = own_file(tmp_path / "map.tif", tags)
    path.with_name("map.tif.aux.xml").unlink()
    assert read_scheme(path) == SCHEME  # class 2 never occurs


def test_the_demo_map_has_its_names() -> None:
    path = Path(__file__).parents[2] / "demo-output" / "landcover.tif"
    if not path.is_file():
        pytest.skip("make demo has not been run")
    assert read_scheme(path).names == ("Building", "Land", "Road", "Vegetation", "Water")


def test_category_names_leave_values_out(tmp_path: Path) -> None:
    path = class_file(tmp_path / "map.tif", np.array([[1, 3]], np.uint8))
    sidecar(
        path,
        "<CategoryNames><Category /><Category>crops</Category><Category></Category>"
        "<Category> trees </Category></CategoryNames>",
    )
    assert read_legend(path) == Legend({1: "crops", 3: "trees"}, {})
    scheme = read_scheme(path)
    assert scheme.names == ("class 0", "crops", "class 2", "trees")
    assert len(set(scheme.colours)) == 4


def test_a_colour_table_counts_for_the_values_that_occur(tmp_path: Path) -> None:
    path = class_file(tmp_path / "map.tif", np.array([[1, 3], [3, 9]], np.uint8), nodata=9)
    colour_table(path, {1: RED, 3: GREEN, 9: (9, 9, 9)})
    assert read_legend(path) == Legend({}, {1: RED, 3: GREEN})
    assert read_legend(path, [1, 2]) == Legend({}, {1: RED, 2: BLACK})
    scheme = read_scheme(path)
    assert scheme.names == ("class 0", "class 1", "class 2", "class 3")
    assert scheme.colours[1::2] == (RED, GREEN)
    assert BLACK not in scheme.colours  # the fillers of the table are no colours


def test_a_colour_table_counts_for_the_values_with_names(tmp_path: Path) -> None:
    path = class_file(tmp_path / "map.tif", np.array([[1, 3]], np.uint8))
    colour_table(path, {1: RED, 2: GREEN})
    sidecar(path, "<CategoryNames><Category/><Category>a</Category><Category>b</Category>"
        "</CategoryNames>")  # fmt: skip
    assert read_legend(path) == Legend({1: "a", 2: "b"}, {1: RED, 2: GREEN})
    assert read_scheme(path).names == ("class 0", "a", "b", "class 3")


def test_an_attribute_table_of_values_far_apart(tmp_path: Path) -> None:
    path = class_file(tmp_path / "corine.tif", np.array([[111, 523]], np.int16), nodata=-128)
    fields = [("LABEL3", 2, 2), ("CODE", 0, 5), ("r", 0, 6), ("g", 0, 7), ("b", 0, 8)]
    rows: list[tuple[object, ...]] = [
        ("urban", 111, 230, 0, 77),
        ("sea", 523, 230, 242, 255),
    ]
    sidecar(path, attribute_table(fields, rows))
    expected = Legend({111: "urban", 523: "sea"}, {111: (230, 0, 77), 523: (230, 242, 255)})
    assert read_legend(path) == expected
    with pytest.raises(SceneError, match="the value 523, but classes are 0 to 254"):
        read_scheme(path)


def test_an_attribute_table_wins_over_names_and_colours(tmp_path: Path) -> None:
    path = class_file(tmp_path / "map.tif", np.array([[0, 1]], np.uint8))
    colour_table(path, {0: RED, 1: RED})
    fields = [("Value", 0, 0), ("Class_Name", 2, 0), ("Red", 0, 0), ("Green", 0, 0), ("Blue", 0, 0)]
    sidecar(
        path,
        "<CategoryNames><Category>old</Category><Category>kept</Category></CategoryNames>"
        + attribute_table(fields, [(0, "new", 0, 255, 0), ("", "lost", 1, 1, 1)]),
    )
    assert read_legend(path) == Legend({0: "new", 1: "kept"}, {0: GREEN, 1: RED})


def test_tables_of_imagine_have_steps_for_values_and_colours_of_0_to_1(tmp_path: Path) -> None:
    path = class_file(tmp_path / "nlcd.tif", np.array([[1, 2]], np.uint8))
    fields = [("Histogram", 1, 1), ("Red", 1, 6), ("Green", 1, 7), ("Blue", 1, 8), ("N", 2, 2)]
    rows: list[tuple[object, ...]] = [(0, 0, 0, 0, ""), (5, 1, 0, 0, "ice"), (7, 0, 0.5, 1, "fen")]
    sidecar(path, attribute_table(fields, rows, 'Row0Min="-0.5" BinSize="1"'))
    legend = read_legend(path)
    assert legend.names == {1: "ice", 2: "fen"}
    assert legend.colours == {0: BLACK, 1: RED, 2: (0, 128, 255)}


def test_a_vrt_says_it_itself(tmp_path: Path) -> None:
    class_file(tmp_path / "map.tif", np.array([[1, 0]], np.uint8))
    vrt = tmp_path / "map.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="2" rasterYSize="1"><VRTRasterBand dataType="Byte" band="1">'
        "<CategoryNames><Category>dry</Category><Category>wet</Category></CategoryNames>"
        '<SimpleSource><SourceFilename relativeToVRT="1">map.tif</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    assert read_scheme(vrt).names == ("dry", "wet")


def test_masked_pixels_are_no_classes(tmp_path: Path) -> None:
    path = class_file(tmp_path / "map.tif", np.array([[1, 200]], np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.array([[True, False]]))
    assert len(read_scheme(path)) == 2


def test_equal_names_are_told_apart() -> None:
    legend = Legend({3: "forest", 7: "forest", 9: "class 4"}, {3: RED})
    scheme = legend.scheme([3, 4, 7, 9])
    assert scheme.names == ("forest", "class 4 (4)", "forest (7)", "class 4")
    assert scheme.colours[0] == RED


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
def test_distinct_values_are_numpys(dtype: str) -> None:
    info = np.iinfo(dtype)
    values = np.array([info.min, info.max, 3, 5, 3], dtype)
    assert distinct_values(values) == np.unique(values).tolist()
    assert distinct_values(values[:0]) == []


def test_what_is_no_class_raster_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"missing\.tif cannot be read"):
        read_legend(tmp_path / "missing.tif")
    with pytest.raises(SceneError, match="is float32; a class raster holds whole numbers"):
        read_legend(class_file(tmp_path / "f.tif", np.zeros((2, 2), np.float32)))
    path = class_file(tmp_path / "m.tif", np.full((2, 2), NODATA_CLASS, np.uint8), nodata=255)
    with pytest.raises(SceneError, match="has no classes"):
        read_scheme(path)
    with pytest.raises(SceneError, match="the value -4"):
        read_scheme(class_file(tmp_path / "n.tif", np.full((2, 2), -4, np.int16)))
    with pytest.raises(SceneError, match="the value 255"):
        read_scheme(class_file(tmp_path / "o.tif", np.full((2, 2), 255, np.uint8)))
    path.with_name("m.tif.aux.xml").write_text("<PAMDataset>")
    with pytest.raises(SceneError, match=r"m\.tif\.aux\.xml cannot be read"):
        read_legend(path)
