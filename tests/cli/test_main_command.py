from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import rasterio
from click.testing import CliRunner

import geodeform
from geodeform.cli.main import main


def test_help_lists_the_commands() -> None:
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    for command in ("segment", "train", "demo"):
        assert command in done.output


def test_python_m_geodeform_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "geodeform", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == f"geodeform, version {version('geodeform')}"


def test_every_command_has_help() -> None:
    for command in main.commands:
        done = CliRunner().invoke(main, [command, "--help"])
        assert done.exit_code == 0
        assert len(done.output.splitlines()) > 5


def test_the_demo_scene_is_what_the_readme_says() -> None:
    path = geodeform.demo_scene()
    assert path.stat().st_size < 6 << 20
    with rasterio.open(path) as dataset:
        assert dataset.crs == "EPSG:32640"
        assert dataset.width >= 3600
        assert dataset.height >= 4100
        assert "APPROXIMATE" in dataset.tags()["TIFFTAG_IMAGEDESCRIPTION"]
        # Jumeirah Golf Estates is at about 25.02° N, 55.20° E: 318 400 E, 2 768 600 N in UTM 40N
        assert dataset.bounds.left < 318_400 < dataset.bounds.right
        assert dataset.bounds.bottom < 2_768_600 < dataset.bounds.top


def test_the_demo_makes_all_its_outputs(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = CliRunner().invoke(main, ["demo", "-o", str(folder), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    names = {p.name for p in folder.iterdir()}
    assert {
        "landcover.tif", "confidence.tif", "density.tif", "landcover.gpkg", "quicklook.png",
    } <= names  # fmt: skip
    for word in ("sampled", "peak memory", "device CPU", "Building", " ha", "quicklook.png"):
        assert word in done.output
    again = CliRunner().invoke(main, ["demo", "-o", str(folder), "--device", "cpu"])
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
