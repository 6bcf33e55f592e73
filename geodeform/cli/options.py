"""Options that several commands share, written once (rasterio's habit)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from geodeform.budget import Budget
from geodeform.errors import ConfigError
from geodeform.geo.outputs import VECTOR_SUFFIXES

Command = TypeVar("Command", bound=Callable[..., Any])


class BudgetType(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4
    """``1.5%``, ``128``, ``128x96`` or ``2MP`` → :class:`geodeform.budget.Budget`."""

    name = "budget"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Budget:
        """Parse, with click's usage error (exit code 2) where it cannot be read."""
        try:
            return Budget.parse(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class NumbersType(click.ParamType):  # type: ignore[type-arg]
    """Comma-separated numbers, e.g. ``4,3,2``."""

    def __init__(self, kind: type[int] | type[float], count: int | None = None) -> None:
        self.kind = kind
        self.count = count
        self.name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | float, ...]:
        """Parse, with click's usage error (exit code 2) where it cannot be read."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self.kind(word) for word in str(value).split(","))
        except ValueError:
            self.fail(f"'{value}' is not a list such as 1,2,3", param, ctx)
        if self.count is not None and len(numbers) != self.count:
            self.fail(f"'{value}' must be {self.count} numbers separated by commas", param, ctx)
        return numbers


class SizeType(click.ParamType):  # type: ignore[type-arg]
    """``512`` or ``512x768`` (height x width) → (height, width).

    Args:
        several: Whether it is a list of sizes, with commas, and gives a list.
        optional: Whether ``null`` is allowed, and given back as it is.
    """

    def __init__(self, *, several: bool = False, optional: bool = False) -> None:
        self.several = several
        self.optional = optional
        self.name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse, with click's usage error (exit code 2) where it cannot be read."""
        if not isinstance(value, str) or (self.optional and value == "null"):
            return value
        sizes = []
        for word in value.split(",") if self.several else [value]:
            match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", word.strip())
            if match is None:
                self.fail(
                    f"'{word}' is no size such as 512 or 512x768 (height x width)", param, ctx
                )
            sizes.append((int(match[1]), int(match[2] or match[1])))
        return sizes if self.several else sizes[0]


class SettingType(click.ParamType):  # type: ignore[type-arg]
    """``section.key=value`` → (dotted key, value read as YAML)."""

    name = "setting"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse, with click's usage error (exit code 2) where it cannot be read."""
        from geodeform.config import parse_settings

        try:
            ((key, parsed),) = parse_settings([str(value)]).items()
        except ConfigError as error:
            self.fail(str(error), param, ctx)
        return key, parsed


class StretchType(click.ParamType):  # type: ignore[type-arg]
    """``auto``, ``none`` or two percentiles such as ``2,98``."""

    name = "stretch"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | tuple[float, float]:
        """Parse, with click's usage error (exit code 2) where it cannot be read."""
        if value in ("auto", "none") or isinstance(value, tuple):
            return value  # type: ignore[no-any-return]
        low, high = NumbersType(float, 2).convert(value, param, ctx)
        if not 0 <= low < high <= 100:
            self.fail(f"'{value}' must be two rising percentiles of 0 to 100", param, ctx)
        return float(low), float(high)


class DeviceType(click.ParamType):  # type: ignore[type-arg]
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``; whether it is there is the library's to say."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form, with click's usage error (exit code 2) where it is another."""
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value)):
            self.fail(f"'{value}' is none of auto, cpu, cuda, cuda:N", param, ctx)
        return str(value)


class OutputType(click.Path):
    """A path to write with one of a few suffixes."""

    def __init__(self, *suffixes: str) -> None:
        super().__init__(path_type=Path)
        self.suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the suffix, with click's usage error (exit code 2) where it is another."""
        path = Path(str(super().convert(value, param, ctx)))
        if path.suffix.lower() not in self.suffixes:
            self.fail(f"'{path}' must end in {', '.join(self.suffixes)}", param, ctx)
        return path


VECTOR_OUTPUT = OutputType(*VECTOR_SUFFIXES)


