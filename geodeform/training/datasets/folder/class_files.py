"""Files of classes: CSV, YAML or JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from geodeform.classes import RGB
from geodeform.errors import DatasetError
from geodeform.models.spec import nearest_names
from geodeform.training.datasets.folder.classes import ClassRow, is_whole, means_unknown

CLASS_FILES = ("classes.csv", "classes.yaml", "classes.yml", "classes.json", "class_dict.csv")
"""Names under which a file of classes is found in the dataset's folder."""

_FIELDS = ("id", "name", "colour", "r", "g", "b", "ignore", "background")
_ALIASES = {"color": "colour", "red": "r", "green": "g", "blue": "b"}
_YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def find_class_file(root: Path) -> Path | None:
    """The file of classes in a dataset's folder, or None.

    Raises:
        DatasetError: If there are several.
    """
    found = [root / name for name in CLASS_FILES if (root / name).is_file()]
    if len(found) > 1:
        raise DatasetError(
            f"{root} has several files of classes, {' and '.join(path.name for path in found)}; "
            "keep one of them."
        )
    return found[0] if found else None


def read_classes(path: Path) -> list[ClassRow]:
    """Read a file of classes: CSV, YAML or JSON; see :class:`FolderScenes` for its fields.

    Raises:
        DatasetError: If it cannot be read, or a field is unknown or has no valid value.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = _csv_rows(text)
        else:
            loaded = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
            rows = _yaml_rows(loaded, path)
    except FileNotFoundError as error:
        raise DatasetError(f"The file of classes {path} is not there; check its path.") from error
    except (OSError, ValueError, yaml.YAMLError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"{path} cannot be read as a file of classes ({reason}); give a CSV, YAML or JSON file "
            "in UTF-8."
        ) from error
    return [_class_row(row, f"{path}, class {n}") for n, row in enumerate(rows, start=1)]


def _csv_rows(text: str) -> list[dict[str, Any]]:
    """Rows of a CSV file whose first line names the columns; comma, semicolon or tab between."""
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    lines = csv.DictReader(
        text.splitlines(), delimiter=delimiter, skipinitialspace=True, restval=""
    )
    return [row for row in lines if any(isinstance(v, str) and v.strip() for v in row.values())]


def _yaml_rows(loaded: Any, path: Path) -> list[dict[str, Any]]:
    """Rows of a list of mappings, or of a mapping by id or name."""
    if isinstance(loaded, dict) and set(loaded) == {"classes"}:
        loaded = loaded["classes"]
    if isinstance(loaded, dict):
        loaded = [_keyed_row(key, value) for key, value in loaded.items()]
    if not isinstance(loaded, list) or not all(isinstance(row, dict) for row in loaded):
        raise DatasetError(
            f"{path} must hold a list of classes, such as '- {{id: 1, name: road}}', or a mapping "
            "such as '1: road'."
        )
    return loaded


def _keyed_row(key: Any, value: Any) -> dict[str, Any]:
    """Row of one entry of a mapping: id → name or fields, or name → id or fields."""
    by_id = isinstance(key, int) or is_whole(str(key))
    row = {"id": key} if by_id else {"name": key}
    if isinstance(value, dict):
        return row | value
    return row | ({"name": value} if by_id else {"id": value})


def _class_row(raw: Mapping[Any, Any], where: str) -> ClassRow:
    """Check the fields of a class.

    Raises:
        DatasetError: If one is unknown or has no valid value.
    """
    if None in raw:
        raise DatasetError(f"{where} has more values than there are columns; quote its name.")
    fields: dict[str, Any] = {}
    for key, value in raw.items():
        name = str(key).strip().lower()
        name = _ALIASES.get(name, name)
        if name not in _FIELDS:
            raise DatasetError(
                f"{where} has the unknown field '{key}'{nearest_names(name, _FIELDS)}; known are "
                f"{', '.join(_FIELDS)}."
            )
        value = value.strip() if isinstance(value, str) else value
        if value is None or (name == "name" and isinstance(value, bool)):
            # YAML takes '#' for a comment, and no and yes for truth values
            raise DatasetError(f"{where} has {key} {value}; put its text in quotes.")
        if value != "":
            fields[name] = value
    number = _whole_field(fields, "id", where)
    name = str(fields.get("name", "" if number is None else f"class {number}"))
    if not name:
        raise DatasetError(f"{where} has no name; give it one.")
    return ClassRow(
        name,
        number,
        _colour_field(fields, where),
        _flag_field(fields, "ignore", means_unknown(name), where),
        _flag_field(fields, "background", name.lower() == "background", where),
    )


def _whole_field(fields: Mapping[str, Any], key: str, where: str) -> int | None:
    if key not in fields:
        return None
    if not is_whole(str(fields[key])):
        raise DatasetError(f"{where} has {key} '{fields[key]}'; give a whole number.")
    return int(fields[key])


def _flag_field(fields: Mapping[str, Any], key: str, default: bool, where: str) -> bool:
    text = str(fields.get(key, default)).lower()
    if text not in _YES_NO:
        raise DatasetError(f"{where} has {key} '{fields[key]}'; give true or false.")
    return _YES_NO[text]


def _colour_field(fields: Mapping[str, Any], where: str) -> RGB | None:
    """Colour of a class: "#RRGGBB", a list of three, or r, g and b."""
    given = fields.get("colour")
    levels = [_whole_field(fields, key, where) for key in "rgb"]
    if given is None and levels == [None] * 3:
        return None
    if isinstance(given, str):
        text = given.removeprefix("#")
        hexes = len(text) == 6 and all(c in "0123456789abcdefABCDEF" for c in text)
        levels = [int(text[i : i + 2], 16) for i in (0, 2, 4)] if hexes else []
    elif isinstance(given, list):
        levels = [v if isinstance(v, int) else None for v in given]
    elif given is not None:
        levels = []
    if len(levels) != 3 or any(v is None or not 0 <= v <= 255 for v in levels):
        said = levels if given is None else given
        raise DatasetError(
            f'{where} has the colour {said}; give "#RRGGBB" (in quotes) or red, green and blue of '
            "0 to 255."
        )
    r, g, b = (v or 0 for v in levels)
    return r, g, b
