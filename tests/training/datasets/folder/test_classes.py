"""What ids, colours and names mean."""

from __future__ import annotations

import logging

import numpy as np
from folder_files import read, write_classes
from PIL import Image

from geodeform.classes import ClassScheme
from geodeform.training.datasets.base import DatasetOptions
from geodeform.training.datasets.folder import FolderScenes
from geodeform.training.datasets.folder.classes import ClassRow, Legend, distinct_colours


def test_assigned_colours_are_those_of_okabe_and_ito_then_others_none_twice():
    blue, orange = (0, 114, 178), (230, 159, 0)
    published = {orange, (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0)}
    published |= {(204, 121, 167), (0, 0, 0)}
    assert set(distinct_colours(7, taken=[blue])) == published
    assert distinct_colours(8)[:8:7] == [orange, (0, 0, 0)]  # black, like no data, is the last
    many = distinct_colours(200, taken=distinct_colours(55))
    assert len({*many, *distinct_colours(55)}) == 255
    rows = [ClassRow("a"), ClassRow("b", colour=orange), ClassRow("c")]
    colours = Legend(rows, "here").scheme.colours
    assert colours == ((86, 180, 233), orange, (0, 158, 115))


def test_deepglobe_class_dict_makes_six_classes_of_its_masks(shared_data, tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in ("119", "266"):
        for kind, name in (("images", f"{number}_sat.jpg"), ("masks", f"{number}_mask.png")):
            with Image.open(shared_data / "deepglobe_sample" / name) as source:
                cropped = source.crop((1000, 900, 1300, 1150))
            cropped.save(tmp_path / kind / f"{number}.png")
    colours = {
        "urban_land": (0, 255, 255),
        "agriculture_land": (255, 255, 0),
        "rangeland": (255, 0, 255),
        "forest_land": (0, 255, 0),
        "water": (0, 0, 255),
        "barren_land": (255, 255, 255),
        "unknown": (0, 0, 0),
    }
    lines = [f"{name},{r},{g},{b}" for name, (r, g, b) in colours.items()]
    path = tmp_path / "my_class_dict.csv"
    path.write_text("\n".join(["name,r,g,b", *lines]))
    dataset = FolderScenes(tmp_path, DatasetOptions(classes=path))
    assert dataset.classes == ClassScheme(tuple(colours)[:6], tuple(colours.values())[:6])
    shown = dataset.classes.palette()
    for number in dataset.items:
        with Image.open(tmp_path / f"masks/{number}.png") as mask:
            expected = np.asarray(mask.convert("RGB"))
        assert np.array_equal(shown[dataset.load(number).labels], expected)
    # the same colours in a palette, whose indices mean nothing
    before = dataset.load("119").labels
    with Image.open(tmp_path / "masks/119.png") as mask:
        mask.convert("RGB").quantize(16).save(tmp_path / "masks/119.png")
    assert np.array_equal(dataset.load("119").labels, before)


def test_log_names_what_is_taken_as_unknown(naip, caplog):
    write_classes(naip, "id,name,ignore\n3,bare,\n10,grass,\n40,shadow,true\n")
    with caplog.at_level(logging.INFO):
        dataset = FolderScenes(naip)
    assert "taken as unknown: shadow." in caplog.text
    labels = dataset.load("a").labels
    assert np.array_equal(labels == 255, read(naip / "masks/a.tif", 1) == 40)
