"""Files of classes: forms, places and mistakes."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from folder_files import expect

from geodeform.training.datasets.base import DatasetOptions
from geodeform.training.datasets.folder import FolderScenes
from geodeform.training.datasets.folder.class_files import read_classes
from geodeform.training.datasets.folder.classes import ClassRow

ROWS = [
    ClassRow("bare soil", 3, (170, 85, 0)),
    ClassRow("void", 9, ignore=True),
    ClassRow("Background", 0, (1, 2, 3), background=True),
    ClassRow("void ratio", 12),
]


LISTED = [
    {"id": 3, "name": "bare soil", "colour": "#AA5500"},
    {"id": 9, "name": "void"},
    {"id": 0, "name": "Background", "color": "010203"},
    {"id": "12", "name": "void ratio"},
]


BY_ID = {
    3: {"name": "bare soil", "colour": [170, 85, 0]},
    9: "void",
    0: {"name": "Background", "r": 1, "g": 2, "b": 3},
    12: "void ratio",
}


BY_NAME = {
    "bare soil": {"id": 3, "red": 170, "green": 85, "blue": 0},
    "void": 9,
    "Background": {"id": 0, "colour": "#010203"},
    "void ratio": {"id": 12, "ignore": False},
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "comma.csv",
            "\ufeffId, Name,colour,ignore\n3,bare soil,#AA5500,\n9,void,,\n\n"
            '0,Background,#010203,\n"12","void ratio",,no\n',
        ),
        (
            "semicolon.csv",
            "ID;name;r;g;b\r\n3;bare soil;170;85;0\r\n9;void\r\n0;Background;1;2;3\r\n"
            "12;void ratio;;;\r\n",
        ),
        ("list.yaml", yaml.safe_dump(LISTED)),
        ("named.yml", yaml.safe_dump({"classes": LISTED})),
        ("by_id.yaml", yaml.safe_dump(BY_ID)),
        ("by_name.yaml", yaml.safe_dump(BY_NAME)),
        ("list.json", json.dumps(LISTED)),
        ("by_id.json", json.dumps(BY_ID)),
        ("by_name.json", json.dumps(BY_NAME)),
    ],
)
def test_files_of_classes(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert sorted(read_classes(path), key=lambda row: row.name) == sorted(
        ROWS, key=lambda row: row.name
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,nmae\n1,x\n", "class 1 has the unknown field 'nmae' (did you mean 'name'?); known"),
        ("id,name\n1,a\nx,b\n", "classes.csv, class 2 has id 'x'; give a whole number"),
        ("id,name\n1,a\n1,b\n", "classes.csv has two classes of the id 1; give each its own"),
        ("id,name\n1,a\n2,a\n", "classes.csv has two classes of the name a; give each its own"),
        ("name,colour\na,#fff000\nb,#FFF000\n", "two classes of the colour #FFF000; give each"),
        ("id,name\n1,a\n,b\n", "gives ids, but none for the class 'b'; give it its own"),
        ("name,colour\na,red\n", 'class 1 has the colour red; give "#RRGGBB" (in quotes) or red'),
        ("name,r,g,b\na,1,2,\n", "class 1 has the colour [1, 2, None]; give"),
        ("name,r,g,b\na,1,2,256\n", "class 1 has the colour [1, 2, 256]; give"),
        ("name,ignore\na,maybe\n", "class 1 has ignore 'maybe'; give true or false"),
        ("name,colour\n,#ffffff\n", "class 1 has no name; give it one"),
        ("name,id\na,1,2\n", "class 1 has more values than there are columns; quote its name"),
        ("id,name\n", "classes.csv lists no class; list at least two"),
        ("name\nvoid\n", "classes.csv lists no class; list at least two"),
        ("name,background\na,true\nb,true\n", "has two backgrounds, a and b; keep one"),
        (b"name\n\xff\xfe\n", "cannot be read as a file of classes ("),
        ("\n".join(["id,name", *(f"{k},c{k}" for k in range(400))]), "lists 400 classes; a map"),
    ],
)
def test_wrong_csv_files_of_classes(naip, text, message):
    (naip / "classes.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    expect(message, naip)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.yaml", "[1, 2", "cannot be read as a file of classes (while parsing"),
        ("classes.json", "{", "cannot be read as a file of classes (Expecting"),
        ("classes.yaml", "- a\n- b\n", "must hold a list of classes, such as '- {id: 1, name:"),
        ("classes.yaml", "just text", "must hold a list of classes"),
        ("classes.yaml", "1: {name: a, colour: #fff}\n", "cannot be read as a file of classes ("),
        (
            "classes.yaml",
            "1:\n  name: a\n  colour: #fff\n",
            "class 1 has colour None; put its text in quotes",
        ),
        ("classes.yaml", "0: no\n1: yes\n", "class 1 has name False; put its text in quotes"),
        ("classes.yaml", "1: {name: a, colour: 170}\n", "class 1 has the colour 170; give"),
        ("classes.yml", "a: {colour: [1, 2]}\n", "class 1 has the colour [1, 2]; give"),
    ],
)
def test_wrong_yaml_files_of_classes(naip, name, text, message):
    (naip / "classes.csv").unlink()
    (naip / name).write_text(text)
    expect(message, naip)


def test_no_file_of_classes_or_several(naip):
    expect(
        f"The file of classes {naip / 'no.csv'} is not there",
        naip,
        DatasetOptions(classes=naip / "no.csv"),
    )
    shutil.copy(naip / "classes.csv", naip / "class_dict.csv")
    expect("has several files of classes, classes.csv and class_dict.csv; keep one", naip)
    chosen = DatasetOptions(classes=naip / "class_dict.csv")
    assert FolderScenes(naip, chosen).classes.names == ("bare", "grass", "wood")