def _with_options(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    """Give a command options, listed by --help in their order."""
    for option in reversed(options):
        command = option(command)
    return command


def model_option(command: Command) -> Command:
    """``-m/--model``."""
    return click.option(
        "-m",
        "--model",
        default=None,
        metavar="NAME|FILE",
        help="Model file (.safetensors) or packaged model. [default: dubai, RGB of about 1 m]",
    )(command)


def allocation_option(command: Command) -> Command:
    """How a scene's budget is shared out over its windows."""
    return click.option(
        "--allocation",
        type=click.Choice(["even", "need"]),
        help="Whether every window gets the same number of samples, or the windows where they "
        "are expected to take away most errors get more. [default: need, where the model can]",
    )(command)


def reading_options(command: Command) -> Command:
    """Which part of a scene is mapped, in which windows, and what the file does not say."""
    options = (
        click.option(
            "--bands",
            type=NumbersType(int),
            metavar="R,G,B",
            help="Bands that the model's bands are read from, counted from 1. [default: by colour "
            "interpretation, else in order]",
        ),
        click.option(
            "--nodata", type=float, help="Value without data, where the file does not say it."
        ),
        click.option(
            "--stretch",
            type=StretchType(),
            default="auto",
            show_default=True,
            metavar="auto|none|LOW,HIGH",
            help="How values become 0 to 1: the model's range for 8-bit scenes, else percentiles.",
        ),
        click.option(
            "--gsd",
            type=click.FloatRange(min=0, min_open=True),
            metavar="METRES",
            help="Ground sampling distance of the scene, where the file does not say it.",
        ),
        click.option(
            "--overlap",
            type=click.FloatRange(0, 0.5),
            default=0.125,
            show_default=True,
            help="Part of a window shared with each neighbour; scores blend there.",
        ),
        click.option(
            "--bbox",
            type=NumbersType(float, 4),
            metavar="XMIN,YMIN,XMAX,YMAX",
            help="Map only this part, in the scene's CRS.",
        ),
        click.option(
            "--aoi",
            type=click.Path(path_type=Path, exists=True),
            metavar="FILE",
            help="Map only inside these polygons (any vector file).",
        ),
    )
    return _with_options(command, options)


def scene_options(command: Command) -> Command:
    """How much is sampled, of which part, and what the file does not say: of every run."""
    options = (
        click.option(
            "--budget",
            type=BudgetType(),
            metavar="SHARE|SIDE|TOTAL",
            help="Pixels to sample: a share (1.5%), samples a window (128 for 128x128), or a total "
            "(2MP). [default: the model's]",
        ),
        click.option(
            "--sampler",
            type=click.Choice(["learned", "uniform", "interpolation"]),
            help="Where to sample: as learned, uniform, or by a learned resizer. "
            "[default: the model's]",
        ),
        allocation_option,
        reading_options,
        click.option(
            "--focus",
            type=click.Path(path_type=Path, exists=True),
            metavar="FILE",
            help="More of the budget goes inside these polygons (any vector file).",
        ),
        click.option(
            "--focus-class",
            "focus_classes",
            multiple=True,
            metavar="NAME",
            help="More of the budget goes where this class is expected; repeat for several.",
        ),
        click.option(
            "--priority",
            type=click.Path(path_type=Path, exists=True),
            metavar="RASTER",
            help="What an error counts at each place: weights of 0 or more, in any CRS.",
        ),
    )
    return _with_options(command, options)


def polygon_options(command: Command) -> Command:
    """What is done to polygons: small ones, holes, outlines."""
    options = (
        click.option(
            "--min-area",
            type=click.FloatRange(min=0),
            default=0.0,
            metavar="M2",
            help="Dissolve polygons under this area into their neighbours (m²; px² without a CRS).",
        ),
        click.option(
            "--fill-holes",
            type=click.FloatRange(min=0),
            default=0.0,
            metavar="M2",
            help="Fill holes under this area with the polygon around them (m²; px² without a "
            "CRS); never nodata.",
        ),
        click.option(
            "--simplify",
            type=click.FloatRange(min=0),
            default=0.0,
            metavar="TOLERANCE",
            help="Simplify polygons together, without gaps, by this tolerance in the CRS's units.",
        ),
        click.option(
            "--smooth",
            type=click.IntRange(min=0),
            default=0,
            metavar="N",
            help="Cut the corners of the pixels' staircases N times, together, without gaps; 3 to "
            "5 make smooth outlines, within half a pixel of the pixels' own.",
        ),
    )
    return _with_options(command, options)


def device_option(command: Command) -> Command:
    """``--device``."""
    return click.option(
        "--device",
        type=DeviceType(),
        default="auto",
        show_default=True,
        metavar="auto|cpu|cuda[:N]",
        help="Where to compute; auto takes the first NVIDIA GPU where there is one.",
    )(command)


def overwrite_option(command: Command) -> Command:
    """``--overwrite``."""
    return click.option(
        "--overwrite", is_flag=True, help="Replace outputs that exist; refused otherwise."
    )(command)


def settings_option(help: str) -> Callable[[Command], Command]:
    """``--set section.key=value``, which may be repeated; ``help`` says of what."""
    return click.option(
        "--set",
        "settings",
        type=SettingType(),
        multiple=True,
        metavar="KEY=VALUE",
        help=help,
    )


def verbosity_options(command: Command) -> Command:
    """``-v/--verbose`` and ``-q/--quiet``."""
    command = click.option("-q", "--quiet", is_flag=True, help="Only errors.")(command)
    return click.option("-v", "--verbose", is_flag=True, help="Say every decision.")(command)


def json_option(command: Command) -> Command:
    """``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."
    )(command)
