"""``geodeform segment``: scenes in, land-cover maps out."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from geodeform.budget import Budget
from geodeform.cli.console import Reporter, print_plan, print_result, shown_log
from geodeform.cli.options import (
    VECTOR_OUTPUT,
    OutputType,
    device_option,
    json_option,
    model_option,
    overwrite_option,
    polygon_options,
    scene_options,
    verbosity_options,
)
from geodeform.errors import OutputError
from geodeform.geo.outputs import (
    PICTURE_SUFFIXES,
    PROJECT_SUFFIXES,
    RASTER_SUFFIXES,
    REPORT_SUFFIXES,
    STAC_SUFFIXES,
)


@click.command("segment")
@click.argument("scenes", nargs=-1, required=True, metavar="SCENE...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="Class raster (.tif), or a folder. [default: SCENE_landcover.tif in this folder]",
)
@model_option
@scene_options
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Take the largest budget whose run is estimated to need no longer, instead of --budget; "
    "finding it takes a few looks at up to eight windows, which are not counted.",
)
@click.option(
    "--target-confidence",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    metavar="MEAN",
    help="Take the smallest budget at which a few windows have this mean confidence (0 to 1), "
    "instead of --budget.",
)
@click.option(
    "--refine",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Map coarsely first, then in N passes spend the rest of the budget where the map is "
    "unsure; outputs are whole after every pass.",
)
@click.option("--confidence", is_flag=True, help="Also write OUTPUT_confidence.tif.")
@click.option(
    "--density",
    is_flag=True,
    help="Also write OUTPUT_density.tif (samples a pixel and a m², effective GSD).",
)
@click.option(
    "--trust",
    is_flag=True,
    help="Also write OUTPUT_trust.tif (confidence times how near the samples lie).",
)
@click.option(
    "--samples",
    type=VECTOR_OUTPUT,
    metavar="FILE",
    help="Also write the sampled points (.gpkg, .parquet, .fgb, .geojson).",
)
@click.option(
    "--polygons",
    type=VECTOR_OUTPUT,
    metavar="FILE",
    help="Also write polygons (.gpkg, .parquet, .fgb, .geojson).",
)
@polygon_options
@click.option(
    "--qgis",
    type=OutputType(*PROJECT_SUFFIXES),
    metavar="FILE",
    help="Also write a QGIS project (.qgz) with every layer, styled; with --confidence and "
    "--density.",
)
@click.option(
    "--report",
    type=OutputType(*REPORT_SUFFIXES),
    metavar="FILE",
    help="Also write one HTML page with viewer, areas, confidence and where the budget went.",
)
@click.option(
    "--stac",
    type=OutputType(*STAC_SUFFIXES),
    metavar="FILE",
    help="Also write the STAC item of the map (.json), and that of the model beside it.",
)
@click.option(
    "--quicklook",
    type=OutputType(*PICTURE_SUFFIXES),
    metavar="FILE",
    help="Also draw scene, density, map and legend into a PNG.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say windows, pixels to sample, and estimates of memory and time; write nothing.",
)
@device_option
@overwrite_option
@json_option
@verbosity_options
def command(
    scenes: tuple[str, ...],
    output: Path | None,
    model: str | None,
    budget: Budget | None,
    time_limit: float | None,
    target_confidence: float | None,
    refine: int,
    confidence: bool,
    density: bool,
    trust: bool,
    samples: Path | None,
    polygons: Path | None,
    min_area: float,
    fill_holes: float,
    simplify: float,
    smooth: int,
    qgis: Path | None,
    report: Path | None,
    stac: Path | None,
    quicklook: Path | None,
    dry_run: bool,
    device: str,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Map the land cover of SCENE (any raster that GDAL reads) for a small pixel budget.

    With several scenes, -o is a folder, and {stem} in the other file names stands for each
    scene's name. Each scene is finished or reported; the exit code is 1 if any failed.
    """
    if sum(given is not None for given in (budget, time_limit, target_confidence)) > 1:
        raise click.UsageError("Give one of --budget, --time-limit and --target-confidence.")
    if refine and (dry_run or time_limit is not None or target_confidence is not None):
        raise click.UsageError(
            "--refine runs in passes, which nothing estimates: leave out --dry-run, --time-limit "
            "and --target-confidence."
        )
    reporter = Reporter(quiet=quiet, verbose=verbose)
    others = {
        "samples": samples,
        "polygons": polygons,
        "quicklook": quicklook,
        "report": report,
        "qgis": qgis,
        "stac": stac,
    }
    # the project shows confidence and density, so they are written
    jobs = plan_outputs(
        scenes,
        output,
        confidence=confidence or qgis is not None,
        density=density or qgis is not None,
        trust=trust,
        others=others,
    )
    # torch is imported here, when work begins
    from geodeform.budget_choice import budget_for_confidence, budget_for_time
    from geodeform.pipeline import estimate, segment_scene

    network, target = reporter.load(model, device)
    reports: list[dict[str, Any]] = []
    failed = False
    for scene, files in jobs:
        try:
            common: dict[str, Any] = {"model": network, "device": target, **settings}
            if time_limit is not None:
                budget = budget_for_time(scene, time_limit, **common)
            elif target_confidence is not None:
                budget = budget_for_confidence(scene, target_confidence, **common)
            if dry_run:
                planned = estimate(scene, budget=budget, **common)
                reports.append(planned.summary())
                if not as_json:
                    print_plan(planned)
                continue
            if output is not None and files["output"].parent == output:
                _make_folder(output)
            with (
                shown_log(quiet=quiet, verbose=verbose, usual=logging.WARNING, prefix="Note: "),
                reporter.progress(Path(scene).name) as progress,
            ):
                result = segment_scene(
                    scene,
                    budget=budget,
                    overwrite=overwrite,
                    min_area=min_area,
                    fill_holes=fill_holes,
                    simplify=simplify,
                    smooth=smooth,
                    refine=refine,
                    progress=progress,
                    **files,
                    **common,
                )
            reports.append(result.summary())
            if not as_json and not quiet:
                print_result(result)
        except Exception as error:  # noqa: BLE001 — whatever befalls a scene, the others are finished
            failed = True
            reports.append({"scene": str(scene), "error": reporter.failure(scene, error)})
    if as_json:
        click.echo(json.dumps({"results": reports}, indent=2))
    if failed:
        sys.exit(1)


