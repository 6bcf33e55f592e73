"""Classes that masks bring themselves."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from folder_files import IDS, expect, ids_to_classes, read, write_classes
from rasterio.windows import Window

from geodeform.classes import ClassScheme
from geodeform.errors import DatasetError
from geodeform.geo.raster import ClassRasterWriter
from geodeform.training.datasets.folder import FolderScenes


def test_class_rasters_of_geodeform_bring_their_classes(naip):
    (naip / "classes.csv").unlink()
    scheme = ClassScheme(
        ("Gras", "Wald & Büsche", "Boden"), ((1, 200, 3), (0, 90, 4), (99, 80, 70))
    )
    expected = {}
    for name in "ab":
        path = naip / f"masks/{name}.tif"
        with rasterio.open(path) as mask:
            labels = ids_to_classes(mask.read(1))
            labels[:10] = 255
            frame = {"shape": mask.shape, "transform": mask.transform, "crs": mask.crs}
        expected[name] = labels
        with ClassRasterWriter(path, scheme=scheme, tags={}, overwrite=True, **frame) as out:
            out.write(Window(0, 0, *labels.shape[::-1]), labels)
    dataset = FolderScenes(naip)
    assert dataset.classes == scheme
    assert np.array_equal(dataset.load("a").labels, expected["a"])
    assert naip / "masks/a.tif.aux.xml" in dataset.files("a")
    # category names alone, and in one mask only; the colour table is in the file itself
    (naip / "masks/b.tif.aux.xml").unlink()
    sidecar = naip / "masks/a.tif.aux.xml"
    text = sidecar.read_text()
    start, stop = text.index("<GDALRasterAttributeTable"), text.index("</GDALRasterAttributeTable>")
    sidecar.write_text(text[:start] + text[stop + len("</GDALRasterAttributeTable>") :])
    assert FolderScenes(naip).classes == scheme
    sidecar.write_text(sidecar.read_text().replace("Boden", ""))
    with pytest.raises(
        DatasetError, match=r"a\.tif has pixels of the unlisted id 2; list it in the"
    ):
        FolderScenes(naip).load("a")
    # nothing but the colour table
    sidecar.unlink()
    bare = FolderScenes(naip).classes
    assert bare == ClassScheme(("class 0", "class 1", "class 2"), scheme.colours)


def test_attribute_tables_whose_colours_are_shares_bring_names_only(naip):
    (naip / "classes.csv").unlink()
    fields = (("Value", 0, 5), ("Kind", 2, 2), ("R", 1, 6), ("G", 1, 7), ("B", 1, 8))
    definitions = "".join(
        f'<FieldDefn index="{k}"><Name>{n}</Name><Type>{t}</Type><Usage>{u}</Usage></FieldDefn>'
        for k, (n, t, u) in enumerate(fields)
    )
    rows = "".join(
        f'<Row index="{k}"><F>{number}</F><F>{name}</F><F>0.5</F><F>0.25</F><F>1</F></Row>'
        for k, (number, name) in enumerate(
            [(3, "bare"), (10, "grass"), (40, "void"), (255, "rest")]
        )
    )
    (naip / "masks/b.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><GDALRasterAttributeTable tableType="thematic">'
        f"{definitions}{rows}</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>"
    )
    dataset = FolderScenes(naip)
    assert dataset.classes.names == ("bare", "grass")
    assert len(set(dataset.classes.colours)) == 2
    expected = ids_to_classes(read(naip / "masks/a.tif", 1), IDS[:2])  # void is unknown
    assert np.array_equal(dataset.load("a").labels, expected)


def test_colour_tables_that_tell_nothing_apart_are_not_used(naip):
    (naip / "classes.csv").unlink()
    table = {3: (9, 9, 9, 255), 10: (8, 8, 8, 255), 40: (9, 9, 9, 255)}
    with rasterio.open(naip / "masks/a.tif") as mask:
        ids, profile = mask.read(1), mask.profile
    with rasterio.open(naip / "masks/a.tif", "w", **profile) as mask:
        mask.write(ids, 1)
        mask.write_colormap(1, table)
    colours = FolderScenes(naip).classes.colours
    assert len(set(colours)) == 3
    assert (8, 8, 8) not in colours


def test_masks_that_say_nothing_or_too_much(naip):
    write_classes(naip, "name\nbare\ngrass\n")
    expect(f"masks/a.tif holds one band of ids, but {naip / 'classes.csv'} has none; add a", naip)
    (naip / "classes.csv").unlink()
    for name in "ab":
        with rasterio.open(naip / f"masks/{name}.tif", "r+") as mask:
            mask.write(np.full(mask.shape, 255, np.uint8), 1)
    expect(f"No mask in {naip / 'masks'} holds anything but unknown pixels", naip)
    with rasterio.open(naip / "masks/a.tif") as mask:
        profile = {**mask.profile, "dtype": "uint16", "nodata": None}
    with rasterio.open(naip / "masks/a.tif", "w", **profile) as mask:
        mask.write(np.arange(mask.width * mask.height, dtype=np.uint16).reshape(mask.shape), 1)
    expect("holds 17999 different ids, from 0 to 17999: these cannot be masks of classes", naip)


def test_masks_that_contradict_each_other(naip):
    (naip / "classes.csv").unlink()
    for name, word in (("a", "grass"), ("b", "gras")):
        (naip / f"masks/{name}.tif.aux.xml").write_text(
            '<PAMDataset><PAMRasterBand band="1"><CategoryNames><Category>none</Category>'
            f"<Category>{word}</Category></CategoryNames></PAMRasterBand></PAMDataset>"
        )
    expect(
        f"{naip / 'masks/b.tif'} calls id 1 'gras' but {naip / 'masks/a.tif'} calls it 'grass'",
        naip,
    )
