from __future__ import annotations

import json
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from desktop import run_in_qgis

from geodeform.cli.plugin import command

RESULT = {
    "classes": [{"name": "Land", "pixels": 4, "share": 1.0, "area_m2": None}],
    "sampled_pixels": 40,
    "sampled_share": 0.25,
}
FakeProgram = Callable[..., Path]


class FakeFeedback:
    """What QGIS's feedback is to the plugin; cancels where ``cancel_at`` says so."""

    def __init__(self, cancel_at: Callable[[], bool] = lambda: False) -> None:
        self.said: list[tuple[str, str]] = []
        self.progress: list[float] = []
        self.isCanceled = cancel_at

    def pushInfo(self, info: str) -> None:  # noqa: N802
        self.said.append(("info", info))

    def pushWarning(self, warning: str) -> None:  # noqa: N802
        self.said.append(("warning", warning))

    def pushCommandInfo(self, info: str) -> None:  # noqa: N802
        self.said.append(("command", info))

    def setProgress(self, progress: float) -> None:  # noqa: N802
        self.progress.append(progress)


@pytest.fixture
def fake_program(tmp_path: Path) -> FakeProgram:
    """Make a program in geodeform's place; it writes its arguments to argv.json and runs a body."""

    def make(body: str = "", result: dict[str, Any] = RESULT) -> Path:
        path = tmp_path / "fake_geodeform"
        told = json.dumps({"results": [result]})
        path.write_text(
            f"#!{sys.executable}\nimport json, os, pathlib, shutil, signal, sys, time\n"
            f"here = pathlib.Path({str(tmp_path)!r})\n"
            "(here / 'argv.json').write_text(json.dumps(sys.argv[1:]))\n"
            "options = dict(a[2:].split('=', 1) for a in sys.argv if '=' in a)\n"
            f"{textwrap.dedent(body)}\nprint({told!r})\n"
        )
        path.chmod(0o755)
        return path

    return make


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A QGIS profile's python/plugins with the ZIP of the command unpacked, as QGIS installs it."""
    folder = tmp_path_factory.mktemp("profile") / "python" / "plugins"
    folder.mkdir(parents=True)
    made = folder.parent / "geodeform_qgis.zip"
    done = CliRunner().invoke(command, ["-o", str(made), "--portable"])
    assert done.exit_code == 0, done.output
    with zipfile.ZipFile(made) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def in_qgis(plugins: Path, tmp_path: Path) -> Callable[..., str]:
    """Run a script in QGIS with the plugin loaded; ``processing``, ``provider``, ``Said`` exist."""
    opening = """
        import json, os, pathlib
        from qgis.core import *
        sys.path[:0] = [{plugins!r}, "/usr/share/qgis/python/plugins"]
        import processing
        from processing.core.Processing import Processing
        Processing.initialize()
        import geodeform_qgis
        plugin = geodeform_qgis.classFactory(None)
        plugin.initProcessing()
        provider = QgsApplication.processingRegistry().providerById("geodeform")

        class Said(QgsProcessingFeedback):
            def __init__(self):
                super().__init__()
                self.lines, self.progress = [], []
                self.progressChanged.connect(self.progress.append)
            def pushInfo(self, text): self.lines.append(("info", text))
            def pushWarning(self, text): self.lines.append(("warning", text))
            def pushCommandInfo(self, text): self.lines.append(("command", text))
            def reportError(self, text, fatal=False): self.lines.append(("error", text))
    """
    start = textwrap.dedent(opening).replace("{plugins!r}", repr(str(plugins)))

    def run(script: str, *arguments: object, timeout: float = 120) -> str:
        # in a function: a layer that outlives QGIS's end crashes
        body = textwrap.indent(textwrap.dedent(script), "    ")
        closing = "\nQgsProject.instance().clear()\nplugin.unload()\n"
        program = f"{start}\ndef body():\n{body}\nbody(){closing}"
        return run_in_qgis(program, *arguments, cwd=tmp_path, timeout=timeout)

    return run
