"""The styles of a run's outputs: beside them, or inside where they are GeoPackages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from geodeform.classes import ClassScheme
from geodeform.geo.outputs import OutputSet
from geodeform.geo.style import (
    class_raster_style,
    confidence_style,
    density_range,
    density_style,
    embed_style,
    polygon_style,
    qml_files,
    sample_style,
    style_path,
    write_style,
)

_STYLED = ("labels", "confidence", "density", "polygons", "samples")
_TABLES = {"polygons": "Land cover", "samples": "Sampled points"}  # of GeoPackages → style's name


def add_styles(outputs: OutputSet, wanted: Mapping[str, str | Path | None]) -> None:
    """Announce the ``.qml`` files that will lie beside outputs, so that names are checked early.

    Args:
        outputs: Of the run.
        wanted: Outputs by kind, at their final paths.
    """
    files = [Path(path) for kind, path in wanted.items() if kind in _STYLED and path is not None]
    for path in sorted({style_path(f) for f in files if f.suffix.lower() != ".gpkg"}):
        outputs.add(path, suffixes=(".qml",))


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
        write_style(path, text)
    for kind, name in _TABLES.items():
        if kind in staged and staged[kind].suffix.lower() == ".gpkg":
            embed_style(staged[kind], kind, styles[staged[kind]], name=name)
