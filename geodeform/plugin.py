"""The ZIP that QGIS installs as a plugin: the folder ``qgis_plugin`` with version and origin."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from geodeform.geo.outputs import OutputSet
from geodeform.qgis_plugin.command import RECORD

PLUGIN_SUFFIXES = (".zip",)
"""What a plugin's file may be called."""

PLUGIN_FOLDER = "geodeform_qgis"
"""Top folder of the ZIP, which becomes the plugin's id in QGIS."""

_SHIPPED = (".py", ".txt", ".svg")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP can say


@dataclass(frozen=True)
class PluginReport:
    """What was written.

    Attributes:
        path: The ZIP.
        version: Version that QGIS will show: geodeform's own.
        files: Names in the ZIP.
        python: Python that the plugin falls back to for running geodeform, None where portable.
    """

    path: Path
    version: str
    files: tuple[str, ...]
    python: str | None


def build_plugin(
    path: str | Path, *, portable: bool = False, overwrite: bool = False
) -> PluginReport:
    """Write the QGIS plugin as a ZIP for *Plugins > Manage and Install Plugins > Install from ZIP*.

    The same geodeform in the same environment always gives the same bytes.

    Args:
        path: Where to write, ``.zip``.
        portable: Whether to leave out which Python this is. The plugin falls back to it where
            neither QGIS's setting, nor GEODEFORM_EXECUTABLE, nor the PATH says where geodeform is;
            a ZIP for other machines is better without.
        overwrite: Whether an existing file may be replaced.

    Returns:
        What was written.

    Raises:
        OutputError: If the file cannot be written, or exists and must not be replaced.
    """
    path = Path(path)
    told = version("geodeform")
    contents = dict(_shipped(files("geodeform") / "qgis_plugin"))
    metadata = contents["metadata.txt"].decode()
    contents["metadata.txt"] = re.sub(r"(?m)^version=.*$", f"version={told}", metadata).encode()
    if not portable:
        record = json.dumps({"python": sys.executable, "geodeform": told}, indent=2)
        contents[RECORD] = f"{record}\n".encode()
    with OutputSet(overwrite=overwrite) as outputs:
        staged = outputs.add(path, suffixes=PLUGIN_SUFFIXES)
        with zipfile.ZipFile(staged, "w") as archive:
            for name, data in sorted(contents.items()):
                entry = zipfile.ZipInfo(f"{PLUGIN_FOLDER}/{name}", date_time=_EPOCH)
                entry.create_system = 3  # else it is the machine's, and so are the bytes
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, data, zipfile.ZIP_DEFLATED, compresslevel=9)
    return PluginReport(
        path=path,
        version=told,
        files=tuple(f"{PLUGIN_FOLDER}/{name}" for name in sorted(contents)),
        python=None if portable else sys.executable,
    )


def _shipped(folder: Traversable, below: str = "") -> list[tuple[str, bytes]]:
    """Names below the folder, with slashes, and what is in the files."""
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _shipped(entry, f"{below}{entry.name}/")
        elif entry.name.endswith(_SHIPPED):
            # a checkout on Windows may have other line ends
            found.append((below + entry.name, entry.read_bytes().replace(b"\r\n", b"\n")))
    return found
