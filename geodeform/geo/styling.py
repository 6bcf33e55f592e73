"""The styles of a run's outputs: beside them, or inside where they are GeoPackages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from geodeform.classes import ClassScheme
from geodeform.errors import OutputError
from geodeform.geo.outputs import RASTER_SUFFIXES, OutputSet, final_path
from geodeform.geo.style import (
    class_raster_style,
    confidence_style,
    density_range,
    density_style,
    embed_style,
    joinable,
    joined_style,
    polygon_style,
    qml_files,
    sample_style,
    style_path,
    write_style,
)

_STYLED = ("labels", "confidence", "trust", "density", "polygons", "samples")
_TABLES = {"polygons": "Land cover", "samples": "Sampled points"}  # of GeoPackages → style's name


def add_styles(outputs: OutputSet, wanted: Mapping[str, str | Path | None]) -> None:
    """Announce the ``.qml`` files that will lie beside outputs, so that names are checked early.

    Args:
        outputs: Of the run.
        wanted: Outputs by kind, at their final paths.

    Raises:
        OutputError: If polygons and samples would share a style.
    """
    files = [Path(path) for kind, path in wanted.items() if kind in _STYLED and path is not None]
    polygons, samples = (
        None if wanted.get(kind) is None else style_path(str(wanted[kind]))
        for kind in ("polygons", "samples")
    )
    inside = any(f.suffix.lower() == ".gpkg" for f in files if style_path(f) == samples)
    if polygons is not None and polygons == samples and not inside:
        raise OutputError(
            f"{wanted['polygons']} and {wanted['samples']} would share the style {polygons}: give "
            "them other names, or write .gpkg."
        )
    for path in sorted({style_path(f) for f in files if f.suffix.lower() != ".gpkg"}):
        rasters = {f.suffix.lower() in RASTER_SUFFIXES for f in files if style_path(f) == path}
        # a style of the other kind stays, beside the new one
        joins = len(rasters) == 1 and joinable(path, raster=rasters.pop())
        outputs.add(path, suffixes=(".qml",), overwrite=joins)


def write_styles(
    staged: Mapping[str, Path],
    scheme: ClassScheme | None = None,
    ids: Sequence[int] | None = None,
) -> None:
    """Write the style of every output: beside it, or into it where it is a GeoPackage.

    Args:
        staged: Outputs by kind, at their staged paths; announced by :func:`add_styles`.
        scheme: Names and colours of the classes; not needed for a density raster alone.
        ids: The ``class_id`` of each class, where it is not its position in the scheme.
    """
    makers: dict[str, Callable[[Path], str]] = {  # of one stem, the first of a kind wins
        "confidence": lambda _: confidence_style(),
        "trust": lambda _: confidence_style(),
        "density": lambda path: density_style(*density_range(path)),
    }
    if scheme is not None:
        makers = {
            "labels": lambda _: class_raster_style(scheme),
            **makers,
            "polygons": lambda _: polygon_style(scheme, ids),
            "samples": lambda _: sample_style(scheme),
        }
    styles = {staged[kind]: make(staged[kind]) for kind, make in makers.items() if kind in staged}
    for path, text in qml_files(styles).items():
        write_style(path, joined_style(final_path(path), text))
    for kind, name in _TABLES.items():
        if kind in staged and staged[kind].suffix.lower() == ".gpkg":
            embed_style(staged[kind], kind, styles[staged[kind]], name=name)
