"""``geodeform density``: where a scene would be sampled, without segmenting it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from geodeform.cli.console import Reporter, print_density, print_json, shown_log
from geodeform.cli.options import (
    VECTOR_OUTPUT,
    OutputType,
    device_option,
    json_option,
    model_option,
    overwrite_option,
    scene_options,
    verbosity_options,
)
from geodeform.geo.outputs import RASTER_SUFFIXES


@click.command("density")
@click.argument("scene", metavar="SCENE")
@click.option(
    "-o",
    "--output",
    type=OutputType(*RASTER_SUFFIXES),
    metavar="FILE",
    help="Density raster (.tif). [default: SCENE_density.tif in this folder]",
)
@click.option(
    "--samples",
    type=VECTOR_OUTPUT,
    metavar="FILE",
    help="Also write the points that would be sampled (.gpkg, .parquet, .fgb, .geojson).",
)
@model_option
@scene_options
@device_option
@overwrite_option
@json_option
@verbosity_options
def command(
    scene: str,
    output: Path | None,
    samples: Path | None,
    model: str | None,
    device: str,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Map how densely SCENE (any raster that GDAL reads) would be sampled, without segmenting it.

    The values are sampled pixels per scene pixel, on cells of about one sample.
    """
    reporter = Reporter(quiet=quiet, verbose=verbose)
    # torch is imported here, when work begins
    from geodeform.sampling import density_map

    network, target = reporter.load(model, device)
    with (
        shown_log(quiet=quiet, verbose=verbose, usual=logging.WARNING, prefix="Note: "),
        reporter.progress(Path(scene).name) as progress,
    ):
        result = density_map(
            scene,
            model=network,
            output=output or Path(f"{Path(scene).stem}_density.tif"),
            samples=samples,
            device=target,
            overwrite=overwrite,
            progress=progress,
            **settings,
        )
    if as_json:
        print_json(result.summary())
    elif not quiet:
        print_density(result)
