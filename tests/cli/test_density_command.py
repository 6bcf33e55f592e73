"""`geodeform density` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rasterio
from click.testing import CliRunner, Result
from rasterio.transform import Affine
from rasterio.windows import Window
from scene_files import scene_file

import geodeform
from geodeform.cli.main import main


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with rasterio.open(geodeform.demo_scene()) as dataset:
        pixels = dataset.read(window=Window(1200, 900, 700, 600))
    path = tmp_path_factory.mktemp("scenes") / "suburb.tif"
    return scene_file(path, pixels, transform=Affine(1, 0, 317000, 0, -1, 2771000), crs=32640)


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["density", *map(str, args)])


def test_it_writes_the_density_and_says_how_far_samples_reach(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(scene, "--samples", "points.gpkg")
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "points.gpkg",
        "suburb_density.qml",
        "suburb_density.tif",
    ]
    assert "one sample stands for" in done.output
    assert "points.gpkg" in done.output
    again = run(scene)
    assert again.exit_code == 1
    assert "suburb_density.tif exists already; use --overwrite" in again.output


def test_json_is_all_there_is_on_standard_output(scene: Path, tmp_path: Path) -> None:
    done = run(scene, "-o", tmp_path / "d.tif", "--budget", "2%", "--json", "--quiet")
    facts = json.loads(done.stdout)
    assert facts["budget"] == "2%"
    assert facts["sampled_share"] == pytest.approx(0.02, rel=0.1)
    assert facts["outputs"] == {"density": str(tmp_path / "d.tif")}


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["-o", "density.png"], 2, "must end in .tif"),
        (["--budget", "many"], 2, "budget"),
        (["--sampler", "interpolation"], 1, "interpolation"),
        (["--model", "missing.safetensors"], 1, "missing.safetensors"),
    ],
)
def test_bad_input_is_one_sentence(
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(scene, *args)
    assert done.exit_code == code
    assert words in done.output
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []
