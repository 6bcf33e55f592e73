"""The ``geodeform`` command: a group whose modules parse, make one library call, and print.

Nothing imported here imports torch: ``geodeform --help`` must answer at once.
"""

from __future__ import annotations

import os
import signal
import threading
from importlib.metadata import version

import click

from geodeform.cli import (
    budget,
    compare,
    datasets,
    demo,
    density,
    doctor,
    evaluate,
    models,
    plugin,
    polygonize,
    report,
    segment,
    train,
)
from geodeform.errors import GeodeformError

# Threads that wait spin by default, and on a busy machine they spin in each other's way: small
# images took 45 times as long. torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class _Group(click.Group):
    """A group that prints a :class:`GeodeformError` as one sentence, with exit code 1.

    Being asked to end (a closed terminal, a batch system's time limit) is handled as Ctrl-C is:
    what is half-written is removed.
    """

    def invoke(self, ctx: click.Context) -> object:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                # what the caller ignores (nohup) or handles itself stays so
                if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, _interrupt)
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


for _module in (
    segment,
    density,
    budget,
    polygonize,
    report,
    doctor,
    train,
    evaluate,
    compare,
    datasets,
    models,
    plugin,
    demo,
):
    main.add_command(_module.command)
