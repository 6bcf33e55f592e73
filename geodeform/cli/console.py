"""What the commands say to people: banner, progress, tables; all of it on standard error or out."""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from geodeform.errors import GeodeformError
from geodeform.result import format_area

if TYPE_CHECKING:
    import torch

    from geodeform.models.deform_segmenter import DeformSegmenter
    from geodeform.pipeline import Estimate
    from geodeform.result import SegmentationResult
    from geodeform.sampling import DensityMap
    from geodeform.training.callbacks import TrainStatus


_PIPED_WIDTH = 1000
_FINE_COLOURS = ("256", "truecolor")  # of rich; sixteen colours would show other ones


@contextmanager
def shown_log(*, quiet: bool, verbose: bool, usual: int, prefix: str = "") -> Iterator[None]:
    """Show geodeform's log on standard error while a command runs.

    Args:
        quiet: Only errors.
        verbose: Everything.
        usual: The level otherwise, such as ``logging.WARNING``.
        prefix: Put before each line.
    """
    logger, handler = logging.getLogger("geodeform"), _Echo()
    handler.prefix = prefix
    before = logger.level
    logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else usual)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Echo(logging.Handler):
    """Writes to whatever standard error is now, as click does."""

    prefix = ""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{self.prefix}{record.getMessage()}", err=True)


class Reporter:
    """Banner, notes and a progress bar on standard error; the bar vanishes when piped."""

    def __init__(self, *, quiet: bool, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.console = Console(stderr=True)

    def banner(self, model: str, device: str) -> None:
        """Say, before any work, which model and which device."""
        if not self.quiet:
            click.echo(
                f"geodeform {version('geodeform')} · model {model} · device {device}", err=True
            )

    def load(self, model: str | None, device: str) -> tuple[DeformSegmenter, torch.device]:
        """Load a model (the packaged one if None) and find the device, and say which they are."""
        # torch is imported here, when work begins
        from geodeform.device import describe_device, resolve_device
        from geodeform.models.model_file import load_model

        target = resolve_device(device)
        network = load_model(model)
        self.banner(
            f"{model or 'dubai (packaged)'}, {network.spec.architecture}", describe_device(target)
        )
        return network, target

    def failure(self, scene: str, error: Exception) -> str:
        """Say in one line what befell a scene (with -v also where), and return it."""
        if isinstance(error, GeodeformError):
            message = str(error)
        else:
            told = " ".join(str(error).split()) or "no message"
            message = f"{scene}: {type(error).__name__}: {told} (run with -v to see where)."
        click.echo(f"Error: {message}", err=True)
        if self.verbose:
            click.echo("".join(traceback.format_exception(error)), err=True)
        return message

    @contextmanager
    def progress(self, name: str, what: str = "windows") -> Iterator[Callable[[int, int], None]]:
        """A bar that counts windows, or what else; the callback takes (done, total).

        With GEODEFORM_PROGRESS=lines, lines such as ``progress 3/25``: the QGIS plugin reads them.
        """
        if os.environ.get("GEODEFORM_PROGRESS") == "lines":
            yield lambda done, total: click.echo(f"progress {done}/{total}", err=True)
            return
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(what),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=self.quiet or not self.console.is_terminal,
        ) as bar:
            task = bar.add_task(name, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    @contextmanager
    def training(self) -> Iterator[Callable[[TrainStatus], None] | None]:
        """A bar that counts steps, with loss, speed and mIoU; None where lines say it instead."""
        if self.quiet or not self.console.is_terminal:
            yield None
            return
        with Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        ) as bar:
            task = bar.add_task("training", total=None, said="")

            def report(status: TrainStatus) -> None:
                miou = "" if status.miou is None else f" · mIoU {status.miou:.1%}"
                bar.update(
                    task,
                    completed=status.step,
                    total=status.steps,
                    said=f"loss {status.loss:.3f} · {status.windows_per_s:.1f}/s · "
                    f"{status.data_share:.0%} waiting{miou}",
                )

            yield report


def print_json(facts: Any) -> None:
    """Facts as JSON on standard output."""
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False))


def output_console() -> Console:
    """A console on standard output; without a terminal to fit, an entry is one line, for grep."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console


def class_line(console: Console, number: int, name: str, colour: str | None) -> Text:
    """A class with its id and, where it has one, its colour, ``#RRGGBB``."""
    line = Text(f"  {number:>3}  ")
    if colour is not None:
        if console.color_system in _FINE_COLOURS:
            line.append("  ", style=f"on {colour.lower()}").append(" ")
        line.append(f"{colour}  ")
    return line.append(name)


def print_result(result: SegmentationResult) -> None:
    """Class areas, cost and files of a finished run, on standard output."""
    click.echo(f"{result.scene}")
    for area in result.class_areas:
        size = "" if area.area_m2 is None else f"{format_area(area.area_m2):>14}"
        click.echo(f"  {area.name:<16}{area.share:8.2%}{area.pixels:14,} px{size}")
    facts, plan = result.facts, result.plan
    skipped = f" ({facts.windows_skipped} empty, skipped)" if facts.windows_skipped else ""
    click.echo(
        f"  sampled {facts.sampled_pixels:,} of {plan.shape[0] * plan.shape[1]:,} pixels "
        f"({facts.sampled_share:.2%}), {plan.way}, {plan.shown_size()} "
        f"in each of {facts.windows} windows of {plan.window_size[0]}x{plan.window_size[1]} px"
        f"{skipped}"
    )
    click.echo(
        f"  {facts.seconds:.1f} s, peak memory {facts.peak_memory_bytes / 2**20:,.0f} MiB, "
        f"device {facts.device}"
    )
    click.echo(f"  values: {plan.scaling.describe()}")
    if plan.priority is not None:
        click.echo(f"  priority: {plan.priority.describe()}")
    for kind, path in result.paths.items():
        click.echo(f"  {kind:<12}{path}")


def print_density(result: DensityMap) -> None:
    """How a scene would be sampled, on standard output."""
    plan = result.plan
    low, median, high = result.quantiles()
    click.echo(f"{plan.scene}")
    click.echo(
        f"  would sample {plan.sampled_pixels:,} of {plan.shape[0] * plan.shape[1]:,} pixels "
        f"({plan.share:.2%}), {plan.way}, {plan.shown_size()} in each "
        f"of {len(plan.active)} windows of {plan.window_size[0]}x{plan.window_size[1]} px"
    )
    if low > 0:  # nan where no cell has data
        click.echo(
            f"  one sample stands for {1 / median:.3g} pixels in the middle, {1 / high:.3g} where "
            f"it is densest (1 %), {1 / low:.3g} where it is sparsest (1 %)"
        )
    click.echo(f"  {result.seconds:.1f} s, device {result.device}")
    for kind, path in result.paths.items():
        click.echo(f"  {kind:<12}{path}")


def print_plan(planned: Estimate) -> None:
    """What a run would do and cost, on standard output."""
    plan = planned.plan
    click.echo(f"{plan.scene} (dry run, nothing written)")
    for note in plan.notes:
        click.echo(f"  Note: {note}")
    click.echo(
        f"  {len(plan.active)} windows of {plan.window_size[0]}x{plan.window_size[1]} px, "
        f"{plan.shown_size()} samples each, {plan.way}"
    )
    click.echo(f"  pixels to sample: {plan.sampled_pixels:,} ({plan.share:.2%})")
    click.echo(f"  values: {plan.scaling.describe()}")
    click.echo(
        f"  estimate: {planned.seconds:.0f} s, {planned.memory_bytes / 2**20:,.0f} MiB "
        f"on {planned.device} (from {planned.probed} probed windows)"
    )
