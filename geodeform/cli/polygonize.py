"""``geodeform polygonize``: polygons of a finished class raster, without inference."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geodeform.cli.console import output_console, print_json, shown_log
from geodeform.cli.options import (
    VECTOR_OUTPUT,
    json_option,
    overwrite_option,
    polygon_options,
    verbosity_options,
)
from geodeform.result import format_area

if TYPE_CHECKING:
    import geopandas as gpd


@click.command("polygonize")
@click.argument("classes", metavar="CLASSES")
@click.option(
    "-o",
    "--output",
    type=VECTOR_OUTPUT,
    metavar="FILE",
    help="Polygons to write (.gpkg, .parquet, .fgb, .geojson). [default: CLASSES_polygons.gpkg in "
    "this folder]",
)
@click.option("--confidence", metavar="FILE", help="Confidence raster: adds conf_mean.")
@click.option(
    "--density",
    metavar="FILE",
    help="Sampling density: adds gsd_mean, the mean distance between samples, and observed_frac, "
    "the share of the pixels that was sampled.",
)
@polygon_options
@overwrite_option
@json_option
@verbosity_options
def command(
    classes: str,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Turn CLASSES, any class raster, into polygons without gaps or overlaps.

    CLASSES is one of geodeform or of another tool: whole numbers, up to 255 different ones. Names
    and colours come from its attribute table, category names and colour table; nodata is what the
    file says. No model is needed.
    """
    from geodeform.geo.vector import polygonize_file

    output = output or Path(f"{Path(classes).stem}_polygons.gpkg")
    with shown_log(quiet=quiet, verbose=verbose, usual=logging.WARNING, prefix="Note: "):
        polygons = polygonize_file(classes, output, overwrite=overwrite, **settings)
    report = _summary(polygons)
    if as_json:
        print_json({"classes": classes, "output": str(output), **report})
    elif not quiet:
        _print_report(report, output)


def _summary(polygons: gpd.GeoDataFrame) -> dict[str, Any]:
    """Count polygons and areas by class, JSON-ready."""
    areas = "area_m2" if "area_m2" in polygons else "area_px"
    grouped = polygons.groupby(["class_id", "class_name"], sort=True)[areas].agg(["size", "sum"])
    return {
        "polygons": len(polygons),
        "by_class": [
            {"id": int(number), "name": name, "polygons": int(count), areas: float(area)}
            for (number, name), count, area in grouped.itertuples()
        ],
    }


def _print_report(report: dict[str, Any], output: Path) -> None:
    console = output_console()
    for entry in report["by_class"]:
        area = entry.get("area_m2")
        size = f"{entry['area_px']:,.0f} px" if area is None else format_area(area)
        console.print(f"  {entry['name']:<24}{entry['polygons']:10,} polygons{size:>16}")
    console.print(f"  {report['polygons']:,} polygons in {output}")
