from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine
from scene_files import scene_file

from geodeform.doctor import examine
from geodeform.doctor.findings import Level, Report

UTM = CRS.from_epsg(32640)
PLACE = {"crs": UTM, "transform": Affine(1, 0, 3e5, 0, -1, 2.7e6)}


def codes(report: Report, *, least: Level = Level.HINT) -> set[str]:
    return {finding.code for finding in report.findings if finding.level >= least}


def examined(path: Path) -> Report:
    (report,) = examine([path])
    for finding in report.findings:
        assert finding.message.endswith((".", "!")), finding
        assert "\n" not in finding.message, finding
    return report


def test_a_good_run_has_no_error_and_no_warning(finished: Path) -> None:
    reports = examine([finished])
    told = {f.code: f.message for r in reports for f in r.findings if f.level >= Level.WARNING}
    assert told == {}
    kinds = {report.path.name: report.kind for report in reports[:-1]}
    assert kinds == {
        "map.gpkg": "GeoPackage",
        "map.json": "STAC item",
        "map.qml": "QGIS style",
        "map.tif": "class raster",
        "map_confidence.tif": "confidence raster",
        "map_density.tif": "density raster",
        "map_polygons.fgb": "FlatGeobuf",
        "map_polygons.geojson": "GeoJSON",
        "map_polygons.parquet": "GeoParquet",
    }
    assert reports[-1].kind == "together"
    passed = {f.code for r in reports for f in r.findings if f.level == Level.OK}
    assert {"raster.cog", "class.overviews", "class.style", "gpkg.style", "run.areas",
            "run.rasters", "stac.classes", "vector.coverage", "vector.area",
            "geoparquet.covering", "flatgeobuf.index", "geojson.winding"} <= passed  # fmt: skip


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def _without(name: str) -> Callable[[Path], None]:
    """Remove an element of the sidecar."""

    def change(path: Path) -> None:
        aux = path.with_name(path.name + ".aux.xml")
        tree = ElementTree.parse(aux)
        band = tree.getroot().find("PAMRasterBand")
        assert band is not None
        for element in band.findall(name):
            band.remove(element)
        tree.write(aux)

    return change


def _replaced(old: str, new: str) -> Callable[[Path], None]:
    """Replace text of the sidecar."""

    def change(path: Path) -> None:
        aux = path.with_name(path.name + ".aux.xml")
        text = aux.read_text("utf-8")
        assert old in text
        aux.write_text(text.replace(old, new, 1), "utf-8")

    return change


