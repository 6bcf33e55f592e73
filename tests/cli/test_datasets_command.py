from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from geodeform.cli.datasets import command, describe, short_licence
from geodeform.training.cache import SceneCache, cache_usage
from geodeform.training.datasets.base import DatasetInfo, LabelledDataset, LabelledScene
from geodeform.training.datasets.dubai import DubaiScenes
from geodeform.training.datasets.registry import DATASETS


class Own(LabelledDataset):
    """A dataset whose classes are the user's own, as those of a folder are."""

    info = DatasetInfo(
        name="own",
        title="Your own [images] and masks",
        layout="  images/[a].tif\n  masks/[a].png",
        classes=(),
        licence="Yours",
        get="Nothing to get.",
        purpose="Whatever it shows [bold].",
    )

    def load(self, item: str) -> LabelledScene:
        raise NotImplementedError

    def files(self, item: str) -> tuple:
        raise NotImplementedError


def run(*arguments: str) -> str:
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_list_has_a_line_for_every_dataset() -> None:
    lines = run().splitlines()
    for name, kind in DATASETS.items():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert kind.info.title in line
        assert short_licence(kind.info.licence) in line
    (dubai,) = (line for line in lines if line.split()[:1] == ["dubai"])
    assert dubai.split()[1:3] == ["5", "CC0-1.0"]


def test_one_dataset_is_described_in_full() -> None:
    told = run("dubai")
    for text in (
        DubaiScenes.info.title,
        DubaiScenes.info.layout,
        DubaiScenes.info.licence,
        DubaiScenes.info.get,
        DubaiScenes.info.purpose,
        "Bands red, green, blue; ground sampling distance 1 m.",
        "geodeform train --dataset dubai --root FOLDER",
    ):
        assert text in told
    rows = [line.split() for line in told.splitlines()]
    assert ["0", "#D6483E", "Building"] in rows
    assert ["4", "#3A7CC8", "Water"] in rows


def test_colours_are_shown_where_the_terminal_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    for system, shown in (("truecolor", True), ("", False)):
        monkeypatch.setenv("COLORTERM", system)
        if not shown:
            monkeypatch.setenv("TERM", "xterm-16color")
        done = CliRunner().invoke(command, ["dubai"], color=True)
        assert ("\x1b[48;2;214;72;62m  \x1b[0m" in done.stdout) is shown
        assert "#D6483E  Building" in done.stdout


def test_json_says_the_same() -> None:
    one = json.loads(run("dubai", "--json"))
    assert one == describe(DubaiScenes)
    assert one["classes"][3] == {"id": 3, "name": "Vegetation", "colour": "#4C9943"}
    assert (one["bands"], one["gsd_m"]) == (["red", "green", "blue"], 1.0)
    assert one["layout"] == DubaiScenes.info.layout.splitlines()
    listed = json.loads(run("--json"))["datasets"]
    assert [entry["name"] for entry in listed] == list(DATASETS)
    assert one in listed


def test_classes_of_ones_own_and_brackets_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(DATASETS, "own", Own)
    (line,) = (line for line in run().splitlines() if line.split()[:1] == ["own"])
    assert " ".join(line.split()) == "own your own Yours Your own [images] and masks"
    told = run("own")
    assert "classes\n  your own\n" in told
    assert "  images/[a].tif\n  masks/[a].png\n" in told
    assert "Whatever it shows [bold]." in told
    assert "ground sampling distance varies or is unknown" in told
    one = json.loads(run("own", "--json"))
    assert (one["classes"], one["gsd_m"]) == ([], None)


def test_names_without_colours_are_listed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    named = type("Named", (Own,), {"info": DatasetInfo("own", "", "", ("a", "b"), "", "", "")})
    monkeypatch.setitem(DATASETS, "own", named)
    assert describe(named)["classes"][1] == {"id": 1, "name": "b", "colour": None}
    assert "    1  b\n" in run("own")


def test_a_wrong_name_is_wrong_usage_and_names_the_nearest() -> None:
    done = CliRunner().invoke(command, ["dubia"])
    assert done.exit_code == 2
    assert "There is no dataset 'dubia' (did you mean 'dubai'?); known are " in done.stderr
    assert all(name in done.stderr for name in DATASETS)


@pytest.mark.parametrize(
    ("licence", "short"),
    [
        ("CC0-1.0", "CC0-1.0"),
        ("CC BY-NC-SA 4.0: non-commercial use.", "CC BY-NC-SA 4.0"),
        ("Research only. Do not pass it on.", "Research only"),
        ("Public domain (CC0), as published", "Public domain"),
    ],
)
def test_licences_in_the_list_are_short(licence: str, short: str) -> None:
    assert short_licence(licence) == short