def plan_outputs(
    scenes: tuple[str, ...],
    output: Path | None,
    *,
    confidence: bool,
    density: bool,
    trust: bool,
    others: Mapping[str, Path | None],
) -> list[tuple[str, dict[str, Any]]]:
    """Name every output of every scene, before any work.

    Raises:
        click.UsageError: If two scenes would write the same file, or a suffix is wrong.
    """
    several = len(scenes) > 1
    jobs: list[tuple[str, dict[str, Any]]] = []
    taken: dict[Path, str] = {}
    for scene in scenes:
        stem = Path(scene).stem
        if output is None:
            labels = Path(f"{stem}_landcover.tif")
        elif "{stem}" in str(output):
            labels = Path(str(output).replace("{stem}", stem))
        elif output.is_dir() or not output.suffix:
            labels = output / f"{stem}_landcover.tif"
        elif several:
            raise click.UsageError(
                f"With several scenes -o must be a folder or hold {{stem}}, not the file {output}."
            )
        else:
            labels = output
        if labels.suffix.lower() not in RASTER_SUFFIXES:
            raise click.BadParameter(f"'{labels}' must end in .tif", param_hint="'-o'")
        files: dict[str, Any] = {
            "output": labels,
            "confidence": labels.with_name(f"{labels.stem}_confidence.tif") if confidence else None,
            "density": labels.with_name(f"{labels.stem}_density.tif") if density else None,
            "trust": labels.with_name(f"{labels.stem}_trust.tif") if trust else None,
        }
        for kind, path in others.items():
            files[kind] = path and Path(str(path).replace("{stem}", stem))
        for path in files.values():
            if path is not None and taken.setdefault(path.absolute(), scene) != scene:
                raise click.UsageError(
                    f"{scene} and {taken[path.absolute()]} would both write {path}: put {{stem}} "
                    "into the name, or map scenes of the same name in runs of their own."
                )
        jobs.append((scene, files))
    return jobs


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the folder {folder} ({error.strerror}).") from error
