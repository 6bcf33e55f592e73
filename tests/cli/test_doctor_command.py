from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner, Result
from rasterio.crs import CRS
from scene_files import scene_file

from geodeform.cli.doctor import command

PLACE = {"crs": CRS.from_epsg(32640), "transform": rasterio.Affine(1, 0, 3e5, 0, -1, 2.7e6)}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments])


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A sound image: a valid COG, as small rasters are."""
    pixels = np.random.default_rng(1).integers(0, 255, (3, 64, 64), np.uint8)
    return scene_file(tmp_path / "scene.tif", pixels, **PLACE, blockxsize=64, blockysize=64)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Classes without names: warnings, but no error."""
    return scene_file(tmp_path / "flat.tif", np.ones((1, 64, 64), np.uint8), **PLACE)


def test_sound_files_end_with_zero(scene: Path) -> None:
    done = run(scene)
    assert done.exit_code == 0
    assert "all " in done.stdout
    assert "0 errors, 0 warnings" in done.stdout


def test_warnings_end_with_one_only_where_asked(flat: Path) -> None:
    assert run(flat).exit_code == 0
    done = run("--strict", flat)
    assert done.exit_code == 1
    assert "class.unnamed" in done.stdout


def test_errors_end_with_one_and_the_others_are_examined(scene: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "gone.tif", scene)
    assert done.exit_code == 1
    assert "file.missing" in done.stdout
    assert "scene.tif" in done.stdout
    assert "1 error, 0 warnings" in done.stdout


def test_quiet_says_errors_only(flat: Path, tmp_path: Path) -> None:
    assert run("-q", flat).stdout == ""
    quiet = run("-q", flat, tmp_path / "gone.tif").stdout
    assert "file.missing" in quiet
    assert "class.unnamed" not in quiet


def test_verbose_says_what_passed(scene: Path) -> None:
    assert "raster.read" not in run(scene).stdout
    assert "raster.read" in run("-v", scene).stdout


def test_json(flat: Path, tmp_path: Path) -> None:
    done = run("--json", flat, tmp_path / "gone.tif")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["worst"] == "error"
    assert told["counts"]["error"] == 1
    one, other = told["reports"]
    assert one["kind"] == "class raster"
    assert one["worst"] == "warning"
    assert {"level", "code", "message", "remedy"} == set(one["findings"][0])
    assert other["findings"][0]["code"] == "file.missing"


def test_no_file_is_wrong_usage() -> None:
    assert run().exit_code == 2


def test_a_finding_is_one_line_when_piped(flat: Path) -> None:
    lines = run(flat).stdout.splitlines()
    (line,) = (line for line in lines if "class.no-nodata" in line)
    assert "declares no nodata value" in line
    assert "counted as one." in line


def test_brackets_in_names_are_no_markup(tmp_path: Path) -> None:
    assert "[bold]x.tif" in run(tmp_path / "[bold]x.tif").stdout


def test_the_command_needs_nothing_heavy_to_show_its_help() -> None:
    code = (
        "import sys, geodeform.cli.doctor; "
        "print([m for m in ('torch', 'rasterio', 'geopandas', 'pyogrio') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_examining_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None\nimport geodeform.doctor, geodeform.geo.stac"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
