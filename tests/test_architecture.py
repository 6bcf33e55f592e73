"""The architecture is an import rule, and here it is held."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import geodeform

PACKAGE = Path(geodeform.__file__).parent
FORBIDDEN = {
    "geo": ("torch", "torchgeo", "lightning", "geodeform.models", "geodeform.training"),
    "deform": ("rasterio", "geopandas", "rioxarray", "odc", "geodeform.geo"),
    "models": ("rasterio", "geodeform.geo", "geodeform.training", "geodeform.pipeline"),
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_each_room_imports_only_what_it_may(room: str) -> None:
    files = list((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        for name in _imports(path):
            assert not any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN[room]), (
                f"{path.relative_to(PACKAGE)} imports {name}"
            )


def test_the_command_line_imports_heavy_things_only_inside_commands() -> None:
    code = (
        "import sys, geodeform, geodeform.cli.main; "
        "print([m for m in ('torch', 'rasterio', 'geopandas', 'numba', 'matplotlib', 'lightning') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_geo_needs_no_torch_at_run_time() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"  # any import of torch now fails
        "import geodeform.geo.scene, geodeform.geo.windows, geodeform.geo.mosaic\n"
        "import geodeform.geo.raster, geodeform.geo.vector"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_no_print_and_no_utils_in_the_library() -> None:
    assert not list(PACKAGE.rglob("utils.py"))


def test_the_benchmarks_load() -> None:
    """They are run by hand, so nothing else would notice that one names what is gone."""
    folder = Path(__file__).parent / "benchmarks"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder.parents[1],
    )
    assert done.returncode == 0, done.stdout
