"""Outputs that appear complete, together, or not at all.

Every writer of geodeform writes into a staging folder beside its output (the same file system, so
that the last step is a rename) and the :class:`OutputSet` puts the finished files into place. A
crash, a full disk or Ctrl-C leaves what was there before.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from geodeform.errors import OutputError

RASTER_SUFFIXES = (".tif", ".tiff")
"""What a raster output may be called."""

VECTOR_SUFFIXES = (".gpkg", ".parquet", ".fgb", ".geojson")
"""What a vector output may be called: its suffix is its format."""

PICTURE_SUFFIXES = (".png",)
"""What a picture may be called."""

REPORT_SUFFIXES = (".html", ".htm")
"""What an HTML report may be called."""

PROJECT_SUFFIXES = (".qgz", ".qgs")
"""What a QGIS project may be called: ``.qgs`` is the XML itself."""

STAC_SUFFIXES = (".json",)
"""What a STAC item may be called."""

STAGING_PREFIX = ".geodeform-"
"""How the names of staging folders begin; one left by a killed process may be deleted."""

_SIDECARS = (".aux.xml", ".ovr", ".msk", "-wal", "-shm", "-journal")
"""What GDAL and SQLite append to a file's name: it belongs to the file, and lies once it is old."""


def final_path(path: str | Path) -> Path:
    """Return where a staged file will end up, or ``path`` itself if it is not staged."""
    path = Path(path)
    if path.parent.name.startswith(STAGING_PREFIX):
        return path.parent.parent / path.name
    return path


class OutputSet:
    """Several output files that are published together when the ``with`` block succeeds.

    Everything that can be wrong with an output's name is found by :meth:`add`, so call it for
    every output before the work starts. Where the block raises, nothing is published and existing
    files stay. Sidecar files that a writer puts beside the staged file (``.aux.xml``) go along, and
    those of a replaced file are removed.

    Args:
        overwrite: Whether an existing file may be replaced.
        inputs: Files that are being read and so can never be an output.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> with OutputSet() as outputs:
        ...     staged = outputs.add(Path(folder.name) / "areas.csv", suffixes=(".csv",))
        ...     _ = staged.write_text("class,area")
        >>> sorted(p.name for p in Path(folder.name).iterdir())
        ['areas.csv']
        >>> folder.cleanup()
    """

    def __init__(self, *, overwrite: bool = False, inputs: Iterable[str | Path] = ()) -> None:
        self._overwrite = overwrite
        self._inputs = tuple(inputs)
        self._staged: dict[Path, Path] = {}  # target → staged
        self._folders: dict[Path, Path] = {}  # folder of targets → its staging folder

    def add(self, path: str | Path, *, suffixes: Collection[str], overwrite: bool = False) -> Path:
        """Check an output's name and return the path to write it to.

        Args:
            path: Where the file shall end up.
            suffixes: The suffixes that can be written, lower case, with the dot.
            overwrite: Whether this one may be replaced, whatever holds for the others.

        Returns:
            A path of the same name in a staging folder beside ``path``.

        Raises:
            OutputError: If the suffix is not supported, the folder is missing or not writable, the
                file is an input, is listed twice, or exists and must not be overwritten.
        """
        path = Path(path)
        if path.suffix.lower() not in suffixes:
            raise OutputError(
                f"Cannot write {path}: its suffix must be one of {', '.join(suffixes)}."
            )
        folder = path.parent.resolve()
        target = folder / path.name
        if not folder.is_dir():
            raise OutputError(f"Cannot write {path}: the folder {path.parent} does not exist.")
        if target in self._staged:
            raise OutputError(f"Cannot write {path} twice: give each output its own name.")
        if target.is_dir():
            raise OutputError(f"Cannot write {path}: it is a folder.")
        if target.exists():
            if any(_is_same(target, source) for source in self._inputs):
                raise OutputError(f"Cannot write {path}: it is an input; choose another name.")
            if not (self._overwrite or overwrite):
                raise OutputError(f"{path} exists already; use --overwrite to replace it.")
        if folder not in self._folders:
            try:
                staging = tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=folder)
            except OSError as error:
                raise OutputError(
                    f"Cannot write {path}: no file can be made in {folder} ({error.strerror})."
                ) from error
            self._folders[folder] = Path(staging)
        self._staged[target] = self._folders[folder] / path.name
        return self._staged[target]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            for staging in self._folders.values():
                shutil.rmtree(staging, ignore_errors=True)
            self._folders.clear()
            self._staged.clear()

    def _publish(self) -> None:
        """Rename every staged file into place; on an error, put the former files back."""
        for target, staged in self._staged.items():
            if not staged.is_file():
                raise OutputError(f"{target} was never written.")
        kept: list[tuple[Path, Path]] = []  # former file, where it is kept
        placed: list[Path] = []
        try:
            for target, staged in self._staged.items():
                for former in _with_sidecars(target):
                    keep = staged.parent / f"{len(kept)}.former"
                    _keep(former, keep, move=former != target)
                    kept.append((former, keep))
                for ready in _with_sidecars(staged):
                    ready.replace(target.parent / ready.name)
                    placed.append(target.parent / ready.name)
        except BaseException as error:
            for path in placed:
                path.unlink(missing_ok=True)
            for former, keep in kept:
                keep.replace(former)
            if isinstance(error, OSError):
                raise OutputError(
                    f"Cannot write {error.filename2 or error.filename} ({error.strerror})."
                ) from error
            raise


def _with_sidecars(path: Path) -> list[Path]:
    """Return the file and its sidecars, as far as they exist, the file first."""
    names = (path, *(path.with_name(path.name + suffix) for suffix in _SIDECARS))
    return [name for name in names if name.is_file() or name.is_symlink()]


def _keep(path: Path, keep: Path, *, move: bool) -> None:
    """Keep a former file for a roll-back; a link leaves no moment without the file itself."""
    if not move:
        try:
            os.link(path, keep, follow_symlinks=False)
        except OSError:  # FAT and some network file systems have no hard links
            pass
        else:
            return
    path.replace(keep)


def _is_same(path: Path, source: str | Path) -> bool:
    """Whether an existing path and an input (a file, or a GDAL name such as /vsizip/) are one."""
    try:
        return path.samefile(source)
    except OSError:
        return False
