from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner, Result
from rasterio.windows import Window

import geodeform
from geodeform.classes import ClassScheme
from geodeform.cli.report import command
from geodeform.errors import OutputError, SceneError
from geodeform.geo.raster import ClassRasterWriter, ConfidenceRasterWriter


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A map of the demo's scene, with its confidence beside it; its folder is the current one."""
    monkeypatch.chdir(tmp_path)
    with rasterio.open(geodeform.demo_scene()) as scene:
        place = {"shape": scene.shape, "transform": scene.transform, "crs": scene.crs}
    tags = {"source": geodeform.demo_scene().name, "classes": "0=Land, 1=Water", "budget": "1.5 %"}
    scheme = ClassScheme(("Land", "Water"), ((200, 180, 90), (10, 80, 200)))
    values = np.zeros(place["shape"], np.uint8)
    values[:, 1000:] = 1
    everything = Window(0, 0, *values.shape[::-1])
    path = tmp_path / "town.tif"
    with ClassRasterWriter(path, scheme=scheme, tags=tags, **place) as writer:
        writer.write(everything, values)
    with ConfidenceRasterWriter(tmp_path / "town_confidence.tif", tags=tags, **place) as out:
        out.write(everything, np.full(values.shape, 102, np.uint8))
    return path


def _report(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_what_lies_beside_the_map_is_found(labels: Path) -> None:
    done = _report(labels)
    assert done.exit_code == 0, done.output
    assert "town_report.html" in done.stdout
    assert "layers: map, confidence" in done.stdout
    assert "dubai_jumeirah_golf_estates.tif does not lie beside the map" in done.stderr
    page = Path("town_report.html").read_text("utf-8")
    assert "does not lie beside the map" in page
    assert "1.5 %" in page
    shutil.copy(geodeform.demo_scene(), labels.parent)
    done = _report(labels, "--overwrite")
    assert "layers: scene, map, confidence" in done.stdout
    assert done.stderr == ""
    assert Path("town_report.html").stat().st_size < 8e6


def test_json_and_options(labels: Path) -> None:
    scene = geodeform.demo_scene()
    done = _report(labels, "-o", "page.html", "--scene", scene, "--title", "Our town", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["report"] == "page.html"
    assert told["layers"] == ["scene", "map", "confidence"]
    assert told["notes"] == []
    assert [entry["name"] for entry in told["classes"]] == ["Land", "Water"]
    assert told["classes"][0]["pixels"] == 1000 * 4160
    assert told["doubtful_share"] == 1  # all is at 40 %
    assert "<h1>Our town</h1>" in Path("page.html").read_text("utf-8")


def test_errors(labels: Path) -> None:
    assert _report(labels, "-o", "page.pdf").exit_code == 2
    done = _report("none.tif")
    assert done.exit_code == 1
    assert isinstance(done.exception, SceneError)
    assert "none.tif" in str(done.exception)
    Path("town_report.html").write_text("mine")
    done = _report(labels)
    assert isinstance(done.exception, OutputError)
    assert "--overwrite" in str(done.exception)
    assert Path("town_report.html").read_text() == "mine"
