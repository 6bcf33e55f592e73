"""``geodeform budget``: the table, the picture, bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from evaluation_scenes import VILLAS, demo_cut
from PIL import Image
from scene_files import scene_file

from geodeform.cli.main import main


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "villas.tif"
    return scene_file(path, np.moveaxis(demo_cut(VILLAS)[0], -1, 0))


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["budget", *map(str, args)])


FEW = ("--budget", "0.5%", "--budget", "2%", "--budget", "8%")


def test_it_prints_draws_and_writes_the_curve(scene: Path, tmp_path: Path) -> None:
    picture, table = tmp_path / "curve.png", tmp_path / "curve.csv"
    done = run(scene, *FEW, "-o", picture, "--csv", table)
    assert done.exit_code == 0, done.output
    for words in ("every pixel", "learned", "uniform", "The knee lies at", "all 1 windows"):
        assert words in done.stdout
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8  # with that of the largest trained size, which agreement is with
    assert {row["sampler"] for row in rows} == {"every pixel", "learned by need", "uniform"}
    drawn = np.asarray(Image.open(picture).convert("L"))
    assert drawn.shape[1] > 2000
    assert drawn.std() > 10
    again = run(scene, *FEW, "-o", picture)
    assert again.exit_code == 1
    assert "--overwrite" in again.output


def test_json_is_all_there_is_on_standard_output(scene: Path) -> None:
    done = run(scene, *FEW, "--json")
    facts = json.loads(done.stdout)
    assert facts["windows"] == facts["windows_of_scene"] == 1
    assert facts["knee"] in [
        r["sampled_share"] for r in facts["runs"] if r["sampler"] == facts["own"]
    ]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["nowhere.tif"], 1, "nowhere.tif"),
        (["--budget", "many"], 2, "budget"),
        (["-o", "curve.txt"], 2, "must end in"),
        (["--windows", "0"], 2, "--windows"),
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
    given = args if args[0].endswith(".tif") else [str(scene), *args]
    done = run(*given)
    assert done.exit_code == code
    assert words in done.output
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []
