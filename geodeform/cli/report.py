"""``geodeform report``: one HTML page about a finished map."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from geodeform.cli.console import print_json, shown_log
from geodeform.cli.options import OutputType, json_option, overwrite_option

_EXISTING = click.Path(path_type=Path)


@click.command("report")
@click.argument("labels", metavar="MAP", type=_EXISTING)
@click.option(
    "-o",
    "--output",
    type=OutputType(".html", ".htm"),
    metavar="FILE",
    help="Page to write (.html). [default: MAP_report.html in this folder]",
)
@click.option(
    "--scene",
    type=_EXISTING,
    metavar="FILE",
    help="What the map was made from. [default: the file that the map names, where it lies "
    "beside it]",
)
@click.option(
    "--confidence",
    type=_EXISTING,
    metavar="FILE",
    help="Confidence raster. [default: MAP_confidence.tif where it exists]",
)
@click.option(
    "--density",
    type=_EXISTING,
    metavar="FILE",
    help="Sampling-density raster. [default: MAP_density.tif where it exists]",
)
@click.option(
    "--polygons",
    type=_EXISTING,
    metavar="FILE",
    help="Polygons of the map, to count them by class.",
)
@click.option("--title", metavar="TEXT", help="Heading of the page. [default: names the scene]")
@overwrite_option
@json_option
def command(
    labels: Path,
    output: Path | None,
    scene: Path | None,
    confidence: Path | None,
    density: Path | None,
    polygons: Path | None,
    title: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write one HTML page about MAP, a class raster of geodeform.

    The page has a viewer with scene, map, confidence and sampling density, the areas of the
    classes, and where the samples went. It is a single file that works offline: send it, print it.
    """
    from geodeform.scene_report import find_run_files, write_report

    found = find_run_files(labels)
    with shown_log(quiet=False, verbose=False, usual=logging.WARNING, prefix="Note: "):
        report = write_report(
            output or Path(f"{labels.stem}_report.html"),
            labels=labels,
            scene=scene or found.scene,
            confidence=confidence or found.confidence,
            density=density or found.density,
            polygons=polygons,
            notes=() if scene is not None else found.notes,
            title=title,
            overwrite=overwrite,
        )
    if as_json:
        print_json(
            {
                "report": str(report.path),
                "map": str(labels),
                "layers": list(report.layers),
                **report.figures,
                "notes": list(report.notes),
            }
        )
        return
    for note in report.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(
        f"{report.path} ({report.path.stat().st_size / 1e6:.1f} MB; layers: "
        f"{', '.join(report.layers)})"
    )
