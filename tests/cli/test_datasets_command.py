from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from geodeform.cli.datasets import command, describe, short_licence
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


@pytest.mark.parametrize("arguments", [[], ["dubai"], ["--json"]])
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
    assert "dubai" in done.stdout
