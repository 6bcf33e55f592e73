"""`geodeform segment` as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner, Result
from rasterio.transform import Affine
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate
from scene_files import scene_file

import geodeform
from geodeform.cli.main import main

UTM = {"transform": Affine(1.0, 0.0, 317000.0, 0.0, -1.0, 2771000.0), "crs": "EPSG:32640"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two real scenes and one that is none."""
    folder = tmp_path_factory.mktemp("scenes")
    with rasterio.open(geodeform.demo_scene()) as dataset:
        pixels = dataset.read(window=Window(1200, 900, 700, 600))
    scene_file(folder / "a.tif", pixels, **UTM)
    scene_file(folder / "b.tif", pixels[:, ::-1], **UTM)
    (folder / "broken.tif").write_text("this is no raster")
    return folder


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["segment", *map(str, args)])


def test_it_writes_every_output_and_says_what(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.tif"
    done = run(
        folder / "a.tif",
        "-o",
        out,
        "--confidence",
        "--density",
        "--polygons",
        tmp_path / "map.gpkg",
        "--samples",
        tmp_path / "samples.fgb",
        "--quicklook",
        tmp_path / "map.png",
        "--budget",
        "2%",
        "--device",
        "cpu",
    )
    assert done.exit_code == 0, done.output
    names = sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".aux.xml"))
    assert names == [
        "map.gpkg", "map.png", "map.qml", "map.tif", "map_confidence.qml", "map_confidence.tif",
        "map_density.qml", "map_density.tif", "samples.fgb", "samples.qml",
    ]  # fmt: skip
    for name in ("map.tif", "map_confidence.tif", "map_density.tif"):
        valid, errors, _ = cog_validate(str(tmp_path / name), strict=True)
        assert valid, errors
    assert "device CPU" in done.stderr
    assert "Vegetation" in done.stdout
    assert len(gpd.read_file(tmp_path / "map.gpkg", layer="polygons")) > 0


def test_json_is_the_only_thing_on_standard_output(folder: Path, tmp_path: Path) -> None:
    done = run(folder / "a.tif", "-o", tmp_path / "m.tif", "--json")
    told = json.loads(done.stdout)
    assert told["results"][0]["outputs"] == {"labels": str(tmp_path / "m.tif")}
    assert told["results"][0]["sampled_pixels"] > 0


def test_several_scenes_are_each_finished_or_reported(folder: Path, tmp_path: Path) -> None:
    done = run(
        folder / "a.tif",
        folder / "broken.tif",
        folder / "missing.tif",
        folder / "b.tif",
        "-o",
        tmp_path / "maps",
        "--json",
    )
    assert done.exit_code == 1
    results = json.loads(done.stdout)["results"]
    assert ["error" in r for r in results] == [False, True, True, False]
    assert sorted(p.name for p in (tmp_path / "maps").glob("*.tif")) == [
        "a_landcover.tif", "b_landcover.tif",
    ]  # fmt: skip
    for name in ("broken.tif", "missing.tif"):
        line = next(x for x in done.stderr.splitlines() if name in x)
        assert line.startswith("Error: ")


def test_two_scenes_never_write_one_file(folder: Path, tmp_path: Path) -> None:
    done = run(folder / "a.tif", folder / "b.tif", "--polygons", tmp_path / "p.gpkg")
    assert done.exit_code == 2
    assert "{stem}" in done.stderr
    done = run(
        folder / "a.tif", folder / "b.tif", "-o", tmp_path, "--polygons", tmp_path / "{stem}.gpkg"
    )
    assert done.exit_code == 0, done.output
    assert {"a.gpkg", "b.gpkg"} <= {p.name for p in tmp_path.iterdir()}


def test_existing_outputs_are_refused_and_kept(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.tif"
    assert run(folder / "a.tif", "-o", target).exit_code == 0
    before = target.read_bytes()
    done = run(folder / "b.tif", "-o", target)
    assert done.exit_code == 1
    assert "--overwrite" in done.stderr
    assert target.read_bytes() == before
    assert run(folder / "b.tif", "-o", target, "--overwrite").exit_code == 0
    assert target.read_bytes() != before


def test_a_dry_run_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(folder / "a.tif", "--dry-run", "--budget", "64")
    assert done.exit_code == 0, done.output
    assert "pixels to sample" in done.stdout
    assert "estimate" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_default_output_lies_in_the_working_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(folder / "a.tif", "-q").exit_code == 0
    assert (tmp_path / "a_landcover.tif").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--budget", "plenty"],
        ["--sampler", "random"],
        ["--bands", "1,x"],
        ["--bbox", "1,2,3"],
        ["--stretch", "90,10"],
        ["--overlap", "0.9"],
        ["--nonsense"],
        ["--aoi", "no-such-file.gpkg"],
        ["--device", "abacus"],
        ["--polygons", "p.shp"],
        ["--quicklook", "q.jpg"],
        ["-o", "map.png"],
    ],
)
def test_usage_errors_exit_with_2(folder: Path, arguments: list[str]) -> None:
    done = run(folder / "a.tif", *arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_no_scene_is_a_usage_error() -> None:
    assert run().exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda:42"], "not available"),
        (["-m", "missing.safetensors"], "missing.safetensors"),
        (["--bands", "1,2"], "bands"),
        (["--bands", "1,2,7"], "a.tif"),
        (["-o", "no/such/folder/map.tif"], "does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_1(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(folder / "a.tif", *arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_the_map_is_the_librarys(folder: Path, tmp_path: Path) -> None:
    assert run(folder / "a.tif", "-o", tmp_path / "m.tif", "--budget", "3%").exit_code == 0
    expected = geodeform.segment_scene(folder / "a.tif", budget="3%")
    with rasterio.open(tmp_path / "m.tif") as out:
        np.testing.assert_array_equal(out.read(1), expected.labels)


def test_notes_come_before_the_work_and_quiet_hides_them(folder: Path, tmp_path: Path) -> None:
    with rasterio.open(folder / "a.tif") as scene:
        pixels = scene.read()
    pixels[:, :, :200] = 0
    path = scene_file(tmp_path / "black.tif", pixels, **UTM)
    done = run(path, "-o", tmp_path / "m.tif")
    assert "Note: 28.6% of the pixels of black.tif are 0 in every band" in done.stderr
    done = run(path, "-o", tmp_path / "m.tif", "--overwrite", "-q")
    assert done.stderr == ""
    assert done.stdout == ""


def test_a_scene_that_breaks_a_library_does_not_stop_the_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import geodeform.pipeline

    real = geodeform.pipeline.segment_scene

    def fails_once(scene: str, **settings: object) -> object:
        if scene.endswith("a.tif"):
            raise RuntimeError("out of\nmemory")
        return real(scene, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(geodeform.pipeline, "segment_scene", fails_once)
    done = run(folder / "a.tif", folder / "b.tif", "-o", tmp_path, "--json")
    assert done.exit_code == 1
    first, second = json.loads(done.stdout)["results"]
    assert "RuntimeError: out of memory" in first["error"]
    assert second["sampled_pixels"] > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(number: int, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "geodeform", "segment", str(geodeform.demo_scene()),
         "-o", str(work / "m.tif"), "--budget", "30%"],
        env={**os.environ, "TMPDIR": str(scratch)}, stderr=subprocess.PIPE, cwd=work,
        # a test run in the background ignores SIGINT, and its children would too
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip
    for _ in range(600):  # until it is in the middle of its work
        if any(work.iterdir()) or process.poll() is not None:
            break
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert list(work.iterdir()) == []
    assert list(scratch.iterdir()) == []
