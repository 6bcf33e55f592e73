from __future__ import annotations

import base64
import json
import math
import re
import tracemalloc
import warnings
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
from desktop import CHROMIUM_ARGUMENTS, chromium
from matplotlib.image import imread
from numpy.typing import NDArray
from playwright.sync_api import Page, sync_playwright
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine
from rasterio.windows import Window
from scene_files import scene_file
from shapely import box

import geodeform
from geodeform import scene_report
from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.errors import OutputError, SceneError
from geodeform.geo.raster import (
    ClassRasterWriter,
    ConfidenceRasterWriter,
    DensityRasterWriter,
    coarse_grid,
)
from geodeform.geo.scene import Scene
from geodeform.geo.vector import write_polygons
from geodeform.map_figures import measure_map
from geodeform.scene_report import SceneReport, find_run_files, write_report

UTM = CRS.from_epsg(32640)
NORTH_UP = Affine(2.0, 0.0, 300_000.0, 0.0, -2.0, 2_700_000.0)
SCHEME = ClassScheme(
    ("Land", '<script>alert("x")</script> & {{data}}', "Water"),
    ((226, 205, 153), (200, 30, 40), (40, 90, 220)),
)
FACTOR = 8


class Run:
    """The files of a small run, and their arrays."""

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int] = (150, 203),
        *,
        transform: Affine | None = NORTH_UP,
        crs: CRS | None = UTM,
        gcps: Any = None,
        scheme: ClassScheme = SCHEME,
        labels: NDArray[np.uint8] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        self.folder, self.shape, self.scheme = folder, shape, scheme
        rng = np.random.default_rng(3)
        H, W = shape
        if labels is None:
            y, x = np.mgrid[0:H, 0:W]
            labels = ((x // 17 + y // 23) % len(scheme)).astype(np.uint8)
            labels[: H // 5, : W // 3] = NODATA_CLASS
        self.label_values = labels
        self.confidence_values = rng.integers(40, 256, shape).astype(np.uint8)
        self.confidence_values[labels == NODATA_CLASS] = 0
        cells, cell_transform, cell_gcps = coarse_grid(shape, FACTOR, transform, gcps)
        self.density_values = (0.02 * 2 ** rng.normal(0, 0.7, cells)).astype(np.float32)
        self.density_values[0, 0] = np.nan
        self.labels = folder / "map.tif"
        self.confidence = folder / "map_confidence.tif"
        self.density = folder / "map_density.tif"
        place = {"transform": transform, "crs": crs, "gcps": gcps}
        coarse = {"transform": cell_transform, "crs": crs, "gcps": cell_gcps}
        about = {
            "source": "scene.tif",
            "model": "tiny",
            "sampled_share": "0.025",
            "classes": ", ".join(f"{k}={n}" for k, n in enumerate(scheme.names)),
        } | (tags or {})
        everything = Window(0, 0, W, H)
        with ClassRasterWriter(
            self.labels, shape=shape, scheme=scheme, tags=about, **place
        ) as writer:
            writer.write(everything, labels)
        with ConfidenceRasterWriter(self.confidence, shape=shape, tags=about, **place) as out:
            out.write(everything, self.confidence_values)
        with DensityRasterWriter(self.density, shape=cells, tags=about, **coarse) as field:
            field.write(Window(0, 0, cells[1], cells[0]), self.density_values)

    def report(self, **more: Any) -> SceneReport:
        files = {"labels": self.labels, "confidence": self.confidence, "density": self.density}
        return write_report(self.folder / "report.html", **(files | more))


class _Text(HTMLParser):
    """Collects a page's elements and its visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


def _embedded(page: str, name: str) -> str:
    found = re.search(rf'<script type="[\w/]+" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return found[1]


def _data(report: SceneReport) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(_embedded(report.path.read_text("utf-8"), "report-data"))
    return data


def _layer(report: SceneReport, name: str) -> NDArray[np.uint8]:
    """The pixels that the page holds of a layer."""
    page = report.path.read_text("utf-8")
    about = _data(report)["layers"][name]
    payload = base64.b64decode(_embedded(page, f"layer-{name}"))
    if name == "scene":
        with warnings.catch_warnings(), rasterio.MemoryFile(payload) as memory:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with memory.open() as picture:
                pixels: NDArray[np.uint8] = picture.read()
        return pixels
    values = np.frombuffer(zlib.decompress(payload), np.uint8)
    return values.reshape(about["height"], about["width"])


# ---- figures ----------------------------------------------------------------------------------


def test_the_figures_are_those_of_a_slow_computation(tmp_path: Path) -> None:
    run = Run(tmp_path, (1100, 203))  # several blocks, not whole cells
    report = run.report()
    figures = _data(report)["figures"]
    assert figures == report.figures

    labels, confidence = run.label_values, run.confidence_values / 255
    density = np.kron(run.density_values.astype(np.float64), np.ones((FACTOR, FACTOR)))
    density = density[: labels.shape[0], : labels.shape[1]]
    known = labels != NODATA_CLASS
    assert figures["pixels"] == known.sum()
    assert figures["nodata_pixels"] == (~known).sum()
    assert figures["area_m2"] == pytest.approx(4 * known.sum())
    assert figures["mean_confidence"] == pytest.approx(confidence[known].mean())
    assert figures["doubtful_share"] == pytest.approx((confidence[known] < 0.5).mean())
    in_all = np.nansum(density[known])
    for k, entry in enumerate(figures["classes"]):
        here = labels == k
        assert entry["name"] == SCHEME.names[k]
        assert entry["pixels"] == here.sum()
        assert entry["share"] == pytest.approx(here.sum() / known.sum())
        assert entry["area_m2"] == pytest.approx(4 * here.sum())
        assert entry["mean_confidence"] == pytest.approx(confidence[here].mean())
        assert entry["doubtful_share"] == pytest.approx((confidence[here] < 0.5).mean())
        share = np.nansum(density[here]) / in_all
        assert entry["sample_share"] == pytest.approx(share)
        assert entry["sampling_factor"] == pytest.approx(share * known.sum() / here.sum())
        assert entry["polygons"] is None
    values = density[known & np.isfinite(density)]
    for name, q in (("median", 50), ("densest_1_percent", 99), ("sparsest_1_percent", 1)):
        exact = 1 / np.percentile(values, q)
        assert figures["pixels_per_sample"][name] == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".fgb", ".geojson"])
def test_polygons_are_counted_by_class(tmp_path: Path, suffix: str) -> None:
    run = Run(tmp_path)
    frame = gpd.GeoDataFrame(
        {"class_id": np.array([0, 2, 2, 2], np.int32)},
        geometry=[box(k, 0, k + 1, 1) for k in range(4)],
        crs=4326,
    )
    path = tmp_path / f"map{suffix}"
    write_polygons(frame, path)
    figures = run.report(polygons=path).figures
    assert [entry["polygons"] for entry in figures["classes"]] == [1, 0, 3]


def test_areas_of_a_geographic_map_are_measured_row_by_row(tmp_path: Path) -> None:
    shape = (90, 40)
    transform = Affine(0.5, 0, 10, 0, -0.5, 75)
    labels = np.repeat(np.arange(3, dtype=np.uint8), 30)[:, None].repeat(40, 1)
    run = Run(tmp_path, shape, transform=transform, crs=CRS.from_epsg(4326), labels=labels)
    figures = run.report().figures
    geod = pyproj.Geod(ellps="WGS84")
    for k, entry in enumerate(figures["classes"]):
        top, bottom = 75 - 15 * k, 60 - 15 * k
        lon = np.linspace(10, 30, 2001)  # parallels are no geodesics
        ring_lon = [*lon, *lon[::-1]]
        ring_lat = [bottom] * len(lon) + [top] * len(lon)
        area, _ = geod.polygon_area_perimeter(ring_lon, ring_lat)
        assert entry["area_m2"] == pytest.approx(abs(area), rel=1e-4)


def test_a_float_confidence_of_another_tool_is_read(tmp_path: Path) -> None:
    run = Run(tmp_path)
    values = np.where(run.confidence_values == 0, -1, run.confidence_values / 255)
    other = scene_file(
        tmp_path / "float.tif",
        values[None].astype(np.float32),
        nodata=-1,
        crs=UTM,
        transform=NORTH_UP,
    )
    figures = measure_map(run.labels, scheme=SCHEME, confidence=other)
    expected = measure_map(run.labels, scheme=SCHEME, confidence=run.confidence)
    assert figures.confidence is not None
    assert expected.confidence is not None
    np.testing.assert_array_equal(figures.confidence, expected.confidence)


def test_the_files_own_nodata_value_is_no_class(tmp_path: Path) -> None:
    values = np.array([[0, 0, 7], [1, 2, 1]], np.uint8)
    path = scene_file(tmp_path / "other.tif", values[None], nodata=7)
    figures = measure_map(path, scheme=SCHEME)
    assert [area.pixels for area in figures.areas] == [2, 2, 1]
    assert figures.nodata_pixels == 1


def test_memory_does_not_grow_with_the_map(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=9000,
        height=9000,
        count=1,
        dtype="uint8",
        tiled=True,
        sparse_ok=True,
        crs=UTM,
        transform=NORTH_UP,
    ):
        pass
    tracemalloc.start()
    try:
        figures = measure_map(path, scheme=SCHEME)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert figures.pixels == 9000**2
    assert peak < 60 << 20  # the map alone is 77 MiB


# ---- the page ---------------------------------------------------------------------------------


def test_the_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    scene = scene_file(
        tmp_path / "scene.tif",
        np.full((3, *run.shape), 90, np.uint8),
        crs=UTM,
        transform=NORTH_UP,
    )
    report = run.report(
        scene=scene, facts={"Time": "12 s", "Device": "CPU"}, notes=["Beware."], title="A <map>"
    )
    page = report.path.read_text("utf-8")
    parsed = _Text(page)
    assert report.layers == ("scene", "map", "confidence", "density")
    for word in ("A <map>", "12 s", "CPU", "Beware.", "tiny", "EPSG:32640", "2.5 %", "Water"):
        assert word in parsed.text
    assert not re.search(r"\{\{\w+\}\}", page.replace("{{data}}", ""))  # a class is called so
    assert "://" not in page
    assert str(tmp_path) not in page
    for _, attributes in parsed.tags:
        for name in ("src", "href", "action", "xlink:href", "srcset"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:text/csv")), target
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "default-src 'none'" in page


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    report = Run(tmp_path, tags={"model": "<i>m</i>", "source": "a<b>.tif"}).report()
    page = report.path.read_text("utf-8")
    assert "<script>alert" not in page
    assert "<i>m" not in page
    assert "a<b>" not in page
    parsed = _Text(page)
    assert parsed.text.count(SCHEME.names[1]) >= 4
    assert _data(report)["classes"][1]["name"] == SCHEME.names[1]


def test_the_layers_are_the_rasters(tmp_path: Path) -> None:
    run = Run(tmp_path)
    report = run.report()
    np.testing.assert_array_equal(_layer(report, "map"), run.label_values)
    np.testing.assert_array_equal(_layer(report, "confidence"), run.confidence_values)
    about = _data(report)["layers"]["density"]
    stored = _layer(report, "density")
    assert stored[0, 0] == 0
    octave = about["low"] + (stored.astype(float) - 1) / 254 * (about["high"] - about["low"])
    known = np.isfinite(run.density_values)
    np.testing.assert_allclose(2 ** octave[known], run.density_values[known], rtol=0.02)
    rows, cols = run.density_values.shape
    assert about["reach"] == pytest.approx([0, 0, cols * FACTOR, rows * FACTOR])


def test_large_maps_are_shown_decimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_report, "_MAP_PIXELS", 200 * 150 // 4)
    labels = np.full((150, 200), 2, np.uint8)
    labels[:, 100:] = 0
    labels[::2, ::2] = 1  # a quarter of each cell, so never the most frequent
    report = Run(tmp_path, (150, 200), labels=labels).report()
    shown = _layer(report, "map")
    assert shown.shape == (75, 100)
    assert (shown[:, :50] == 2).all()
    assert (shown[:, 50:] == 0).all()
    assert "1/2.0 of its resolution" in report.path.read_text("utf-8")


def _rotated() -> Affine:
    c, s = 2 * math.cos(math.radians(30)), 2 * math.sin(math.radians(30))
    return Affine(c, s, 300_000.0, s, -c, 2_700_000.0)


def _gcps(shape: tuple[int, int]) -> tuple[list[GroundControlPoint], CRS]:
    H, W = shape
    corners = [(0, 0), (0, W), (H, 0), (H, W)]
    return [GroundControlPoint(r, c, 300_000 + 2 * c, 2_700_000 - 2 * r) for r, c in corners], UTM


@pytest.mark.parametrize(
    ("place", "metres"),
    [
        ({"transform": None, "crs": None}, None),
        ({"transform": _rotated()}, 2.0),
        ({"transform": Affine(1e-5, 0, 55, 0, -1e-5, 60), "crs": CRS.from_epsg(4326)}, 1.11),
        ({"transform": None, "crs": None, "gcps": _gcps((150, 203))}, 2.0),
    ],
    ids=["no CRS", "rotated", "geographic", "GCPs"],
)
def test_every_georeference(tmp_path: Path, place: dict[str, Any], metres: float | None) -> None:
    run = Run(tmp_path, **place)
    profile = {k: v for k, v in {"transform": NORTH_UP, "crs": UTM, **place}.items() if v}
    if "gcps" in profile:
        profile["gcps"], profile["crs"] = profile["gcps"]
    elif place.get("crs", UTM) is None:
        profile = {}
    scene = scene_file(tmp_path / "scene.tif", np.full((1, *run.shape), 90, np.uint8), **profile)
    report = run.report(scene=scene)
    data = _data(report)
    assert set(report.layers) == {"scene", "map", "confidence", "density"}
    rows, cols = run.density_values.shape
    reach = [0, 0, cols * FACTOR, rows * FACTOR]
    assert data["layers"]["density"]["reach"] == pytest.approx(reach, abs=1e-3)
    if metres is None:
        assert data["metres"] is None
        assert data["crs"] is None
        assert report.figures["area_m2"] is None
        assert any("coordinate reference system" in note for note in report.notes)
    else:
        assert data["metres"] == pytest.approx(metres, rel=0.01)
        assert report.figures["area_m2"] > 0
    if place.get("crs") == CRS.from_epsg(4326):
        assert data["aspect"] == pytest.approx(0.5, rel=0.01)  # at 60° north
        assert data["digits"] == 6
    if "gcps" in place:
        assert data["affine"] == pytest.approx([2, 0, 300_000, 0, -2, 2_700_000])
    if data["crs"] is not None:
        # a turn of the map to the left is one of the arrow to the right
        turned = 30 if place.get("transform") == _rotated() else 0
        assert data["north"] == pytest.approx(turned, abs=0.01)


def test_lon_lat_between_the_nodes_are_those_of_the_projection(tmp_path: Path) -> None:
    grid = _data(Run(tmp_path).report())["lon_lat"]
    change = pyproj.Transformer.from_crs(UTM.to_wkt(), 4326, always_xy=True)
    lon, lat = change.transform(300_000 + 203, 2_700_000 - 150)
    middle = grid["size"] ** 2 // 2  # the node in the middle of the map
    assert grid["lon"][middle] == pytest.approx(lon, abs=1e-6)
    assert grid["lat"][middle] == pytest.approx(lat, abs=1e-6)


@pytest.mark.parametrize("shape", [(90, 1), (1, 90), (1, 1)])
def test_maps_of_a_single_pixels_width(tmp_path: Path, shape: tuple[int, int]) -> None:
    run = Run(tmp_path, shape, labels=np.ones(shape, np.uint8))
    scene = scene_file(
        tmp_path / "scene.tif",
        np.full((3, *shape), 90, np.uint8),
        crs=UTM,
        transform=NORTH_UP,
    )
    report = run.report(scene=scene)
    assert report.figures["classes"][1]["share"] == 1
    assert _layer(report, "map").shape == shape


def test_a_map_alone_is_a_page_too(tmp_path: Path) -> None:
    report = Run(tmp_path).report(confidence=None, density=None)
    assert report.layers == ("map",)
    assert report.figures["mean_confidence"] is None
    assert report.figures["pixels_per_sample"]["median"] is None
    page = report.path.read_text("utf-8")
    assert 'id="confidence"' not in page
    assert 'id="budget"' not in page
    assert report.notes == ()


def test_a_map_without_any_class(tmp_path: Path) -> None:
    shape = (40, 50)
    run = Run(tmp_path, shape, labels=np.full(shape, NODATA_CLASS, np.uint8))
    report = run.report()
    assert report.figures["pixels"] == 0
    assert any("No pixel" in note for note in report.notes)


def test_uniform_sampling_has_a_histogram(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.density.unlink()
    shape, transform, _ = coarse_grid(run.shape, FACTOR, NORTH_UP)
    with DensityRasterWriter(
        run.density, shape=shape, transform=transform, crs=UTM, tags={}
    ) as writer:
        writer.write(Window(0, 0, shape[1], shape[0]), np.full(shape, 0.0625, np.float32))
    report = run.report()
    for entry in report.figures["classes"]:
        assert entry["sampling_factor"] == pytest.approx(1)
    assert report.figures["pixels_per_sample"]["median"] == pytest.approx(16, rel=0.01)
    assert "samples are 8.0 m apart" in report.path.read_text("utf-8")


# ---- the scene --------------------------------------------------------------------------------


def test_the_scene_is_cut_to_the_map(tmp_path: Path) -> None:
    shape = (100, 120)
    moved = Affine(2.0, 0.0, 300_000.0 + 2 * 40, 0.0, -2.0, 2_700_000.0 - 2 * 30)
    run = Run(tmp_path, shape, transform=moved)
    pixels = np.full((3, 200, 300), 10, np.uint8)
    pixels[0, 30:130, 40:160] = 200
    scene = scene_file(tmp_path / "scene.tif", pixels, crs=UTM, transform=NORTH_UP)
    shown = _layer(run.report(scene=scene), "scene")
    assert shown.shape == (3, *shape)
    assert abs(shown[0].astype(int) - 200).max() <= 3
    with pytest.raises(SceneError, match="does not cover"):
        run.report(
            scene=scene_file(
                tmp_path / "off.tif", pixels[:, :80, :80], crs=UTM, transform=NORTH_UP
            ),
            overwrite=True,
        )
    with pytest.raises(SceneError, match="another CRS"):
        run.report(
            scene=scene_file(
                tmp_path / "crs.tif", pixels, crs=CRS.from_epsg(32639), transform=NORTH_UP
            ),
            overwrite=True,
        )


def test_a_16_bit_scene_in_the_order_of_the_models_bands(tmp_path: Path, shared_data: Path) -> None:
    scene = shared_data / "scenes" / "landsat8_foz_2020_bgr_uint16.tif"
    with rasterio.open(scene) as source:
        shape, transform, crs = source.shape, source.transform, source.crs
        raw = source.read()
    labels = np.zeros(shape, np.uint8)
    run = Run(
        tmp_path, shape, transform=transform, crs=crs, labels=labels, tags={"bands": "3,2,1 (as)"}
    )
    report = run.report(scene=scene)
    shown = _layer(report, "scene").astype(float)
    low, high = np.percentile(raw[2], (2, 98))
    stretched = 255 * np.clip((raw[2] - low) / (high - low), 0, 1)
    assert abs(shown[0] - stretched).mean() < 12  # JPEG, and percentiles of a sample
    with Scene.open(scene, bands=(1,)) as opened:
        grey = run.report(scene=opened, overwrite=True)
        opened.read(Window(0, 0, 1, 1))  # it is still open
    assert _layer(grey, "scene").shape == (1, *shape)


def test_an_rgba_scene_with_holes_is_shown_with_its_holes(
    tmp_path: Path, shared_data: Path
) -> None:
    scene = shared_data / "scenes" / "sentinel2_korea_512_rgba.tif"
    with Scene.open(scene, want=("red", "green", "blue")) as opened:
        shape, transform, crs = opened.shape, opened.transform, opened.crs
    run = Run(tmp_path, shape, transform=transform, crs=crs)
    assert _layer(run.report(scene=scene), "scene").shape == (3, *shape)


# ---- files and errors -------------------------------------------------------------------------


def test_the_files_of_a_run_are_found(tmp_path: Path) -> None:
    run = Run(tmp_path)
    found = find_run_files(run.labels)
    assert (found.scene, found.confidence, found.density) == (None, run.confidence, run.density)
    assert "scene.tif does not lie beside" in found.notes[0]
    pixels = np.zeros((3, *run.shape), np.uint8)
    scene = scene_file(tmp_path / "scene.tif", pixels, crs=UTM, transform=NORTH_UP)
    run.confidence.unlink()
    found = find_run_files(run.labels)
    assert (found.scene, found.confidence, found.notes) == (scene, None, ())
    scene_file(scene, pixels[:, :9, :9], crs=UTM, transform=NORTH_UP)
    found = find_run_files(run.labels)
    assert found.scene is None
    assert "does not cover" in found.notes[0]


def test_errors_name_the_file_and_leave_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    run = Run(folder)
    (tmp_path / "other").mkdir()
    other = Run(tmp_path / "other", (60, 60))
    before = sorted(folder.iterdir())
    with pytest.raises(SceneError, match=r"map_confidence\.tif has 60x60 pixels"):
        run.report(confidence=other.confidence)
    with pytest.raises(SceneError, match=r"map_density\.tif does not lie on"):
        run.report(density=other.density)
    with pytest.raises(SceneError, match=r"map_density\.tif"):
        run.report(labels=run.density)
    with pytest.raises(SceneError, match=r"none\.tif"):
        run.report(labels=folder / "none.tif")
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy([0], [0]), crs=4326)
    points.to_file(tmp_path / "points.gpkg")
    with pytest.raises(SceneError, match="class_id"):
        run.report(polygons=tmp_path / "points.gpkg")
    with pytest.raises(OutputError, match=r"must be one of \.html"):
        write_report(folder / "report.pdf", labels=run.labels)
    assert sorted(folder.iterdir()) == before
    report = run.report()
    first = report.path.read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        run.report(title="second")
    assert report.path.read_bytes() == first
    run.report(title="second", overwrite=True)
    assert "second" in report.path.read_text("utf-8")


# ---- in the browser ---------------------------------------------------------------------------

# a corner of each class's area in the map of `shown`, x and y in map pixels
PLACES_OF = {0: (100, 300), 1: (350, 80), 2: (450, 330)}
SIZE = (400, 500)


class Shown:
    """A report in Chromium."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def view(self) -> tuple[float, float, float]:
        told = self.page.locator("#canvas").evaluate("c => [c.dataset.x, c.dataset.y, c.dataset.k]")
        x, y, k = map(float, told)
        return x, y, k

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a map position is on the screen."""
        box = self.page.locator("#canvas").bounding_box()
        assert box is not None
        vx, vy, k = self.view()
        return box["x"] + box["width"] / 2 + (x - vx) * k, box["y"] + box["height"] / 2 + (
            y - vy
        ) * k

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.page.evaluate("() => new Promise(r => setTimeout(() => requestAnimationFrame(r), 60))")

    def colour(self, x: float, y: float) -> tuple[int, ...]:
        """The colour on the screen at a map position."""
        self.settle()
        picture = imread(BytesIO(self.page.screenshot()), format="png")
        px, py = self.place(x, y)
        return tuple(round(255 * float(v)) for v in picture[int(py), int(px), :3])

    def slide(self, name: str, value: int) -> None:
        self.page.locator(f"#opacity-{name}").fill(str(value))

    def only(self, name: str) -> None:
        """Show one layer, opaque."""
        for tick in self.page.locator(".layer input[type=checkbox]").all():
            if tick.get_attribute("id") != "show-swipe":
                tick.set_checked(tick.get_attribute("id") == f"show-{name}")
        self.slide(name, 100)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=chromium(), args=CHROMIUM_ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def real_report(tmp_path_factory: pytest.TempPathFactory) -> SceneReport:
    """A report on a cut of the demo's scene, with areas of known classes."""
    folder = tmp_path_factory.mktemp("report")
    H, W = SIZE
    with rasterio.open(geodeform.demo_scene()) as source:
        window = Window(1200, 900, W, H)
        pixels, transform = source.read(window=window), source.window_transform(window)
    scene = scene_file(folder / "scene.tif", pixels, crs=UTM, transform=transform)
    labels = np.zeros(SIZE, np.uint8)
    labels[:200, 200:] = 1
    labels[200:, 300:] = 2
    labels[200:300, 300:400] = NODATA_CLASS
    run = Run(folder, SIZE, transform=transform, labels=labels)
    return run.report(scene=scene)


@pytest.fixture
def shown(
    browser: Any, real_report: SceneReport, request: pytest.FixtureRequest
) -> Iterator[Shown]:
    """The report in a window; any error on its console and any request fails the test."""
    settings = getattr(request, "param", {"viewport": {"width": 1280, "height": 900}})
    context = browser.new_context(**settings)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            complaints.append(asked.url[:80])
            if not asked.url.startswith(("data:", real_report.path.as_uri()))
            else None
        ),
    )
    page.goto(real_report.path.as_uri())
    page.wait_for_selector("#canvas[data-ready]")
    yield Shown(page)
    context.close()
    assert not complaints


@pytest.mark.browser
def test_the_layers_are_drawn_in_their_colours(shown: Shown) -> None:
    shown.only("map")
    for class_id, place in PLACES_OF.items():
        assert shown.colour(*place) == SCHEME.colours[class_id]
    shown.only("scene")
    with rasterio.open(geodeform.demo_scene()) as source:
        window = Window(1200, 900, SIZE[1], SIZE[0])
        pixels = source.read(window=window).astype(float)
    for x, y in PLACES_OF.values():
        around = pixels[:, y - 2 : y + 3, x - 2 : x + 3]
        seen = np.array(shown.colour(x, y))
        assert (seen > around.min((1, 2)) - 12).all()  # JPEG, enlarged
        assert (seen < around.max((1, 2)) + 12).all()
    shown.only("density")
    dense = shown.colour(*PLACES_OF[0])
    shown.only("confidence")
    assert shown.colour(*PLACES_OF[0]) != dense


@pytest.mark.browser
def test_the_opacity_slider_changes_what_is_seen(shown: Shown) -> None:
    place = PLACES_OF[1]
    shown.only("map")
    shown.page.check("#show-scene")
    opaque = shown.colour(*place)
    assert opaque == SCHEME.colours[1]
    shown.slide("map", 0)
    bare = shown.colour(*place)
    shown.slide("map", 50)
    half = shown.colour(*place)
    assert bare != opaque
    np.testing.assert_allclose(half, (np.array(bare) + opaque) / 2, atol=2)
    # the keyboard moves it too
    shown.page.focus("#opacity-map")
    shown.page.keyboard.press("End")
    assert shown.colour(*place) == opaque


@pytest.mark.browser
def test_wheel_drag_buttons_and_keys_move_the_view(shown: Shown) -> None:
    shown.only("map")
    page = shown.page
    start = shown.view()
    # Chromium's events are in whole pixels
    px, py = (round(at) for at in shown.place(*PLACES_OF[2]))
    before = np.array(shown.place(*PLACES_OF[2])) - (px, py)
    page.mouse.move(px, py)
    page.mouse.wheel(0, -400)
    shown.settle()
    grown = shown.view()[2] / start[2]
    assert grown == pytest.approx(math.exp(300 / 400))
    np.testing.assert_allclose(np.array(shown.place(*PLACES_OF[2])) - (px, py), before * grown)
    page.mouse.down()
    page.mouse.move(px - 120, py + 45, steps=4)
    page.mouse.up()
    shown.settle()
    assert shown.place(*PLACES_OF[2]) == pytest.approx((px - 120, py + 45), abs=1.5)
    assert shown.colour(*PLACES_OF[2]) == SCHEME.colours[2]
    page.click("#fit")
    shown.settle()
    assert shown.view() == pytest.approx(start)
    page.click("#zoom-in")
    shown.settle()
    assert shown.view()[2] == pytest.approx(1.5 * start[2])
    page.focus("#canvas")
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    shown.settle()
    moved = shown.view()
    assert moved[2] == pytest.approx(2.25 * start[2])
    assert moved[0] > start[0]
    page.keyboard.press("0")
    shown.settle()
    assert shown.view() == pytest.approx(start)


@pytest.mark.browser
def test_crisp_pixels_when_enlarged(shown: Shown) -> None:
    shown.only("map")
    shown.page.mouse.move(*shown.place(300, 350))
    for _ in range(8):
        shown.page.mouse.wheel(0, -300)
    shown.settle()
    assert shown.view()[2] > 30
    # half a pixel left and right of the border between classes 0 and 2
    assert shown.colour(299.9, 350) == SCHEME.colours[0]
    assert shown.colour(300.1, 350) == SCHEME.colours[2]


@pytest.mark.browser
def test_the_read_out_says_what_the_rasters_hold(shown: Shown, real_report: SceneReport) -> None:
    folder = real_report.path.parent
    with rasterio.open(folder / "map_confidence.tif") as source:
        confidence = source.read(1)
    with rasterio.open(folder / "map_density.tif") as source:
        density = source.read(1)
    affine = _data(real_report)["affine"]
    for class_id, (x, y) in PLACES_OF.items():
        shown.page.mouse.move(*shown.place(x + 0.9, y + 0.9))
        text = shown.page.locator("#readout").inner_text()
        assert SCHEME.names[class_id] in text
        assert f"Confidence {round(100 * int(confidence[y, x]) / 255)} %" in text
        said = re.search(r"One sample for ([\d.]+) px", text)
        assert said is not None
        assert float(said[1]) == pytest.approx(1 / density[y // FACTOR, x // FACTOR], rel=0.05)
        assert f"Column {x}, row {y}" in text
        place = re.search(r"EPSG:32640: ([\d.]+), ([\d.]+)", text)
        assert place is not None
        assert float(place[1]) == pytest.approx(affine[2] + affine[0] * (x + 0.5), abs=0.5)
        assert float(place[2]) == pytest.approx(affine[5] + affine[4] * (y + 0.5), abs=0.5)
    shown.page.mouse.move(*shown.place(350, 250))
    assert shown.page.locator("#readout").inner_text().startswith("No data")


@pytest.mark.browser
def test_the_legend_highlights_a_class(shown: Shown) -> None:
    shown.only("map")
    button = shown.page.locator('[data-class="1"]')
    button.hover()
    assert shown.colour(*PLACES_OF[1]) == SCHEME.colours[1]
    assert shown.colour(*PLACES_OF[2]) != SCHEME.colours[2]
    shown.page.mouse.move(5, 5)
    assert shown.colour(*PLACES_OF[2]) == SCHEME.colours[2]
    button.click()
    shown.page.mouse.move(5, 5)
    assert button.get_attribute("aria-pressed") == "true"
    assert shown.colour(*PLACES_OF[2]) != SCHEME.colours[2]
    button.click()
    assert shown.colour(*PLACES_OF[2]) == SCHEME.colours[2]


@pytest.mark.browser
def test_swiping_uncovers_the_scene(shown: Shown) -> None:
    shown.only("map")
    shown.page.check("#show-scene")
    shown.page.check("#show-swipe")
    assert shown.colour(*PLACES_OF[2]) == SCHEME.colours[2]  # right of the middle
    assert shown.colour(*PLACES_OF[0]) != SCHEME.colours[0]  # left of it
    handle = shown.page.locator("#swipe").bounding_box()
    assert handle is not None
    shown.page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + 200)
    shown.page.mouse.down()
    shown.page.mouse.move(shown.place(10, 0)[0], handle["y"] + 200, steps=3)
    shown.page.mouse.up()
    assert shown.colour(*PLACES_OF[0]) == SCHEME.colours[0]


@pytest.mark.browser
def test_the_table_sorts(shown: Shown, real_report: SceneReport) -> None:
    entries = real_report.figures["classes"]

    def names() -> list[str]:
        return shown.page.locator("#class-table tbody td:first-child").all_inner_texts()

    def head(name: str) -> Any:
        return shown.page.locator("#class-table th", has_text=name)

    assert names() == [entry["name"] for entry in entries]
    head("Mean confidence").locator("button").click()
    by_confidence = sorted(entries, key=lambda entry: -entry["mean_confidence"])
    assert names() == [entry["name"] for entry in by_confidence]
    assert head("Mean confidence").get_attribute("aria-sort") == "descending"
    head("Mean confidence").locator("button").click()
    assert names() == [entry["name"] for entry in by_confidence[::-1]]
    head("Pixels").locator("button").click()  # 100,000 is more than 60,000
    assert names() == [entry["name"] for entry in sorted(entries, key=lambda e: -e["pixels"])]
    head("Class").locator("button").click()
    assert names()[-1] == "Water"


@pytest.mark.browser
@pytest.mark.parametrize(
    "shown",
    [{"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}],
    indirect=True,
)
def test_on_a_phone_nothing_is_wider_than_the_screen(shown: Shown) -> None:
    page = shown.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    px, py = shown.place(*PLACES_OF[1])
    page.touchscreen.tap(px, py)
    assert SCHEME.names[1] in page.locator("#readout").inner_text()


@pytest.mark.browser
@pytest.mark.parametrize(
    "shown",
    [{"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}],
    indirect=True,
)
def test_two_fingers_zoom(shown: Shown) -> None:
    start = shown.view()
    px, py = shown.place(250, 200)
    fingers = shown.page.context.new_cdp_session(shown.page)

    def touch(kind: str, apart: float) -> None:
        points = [{"x": px - apart, "y": py, "id": 0}, {"x": px + apart, "y": py, "id": 1}]
        fingers.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [] if kind == "touchEnd" else points},
        )

    touch("touchStart", 30)
    for apart in (45, 60, 75, 90):
        touch("touchMove", apart)
    touch("touchEnd", 0)
    shown.settle()
    assert shown.view()[2] == pytest.approx(3 * start[2], rel=0.05)
    assert shown.place(250, 200) == pytest.approx((px, py), abs=2)


@pytest.mark.browser
def test_it_prints_with_the_map_and_the_figures(shown: Shown) -> None:
    shown.page.emulate_media(media="print")
    assert shown.page.locator("#canvas").is_visible()
    assert shown.page.locator("#class-table").is_visible()
    assert not shown.page.locator("#zoom-in").is_visible()
    assert shown.page.pdf()[:5] == b"%PDF-"