def _styled(old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.with_suffix(".qml").read_text("utf-8")
        assert old in text
        path.with_suffix(".qml").write_text(text.replace(old, new), "utf-8")

    return change


def _edited(path: Path, **changes: object) -> None:
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        for name, value in changes.items():
            setattr(dataset, name, value)


def _overviews(resampling: Resampling) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with rasterio.open(path) as dataset:
            data, profile, table = dataset.read(), dataset.profile, dataset.colormap(1)
        noise = np.random.default_rng(1)
        speckled = noise.random(data.shape) < 0.1
        data[speckled] = noise.integers(0, 4, speckled.sum())
        with rasterio.open(path, "w", **profile) as out:
            out.write(data)
            out.write_colormap(1, table)
        # GDAL averages the colours of a palette; without one it averages the numbers
        with rasterio.open(path, "r+") as out:
            out.colorinterp = [rasterio.enums.ColorInterp.gray]
            out.build_overviews([2, 4], resampling)

    return change


def _stray_value(path: Path) -> None:
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        data = dataset.read(1)
        data[100:110, 100:110] = 9
        dataset.write(data, 1)


@pytest.mark.parametrize(
    ("breakage", "code", "level"),
    [
        (_cut_off, "raster.damaged", Level.ERROR),
        (_replaced("<Category>land<", "<Category>sand<"), "class.names-differ", Level.ERROR),
        (_replaced("<F>229</F>", "<F>1</F>"), "class.colours-differ", Level.WARNING),
        (_replaced("<PAMDataset>", "<PAMDataset"), "raster.sidecar-damaged", Level.ERROR),
        (_replaced('band="1"', 'band="3"'), "raster.stale-sidecar", Level.ERROR),
        (
            _replaced(
                "</PAMRasterBand>",
                '<Metadata><MDI key="STATISTICS_MINIMUM">0</MDI><MDI key="STATISTICS_MAXIMUM">'
                "17</MDI></Metadata></PAMRasterBand>",
            ),
            "raster.stale-sidecar",
            Level.WARNING,
        ),
        (_stray_value, "class.value-unnamed", Level.ERROR),
        (lambda path: _edited(path, nodata=3), "class.nodata-is-class", Level.ERROR),
        (lambda path: _edited(path, crs=CRS.from_epsg(4326)), "raster.crs-mismatch", Level.ERROR),
        (lambda path: _edited(path, crs=CRS.from_epsg(27700)), "raster.crs-area", Level.WARNING),
        (_styled('label="land"', 'label="sea"'), "class.style-names", Level.WARNING),
        (_styled('value="3"', 'value="8"'), "class.style-incomplete", Level.WARNING),
        (_styled("#d6483e", "#000001"), "class.style-colours", Level.HINT),
        (_overviews(Resampling.average), "class.overviews-averaged", Level.ERROR),
        (_overviews(Resampling.nearest), "class.overviews-nearest", Level.HINT),
    ],
)
def test_a_broken_class_raster(
    run: Path, breakage: Callable[[Path], None], code: str, level: Level
) -> None:
    path = run / "map.tif"
    breakage(path)
    report = examined(path)
    assert (code, level) in {(finding.code, finding.level) for finding in report.findings}


def test_overviews_of_other_files_are_not_blamed(run: Path) -> None:
    _overviews(Resampling.mode)(run / "map.tif")
    assert not {"class.overviews-averaged", "class.overviews-nearest"} & codes(
        examined(run / "map.tif")
    )


def test_external_overviews_of_another_raster(run: Path, tmp_path: Path) -> None:
    path = scene_file(tmp_path / "a.tif", np.zeros((1, 300, 600), np.uint8), **PLACE)
    with rasterio.open(path) as dataset:
        profile = dataset.profile
    profile.update(width=333, height=77)
    with rasterio.open(tmp_path / "a.tif.ovr", "w", **profile):
        pass
    assert "raster.stale-overviews" in codes(examined(path), least=Level.ERROR)


def test_another_tools_plain_classes(tmp_path: Path) -> None:
    y, x = np.mgrid[:900, :900]
    data = ((y // 100 + x // 100) % 5).astype(np.uint8)
    path = tmp_path / "plain.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=900, width=900, count=1, dtype="uint8", **PLACE
    ) as out:
        out.write(data, 1)
    report = examined(path)
    assert report.kind == "class raster"
    assert report.worst == Level.WARNING
    assert {
        "raster.not-cog", "class.unnamed", "class.no-colours", "class.no-nodata"
    } <= codes(report)  # fmt: skip
    remedies = {finding.code: finding.remedy for finding in report.findings}
    assert "OVERVIEW_RESAMPLING=MODE" in remedies["raster.not-cog"]


def test_the_command_for_a_cog_works(tmp_path: Path) -> None:
    if shutil.which("gdal_translate") is None:
        pytest.skip("gdal_translate is not installed")
    import shlex
    import subprocess

    data = (np.mgrid[:900, :900][0] // 100 % 5).astype(np.uint8)
    path = scene_file(tmp_path / "my map.tif", data[None], **PLACE)
    (finding,) = (f for f in examined(path).findings if f.code.startswith("raster.") and f.remedy
                  and f.level == Level.WARNING)  # fmt: skip
    subprocess.run(shlex.split(finding.remedy), cwd=tmp_path, check=True, capture_output=True)
    assert "raster.cog" in {f.code for f in examined(tmp_path / "cog.tif").findings}


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ({}, "raster.no-crs"),
        ({"crs": UTM}, "raster.no-transform"),
        ({"crs": UTM, "transform": Affine(1, 0.2, 3e5, 0.2, -1, 2.7e6)}, "raster.rotated"),
        ({"crs": UTM, "transform": Affine(1, 0, 3e5, 0, 1, 2.7e6)}, "raster.flipped"),
        ({"crs": UTM, "transform": Affine(1, 2, 3e5, 2, 4, 2.7e6)}, "raster.degenerate-transform"),
        (
            {
                "crs": UTM,
                "gcps": [
                    GroundControlPoint(r, c, 3e5 + c, 2.7e6 - r)
                    for r, c in ((0, 0), (0, 64), (64, 0), (64, 64))
                ],
            },
            "raster.gcps",
        ),
    ],
)
def test_where_a_raster_lies(tmp_path: Path, place: dict[str, object], code: str) -> None:
    path = scene_file(tmp_path / "a.tif", np.ones((1, 64, 64), np.uint8), **place)
    assert code in codes(examined(path))


def _field(path: Path, data: np.ndarray, description: str, **options: object) -> Path:
    scene_file(path, data[None], **PLACE)
    with rasterio.open(path, "r+") as out:
        out.set_band_description(1, description)
        for name, value in options.items():
            setattr(out, name, value)
    return path


@pytest.mark.parametrize(
    ("data", "description", "options", "code"),
    [
        (np.full((64, 64), 180, np.uint8), "confidence", {}, "confidence.no-scale"),
        (
            np.full((64, 64), 200, np.uint8),
            "confidence",
            {"scales": (0.01,)},
            "confidence.range",
        ),
        (np.full((64, 64), 1.2, np.float32), "probability", {}, "confidence.range"),
        (np.full((64, 64), 0.5, np.float32), "confidence", {}, "confidence.constant"),
        (np.full((64, 64), np.nan, np.float32), "confidence", {}, "confidence.empty"),
        (np.full((64, 64), -0.1, np.float32), "sampling density", {}, "density.negative"),
        (np.zeros((64, 64), np.float32), "sampling density", {}, "density.zero"),
        (np.ones((64, 64), np.float32), "sampling density", {}, "density.no-unit"),
        (
            np.array([[np.inf, 1], [1, 1]], np.float32),
            "sampling density",
            {},
            "raster.infinite",
        ),
    ],
)
def test_confidence_and_density(
    tmp_path: Path, data: np.ndarray, description: str, options: dict[str, object], code: str
) -> None:
    assert code in codes(examined(_field(tmp_path / "a.tif", data, description, **options)))


def test_a_raster_without_georeference_warns_nobody_on_the_way(tmp_path: Path) -> None:
    path = scene_file(tmp_path / "a.tif", np.ones((1, 64, 64), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotGeoreferencedWarning)
        examined(path)


def test_real_scenes(shared_data: Path) -> None:
    scenes = shared_data / "scenes"
    landsat = examined(scenes / "landsat8_foz_2020_bgr_uint16.tif")
    assert landsat.kind == "raster"
    assert codes(landsat) == {"raster.cog-advice", "raster.zeros"}
    korea = examined(scenes / "sentinel2_korea_512_rgba.tif")
    assert korea.worst == Level.OK
