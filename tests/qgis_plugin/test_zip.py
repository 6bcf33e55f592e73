from __future__ import annotations

import configparser
import json
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from geodeform.cli.plugin import command
from geodeform.errors import OutputError
from geodeform.plugin import build_plugin
from geodeform.qgis_plugin.command import find_program


def test_the_command_writes_a_zip_that_qgis_takes(tmp_path: Path) -> None:
    made = tmp_path / "plugin.zip"
    done = CliRunner().invoke(command, ["-o", str(made)])
    assert done.exit_code == 0, done.output
    assert "Install from ZIP" in done.output
    with zipfile.ZipFile(made) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        archive.extractall(tmp_path)
    assert {name.split("/")[0] for name in names} == {"geodeform_qgis"}
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in names)
    assert {"__init__.py", "metadata.txt", "icon.svg", "algorithms/segment.py"} <= {
        name.split("/", 1)[1] for name in names
    }
    folder = tmp_path / "geodeform_qgis"
    metadata = configparser.ConfigParser(interpolation=None)
    metadata.read(folder / "metadata.txt", encoding="utf-8")
    general = metadata["general"]
    assert general["version"] == version("geodeform")
    assert general["qgisMinimumVersion"] == "3.22"
    assert general["hasProcessingProvider"] == "yes"
    assert (folder / general["icon"]).is_file()
    assert ElementTree.parse(folder / "icon.svg").getroot().tag.endswith("svg")
    # where it was made is its last resort, and works
    assert find_program(None, {"PATH": ""}, folder)[0] == sys.executable


def test_the_same_bytes_every_time_and_no_path_of_the_machine_in_a_portable_one(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "a.zip", tmp_path / "b.zip"
    build_plugin(first, portable=True)
    report = build_plugin(second, portable=True)
    assert first.read_bytes() == second.read_bytes()
    assert report.python is None
    with zipfile.ZipFile(first) as archive:
        assert tuple(archive.namelist()) == report.files
        assert "geodeform_qgis/installed.json" not in report.files
        for entry in archive.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert sys.prefix.encode() not in archive.read(entry)


def test_json_says_what_was_written(tmp_path: Path) -> None:
    made = tmp_path / "plugin.zip"
    done = CliRunner().invoke(command, ["-o", str(made), "--json"])
    told = json.loads(done.stdout)
    assert told["plugin"] == str(made)
    assert told["version"] == version("geodeform")
    assert told["python"] == sys.executable
    assert "geodeform_qgis/installed.json" in told["files"]


def test_an_existing_file_is_kept_unless_told(tmp_path: Path) -> None:
    made = tmp_path / "plugin.zip"
    made.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        build_plugin(made)
    assert made.read_text() == "mine"
    done = CliRunner().invoke(command, ["-o", str(made), "--overwrite"])
    assert done.exit_code == 0
    assert zipfile.is_zipfile(made)
    assert CliRunner().invoke(command, ["-o", str(tmp_path / "plugin.tar")]).exit_code == 2
