"""``geodeform compare``: what it refuses, and a real comparison from its file to its page."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from evaluation_scenes import write_dubai
from rasterio.windows import Window

from geodeform.cli.main import main


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dubai")
    write_dubai(
        folder,
        tile1=Window(1536, 1024, 480, 480),
        tile2=Window(2016, 1024, 480, 480),
        tile7=Window(1536, 1504, 480, 480),
    )
    return folder


@pytest.fixture
def config(tmp_path) -> Path:
    recipe = {
        "data": {"dataset": "dubai", "window": 256, "val_items": [7], "cache": "none"},
        "model": {"pretrained": "none", "low_res": 16, "sigma": 2.0, "uniform_share": 0},
        "optim": {"steps": 400, "batch_size": 2, "warmup": 0, "ema": 0},
        "run": {"val_windows": 1, "val_every": 2, "checkpoint_every": 1},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    values = {
        "title": "Cuts & <tiles>",
        "recipe": "recipe.yaml",
        "budgets": [32],
        "seeds": [0],
        "baseline": "uniform",
        "methods": {
            "uniform": {"settings": {"model.sampler": "uniform"}},
            "joint": {"title": "learned", "settings": {"model.sampler": "joint"}},
        },
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def run(*words):
    return CliRunner().invoke(main, ["compare", *map(str, words)])


def test_a_dry_run_prints_the_commands(config, root, tmp_path):
    result = run(config, "--root", root, "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    lines = [shlex.split(line) for line in result.stdout.splitlines()]
    assert [line[:2] for line in lines] == [
        ["geodeform", "train"],
        ["geodeform", "evaluate"],
    ] * 2
    assert [line[line.index("--sampler") + 1] for line in lines[1::2]] == ["uniform", "learned"]
    for line in lines[::2]:
        recipe = Path(line[line.index("--config") + 1])
        assert yaml.safe_load(recipe.read_text())["optim"]["steps"] == 400
    other = run(config, "--root", root, "-o", tmp_path / "out", "--dry-run", "--split", "train")
    evaluations = other.stdout.splitlines()[1::2]
    assert all("--split train" in line for line in evaluations)
    assert "train-uniform-32x32.json" in evaluations[0]
    two = run(config, "--root", root, "-o", tmp_path / "out", "--dry-run", "--seeds", "3,5")
    recipes = [
        line[line.index("--config") + 1] for line in map(shlex.split, two.stdout.splitlines()[::2])
    ]
    assert [yaml.safe_load(Path(r).read_text())["run"]["seed"] for r in recipes] == [3, 3, 5, 5]


def test_a_dry_run_needs_no_device(config, root, tmp_path):
    """Its commands may be for another machine."""
    words = [config, "--root", root, "-o", tmp_path / "out", "--dry-run"]
    there = run(*words, "--device", "cuda:99")
    assert there.exit_code == 0
    assert there.stdout == run(*words).stdout


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--dry-run", "--partial"], 2, "both run nothing"),
        (["--retime", "--partial"], 2, "--retime runs networks"),
        (["--set", "optim.step=2"], 1, "did you mean"),
        (["--partial"], 1, "There is nothing to report"),
        (["-j", "0"], 2, "x>=1"),
        (["--device", "cuda:0,cuda:1"], 2, "give -j 2"),
        (["--device", "cuda:99"], 1, "Error: Device 'cuda:99' is not available"),
        (["--device", "cpu,cuda:99", "-j", "2"], 1, "Error: Device 'cuda:99' is not available"),
        (["--device", "gpu"], 1, "Error: Unknown device 'gpu'"),
        (["--seeds", "-1"], 1, "whole numbers from 0"),
        (["--split", "val", "--set", "run.export=best"], 1, "choose its weights on what is"),
        (["--baseline", "unifrom"], 1, "The baseline 'unifrom' is no method"),
        (["--split", "test"], 1, "no items for the part 'test'"),
    ],
)
def test_mistakes_are_named(config, root, tmp_path, words, code, sentence):
    result = run(config, "--root", root, "-o", tmp_path / "out", *words)
    assert result.exit_code == code
    assert sentence in result.output
    assert not (tmp_path / "out").exists()


def test_a_part_on_the_command_line_is_checked(config, root, tmp_path):
    """Parts that the file could not name either."""
    written = yaml.safe_load(config.read_text())
    for changes, part, sentence in (
        (
            {"settings": {"run.export": "best"}, "split": "test"},
            "val",
            "choose its weights on what is evaluated",
        ),
        ({"held_out": [[7]]}, "test", "evaluated as 'split: val'"),
    ):
        config.write_text(yaml.safe_dump({**written, **changes}))
        result = run(config, "--root", root, "-o", tmp_path / "out", "--dry-run", "--split", part)
        assert result.exit_code == 1
        assert sentence in result.output
        assert "mine.yaml" in result.output
        assert not (tmp_path / "out").exists()


def test_a_config_that_is_not_there_is_named(root, tmp_path):
    result = run(tmp_path / "none.yaml", "--root", root)
    assert result.exit_code == 1
    assert "none.yaml" in result.output


@pytest.mark.slow
def test_a_comparison_from_its_file_to_its_page(config, root, tmp_path):
    out = tmp_path / "out"
    words = [config, "--root", root, "-o", out, "--set", "optim.steps=2", "-j", "2"]
    result = run(*words)
    assert result.exit_code == 0, result.output
    report = out / "mine"
    for name in ("report.html", "report.md", "results.csv", "results.json"):
        assert str(report / name) in result.output
        assert (report / name).stat().st_size > 0
    page = (report / "report.html").read_text()
    assert "Cuts &amp; &lt;tiles&gt;" in page
    assert "turn by turn" in page  # times were measured
    assert "There are no pictures" not in page
    times = (out / "times" / "mine.json").read_text()
    again = run(*words)  # nothing is done again, and the page is written anew
    assert again.exit_code == 0
    assert "2 networks, 0 of them to be worked on" in again.output
    assert (out / "times" / "mine.json").read_text() == times
    assert run(*words, "--retime").exit_code == 0
    assert (out / "times" / "mine.json").read_text() != times
    for network in out.glob("networks/*/run"):
        shutil.rmtree(network)
    kept = (out / "times" / "mine.json").read_text()
    assert run(*words).exit_code == 0  # all evaluations are there: nothing is trained
    assert (out / "times" / "mine.json").read_text() == kept
    page = (report / "report.html").read_text()
    assert "turn by turn" in page
    assert page.count("Kept from an earlier report") == 1  # of one budget there is one figure
    assert "There are no pictures" not in page
    (report / "pictures" / "panels.json").unlink()
    assert run(*words).exit_code == 0
    page = (report / "report.html").read_text()
    assert "2 of the 2 networks that were evaluated have none beside their evaluations" in page
    lost = run(*words, "--retime")
    assert lost.exit_code == 1
    assert "needs 2 networks, 2 of which are not there" in lost.output
