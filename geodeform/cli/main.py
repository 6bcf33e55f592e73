"""The ``geodeform`` command: a group whose modules parse, make one library call, and print.

Nothing imported here imports torch: ``geodeform --help`` must answer at once.
"""

from __future__ import annotations

from importlib.metadata import version

import click

from geodeform.cli import demo, segment, train
from geodeform.errors import GeodeformError


class _Group(click.Group):
    """A group that prints a :class:`GeodeformError` as one sentence, with exit code 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except GeodeformError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("geodeform"), prog_name="geodeform")
def main() -> None:
    """Land-cover maps from very large scenes, for a small pixel budget.

    geodeform looks at a low-resolution view, samples pixels more densely where the scene is hard,
    segments only the sampled image, and maps the prediction back to every pixel.
    """


main.add_command(segment.command)
main.add_command(demo.command)
main.add_command(train.command)
