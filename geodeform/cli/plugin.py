"""``geodeform qgis-plugin``: the ZIP that QGIS installs."""

from __future__ import annotations

from pathlib import Path

import click

from geodeform.cli.console import print_json
from geodeform.cli.options import OutputType, json_option, overwrite_option
from geodeform.plugin import PLUGIN_SUFFIXES, build_plugin


@click.command("qgis-plugin", short_help="Write the QGIS plugin as a ZIP.")
@click.option(
    "-o",
    "--output",
    type=OutputType(*PLUGIN_SUFFIXES),
    default="geodeform_qgis.zip",
    show_default=True,
    metavar="FILE",
    help="File to write (.zip).",
)
@click.option(
    "--portable",
    is_flag=True,
    help="Leave out where geodeform is installed here: for a ZIP that others install.",
)
@overwrite_option
@json_option
def command(output: Path, portable: bool, overwrite: bool, as_json: bool) -> None:
    """Write the QGIS plugin, for QGIS 3.22 and newer, as a ZIP.

    It adds three Processing algorithms: segment a scene, map the sampling density, compare budgets.
    They call geodeform where it is installed, since QGIS's own Python has no torch. It is found by
    QGIS's Processing settings, else the environment variable GEODEFORM_EXECUTABLE, else the PATH,
    else where the ZIP was made.
    """
    report = build_plugin(output, portable=portable, overwrite=overwrite)
    if as_json:
        print_json(
            {
                "plugin": str(report.path),
                "version": report.version,
                "files": list(report.files),
                "python": report.python,
            }
        )
        return
    click.echo(f"{report.path}  QGIS plugin geodeform {report.version}")
    click.echo("  In QGIS: Plugins > Manage and Install Plugins > Install from ZIP")
    click.echo("  Then: Processing > Toolbox > geodeform")
    if report.python is not None:
        click.echo(f"  It falls back to the geodeform of {report.python}")