class Old(Own):
    """A dataset that this geodeform does not know any more."""

    info = DatasetInfo("old [x]", "", "", (), "", "", "")
    classes = DubaiScenes.classes
    items = ("a",)

    def files(self, item: str) -> tuple[Path, ...]:
        return (self.root / f"{item}.txt",)

    def load(self, item: str) -> LabelledScene:
        return LabelledScene(item, np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8))


class Kept(Old):
    """Stands for a known dataset with two items."""

    info = DubaiScenes.info
    items = ("a", "b")

    def load(self, item: str) -> LabelledScene:
        shape = (700, 800)
        return LabelledScene(item, np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8))


@pytest.fixture
def decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that holds two items of dubai and one of a dataset of old."""
    for item in ("a", "b"):
        (tmp_path / f"{item}.txt").write_text(item, encoding="utf-8")
    folder = tmp_path / "decoded"
    for kind in (Old, Kept):
        SceneCache(kind(tmp_path), folder).scenes(kind.items)
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    monkeypatch.setenv("GEODEFORM_CACHE", str(folder))
    return folder


def table(told: str) -> list[list[str]]:
    return [line.split() for line in told.splitlines() if line.startswith("  ") and line.strip()]


def test_the_cache_is_shown_by_dataset(decoded: Path) -> None:
    told = run("--cache")
    rows = [["dataset", "items", "MB"], ["dubai", "2", "4.5"], ["old", "[x]", "1", "0.0"]]
    assert table(told) == [*rows, ["total", "3", "4.5"]]
    assert f"Decoded in {decoded}.\n" in told
    assert "geodeform datasets --clear-cache [NAME]" in told
    assert table(run("--cache", "dubai"))[1:] == [["dubai", "2", "4.5"], ["total", "2", "4.5"]]
    assert table(run("--cache", "old [x]"))[-1] == ["total", "1", "0.0"]
    assert run("loveda", "--cache") == f"Nothing is decoded in {decoded}.\n"


def test_json_says_the_cache_in_bytes(decoded: Path) -> None:
    sizes = {use.dataset: use.size_bytes for use in cache_usage(decoded)}
    assert json.loads(run("--cache", "--json")) == {
        "folder": str(decoded),
        "freed": False,
        "datasets": [
            {"name": "dubai", "items": 2, "size_bytes": sizes["dubai"]},
            {"name": "old [x]", "items": 1, "size_bytes": sizes["old [x]"]},
        ],
        "items": 3,
        "size_bytes": sum(sizes.values()),
    }
    freed = json.loads(run("--clear-cache", "--json", "dubai"))
    assert freed["freed"] is True
    assert freed["datasets"] == [{"name": "dubai", "items": 2, "size_bytes": sizes["dubai"]}]
    assert (freed["items"], freed["size_bytes"]) == (2, sizes["dubai"])
    assert json.loads(run("--cache", "--json"))["items"] == 1


def test_the_cache_of_one_dataset_is_cleared(decoded: Path) -> None:
    assert run("--clear-cache", "dubai") == f"Freed 4.5 MB in {decoded}: 2 items of dubai.\n"
    assert [use.dataset for use in cache_usage(decoded)] == ["old [x]"]
    assert run("--clear-cache", "dubai") == f"Nothing to free in {decoded}.\n"
    assert [use.dataset for use in cache_usage(decoded)] == ["old [x]"]


def test_the_whole_cache_is_cleared_and_nothing_else(decoded: Path) -> None:
    told = run("--clear-cache")
    assert told == f"Freed 4.5 MB in {decoded}: 2 items of dubai, 1 item of old [x].\n"
    assert cache_usage(decoded) == []
    assert (decoded / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert run("--cache") == f"Nothing is decoded in {decoded}.\n"
    assert run("--clear-cache") == f"Nothing to free in {decoded}.\n"


def test_wrong_usage_of_the_cache_deletes_nothing(decoded: Path) -> None:
    for arguments, problem in (
        (["--cache", "--clear-cache"], "Give --cache to look or --clear-cache to delete, not both"),
        (["--clear-cache", "dubia"], "There is no dataset 'dubia' (did you mean 'dubai'?)"),
        (["--clear-cache", "notes.txt"], "There is no dataset 'notes.txt'"),
    ):
        done = CliRunner().invoke(command, arguments)
        assert done.exit_code == 2
        assert problem in done.stderr
        assert done.stdout == ""
    assert sum(use.entries for use in cache_usage(decoded)) == 3


@pytest.mark.parametrize("arguments", [[], ["dubai"], ["--json"], ["--cache"], ["--clear-cache"]])
def test_the_command_imports_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from geodeform.cli.datasets import command\n"
        "before = [m for m in ('numba', 'rasterio', 'PIL') if m in sys.modules]\n"
        f"command({arguments!r}, standalone_mode=False)\n"
        "sys.stderr.write(repr(before + [m for m in ('torch', 'torchgeo', 'lightning') "
        "if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == "[]"
    assert done.stdout
