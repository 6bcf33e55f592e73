from __future__ import annotations

import os
from pathlib import Path

import pytest

from geodeform.errors import OutputError
from geodeform.geo.outputs import STAGING_PREFIX, OutputSet, final_path

TEXT = (".txt", ".csv")


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_outputs_appear_at_the_end_only(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with OutputSet() as outputs:
        first = outputs.add(tmp_path / "a.txt", suffixes=TEXT)
        second = outputs.add(tmp_path / "other" / "b.csv", suffixes=TEXT)
        first.write_text("a")
        second.write_text("b")
        assert not (tmp_path / "a.txt").exists()
        assert first.name == "a.txt"  # formats that store their own name store the right one
        assert first.stat().st_dev == tmp_path.stat().st_dev
        assert final_path(first) == tmp_path / "a.txt"
    assert listing(tmp_path) == ["a.txt", "other"]
    assert listing(tmp_path / "other") == ["b.csv"]
    assert (tmp_path / "other" / "b.csv").read_text() == "b"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_everything_as_it_was(
    tmp_path: Path, error: type[BaseException]
) -> None:
    (tmp_path / "a.txt").write_text("former")
    (tmp_path / "a.txt.aux.xml").write_text("former sidecar")

    def work() -> None:
        with OutputSet(overwrite=True) as outputs:
            outputs.add(tmp_path / "a.txt", suffixes=TEXT).write_text("half")
            outputs.add(tmp_path / "b.txt", suffixes=TEXT)
            raise error

    with pytest.raises(error):
        work()
    assert listing(tmp_path) == ["a.txt", "a.txt.aux.xml"]
    assert (tmp_path / "a.txt").read_text() == "former"


def test_an_output_that_was_not_written_publishes_none(tmp_path: Path) -> None:
    def work() -> None:
        with OutputSet() as outputs:
            outputs.add(tmp_path / "a.txt", suffixes=TEXT).write_text("a")
            outputs.add(tmp_path / "b.txt", suffixes=TEXT)

    with pytest.raises(OutputError, match=r"b\.txt was never written"):
        work()
    assert listing(tmp_path) == []


def test_a_failure_while_publishing_puts_the_former_files_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "b.txt", "b.txt.aux.xml"):
        (tmp_path / name).write_text(f"former {name}")
    replace = Path.replace

    def fail_at_b(self: Path, target: Path) -> Path:
        if target == tmp_path / "b.txt" and self.name == "b.txt":
            raise PermissionError(13, "Permission denied", str(self), None, str(target))
        return replace(self, target)

    def work() -> None:
        with OutputSet(overwrite=True) as outputs:
            for name in ("new.txt", "a.txt", "b.txt"):
                outputs.add(tmp_path / name, suffixes=TEXT).write_text("new")
            monkeypatch.setattr(Path, "replace", fail_at_b)

    with pytest.raises(OutputError, match=r"b\.txt \(Permission denied\)"):
        work()
    assert listing(tmp_path) == ["a.txt", "b.txt", "b.txt.aux.xml"]
    for name in listing(tmp_path):
        assert (tmp_path / name).read_text() == f"former {name}"


def test_sidecars_follow_their_file_and_stale_ones_go(tmp_path: Path) -> None:
    for name in ("a.txt", "a.txt.aux.xml", "a.txt.ovr", "a.txt.notes"):
        (tmp_path / name).write_text("former")
    with OutputSet(overwrite=True) as outputs:
        staged = outputs.add(tmp_path / "a.txt", suffixes=TEXT)
        staged.write_text("new")
        staged.with_name("a.txt.msk").write_text("new mask")
        staged.with_name("scratch").write_text("left by the writer")
    assert listing(tmp_path) == ["a.txt", "a.txt.msk", "a.txt.notes"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_without_hard_links_files_are_replaced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a.txt").write_text("former")
    with OutputSet(overwrite=True) as outputs:
        outputs.add(tmp_path / "a.txt", suffixes=TEXT).write_text("new")
    assert listing(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_names_are_refused_before_the_work_starts(tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("x")
    (tmp_path / "folder.txt").mkdir()
    scene = tmp_path / "scene.txt"
    scene.write_text("scene")
    (tmp_path / "link.txt").symlink_to(scene)
    with OutputSet() as outputs:
        with pytest.raises(OutputError, match=r"there\.txt exists already; use --overwrite"):
            outputs.add(tmp_path / "there.txt", suffixes=TEXT)
        with pytest.raises(OutputError, match=r"must be one of \.txt, \.csv"):
            outputs.add(tmp_path / "map.jpg", suffixes=TEXT)
        with pytest.raises(OutputError, match=r"missing does not exist"):
            outputs.add(tmp_path / "missing" / "a.txt", suffixes=TEXT)
        with pytest.raises(OutputError, match="it is a folder"):
            outputs.add(tmp_path / "folder.txt", suffixes=TEXT)
        outputs.add(tmp_path / "a.TXT", suffixes=TEXT).write_text("a")
        with pytest.raises(OutputError, match="twice"):
            outputs.add(tmp_path / "folder.txt" / ".." / "a.TXT", suffixes=TEXT)
    with OutputSet(overwrite=True, inputs=["/vsizip/x.zip/a.tif", scene]) as outputs:
        for name in ("scene.txt", "link.txt"):
            with pytest.raises(OutputError, match="it is an input"):
                outputs.add(tmp_path / name, suffixes=TEXT)
    assert scene.read_text() == "scene"
    assert not any(name.startswith(STAGING_PREFIX) for name in listing(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with OutputSet() as outputs, pytest.raises(OutputError, match="Permission denied"):
        outputs.add(tmp_path / "a.txt", suffixes=TEXT)


def test_a_folder_in_which_no_file_can_be_made_is_refused() -> None:
    with OutputSet() as outputs, pytest.raises(OutputError, match="no file can be made in /proc"):
        outputs.add("/proc/a.txt", suffixes=TEXT)
