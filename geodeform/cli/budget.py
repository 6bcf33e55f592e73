"""``geodeform budget``: what every budget would buy on a scene."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from geodeform.budget import Budget
from geodeform.cli.console import Reporter, output_console, print_json, shown_log
from geodeform.cli.options import (
    BudgetType,
    OutputType,
    device_option,
    json_option,
    model_option,
    overwrite_option,
    reading_options,
    verbosity_options,
)
from geodeform.geo.outputs import PICTURE_SUFFIXES, OutputSet

if TYPE_CHECKING:
    from geodeform.evaluation.budget_curve import BudgetCurve


@click.command(
    "budget",
    short_help="Show what every budget would buy on a scene.",
    epilog="Example: geodeform budget scene.tif -o budget.png",
)
@click.argument("scene", metavar="SCENE")
@click.option(
    "-o",
    "--output",
    type=OutputType(*PICTURE_SUFFIXES),
    metavar="FILE",
    help="Also draw the curves (.png).",
)
@click.option(
    "--csv",
    "table",
    type=OutputType(".csv"),
    metavar="FILE",
    help="Also write the table (.csv).",
)
@model_option
@click.option(
    "--budget",
    "budgets",
    type=BudgetType(),
    multiple=True,
    metavar="SHARE|SIDE|TOTAL",
    help="A budget to try, as for geodeform segment; repeat for several. [default: nine, from "
    "0.1% to 50%; every pixel always comes besides]",
)
@click.option(
    "--windows",
    type=click.IntRange(min=1),
    default=24,
    show_default=True,
    help="Map at most so many of the scene's windows, spread over it.",
)
@click.option("--all", "whole", is_flag=True, help="Map all windows.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="The truth, class ids on the scene's grid: also print accuracies.",
)
@reading_options
@device_option
@overwrite_option
@json_option
@verbosity_options
def command(
    scene: str,
    output: Path | None,
    table: Path | None,
    model: str | None,
    budgets: tuple[Budget, ...],
    windows: int,
    whole: bool,
    labels: Path | None,
    device: str,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Map SCENE, or a sample of its windows, at budgets from 0.1 % to every pixel.

    Beside the model's own sampling stand even samples and every pixel in overlapping crops, what
    sliding-window tools do. Without labels the measure is agreement with the map of every pixel,
    or with the model's own largest trained size where single pixels are another scale to it.
    Nothing is kept but the figures.
    """
    reporter = Reporter(quiet=quiet, verbose=verbose)
    # torch is imported here, when work begins
    from geodeform.evaluation.budget_curve import BUDGETS, budget_curve

    with OutputSet(overwrite=overwrite, inputs=[scene, *((labels and [labels]) or [])]) as outputs:
        staged = {path: outputs.add(path, suffixes=(path.suffix.lower(),))
                  for path in (output, table) if path is not None}  # fmt: skip
        network, target = reporter.load(model, device)
        with (
            shown_log(quiet=quiet, verbose=verbose, usual=logging.WARNING, prefix="Note: "),
            reporter.progress(Path(scene).name) as progress,
        ):
            curve = budget_curve(
                scene,
                model=network,
                budgets=budgets or BUDGETS,
                windows=None if whole else windows,
                labels=labels,
                device=target,
                progress=progress,
                **settings,
            )
        if table is not None:
            curve.table.to_csv(staged[table], index=False)
        if output is not None:
            from matplotlib.figure import Figure

            from geodeform.plot import budgets as draw

            figure = Figure(figsize=(16, 3.6), layout="constrained")
            draw(curve.table, knee=curve.knee, figure=figure)
            figure.savefig(staged[output], dpi=150)
    if as_json:
        print_json(curve.summary())
    elif not quiet:
        _print(curve)
        for path in staged:
            click.echo(f"  {path}")


def _print(curve: BudgetCurve) -> None:
    """The curve as a table, on standard output."""
    console = output_console()
    part = f"{curve.windows} of {curve.windows_of_scene} windows"
    if curve.windows == curve.windows_of_scene:
        part = f"all {curve.windows} windows"
    console.print(Text(f"{curve.scene} ({part}, {curve.device})", style="bold"), soft_wrap=True)
    shown = Table(box=box.SIMPLE)
    columns = {
        "budget": "budget",
        "sampled_share": "of pixels",
        "samples": "a window",
        "miou": "mIoU %",
        "agreement": "agreement %",
        "confidence": "confidence %",
        "seconds": "time",
        "peak_memory_bytes": "memory",
    }
    shown.add_column("sampling", no_wrap=True)
    for key, heading in columns.items():
        if key in curve.table:
            shown.add_column(heading, justify="right")
    for _, rows in curve.table.groupby("sampler", sort=False):
        for row in rows.to_dict("records"):
            at_knee = row["sampled_share"] == curve.knee and row["sampler"] == curve.own
            cells = [_cell(key, row[key]) for key in columns if key in row]
            shown.add_row(row["sampler"], *cells, style="bold" if at_knee else "")
        shown.add_section()
    console.print(shown)
    if curve.knee is not None:
        console.print(
            Text(f"  The knee lies at {curve.knee:.2%} of the pixels: more buys little after it."),
            soft_wrap=True,
        )
    if curve.windows < curve.windows_of_scene:
        console.print(Text("  Times are for the whole scene, from these windows."), soft_wrap=True)
    for note in curve.notes:
        console.print(Text(f"  Note: {note}"), soft_wrap=True)


def _cell(key: str, value: Any) -> str:
    """A figure as the table shows it."""
    if key in ("budget", "samples"):
        return str(value)
    if value is None or value != value:
        return "-"
    if key == "sampled_share":
        return f"{value:.2%}"
    if key == "seconds":
        return f"{value:.1f} s"
    if key == "peak_memory_bytes":
        return f"{value / 2**20:,.0f} MiB"
    return f"{100 * value:.1f}"
