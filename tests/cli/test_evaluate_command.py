"""`geodeform evaluate` as a user meets it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from evaluation_scenes import SHORE, VILLAS, write_dubai
from needy_model import without_error_net

import geodeform
from geodeform.cli import evaluate
from geodeform.cli.main import main
from geodeform.evaluation.result import Evaluation, read_evaluation
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
    json_file, csv_file = tmp_path / "r.json", tmp_path / "figures.csv"
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
        assert sum(1 for _ in csv.DictReader(file)) == len(result.long_table())
    again = run(root, *args)
    assert again.exit_code == 1
    assert "exists already; use --overwrite" in again.output
    assert run(root, *args, "--overwrite").exit_code == 0


def test_the_csv_holds_every_figure_of_the_json(root: Path, tmp_path: Path) -> None:
    json_file, csv_file = tmp_path / "r.json", tmp_path / "figures.csv"
    done = run(root, "--budget", "2%", "-o", json_file, "--csv", csv_file, "--device", "cpu")
    assert done.exit_code == 0, done.output
    facts = json.loads(json_file.read_text())
    table = pd.read_csv(csv_file, dtype={"value": str})  # to be read to the last digit
    table["value"] = table["value"].map(float)
    for name in ("model", "dataset", "split", "sampler", "oracle", "allocation", "budget"):
        assert (table[name] == facts[name]).all()
    assert (table["device"] == facts["cost"]["device"]).all()
    key = ["figure", "map", "class", "at"]
    assert not table.duplicated(key).any()
    assert table["unit"].notna().all()
    found = {
        tuple("" if pd.isna(part) else part for part in (row[name] for name in key)): row["value"]
        for _, row in table.iterrows()
    }

    wanted: dict[tuple[str, str, str, str], float | None] = {}
    for kind in ("soft", "nearest"):
        for name, value in facts[kind].items():
            if isinstance(value, dict):
                unit = {"trimap_accuracy": " px", "boundary_f1": ""}[name]
                wanted |= {(name, kind, "", f"{at}{unit}"): one for at, one in value.items()}
            else:
                wanted[name, kind, "", ""] = value
    assert facts["miou"] == wanted["miou", "soft", "", ""]
    wanted["miou", "deformed", "", ""] = facts["deformed_miou"]
    wanted["accuracy", "deformed", "", ""] = facts["deformed_accuracy"]
    wanted["miou", "intrinsic", "", ""] = facts["intrinsic_miou"]
    wanted["miou", "intrinsic_nearest", "", ""] = facts["intrinsic_miou_nearest"]
    for name, value in facts["calibration"].items():
        if name != "bins":
            wanted[name, "soft", "", ""] = value
    bins = facts["calibration"]["bins"]
    for number, one in enumerate(bins, 1):
        for name, value in one.items():
            wanted[f"bin_{name}", "soft", "", f"bin {number} of {len(bins)}"] = value
    for name, value in facts["cost"].items():
        if name != "device":
            wanted[name, "", "", ""] = value
    for row in facts["classes"]:
        for name, value in row.items():
            if name in ("id", "class"):
                continue
            if name.startswith("iou"):
                place = ("iou", name.removeprefix("iou").strip("_") or "soft", row["class"], "")
            elif name.startswith("boundary"):
                tolerance = "3 px" if name.endswith("3px") else "0.75% of the diagonal"
                place = ("boundary_f1", "soft", row["class"], tolerance)
            else:
                kind = "soft" if name in ("precision", "recall", "f1") else ""
                place = (name, kind, row["class"], "")
            wanted[place] = value
    assert found.keys() == wanted.keys()
    for place, value in wanted.items():
        if value is None:
            assert pd.isna(found[place]), place
        else:
            assert found[place] == value, place
    assert wanted["device_memory_bytes", "", "", ""] is None

    # as one asks for it
    water = table[
        (table["class"] == "Water") & (table["figure"] == "iou") & (table["map"] == "soft")
    ]
    assert water["class_id"].tolist() == [4]
    assert water["value"].tolist() == [facts["classes"][4]["iou"]]
    units = table.set_index("figure")["unit"]
    assert units["seconds"] == "s"
    assert units["flops"] == "FLOP"
    assert set(units["iou"]) == {"1"}


def test_a_csv_that_fails_leaves_what_was_there(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, never = tmp_path / "old.csv", tmp_path / "new.json"
    old.write_text("old")
    table = Evaluation.long_table
    monkeypatch.setattr(  # the disk fills up, say
        Evaluation, "long_table", lambda self: [*table(self)[:9], {"unknown column": 1}]
    )
    done = run(root, "--budget", "2%", "-o", never, "--csv", old, "--overwrite")
    assert done.exit_code != 0
    assert old.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["old.csv"]


def test_rows_of_named_items_and_of_oracles_say_so(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.csv"
    done = run(root, "--sampler", "oracle", "--items", "1,7", "--budget", "2%", "--csv", file)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(file)
    assert set(table["items"]) == {"1 7"}
    assert table["oracle"].all()


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
