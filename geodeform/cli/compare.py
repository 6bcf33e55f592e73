"""``geodeform compare``: parse, run the campaign, write the report, print."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import rich.table
from rich import box
from rich.text import Text

from geodeform.cli.console import Reporter, output_console, shown_log
from geodeform.cli.options import NumbersType, settings_option, verbosity_options
from geodeform.errors import GeodeformError

if TYPE_CHECKING:
    from geodeform.evaluation.campaign import Done, Work
    from geodeform.evaluation.comparison_pages import Table
    from geodeform.evaluation.experiment import Experiment


@click.command(
    "compare",
    short_help="Train and evaluate samplers over budgets and seeds; write a report.",
    epilog="Example: geodeform compare configs/compare/dubai.yaml --root ../shared/data/dubai",
)
@click.argument("config", type=click.Path(path_type=Path), metavar="CONFIG")
@click.option(
    "--root", required=True, type=click.Path(path_type=Path), help="The dataset's folder."
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/compare"),
    show_default=True,
    help="Folder of all networks and evaluations; the report goes into OUT/CONFIG's name.",
)
@click.option(
    "-j",
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Networks that are worked on at a time.",
)
@click.option(
    "--device",
    "devices",
    default="auto",
    show_default=True,
    metavar="DEVICES",
    help="auto, cpu, cuda, or several that the processes share: cuda:0,cuda:1.",
)
@settings_option("A setting over those of all trainings, such as optim.steps=2 to try CONFIG.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    help="Part of the dataset to evaluate. [default: CONFIG's]",
)
@click.option(
    "--seeds",
    type=NumbersType(int),
    help="Seeds of all trainings, such as 0 for a first look. [default: CONFIG's]",
)
@click.option(
    "--baseline",
    metavar="METHOD",
    help="Compare with this method, in a report of its own. [default: CONFIG's]",
)
@click.option(
    "--retime", is_flag=True, help="Measure times again, such as on a machine that is idle now."
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the commands that are left, with the recipes that they name, and run none.",
)
@click.option("--partial", is_flag=True, help="Run nothing: report on what is there.")
@verbosity_options
def command(
    config: Path,
    root: Path,
    out: Path,
    processes: int,
    devices: str,
    settings: tuple[tuple[str, Any], ...],
    split: Any,
    seeds: tuple[int, ...] | None,
    baseline: str | None,
    retime: bool,
    dry_run: bool,
    partial: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Train and evaluate what CONFIG asks for, and write a report: one HTML page, one Markdown.

    What is in OUT already is not done again, so a command that was stopped goes on where it was,
    and experiments that share networks train them once.
    """
    if dry_run and partial:
        raise click.UsageError("--dry-run and --partial both run nothing: give one of them.")
    if retime and (dry_run or partial):
        raise click.UsageError("--retime runs networks: give no --dry-run or --partial.")
    try:
        from geodeform.evaluation.campaign import plan_campaign, run_campaign
    except ModuleNotFoundError as error:
        raise GeodeformError(
            f"Comparing needs '{error.name}': pip install 'geodeform[train]'."
        ) from error
    from geodeform.device import resolve_device
    from geodeform.evaluation.experiment import read_experiment
    from geodeform.training.datasets.base import DatasetOptions
    from geodeform.training.datasets.registry import open_dataset

    chosen = [name.strip() for name in devices.split(",")]
    if len(chosen) > processes:
        raise click.UsageError(
            f"{len(chosen)} devices are for as many processes: give -j {len(chosen)}, or more."
        )
    experiment = read_experiment(config, dict(settings), split, seeds or (), baseline)
    experiment = experiment.on(
        open_dataset(
            experiment.recipe.data.dataset, root, DatasetOptions.of(experiment.recipe.data)
        )
    )
    works = plan_campaign(experiment, out)
    if dry_run:
        for work in works:
            if not work.is_done():
                work.write_recipe()
            for words in work.commands(root):
                click.echo(shlex.join(["geodeform", *words]))
        return
    failures: list[str] = []
    left = 0
    if not partial:
        for name in chosen:
            resolve_device(name)  # else each network would find out in a process of its own
        left = sum(not work.is_done() for work in works)
        if not quiet:
            click.echo(f"{len(works)} networks, {left} of them to be worked on.", err=True)
        failures = run_campaign(
            works,
            root,
            processes=processes,
            devices=chosen,
            report=None if quiet else _say,
        )
    # with everything that has an effect on the report
    words = ["geodeform", "compare", str(config), "--root", str(root), "-o", str(out)]
    words += [f"--set={key}={json.dumps(value)}" for key, value in settings]
    words += [] if split is None else ["--split", split]
    words += [] if seeds is None else ["--seeds", ",".join(map(str, seeds))]
    words += [] if baseline is None else ["--baseline", baseline]
    words += [] if devices == "auto" else ["--device", devices]
    failed = (
        f"{len(failures)} of {left} networks failed; run the command again to retry. The first: "
        f"{failures[0]}"
        if failures
        else ""
    )
    try:
        _report(
            experiment,
            works,
            root,
            out,
            command=shlex.join(words),
            device=chosen[0],
            reporter=Reporter(quiet=quiet, verbose=verbose),
            measure=not partial and not failures,
            retime=retime,
        )
    except GeodeformError as error:
        if not failures:
            raise
        raise GeodeformError(failed) from error  # there is nothing to report: here is why
    if failures:
        raise GeodeformError(failed)


def _report(
    experiment: Experiment,
    works: Sequence[Work],
    root: Path,
    out: Path,
    *,
    command: str,
    device: str,
    reporter: Reporter,
    measure: bool,
    retime: bool,
) -> None:
    """Time what is there, write its report, and print the first table."""
    from geodeform.device import describe_device, resolve_device
    from geodeform.evaluation.campaign import TIMES, read_results
    from geodeform.evaluation.charts import charts
    from geodeform.evaluation.comparison import Comparison
    from geodeform.evaluation.comparison_report import PICTURES, write_comparison
    from geodeform.evaluation.comparison_tables import Findings, miou_table
    from geodeform.evaluation.data import open_evaluation_data
    from geodeform.evaluation.panel_store import kept_panels
    from geodeform.evaluation.panels import panel_figures
    from geodeform.evaluation.timing import (
        first_trainings,
        measure_times,
        read_times,
        write_times,
    )

    results = read_results(works, experiment.entries())
    if not Comparison(experiment, results).cells:
        raise GeodeformError(
            f"There is nothing to report yet: {out} has {len(results)} of the "
            f"{len(experiment.entries())} evaluations, and no method at a budget has all held-out "
            "parts of a seed; run the command without --partial."
        )
    recipe = experiment.recipe.to_dict()["data"]
    with shown_log(
        quiet=reporter.quiet, verbose=reporter.verbose, usual=logging.WARNING, prefix="Note: "
    ):
        data = open_evaluation_data(
            recipe["dataset"],
            root,
            items=[item for one in results.values() for item in one.items],
            settings={f"data.{key}": recipe[key] for key in _DATA_SETTINGS},
        )
        kept, trainings = out / TIMES / f"{experiment.name}.json", first_trainings(experiment)
        where = describe_device(resolve_device(device))
        cells = trainings.keys() & {(entry.method, entry.budget) for entry in results}
        timed = set(trainings.values())
        lost = [work for work in works if work.key in timed and not work.model.is_file()]
        if retime and lost:
            raise GeodeformError(
                f"--retime needs {len(timed)} networks, {len(lost)} of which are not there: delete "
                f"the evaluations in {lost[0].folder} and the like to have them trained again."
            )
        measure = measure and not lost
        # times of two machines cannot stand in one table: old ones stay whole, or go
        times = read_times(kept, trainings, where if measure else None)
        if measure and (retime or not cells <= times.keys()):
            with reporter.progress("times", "predictions") as progress:
                times = measure_times(experiment, works, data, device=device, progress=progress)
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_times(times, kept, trainings, where)
        panels, no_panels = panel_figures(experiment, works, results, data, device)
    folder = out / experiment.name
    if not panels and (kept_ones := kept_panels(folder / PICTURES, {work.key for work in works})):
        panels, no_panels = kept_ones, ""
    comparison = Comparison(experiment, results, times)
    paths = write_comparison(
        comparison,
        results,
        folder,
        figures=charts(comparison),
        panels=panels,
        no_panels=no_panels,
        command=command,
        works=works,
    )
    if not reporter.quiet:
        _print(experiment.title, miou_table(Findings(comparison)))
        for path in paths[:4]:  # the pictures are the Markdown page's
            click.echo(f"  {path}")


_DATA_SETTINGS = ("classes", "label_column", "bands", "nodata", "crop", "cache")


def _print(title: str, table: Table) -> None:
    """A table of the report on standard output."""
    console = output_console()
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(Text(f"{table.title} ({table.brief})"), soft_wrap=True)
    shown = rich.table.Table(box=box.SIMPLE)
    for k, head in enumerate(table.head):
        shown.add_column(Text(head), justify="right" if k else "left")
    for _, rows in table.groups:
        for row in rows:
            shown.add_row(*(
                Text(cell) if isinstance(cell, str) else Text(cell.text, style="bold")
                for cell in row
            ))  # fmt: skip
    console.print(shown)


def _say(done: Done) -> None:
    """A line for each step."""
    what = "trained" if done.trial is None else done.trial.file_name.removesuffix(".json")
    if done.failure:
        what = f"FAILED ({done.failure})"
    click.echo(
        f"[{done.finished}/{done.networks}] {done.work.title}: {what}, {done.seconds:.0f} s",
        err=True,
    )
