"""``geodeform doctor``: what is wrong with a map, why it matters, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from geodeform.cli.console import output_console, print_json
from geodeform.cli.options import json_option

if TYPE_CHECKING:
    from geodeform.doctor.findings import Level, Report

_STYLES = {"ERROR": "bold red", "WARNING": "yellow", "HINT": "cyan", "OK": "green"}


@click.command(
    "doctor",
    short_help="Check maps and say what is wrong with them.",
    epilog="Example: geodeform doctor landcover.tif landcover.gpkg",
)
@click.argument(
    "paths", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@click.option("-v", "--verbose", is_flag=True, help="Show the checks that passed, too.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    paths: tuple[Path, ...],
    strict: bool,
    verbose: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Check maps, of geodeform or any other tool, and say what is wrong and what to do.

    FILE is a raster (classes, confidence, density or any other), GeoPackage, GeoParquet,
    FlatGeobuf, GeoJSON, QGIS style or project, STAC item, HTML report, or a folder of them. Files
    are known by what is in them. Several files, or those of a folder, are also compared with each
    other. Nothing is changed; every pixel is read.

    Exit code 1 where there is an error (with --strict also a warning), else 0.
    """
    from geodeform.doctor import examine
    from geodeform.doctor.findings import Level

    with Console(stderr=True).status("examining") as status:  # shows nothing when piped
        reports = examine(
            paths, progress=lambda done, total: status.update(f"examined {done} of {total}")
        )
    worst = max((report.worst for report in reports), default=Level.OK)
    if as_json:
        print_json(
            {
                "worst": worst.name.lower(),
                "counts": {
                    level.name.lower(): sum(report.count(level) for report in reports)
                    for level in reversed(Level)
                },
                "reports": [report.to_dict() for report in reports],
            }
        )
    else:
        print_reports(reports, least=Level.ERROR if quiet else Level.OK if verbose else Level.HINT)
    context.exit(int(worst >= (Level.WARNING if strict else Level.ERROR)))


def print_reports(reports: Sequence[Report], *, least: Level) -> None:
    """A table of findings for each file, and how many there are in all.

    Args:
        reports: The reports.
        least: Findings of lower levels are only counted.
    """
    from geodeform.doctor.findings import Level, counted

    console = output_console()
    for report in reports:
        shown = [finding for finding in report.findings if finding.level >= least]
        passed = report.count(Level.OK)
        if shown or least <= Level.HINT:
            # as Text: square brackets are not markup here
            heading = Text.assemble((str(report.path), "bold"), f"  {report.kind}")
            if not shown:
                heading.append(f"  all {passed} checks passed", style="green")
            console.print(heading, soft_wrap=True)
        if not shown:
            continue
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column()
        for finding in shown:
            name = finding.level.name
            table.add_row(
                Text(f"  {name.lower()}", style=_STYLES[name]),
                Text(finding.code),
                Text(finding.message),
            )
            if finding.remedy:
                table.add_row("", "", Text(f"→ {finding.remedy}", style="dim"))
        console.print(table)
    if least > Level.HINT and not any(report.worst >= least for report in reports):
        return
    said = [
        counted(sum(r.count(level) for r in reports), level.name.lower())
        for level in (Level.ERROR, Level.WARNING, Level.HINT)
    ]
    passed = sum(report.count(Level.OK) for report in reports)
    console.print(Text(f"{', '.join(said)}, {counted(passed, 'check')} passed."))
