"""`geodeform evaluate` as a user meets it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from evaluation_scenes import SHORE, VILLAS, write_dubai
from needy_model import without_error_net

import geodeform
from geodeform.cli import evaluate
from geodeform.cli.main import main
from geodeform.evaluation.result import read_evaluation
from geodeform.evaluation.ways import WAYS
from geodeform.models.model_file import save_model


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dubai")
    write_dubai(folder, tile1=SHORE, tile7=VILLAS)
    return folder


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(main.commands, "evaluate", evaluate.command)


def run(root: Path, *args: object) -> Result:
    words = ["evaluate", "--dataset", "dubai", "--root", root, *args]
    return CliRunner().invoke(main, [str(word) for word in words])


def test_it_prints_the_figures_and_writes_both_files(root: Path, tmp_path: Path) -> None:
    json_file, csv_file = tmp_path / "r.json", tmp_path / "classes.csv"
    args = ("--budget", "2%", "-o", json_file, "--csv", csv_file)
    done = run(root, *args)
    assert done.exit_code == 0, done.output
    result = read_evaluation(json_file)
    assert result.items == ("7",)
    lines = done.output.splitlines()
    miou = next(line for line in lines if line.strip().startswith("mIoU"))
    assert miou.split()[1] == f"{100 * result.miou:.1f}"
    assert miou.split()[3] == f"{100 * result.deformed.miou():.1f}"
    for words in ("Vegetation", "boundary F1, 3 px", "trimap accuracy, 128 px", "ECE", "GFLOP"):
        assert words in done.output
    with csv_file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(result.classes)
    assert [float(row["iou"]) for row in rows] == result.soft.confusion.iou().tolist()
    again = run(root, *args)
    assert again.exit_code == 1
    assert "exists already; use --overwrite" in again.output
    assert run(root, *args, "--overwrite").exit_code == 0


def test_json_is_all_there_is_on_standard_output(root: Path) -> None:
    done = run(root, "--sampler", "oracle", "--items", "1,7", "--json")
    facts = json.loads(done.stdout)
    assert facts["items"] == ["1", "7"]
    assert facts["mark"] == "oracle: sees the labels at test time"
    assert any("trained on 1 of these 2 items" in note for note in facts["notes"])
    assert 0 < facts["miou"] < 1
    assert sum(b["pixels"] for b in facts["calibration"]["bins"]) == facts["cost"]["scene_pixels"]


def test_a_model_that_expects_no_errors_cannot_allocate(root: Path, tmp_path: Path) -> None:
    model = save_model(without_error_net(geodeform.load_model()), tmp_path / "simple.safetensors")
    done = run(root, "--model", model, "--allocation", "need")
    assert done.exit_code == 1
    assert "train one with model.error_net" in done.output


def test_an_oracle_is_marked_on_the_terminal(root: Path) -> None:
    assert "oracle: sees the labels at test time" in run(root, "--sampler", "oracle").output
    assert "oracle" not in run(root, "--sampler", "uniform").stdout


def test_the_choices_are_the_ways() -> None:
    assert tuple(WAYS) == evaluate._SAMPLERS


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--sampler", "best"], 2, "--sampler"),
        (["--budget", "many"], 2, "budget"),
        (["-o", "result.txt"], 2, "must end in .json"),
        (["--sampler", "full", "--budget", "1%"], 2, "give no --budget"),
        (["--sampler", "full", "--allocation", "even"], 2, "give no --allocation"),
        (["--set", "data.crop"], 2, "data.crop"),
        (["--set", "optim.lr=1"], 1, "optim.lr has no effect on an evaluation"),
        (["--items", "9"], 1, "Item 9 is not in"),
        (["--sampler", "interpolation"], 1, "without interpolation sampling"),
        (["--model", "missing.safetensors"], 1, "missing.safetensors"),
        (["--dataset", "dubay"], 1, "did you mean 'dubai'"),
        (["--root", "nowhere"], 1, "nowhere"),
    ],
)
def test_bad_input_is_one_sentence(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(root, "--csv", "classes.csv", *args)
    assert done.exit_code == code
    assert words in done.output
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []
