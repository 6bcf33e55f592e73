"""``geodeform evaluate``: parse, open the data, evaluate, print."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from geodeform.cli.console import Reporter, output_console, print_json, shown_log
from geodeform.cli.options import (
    BudgetType,
    OutputType,
    allocation_option,
    device_option,
    json_option,
    model_option,
    overwrite_option,
    settings_option,
    verbosity_options,
)
from geodeform.errors import GeodeformError
from geodeform.geo.outputs import OutputSet

if TYPE_CHECKING:
    from geodeform.budget import Budget
    from geodeform.evaluation.result import Evaluation

_SAMPLERS = ("learned", "uniform", "interpolation", "oracle", "full")


@click.command(
    "evaluate",
    short_help="Measure a model on labelled scenes: accuracy and cost.",
    epilog="Example: geodeform evaluate --dataset dubai --root ../shared/data/dubai --budget 1.5%",
)
@model_option
@click.option("--dataset", required=True, metavar="NAME", help="Dataset, see geodeform datasets.")
@click.option(
    "--root", required=True, type=click.Path(path_type=Path), help="The dataset's folder."
)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="val",
    show_default=True,
    help="Part of the dataset; of the one that the model was trained on, its own parts.",
)
@click.option("--items", metavar="NAMES", help="Items by name, instead of a part: 7,8.")
@click.option(
    "--budget",
    type=BudgetType(),
    metavar="SHARE|SIDE|TOTAL",
    help="Pixels to sample: a share (1.5%), samples a window (128 for 128x128), or a total (2MP). "
    "[default: the model's]",
)
@click.option(
    "--sampler",
    type=click.Choice(_SAMPLERS),
    help="Where to sample: as learned, uniform, by a learned resizer, where the labels have edges "
    "(an oracle), or full: every pixel, in overlapping crops. [default: the model's]",
)
@allocation_option
@click.option(
    "--overlap",
    type=click.FloatRange(0, 0.5),
    help="Part of a window shared with each neighbour. [default: 0.125; 0.25 of full's crops]",
)
@click.option(
    "--gsd",
    type=click.FloatRange(min=0, min_open=True),
    metavar="METRES",
    help="Ground sampling distance of the images. [default: the dataset's, else the model's]",
)
@settings_option(
    "Which data these are, as for geodeform train: data.val_items, data.split_seed, "
    "data.crop, data.classes, data.label_column, data.bands, data.nodata, data.cache."
)
@click.option(
    "-o",
    "--output",
    type=OutputType(".json"),
    metavar="FILE",
    help="Also write everything, with the counts that it rests on (.json).",
)
@click.option(
    "--csv",
    "table",
    type=OutputType(".csv"),
    metavar="FILE",
    help="Also write all figures as a long table (.csv): a row for each figure, map and class, "
    "with value and unit; scores are 0 to 1.",
)
@device_option
@overwrite_option
@json_option
@verbosity_options
def command(
    model: str | None,
    dataset: str,
    root: Path,
    split: Any,
    items: str | None,
    budget: Budget | None,
    sampler: str | None,
    allocation: str | None,
    overlap: float | None,
    gsd: float | None,
    settings: tuple[tuple[str, Any], ...],
    output: Path | None,
    table: Path | None,
    device: str,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Evaluate a model on a dataset's held-out items, through the pipeline of geodeform segment.

    THE figure is the mIoU at full resolution of the map that users get. Beside it: the map of the
    nearest reverse map (the paper's), mIoU at the samples (deformed), the bound that sampling sets
    (intrinsic: the labels sampled and mapped back), boundaries, calibration, class frequencies, and
    what it cost. Counts of all items are added before any ratio is taken.
    """
    if sampler == "full" and budget is not None:
        raise click.UsageError("--sampler full reads every pixel: give no --budget.")
    if sampler == "full" and allocation is not None:
        raise click.UsageError("--sampler full reads every pixel: give no --allocation.")
    reporter = Reporter(quiet=quiet, verbose=verbose)
    try:
        from geodeform.evaluation.data import open_evaluation_data
    except ModuleNotFoundError as error:
        raise GeodeformError(
            f"Reading datasets needs '{error.name}': pip install 'geodeform[train]'."
        ) from error
    from geodeform.evaluation.evaluate import evaluate

    with OutputSet(overwrite=overwrite, inputs=[model] if model else []) as outputs:
        staged = {path: outputs.add(path, suffixes=(path.suffix.lower(),))
                  for path in (output, table) if path is not None}  # fmt: skip
        network, target = reporter.load(model, device)
        with shown_log(quiet=quiet, verbose=verbose, usual=logging.WARNING, prefix="Note: "):
            data = open_evaluation_data(
                dataset,
                root,
                split=split,
                items=[word.strip() for word in items.split(",")] if items else (),
                spec=network.spec,
                settings=dict(settings),
            )
            with reporter.progress(dataset) as progress:
                result = evaluate(
                    network,
                    data,
                    budget=budget,
                    sampler=sampler,
                    overlap=overlap,
                    gsd=gsd,
                    device=target,
                    allocation=allocation,
                    progress=progress,
                )
        if output is not None:
            result.write_json(staged[output])
        if table is not None:
            result.write_csv(staged[table])
    if as_json:
        print_json(result.summary())
    elif not quiet:
        _print(result)
        for path in staged:
            click.echo(f"  {path}")


def _print(result: Evaluation) -> None:
    """Figures, classes, trimaps, calibration and cost, in per cent, on standard output."""
    console = output_console()
    part = f"{result.split}, " if result.split else ""
    count = len(result.items)
    heading = Text(f"{result.model} on {result.dataset} ({part}", style="bold")
    heading.append(f"{count} item{'' if count == 1 else 's'}), {result.sampler} sampling, ")
    by_need = ", allocated by need" if result.allocation == "need" else ""
    heading.append(f"budget {result.budget}{by_need}; scores in %")
    console.print(heading, soft_wrap=True)
    if result.oracle:
        from geodeform.evaluation.result import ORACLE_MARK

        console.print(Text(ORACLE_MARK, style="bold yellow"), soft_wrap=True)
    console.print(_figures(result))
    for columns in _CLASS_TABLES:  # two, so that they fit in a terminal of 80 columns
        console.print(_classes(result, columns))
    calibration, cost = result.calibration, result.cost
    console.print(
        Text(
            f"  confidence  ECE {_percent(calibration.error())}% (15 bins), Brier score of the top "
            f"class {calibration.brier():.4f}, mean confidence "
            f"{_percent(calibration.mean_confidence())}% at an accuracy of "
            f"{_percent(result.soft.confusion.accuracy())}%"
        ),
        soft_wrap=True,
    )
    memory = f"{cost.peak_memory_bytes / 2**20:,.0f} MiB"
    if cost.device_memory_bytes is not None:
        memory += f" and {cost.device_memory_bytes / 2**20:,.0f} MiB of the GPU"
    sizes = ", ".join(f"{h}x{w} in {H}x{W} px" for H, W, h, w in result.sizes[:3])
    more = f" and {len(result.sizes) - 3} more" if len(result.sizes) > 3 else ""
    for line in (
        f"  pixels      {cost.sampled_pixels:,} of {cost.scene_pixels:,} sampled "
        f"({cost.sampled_share:.2%}) in {cost.windows:,} windows: {sizes}{more}",
        f"  work        {cost.flops_per_megapixel / 1e9:,.3g} GFLOP a megapixel of the scene "
        f"({cost.flops / 1e9:,.4g} in all), {cost.parameters / 1e6:.3g} M parameters",
        f"  time        {cost.seconds:.2f} s ({cost.cpu_seconds:.2f} s of processor time), "
        f"{cost.seconds + cost.seconds_reading:.2f} s with reading; "
        f"{cost.seconds_per_megapixel:.3g} s a megapixel; {cost.device}",
        f"  memory      peak {memory}",
    ):
        console.print(Text(line), soft_wrap=True)
    for note in result.notes:
        console.print(Text(f"  Note: {note}"), soft_wrap=True)


def _figures(result: Evaluation) -> Table:
    """The table of figures: a row a figure, a column a map."""
    from geodeform.evaluation.result import TOLERANCES

    table = _table("", "users' map", "nearest sample", "at the samples")
    soft, nearest = result.soft, result.nearest
    rows: list[tuple[str, float, float, float | None]] = [
        ("mIoU", soft.confusion.miou(), nearest.confusion.miou(), result.deformed.miou()),
        (
            "pixel accuracy",
            soft.confusion.accuracy(),
            nearest.confusion.accuracy(),
            result.deformed.accuracy(),
        ),
        ("mean F1", soft.mean_f1(), nearest.mean_f1(), None),
        ("kappa", soft.confusion.kappa(), nearest.confusion.kappa(), None),
        (
            "intrinsic mIoU (the bound)",
            result.intrinsic.miou(),
            result.intrinsic_nearest.miou(),
            None,
        ),
    ]
    rows += [
        (f"boundary F1, {name}", one.mean_f1(), other.mean_f1(), None)
        for name, one, other in zip(TOLERANCES, soft.boundary, nearest.boundary, strict=True)
    ]
    rows += [
        (f"trimap accuracy, {width} px", one, other, None)
        for width, one, other in zip(
            soft.trimap.widths, soft.trimap.accuracy(), nearest.trimap.accuracy(), strict=True
        )
    ]
    for name, *values in rows:
        style = "bold" if name == "mIoU" else ""
        cells = (Text("" if v is None else _percent(v), style=style) for v in values)
        table.add_row(Text(name, style=style), *cells)
    return table


_CLASS_TABLES = (
    {
        "iou": "IoU",
        "iou_nearest": "nearest",
        "iou_deformed": "at samples",
        "iou_intrinsic": "intrinsic",
        "precision": "precision",
        "recall": "recall",
    },
    {
        "boundary_f1": "boundary F1",
        "boundary_f1_3px": "… 3 px",
        "share_of_pixels": "of pixels",
        "share_of_samples": "of samples",
        "frequency_change": "change",
    },
)


def _classes(result: Evaluation, columns: dict[str, str]) -> Table:
    """A table of classes."""
    table = _table("class", *columns.values())
    for row in result.per_class():
        cells = [
            "-"
            if row[key] is None
            else f"{row[key] - 1:+.1%}"
            if key == "frequency_change"
            else _percent(row[key])
            for key in columns
        ]
        table.add_row(Text(row["class"]), *cells)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _percent(share: float) -> str:
    """A share in per cent, one digit.

    >>> _percent(0.5708), _percent(float("nan"))
    ('57.1', '-')
    """
    return "-" if math.isnan(share) else f"{100 * share:.1f}"
