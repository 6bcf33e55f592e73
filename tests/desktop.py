"""QGIS and Chromium of the machine, for the tests that show outputs in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap
from functools import cache
from pathlib import Path

import pytest

_QGIS_PYTHON = "/usr/bin/python3"  # Debian's QGIS belongs to the system's Python


def run_in_qgis(script: str, *arguments: object, cwd: Path, timeout: float = 300) -> str:
    """Run a script in the Python of a real QGIS without a screen; return what it prints.

    ``app`` (an initialised QgsApplication) and ``sys`` are there already; arguments are
    ``sys.argv[1:]``. Skips the test where QGIS is missing, see :func:`missing`.
    """
    if not _has_qgis():
        missing("QGIS is not installed (python3-qgis, qgis-providers)")
    opening = """
        import sys
        from qgis.core import QgsApplication
        app = QgsApplication([], False)
        app.initQgis()
    """
    closing = "app.exitQgis()\n"
    program = textwrap.dedent(opening) + textwrap.dedent(script) + "\n" + closing
    done = subprocess.run(
        [_QGIS_PYTHON, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=_desktop_environment(cwd),
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@cache
def _has_qgis() -> bool:
    if not Path(_QGIS_PYTHON).exists():
        return False
    check = subprocess.run(
        [_QGIS_PYTHON, "-c", "import qgis.core"],
        capture_output=True,
        env=_desktop_environment(Path.cwd()),
        check=False,
    )
    return check.returncode == 0


def _desktop_environment(home: Path) -> dict[str, str]:
    """The environment without the virtual environment's traces, and with a profile of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    places = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "QGIS_CUSTOM_CONFIG_PATH": str(home)}
    return kept | places | {"QT_QPA_PLATFORM": "offscreen", "QT_LOGGING_RULES": "*.warning=false"}


def chromium() -> str:
    """Path of Chromium, for playwright; skips the test where it is missing."""
    path = shutil.which("chromium")
    if path is None:
        missing("Chromium is not installed")
    return path


CHROMIUM_ARGUMENTS = [
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def missing(what: str) -> None:
    """Skip the test, or fail it where GEODEFORM_DESKTOP=required."""
    if os.environ.get("GEODEFORM_DESKTOP") == "required":
        pytest.fail(f"{what}, and GEODEFORM_DESKTOP=required")
    pytest.skip(what)
