"""Examine maps: ours or another tool's, rasters, polygons, styles, projects, catalogue entries.

:func:`examine` is the entrance. Kinds are known by content (:mod:`geodeform.doctor.kinds`); each
kind has a module of checks that yield findings (:mod:`geodeform.doctor.findings`); files of one run
are compared with each other (:mod:`geodeform.doctor.together`). Nothing is ever changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from rasterio.errors import RasterioError

from geodeform.doctor.facts import open_raster
from geodeform.doctor.findings import Finding, Report, error, hint, ok, report
from geodeform.doctor.html import check_report
from geodeform.doctor.kinds import kind_of
from geodeform.doctor.legends import read_sidecar
from geodeform.doctor.qgis import check_project, check_style
from geodeform.doctor.raster import examine_raster
from geodeform.doctor.stac import check_stac
from geodeform.doctor.together import check_together
from geodeform.doctor.vector import FORMATS, examine_vector

_PARTS = (".aux.xml", ".ovr", ".msk", "-wal", "-shm", "-journal", ".tfw", ".prj", ".cpg", ".qix")
"""Files that are examined with the file that they belong to."""

Progress = Callable[[int, int], None]


def examine(paths: Sequence[str | Path], *, progress: Progress | None = None) -> tuple[Report, ...]:
    """Examine files and folders.

    Every pixel and every feature is read. Rasters are read block by block; a vector layer is held
    in memory.

    Args:
        paths: Files, or folders, whose files are all examined (not those of folders inside).
        progress: Called with (files done, files in all) after each.

    Returns:
        One report a file, in the order given; after the files of a folder, and after files given
        one by one, a report of the kind ``together`` where they can be compared.
    """
    groups: list[tuple[Path | None, list[Path]]] = []
    single: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            groups.append((path, _files_of(path)))
        else:
            single.append(path)
    if single:
        groups.insert(0, (None, single))
    total = sum(len(files) for _, files in groups)
    reports: list[Report] = []
    done = 0
    for folder, files in groups:
        found = []
        for file in files:
            found.append(_examine_file(file, given=folder is None))
            done += 1
            if progress is not None:
                progress(done, total)
        reports += found
        if folder is not None and not files:
            reports.append(
                report(
                    folder,
                    "folder",
                    [error("folder.empty", f"{folder} has no file to examine.", "Name another.")],
                )
            )
        where = folder or files[0].parent
        if len(found) > 1 and (both := check_together(where, found)) is not None:
            reports.append(both)
    return tuple(reports)


def _files_of(folder: Path) -> list[Path]:
    """The files of a folder that stand for themselves."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and not _is_part(path)
    )


def _is_part(path: Path) -> bool:
    """Whether a file belongs to another one that is there."""
    for suffix in _PARTS:
        if path.name.endswith(suffix):
            whole = path.with_name(path.name.removesuffix(suffix))
            if whole.exists() or (
                suffix[0] == "." and any(path.parent.glob(f"{whole.name}.[st]*"))
            ):
                return True
    return path.suffix in (".shx", ".dbf") and path.with_suffix(".shp").exists()


def _examine_file(path: Path, *, given: bool) -> Report:
    """Examine one file; whatever is wrong with it is a finding."""
    try:
        return _examine_kind(path, given=given)
    except PermissionError:
        return report(
            path,
            "file",
            [error("file.permission", f"{path} may not be read.", "Change its permissions.")],
        )
    except OSError as failure:
        reason = failure.strerror or failure
        return report(
            path,
            "file",
            [error("file.unreadable", f"{path} cannot be read ({reason}).", "Check the disk.")],
        )


def _examine_kind(path: Path, *, given: bool) -> Report:
    if not path.exists():
        return report(
            path,
            "file",
            [error("file.missing", f"{path} does not exist.", "Check the path.")],
        )
    if path.stat().st_size == 0:
        return report(
            path,
            "file",
            [error("file.empty", f"{path} is empty: it was never written.", "Make it again.")],
        )
    kind = kind_of(path)
    if kind == "raster":
        return examine_raster(path)
    if kind in FORMATS or kind == "vector":
        return examine_vector(path, kind)
    if kind in _CHECKS:
        return report(path, kind, _CHECKS[kind](path))
    if not given and path.suffix.lower() not in _EXPECTED:
        return report(
            path, "file", [hint("file.other", f"{path.name} is no map, style or catalogue entry.")]
        )
    return report(
        path,
        "file",
        [
            error(
                "file.unknown",
                f"{path} is no raster, vector file, style, project, STAC item or report that can "
                "be read: it is of another kind, or its beginning is damaged.",
                "Check that it is the right file, or copy it again.",
            )
        ],
    )


_EXPECTED = (
    ".tif", ".tiff", ".vrt", ".img", ".gpkg", ".parquet", ".fgb", ".geojson", ".shp", ".qml",
    ".qgz", ".qgs", ".json", ".html",
)  # fmt: skip
"""Suffixes that promise something; what is called otherwise in a folder is passed over."""


def _check_picture(path: Path) -> Iterator[Finding]:
    try:
        with open_raster(path) as dataset:
            dataset.read()
            size = f"{dataset.width:,} x {dataset.height:,} pixels"
    except RasterioError as failure:
        yield error(
            "picture.damaged",
            f"{path.name} cannot be read to its end ({failure}): it is cut off or damaged.",
            "Copy or make it again.",
        )
    else:
        yield ok("picture.read", f"A picture of {size}.")


def _check_sidecar(path: Path) -> Iterator[Finding]:
    """A sidecar that was named itself, or whose raster is gone."""
    raster = path.with_name(path.name.removesuffix(".aux.xml"))
    try:
        read_sidecar(path)
    except (ElementTree.ParseError, ValueError) as failure:
        yield error(
            "raster.sidecar-damaged", f"{path.name} is no valid XML ({failure}).", "Delete it."
        )
        return
    if not raster.exists():
        yield hint("raster.orphan-sidecar", f"{path.name} belongs to {raster.name}, which is gone.")
    else:
        yield ok("raster.sidecar", f"It belongs to {raster.name}; examine that.")


_CHECKS: dict[str, Callable[[Path], Iterator[Finding]]] = {
    "QGIS style": check_style,
    "QGIS project": check_project,
    "STAC item": check_stac,
    "report": check_report,
    "picture": _check_picture,
    "sidecar": _check_sidecar,
}
