"""``geodeform datasets``: what can be trained on, its licence, how to get it, what is decoded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from geodeform.classes import ClassScheme, to_hex
from geodeform.cli.console import class_line, output_console, print_json
from geodeform.cli.options import json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geodeform.training.cache import CacheUsage
    from geodeform.training.datasets.base import LabelledDataset


@click.command(
    "datasets",
    short_help="List the datasets for training, and how to get them.",
    epilog="Example: geodeform datasets loveda",
)
@click.argument("name", required=False, metavar="[NAME]")
@click.option(
    "--cache",
    "show_cache",
    is_flag=True,
    help="Show instead what trainings have decoded and kept, and where (of NAME alone).",
)
@click.option(
    "--clear-cache",
    "clear",
    is_flag=True,
    help="Delete what trainings have decoded and kept (of NAME alone); the data themselves stay.",
)
@json_option
def command(name: str | None, show_cache: bool, clear: bool, as_json: bool) -> None:
    """List the datasets that "geodeform train --dataset" takes, or describe the one named NAME.

    The description shows the folder layout that is expected, the classes with their ids and
    colours, the licence and what it allows, how to get the data, and what a model that was trained
    on it is for.

    Trainings decode each image once and keep the result in the user's cache folder (or the one
    that the environment variable GEODEFORM_CACHE names): --cache shows it, --clear-cache frees it.
    """
    if show_cache and clear:
        raise click.UsageError("Give --cache to look or --clear-cache to delete, not both.")
    if show_cache or clear:
        _cache(name, clear=clear, as_json=as_json)
        return
    from geodeform.training.datasets.registry import DATASETS

    if name is None:
        described = [describe(kind) for kind in DATASETS.values()]
        if as_json:
            print_json({"datasets": described})
        else:
            _print_list(described)
        return
    if name not in DATASETS:
        raise _unknown(name, list(DATASETS))
    one = describe(DATASETS[name])
    if as_json:
        print_json(one)
    else:
        _print_one(one)


def _cache(name: str | None, *, clear: bool, as_json: bool) -> None:
    """Show or delete what is decoded, of one dataset or of all."""
    from geodeform.training.cache import cache_usage, clear_cache, default_cache_folder
    from geodeform.training.datasets.registry import DATASETS

    folder = default_cache_folder()
    used = cache_usage(folder)
    # what an earlier or another geodeform decoded can be freed as well
    known = [*DATASETS, *(use.dataset for use in used if use.dataset not in DATASETS)]
    if name is not None and name not in known:
        raise _unknown(name, known)
    if clear:
        shown = clear_cache(name, folder)
    else:
        shown = [use for use in used if name in (None, use.dataset)]
    if as_json:
        print_json(cache_facts(shown, str(folder), freed=clear))
    elif clear:
        size = sum(use.size_bytes for use in shown)
        what = ", ".join(f"{_items(use.entries)} of {use.dataset}" for use in shown)
        told = f"Freed {_megabytes(size)} MB in {folder}: {what}."
        console = output_console()
        console.print(Text(told if shown else f"Nothing to free in {folder}."), soft_wrap=True)
    else:
        _print_cache(shown, str(folder))


def cache_facts(shown: Sequence[CacheUsage], folder: str, *, freed: bool) -> dict[str, Any]:
    """What is decoded of each dataset and of all together, JSON-ready.

    Args:
        shown: The datasets.
        folder: The cache folder.
        freed: Whether it was deleted just now.
    """
    return {
        "folder": folder,
        "freed": freed,
        "datasets": [
            {"name": use.dataset, "items": use.entries, "size_bytes": use.size_bytes}
            for use in shown
        ],
        "items": sum(use.entries for use in shown),
        "size_bytes": sum(use.size_bytes for use in shown),
    }


def _unknown(name: str, known: list[str]) -> click.BadParameter:
    from geodeform.models.spec import nearest_names

    return click.BadParameter(
        f"There is no dataset '{name}'{nearest_names(name, known)}; known are {', '.join(known)}.",
        param_hint="NAME",
    )


def describe(kind: type[LabelledDataset]) -> dict[str, Any]:
    """What is known of a dataset without its folder, JSON-ready.

    Classes are empty and ``gsd_m`` is None where they follow from the user's own data; ``colour``
    is None where only the names are known.
    """
    info = kind.info
    scheme: ClassScheme | None = getattr(kind, "classes", None)
    names = info.classes if scheme is None else scheme.names
    colours = [None] * len(names) if scheme is None else [to_hex(c) for c in scheme.colours]
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


def _items(count: int) -> str:
    return f"{count} item{'' if count == 1 else 's'}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"


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
    console = output_console()
    console.print(table)
    console.print(
        Text("geodeform datasets NAME shows the layout, the classes, and how to get the data.")
    )


def _print_cache(shown: Sequence[CacheUsage], folder: str) -> None:
    console = output_console()
    rows = [(use.dataset, str(use.entries), _megabytes(use.size_bytes)) for use in shown]
    if not rows:
        console.print(Text(f"Nothing is decoded in {folder}."), soft_wrap=True)
        return
    total = sum(use.entries for use in shown), sum(use.size_bytes for use in shown)
    table = Table(box=box.SIMPLE, show_footer=True)
    footers = ("total", str(total[0]), _megabytes(total[1]))
    for heading, footer in zip(("dataset", "items", "MB"), footers, strict=True):
        right = heading != "dataset"
        table.add_column(heading, footer, no_wrap=True, justify="right" if right else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    console.print(Text(f"Decoded in {folder}."), soft_wrap=True)
    console.print(
        Text("geodeform datasets --clear-cache [NAME] frees it; trainings decode it again.")
    )


def _print_one(one: dict[str, Any]) -> None:
    console = output_console()
    console.print(Text.assemble((one["name"], "bold"), f"  {one['title']}"))
    console.print(Text("\nclasses", style="bold"))
    if one["classes"]:
        for entry in one["classes"]:
            console.print(class_line(console, entry["id"], entry["name"], entry["colour"]))
    else:
        console.print(Text("  your own"))
    console.print(Text("\nlayout of the folder", style="bold"))
    console.print(Text("\n".join(one["layout"])), soft_wrap=True)
    bands = ", ".join(one["bands"]) or "your own"
    gsd = "varies or is unknown" if one["gsd_m"] is None else f"{one['gsd_m']:g} m"
    for heading, told in (
        ("imagery", f"Bands {bands}; ground sampling distance {gsd}."),
        ("licence", one["licence"]),
        ("how to get it", one["get"]),
        ("what for", one["purpose"]),
        ("train", f"geodeform train --dataset {one['name']} --root FOLDER"),
    ):
        console.print(Text(f"\n{heading}", style="bold"))
        console.print(Padding(Text(told), (0, 0, 0, 2), expand=False))
