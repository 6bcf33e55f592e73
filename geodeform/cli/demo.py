"""``geodeform demo``: the packaged model on the packaged scene, no network and no GPU needed."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from geodeform.cli.console import Reporter, print_result, shown_log
from geodeform.cli.options import device_option, overwrite_option


@click.command("demo")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default="demo-output",
    show_default=True,
    metavar="FOLDER",
    help="Folder for the outputs.",
)
@device_option
@overwrite_option
def command(output: Path, device: str, overwrite: bool) -> None:
    """Map the packaged scene (a cut of Dubai, held out in training) with the packaged model.

    Writes rasters, polygons, a picture, a report and a QGIS project, and says what it found.
    """
    from geodeform.demo import run_demo
    from geodeform.device import describe_device, resolve_device

    reporter = Reporter(quiet=False)
    target = resolve_device(device)
    reporter.banner("dubai (packaged)", describe_device(target))
    with (
        shown_log(quiet=False, verbose=False, usual=logging.WARNING, prefix="Note: "),
        reporter.progress("demo") as progress,
    ):
        result = run_demo(output, device=target, overwrite=overwrite, progress=progress)
    print_result(result)
    click.echo(
        f"\nLook at {result.paths['report']} in a browser, or open {result.paths['project']} in "
        f"QGIS; the picture is {result.paths['quicklook']}"
    )
