"""``geodeform datasets``: what can be trained on, under which licence, and how to get it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from geodeform.classes import ClassScheme
from geodeform.cli.options import json_option

if TYPE_CHECKING:
    from geodeform.training.datasets.base import LabelledDataset

_PIPED_WIDTH = 1000  # without a terminal to fit, a dataset is one line, for grep and the like
_FINE_COLOURS = ("256", "truecolor")  # of rich; sixteen colours would show other ones


@click.command(
    "datasets",
    short_help="List the datasets for training, and how to get them.",
    epilog="Example: geodeform datasets loveda",
)
@click.argument("name", required=False, metavar="[NAME]")
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the datasets that "geodeform train --dataset" takes, or describe the one named NAME.

    The description shows the folder layout that is expected, the classes with their ids and
    colours, the licence and what it allows, how to get the data, and what a model that was trained
    on it is for.
    """
    from geodeform.training.datasets.registry import DATASETS

    if name is None:
        described = [describe(kind) for kind in DATASETS.values()]
        if as_json:
            click.echo(json.dumps({"datasets": described}, indent=2, ensure_ascii=False))
        else:
            _print_list(described)
        return
    if name not in DATASETS:
        from geodeform.models.spec import nearest_names

        raise click.BadParameter(
            f"There is no dataset '{name}'{nearest_names(name, list(DATASETS))}; "
            f"known are {', '.join(DATASETS)}.",
            param_hint="NAME",
        )
    one = describe(DATASETS[name])
    if as_json:
        click.echo(json.dumps(one, indent=2, ensure_ascii=False))
    else:
        _print_one(one)


def describe(kind: type[LabelledDataset]) -> dict[str, Any]:
    """What is known of a dataset without its folder, JSON-ready.

    Classes are empty and ``gsd_m`` is None where they follow from the user's own data; ``colour``
    is None where only the names are known.
    """
    info = kind.info
    scheme: ClassScheme | None = getattr(kind, "classes", None)
    names = info.classes if scheme is None else scheme.names
    colours = [None] * len(names) if scheme is None else [_hex(c) for c in scheme.colours]
    return {
        "name": info.name,
        "title": info.title,
        "licence": info.licence,
        "classes": [
            {"id": index, "name": class_name, "colour": colour}
            for index, (class_name, colour) in enumerate(zip(names, colours, strict=True))
        ],
        "bands": list(kind.bands),
        "gsd_m": kind.gsd_m,
        "layout": info.layout.splitlines(),
        "get": info.get,
        "purpose": info.purpose,
    }


def short_licence(licence: str) -> str:
    """The licence's name without what it allows.

    >>> short_licence("CC BY-NC-SA 4.0: non-commercial use with attribution.")
    'CC BY-NC-SA 4.0'
    """
    return re.split(r"[:;,(]|\.(?=\s|$)", licence, maxsplit=1)[0].strip()


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02X}{:02X}{:02X}".format(*colour)


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console


def _print_list(described: list[dict[str, Any]]) -> None:
    table = Table(box=box.SIMPLE)
    for heading in ("name", "classes", "licence", "title"):
        table.add_column(
            heading,
            no_wrap=heading == "name",
            justify="right" if heading == "classes" else "left",
        )
    for one in described:
        count = str(len(one["classes"])) if one["classes"] else "your own"
        # as Text: square brackets are not markup here
        row = (one["name"], count, short_licence(one["licence"]), one["title"])
        table.add_row(*(Text(cell) for cell in row))
    console = _console()
    console.print(table)
    console.print(
        Text("geodeform datasets NAME shows the layout, the classes, and how to get the data.")
    )


def _print_one(one: dict[str, Any]) -> None:
    console = _console()
    console.print(Text.assemble((one["name"], "bold"), f"  {one['title']}"))
    console.print(Text("\nclasses", style="bold"))
    if one["classes"]:
        for entry in one["classes"]:
            console.print(_class_line(entry, swatch=console.color_system in _FINE_COLOURS))
    else:
        console.print(Text("  your own"))
    console.print(Text("\nlayout of the folder", style="bold"))
    console.print(Text("\n".join(one["layout"])), soft_wrap=True)
    gsd = "varies or is unknown" if one["gsd_m"] is None else f"{one['gsd_m']:g} m"
    for heading, told in (
        ("imagery", f"Bands {', '.join(one['bands'])}; ground sampling distance {gsd}."),
        ("licence", one["licence"]),
        ("how to get it", one["get"]),
        ("what for", one["purpose"]),
        ("train", f"geodeform train --dataset {one['name']} --root FOLDER"),
    ):
        console.print(Text(f"\n{heading}", style="bold"))
        console.print(Padding(Text(told), (0, 0, 0, 2), expand=False))


def _class_line(entry: dict[str, Any], *, swatch: bool) -> Text:
    line = Text(f"  {entry['id']:>3}  ")
    if entry["colour"] is not None:
        if swatch:
            line.append("  ", style=f"on {entry['colour'].lower()}").append(" ")
        line.append(f"{entry['colour']}  ")
    return line.append(entry["name"])
