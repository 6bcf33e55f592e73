from __future__ import annotations

import ast
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import geodeform.qgis_plugin
from geodeform.cli.main import main
from geodeform.qgis_plugin.command import (
    RECORD,
    SETTING,
    Cancelled,
    CommandError,
    Finished,
    build_arguments,
    check_free,
    child_environment,
    find_program,
    move_raster,
    plugin_version,
    read_results,
    run_program,
)

from .conftest import FakeFeedback

FakeProgram = Callable[..., Path]
PLUGIN = Path(geodeform.qgis_plugin.__file__).parent


def program_at(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


# ---- finding it


def test_setting_then_variable_then_path_then_record(tmp_path: Path) -> None:
    setting = program_at(tmp_path / "a" / "geodeform")
    variable = program_at(tmp_path / "b" / "geodeform")
    on_path = program_at(tmp_path / "c" / "geodeform")
    recorded = program_at(tmp_path / "d" / "python3.11")
    plugin = tmp_path / "plugin"
    plugin.mkdir()
    (plugin / RECORD).write_text(json.dumps({"python": str(recorded)}))
    environ = {SETTING: str(variable), "PATH": str(on_path.parent)}
    assert find_program(str(setting), environ, plugin) == [str(setting)]
    assert find_program("", environ, plugin) == [str(variable)]
    del environ[SETTING]
    assert find_program(None, environ, plugin) == [str(on_path)]
    environ["PATH"] = str(tmp_path)
    assert find_program(None, environ, plugin) == [str(recorded), "-P", "-m", "geodeform"]


def test_a_wrong_setting_is_an_error_and_no_other_geodeform_is_taken(tmp_path: Path) -> None:
    other = program_at(tmp_path / "geodeform")
    environ = {"PATH": str(tmp_path)}
    with pytest.raises(CommandError, match="no program is there: correct it"):
        find_program(str(tmp_path / "gone"), environ, tmp_path)
    with pytest.raises(CommandError, match=f"environment variable {SETTING} says"):
        find_program(None, {**environ, SETTING: str(tmp_path)}, tmp_path)
    other.chmod(0o644)
    with pytest.raises(CommandError, match="no program is there"):
        find_program(str(other), environ, tmp_path)


@pytest.mark.parametrize("record", [None, "{", "[]", '{"python": "/nowhere/python"}'])
def test_where_it_is_nowhere_the_message_says_so(tmp_path: Path, record: str | None) -> None:
    if record is not None:
        (tmp_path / RECORD).write_text(record)
    with pytest.raises(CommandError, match=r"pip install geodeform.*Providers > geodeform"):
        find_program(None, {"PATH": str(tmp_path)}, tmp_path)


def test_the_recorded_way_runs_geodeform() -> None:
    words = [sys.executable, "-P", "-m", "geodeform", "--version"]
    done = run_program(words, FakeFeedback(), environ=child_environment(os.environ))
    assert done.code == 0
    assert done.output.startswith("geodeform, version ")


# ---- telling it


def test_arguments_are_what_the_command_reads() -> None:
    options = {
        "bbox": [-10.5, -0.1, 1e-7, 2.0],
        "bands": ["3", "2", "1"],
        "min-area": 50.0,
        "nodata": 0.0,
        "confidence": True,
        "density": False,
        "polygons": "",
        "sampler": None,
        "output": Path("a b.tif"),
    }
    assert build_arguments("segment", "-odd.tif", options) == [
        "segment", "--json", "--bbox=-10.5,-0.1,1e-07,2", "--bands=3,2,1", "--min-area=50",
        "--nodata=0", "--confidence", "--output=a b.tif", "--", "-odd.tif",
    ]  # fmt: skip


def test_every_option_of_the_plugin_is_one_of_the_command() -> None:
    """Parsed by click itself: the missing scene is found only once all options are understood."""
    named = {
        "model": "dubai", "budget": "1%", "sampler": "uniform", "bands": [1, 2, 3], "nodata": 0.0,
        "stretch": "2,98", "gsd": 1.0, "overlap": 0.25, "device": "cpu",
        "bbox": [0.0, 0.0, 1.0, 2.0],
    }  # fmt: skip
    segment = {"confidence": True, "density": True, "polygons": "p.gpkg", "samples": "s.gpkg",
               "min-area": 5.0, "fill-holes": 9.0, "simplify": 1.0, "smooth": 3, "output": "o.tif",
               "overwrite": True}  # fmt: skip
    for command, options in (
        ("segment", {**named, **segment}),
        ("segment", {**named, "dry-run": True}),
        ("density", {**named, "samples": "s.gpkg", "output": "o.tif", "overwrite": True}),
    ):
        done = CliRunner().invoke(main, build_arguments(command, "missing.tif", options))
        assert done.exit_code == 1, done.output
        assert "missing.tif" in done.output


def test_the_child_does_not_inherit_what_is_qgiss_own() -> None:
    qgis = {"PYTHONHOME": "/q", "PYTHONPATH": "/q", "PROJ_LIB": "/q", "PROJ_DATA": "/q",
            "GDAL_DATA": "/q", "GDAL_DRIVER_PATH": "/q", "QT_PLUGIN_PATH": "/q"}  # fmt: skip
    own = {"PATH": "/bin", "HOME": "/h", "GDAL_CACHEMAX": "512", "CUDA_VISIBLE_DEVICES": "1"}
    child = child_environment({**qgis, **own})
    assert child == {**own, "PYTHONUTF8": "1", "GEODEFORM_PROGRESS": "lines"}


# ---- running it


def run(program: Path, feedback: FakeFeedback) -> Finished:
    return run_program([str(program)], feedback, environ=child_environment(os.environ))


def test_messages_progress_and_answer_come_through(fake_program: FakeProgram) -> None:
    program = fake_program(
        """
        print("geodeform 1 · model dubai", file=sys.stderr)
        print("Note: no CRS.", file=sys.stderr)
        print("progress 1/4", file=sys.stderr)
        print("progress 4/4", file=sys.stderr)
        print("x" * 1_000_000)  # more than a pipe holds
        print("y" * 1_000_000, file=sys.stderr)
        """
    )
    feedback = FakeFeedback()
    done = run(program, feedback)
    assert done.code == 0
    assert len(done.output) > 1_000_000
    assert feedback.progress == [25, 100]
    assert feedback.said[0] == ("command", str(program))
    assert feedback.said[1:3] == [("info", "geodeform 1 · model dubai"), ("warning", "no CRS.")]


def test_a_failure_is_told_in_geodeforms_own_sentence(fake_program: FakeProgram) -> None:
    program = fake_program("sys.exit(print('Error: a.tif is no raster.', file=sys.stderr) or 1)")
    feedback = FakeFeedback()
    with pytest.raises(CommandError) as told:
        read_results(run(program, feedback))
    assert str(told.value) == "a.tif is no raster."
    assert not any("no raster" in text for _, text in feedback.said)  # QGIS shows the exception


def test_other_failures_say_what_is_known(fake_program: FakeProgram) -> None:
    program = fake_program("sys.exit('Traceback: odd')")
    with pytest.raises(CommandError, match="failed with exit code 1: Traceback: odd"):
        read_results(run(program, FakeFeedback()))
    program = fake_program("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(CommandError, match="ended from outside \\(SIGKILL\\); the memory"):
        read_results(run(program, FakeFeedback()))
    program = fake_program("print('hello')\nsys.exit()")
    with pytest.raises(CommandError, match="without saying what it did"):
        read_results(run(program, FakeFeedback()))
    with pytest.raises(CommandError, match=r"cannot be started .*choose another geodeform"):
        run(program.parent, FakeFeedback())


def test_another_version_of_geodeform_is_named_as_the_cause() -> None:
    done = Finished(2, "", ["No such command 'density'."], ["Usage: geodeform"])
    with pytest.raises(CommandError, match=f"belongs to geodeform {plugin_version()}.*update it"):
        read_results(done)


def test_cancelling_ends_the_child_and_lets_it_clean_up(
    fake_program: FakeProgram, tmp_path: Path
) -> None:
    half = tmp_path / "half.tif"
    program = fake_program(
        """
        half = here / "half.tif"
        def end(*_):
            half.unlink()
            sys.exit(1)
        signal.signal(signal.SIGTERM, end)
        half.write_text(str(os.getpid()))
        time.sleep(60)
        """
    )
    pids: list[int] = []

    def begun() -> bool:
        if half.exists() and half.read_text():
            pids.append(int(half.read_text()))
        return bool(pids)

    with pytest.raises(Cancelled):
        run(program, FakeFeedback(begun))
    assert not half.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_child_that_does_not_listen_is_killed(
    fake_program: FakeProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geodeform.qgis_plugin.command._GRACE_S", 0.3)
    program = fake_program(
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (here / "begun").touch()
        time.sleep(60)
        """
    )
    began = time.monotonic()
    with pytest.raises(Cancelled):
        run(program, FakeFeedback((tmp_path / "begun").exists))
    assert time.monotonic() - began < 50


def test_the_real_geodeform_answers_and_fails_as_expected(tmp_path: Path) -> None:
    words = [sys.executable, "-P", "-m", "geodeform"]
    environ = child_environment(os.environ)
    arguments = build_arguments("segment", str(tmp_path / "no.tif"), {"output": tmp_path / "o.tif"})
    done = run_program([*words, *arguments], FakeFeedback(), environ=environ)
    assert done.code == 1
    with pytest.raises(CommandError, match=r"no\.tif"):
        read_results(done)
    done = run_program(
        [*words, *build_arguments("segment", "a.tif", {"budget": "lots"})],
        FakeFeedback(),
        environ=environ,
    )
    assert done.code == 2
    with pytest.raises(CommandError, match="Cannot read the budget 'lots'"):
        read_results(done)


# ---- moving rasters


def test_a_raster_moves_with_its_sidecars_and_replaces_old_ones(tmp_path: Path) -> None:
    source, target = tmp_path / "map_confidence.tif", tmp_path / "to" / "sure.tif"
    target.parent.mkdir()
    for name in ("map_confidence.tif", "map_confidence.tif.aux.xml", "map_confidence.qml"):
        (tmp_path / name).write_text(name)
    (tmp_path / "map_confidence.csv").write_text("mine")
    for name in ("sure.tif", "sure.tif.aux.xml", "sure.tif.ovr", "sure.gpkg"):
        (target.parent / name).write_text("old")
    check_free({source.with_name("x.tif"): target}, others=[], overwrite=True)
    move_raster(source, target)
    assert {p.name: p.read_text() for p in target.parent.iterdir()} == {
        "sure.tif": "map_confidence.tif",
        "sure.tif.aux.xml": "map_confidence.tif.aux.xml",
        "sure.qml": "map_confidence.qml",
        "sure.gpkg": "old",
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map_confidence.csv", "to"]
    move_raster(target, target)
    assert target.read_text() == "map_confidence.tif"


def test_a_raster_that_cannot_be_moved_stays(tmp_path: Path) -> None:
    source = tmp_path / "a.tif"
    source.write_text("a")
    with pytest.raises(CommandError, match="is complete but cannot be moved"):
        move_raster(source, tmp_path / "missing" / "b.tif")
    assert source.exists()


def test_what_would_stop_a_move_is_found_before_the_work(tmp_path: Path) -> None:
    source, target = tmp_path / "o_confidence.tif", tmp_path / "c.tif"
    check_free({source: target}, others=[tmp_path / "o.tif"], overwrite=False)
    with pytest.raises(CommandError, match="twice"):
        check_free({source: target}, others=[target], overwrite=True)
    with pytest.raises(CommandError, match="twice"):
        check_free({source: target, tmp_path / "d.tif": target}, others=[], overwrite=True)
    with pytest.raises(CommandError, match="does not exist"):
        check_free({source: tmp_path / "no" / "c.tif"}, others=[], overwrite=True)
    target.touch()
    with pytest.raises(CommandError, match="exists already: choose another name"):
        check_free({source: target}, others=[], overwrite=False)
    check_free({source: target}, others=[], overwrite=True)
    source.touch()
    with pytest.raises(CommandError, match="geodeform would write there first"):
        check_free({source: target}, others=[], overwrite=True)
    check_free({source: source}, others=[], overwrite=True)


# ---- what QGIS's Python can read


@pytest.mark.parametrize("path", sorted(PLUGIN.rglob("*.py")), ids=lambda path: path.name)
def test_the_plugin_is_python_3_8_and_imports_no_geodeform(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names.append(node.module or "")
        assert not any(n.split(".")[0] in ("geodeform", "PyQt5", "PyQt6") for n in names)


def test_signals_have_names() -> None:
    with pytest.raises(CommandError, match=r"\(SIGTERM\)\."):
        read_results(Finished(-signal.SIGTERM, "", [], []))
