"""Pictures are asked what they show: limits, colours, lines and numbers, not whether they exist."""

from __future__ import annotations

import base64
import builtins
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from desktop import CHROMIUM_ARGUMENTS, chromium
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine, from_origin
from scene_files import scene_file

import geodeform
from geodeform import plot
from geodeform.classes import ClassScheme
from geodeform.errors import ConfigError, GeodeformError, SceneError
from geodeform.geo.raster import ClassRasterWriter
from geodeform.plot.interactive import to_mercator
from geodeform.plot.layers import class_picture, density_norm
from geodeform.plot.views import View
from geodeform.result import SegmentationResult

PART = (318_950.0, 2_767_330.0, 319_974.0, 2_768_354.0)
SCHEME = ClassScheme(("land", "water", "road"), ((200, 180, 120), (0, 90, 200), (60, 60, 60)))


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    """Nothing is left open, and no function changes matplotlib's settings."""
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


@pytest.fixture(scope="module")
def result() -> SegmentationResult:
    mpl.use("Agg")
    return geodeform.segment_scene(
        geodeform.demo_scene(), bbox=PART, budget="0.5%", samples=True, polygons=True
    )


def _drawn(ax: Any, side: int = 200) -> np.ndarray:
    """(side, side, 3) of what the axes show, without their frame."""
    figure = ax.figure
    figure.set_layout_engine("none")
    figure.set_size_inches(side / 100, side / 100)
    ax.set_position((0, 0, 1, 1))
    ax.set_aspect("auto")
    ax.set_axis_off()
    if ax.get_legend() is not None:
        ax.get_legend().remove()
    ax.set_title("")
    packed = io.BytesIO()
    figure.savefig(packed, dpi=100)
    return np.asarray(Image.open(packed).convert("RGB"))


def _ids(labels: np.ndarray, transform: Affine | None, crs: str | None) -> xr.DataArray:
    array = xr.DataArray(labels, dims=("y", "x"))
    if transform is not None:
        array = array.rio.write_transform(transform)
    return array if crs is None else array.rio.write_crs(crs)


def test_a_scene_is_drawn_in_map_coordinates_with_their_unit() -> None:
    ax = plot.scene(geodeform.demo_scene(), bbox=PART)
    assert ax.get_xlim() == pytest.approx((PART[0], PART[2]))
    assert ax.get_ylim() == pytest.approx((PART[1], PART[3]))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Easting (m)", "Northing (m)")
    ax.figure.canvas.draw()
    assert all(float(text.get_text()) >= 318_000 for text in ax.get_xticklabels())
    with rasterio.open(geodeform.demo_scene()) as dataset:
        part = dataset.read(window=dataset.window(*PART))
    seen = _drawn(ax, 256).astype(float)
    wanted = np.moveaxis(part, 0, -1).reshape(256, 4, 256, 4, 3).mean((1, 3))
    assert np.abs(seen - wanted).mean() < 6


def test_geographic_scenes_keep_distances_equal_and_pixels_run_down(tmp_path: Path) -> None:
    pixels = np.arange(20 * 30, dtype=np.uint8).reshape(1, 20, 30).repeat(3, 0)
    north = scene_file(
        tmp_path / "n.tif", pixels, crs="EPSG:4326", transform=from_origin(10, 60, 0.001, 0.001)
    )
    ax = plot.scene(north)
    assert ax.get_ylabel() == "Latitude (°)"
    assert ax.get_aspect() == pytest.approx(2, rel=0.01)  # 1 / cos 60°
    plain = scene_file(tmp_path / "p.tif", pixels)
    ax = plot.scene(plain)
    assert ax.get_xlabel() == "Column (px)"
    assert ax.get_ylim() == (20, 0)


def test_rotated_and_south_up_maps_lie_where_their_transform_says() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[:20, :20] = 1  # first rows, first columns
    water = np.array(SCHEME.colours[1])
    south_up = _ids(labels, Affine(10, 0, 1000, 0, 10, 5000), "EPSG:32640")
    picture = _drawn(plot.land_cover(south_up, classes=SCHEME))
    assert np.abs(picture[150, 50] - water).max() < 3  # low northings are below
    turned = _ids(labels, Affine(0, 10, 1000, 10, 0, 5000), "EPSG:32640")  # rows run east
    ax = plot.land_cover(turned, classes=SCHEME)
    assert ax.get_xlim() == (1000, 1400)
    assert np.abs(_drawn(ax)[150, 50] - water).max() < 3


def test_other_types_and_single_bands_are_stretched(tmp_path: Path) -> None:
    ramp = np.linspace(3000, 9000, 64 * 64).reshape(1, 64, 64).astype(np.uint16)
    one = scene_file(
        tmp_path / "one.tif", ramp, crs="EPSG:32640", transform=from_origin(0, 0, 1, 1)
    )
    picture = _drawn(plot.scene(one), 64)
    assert picture.min() < 5
    assert picture.max() > 250
    assert (np.ptp(picture.astype(int), axis=-1) == 0).all()  # grey
    with pytest.raises(SceneError, match=r"none\.tif does not exist"):
        plot.scene(tmp_path / "none.tif")


def test_land_cover_shows_the_classes_colours_and_the_legend_their_areas(
    result: SegmentationResult,
) -> None:
    ax = plot.land_cover(result)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(texts) == len(result.classes)  # every pixel has data
    for area, text in zip(result.class_areas, texts, strict=True):
        assert text.startswith(f"{area.name} {area.share:.1%}\n")
    wanted = class_picture(result.labels.to_numpy()[2::4, 2::4], result.classes)
    assert (np.abs(_drawn(ax, 256).astype(int) - wanted).max(-1) < 40).mean() > 0.9


def test_a_class_rasters_file_knows_its_classes_and_nodata(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    labels = np.full((64, 64), 255, np.uint8)
    labels[:32] = 1
    with ClassRasterWriter(
        path,
        shape=(64, 64),
        transform=from_origin(0, 640, 10, 10),
        crs=CRS.from_epsg(32640),
        scheme=SCHEME,
        tags={},
    ) as writer:
        writer.write(rasterio.windows.Window(0, 0, 64, 64), labels)
    ax = plot.land_cover(path)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["land", "water", "road", "No data"]
    picture = _drawn(ax)
    assert tuple(picture[50, 100]) == SCHEME.colours[1]
    assert tuple(picture[150, 100]) == (230, 230, 230)
    with pytest.raises(ConfigError, match="give classes="):
        plot.land_cover(_ids(labels, None, None))


def test_confidence_and_density_have_their_scales(result: SegmentationResult) -> None:
    ax = plot.confidence(result)
    image = ax.get_images()[0]
    assert (image.norm.vmin, image.norm.vmax) == (0, 1)
    assert np.nanmean(image.get_array()) == pytest.approx(float(result.confidence.mean()), abs=0.01)
    ax = plot.density(result)
    image = ax.get_images()[0]
    values = result.density.to_numpy()
    low, high = np.nanpercentile(values, (1, 99))
    assert isinstance(image.norm, mpl.colors.LogNorm)
    assert (image.norm.vmin, image.norm.vmax) == pytest.approx((low, high), rel=0.02)
    bar = ax.figure.axes[1]
    assert bar.get_ylabel() == "sampled pixels per scene pixel"
    assert len(bar.get_yticks()) == 4


def test_confidence_files_are_read_with_their_scale(tmp_path: Path) -> None:
    path = scene_file(
        tmp_path / "c.tif", np.full((1, 16, 16), 51, np.uint8), transform=from_origin(0, 0, 1, 1)
    )
    with rasterio.open(path, "r+") as dataset:
        dataset.scales = (1 / 255,)
    assert plot.confidence(path).get_images()[0].get_array().mean() == pytest.approx(0.2)


def test_noise_does_not_get_the_full_range_of_colours() -> None:
    norm = density_norm(np.full(100, 0.02) + np.linspace(0, 1e-6, 100))
    assert norm.vmax / norm.vmin > 1.19
    assert density_norm(np.full(4, np.nan)).vmax == 1


def test_layers_over_a_scene_keep_its_limits(result: SegmentationResult) -> None:
    ax = plot.scene(geodeform.demo_scene(), bbox=PART)
    limits = ax.get_xlim(), ax.get_ylim()
    plot.density(result, alpha=0.5, ax=ax)  # its last cells reach beyond
    plot.samples(result, ax=ax)
    assert (ax.get_xlim(), ax.get_ylim()) == limits
    assert ax.get_aspect() == 1
    assert len(ax.get_images()) == 2


def test_what_a_run_left_out_is_said(tmp_path: Path) -> None:
    run = geodeform.segment_scene(
        geodeform.demo_scene(), bbox=PART, budget="0.2%", output=tmp_path / "map.tif"
    )
    with pytest.raises(GeodeformError, match="without its confidence: give segment_scene"):
        plot.confidence(run)
    with pytest.raises(ConfigError, match="samples=True"):
        plot.samples(run)
    with pytest.raises(ConfigError, match="samples=True"):
        plot.class_frequency(run)


def test_samples_are_all_drawn_where_they_can_be_told_apart(result: SegmentationResult) -> None:
    ax = plot.samples(result, colour="magnification")
    (points,) = ax.collections
    assert len(points.get_offsets()) == len(result.samples)
    assert np.allclose(points.get_array(), result.samples["magnification"])
    half = (PART[0], PART[1], PART[0] + 512, PART[3])
    few = plot.samples(result, bbox=half).collections[0]
    assert 0.3 < len(few.get_offsets()) / len(result.samples) < 0.7
    with pytest.raises(ConfigError, match="check the bounding box"):
        plot.samples(result, bbox=(0, 0, 1, 1))
    with pytest.raises(ConfigError, match="'plain' or 'magnification'"):
        plot.samples(result, colour="red")


def test_magnification_of_uniform_sampling_is_one() -> None:
    points = gpd.GeoDataFrame(
        {"magnification": [0.02] * 50}, geometry=gpd.points_from_xy(*[[0] * 50] * 2)
    )
    for step in plot.magnification(points).patches:
        values, edges, _ = step.get_data()
        peak = int(values.argmax())
        assert values[peak] == pytest.approx(100)
        assert edges[peak] < 1 < edges[peak + 1]


def test_magnification_weighs_ground_by_what_a_sample_stands_for() -> None:
    # three samples of one pixel, one of three: half of the ground each
    points = gpd.GeoDataFrame(
        {"magnification": [1.0, 1.0, 1.0, 1 / 3]}, geometry=gpd.points_from_xy(*[[0] * 4] * 2)
    )
    samples, ground = (step.get_data()[0] for step in plot.magnification(points).patches)
    assert sorted(samples[samples > 0]) == pytest.approx([25, 75])
    assert sorted(ground[ground > 0]) == pytest.approx([50, 50])


@pytest.fixture(scope="module")
def halves() -> xr.DataArray:
    """Labels of the part: water in the west half, land in the east, a strip unknown."""
    labels = np.zeros((1024, 1024), np.uint8)
    labels[:, :512] = 1
    labels[:100] = 255
    grid = from_origin(PART[0], PART[3], 1, 1)
    return _ids(labels, grid, "EPSG:32640").rio.write_nodata(255)


def test_class_shares_count_ground_and_samples(
    result: SegmentationResult, halves: xr.DataArray
) -> None:
    table = plot.class_shares(result, halves, classes=SCHEME).set_index("class_name")
    assert table.loc["land", "area_share"] == pytest.approx(0.5)
    known = result.samples[result.samples.geometry.y < PART[3] - 100]
    west = (known.geometry.x < PART[0] + 512).mean()
    assert table.loc["water", "sample_share"] == pytest.approx(west, abs=2e-3)
    assert table.loc["water", "ratio"] == pytest.approx(2 * west, abs=4e-3)
    assert np.isnan(table.loc["road", "ratio"])
    bars = plot.class_frequency(result, halves, classes=SCHEME)
    assert bars.patches[1].get_width() == pytest.approx(100 * (2 * west - 1), abs=0.4)
    assert "does not occur" in [text.get_text() for text in bars.texts]


def test_uniform_sampling_changes_no_class_though_windows_overlap(halves: xr.DataArray) -> None:
    run = geodeform.density_map(
        geodeform.demo_scene(),
        bbox=(PART[0], PART[1], PART[2] + 300, PART[3]),
        budget="0.5%",
        sampler="uniform",
        allocation="even",
        samples=True,
    )
    assert len(run.plan.windows) == 2
    assert run.plan.windows[1].col_off < 1024
    labels = np.zeros((1024, 1324), np.uint8)
    labels[:, :400] = 1
    wide = _ids(labels, from_origin(PART[0], PART[3], 1, 1), "EPSG:32640")
    table = plot.class_shares(run, wide, classes=SCHEME)
    assert table["ratio"][:2].to_numpy() == pytest.approx([1, 1], abs=0.03)
    assert table["area_share"][0] > 924 / 1324 + 0.01  # the overlap counts twice
    with pytest.raises(SceneError, match="does not cover the map"):
        plot.class_shares(run, halves, classes=SCHEME)
    moved = wide.rio.write_transform(from_origin(PART[0] + 0.4, PART[3], 1, 1))
    with pytest.raises(SceneError, match="does not lie on the grid"):
        plot.class_shares(run, moved, classes=SCHEME)
    with pytest.raises(ConfigError, match="no classes"):
        plot.class_shares(run)


def test_budgets_are_compared_with_the_truth_and_the_largest() -> None:
    scene = geodeform.demo_scene()
    runs = [
        geodeform.segment_scene(scene, bbox=PART, budget=b, sampler="uniform")
        for b in ("1%", "0.3%")
    ]
    truth = runs[0].labels
    table = plot.budget_table(runs, truth)
    assert list(table["sampled_share"]) == sorted(table["sampled_share"])
    same = float((runs[0].labels.to_numpy() == runs[1].labels.to_numpy()).mean())
    assert table["agreement"][0] == pytest.approx(same)
    assert np.isnan(table["agreement"][1])
    assert table["accuracy"].tolist() == pytest.approx([same, 1.0])
    assert table["miou"][1] == pytest.approx(1)
    assert table["miou"][0] < 1
    figure = plot.budgets(table)
    assert [ax.get_title() for ax in figure.axes] == ["Accuracy", "Agreement", "Time"]
    even = geodeform.segment_scene(
        scene, bbox=PART, budget="1%", sampler="uniform", allocation="even"
    )
    both = plot.budget_table([*runs, even])
    assert set(both["sampler"]) == {"uniform", "uniform by need"}
    assert both["agreement"].isna().sum() == 2  # each has a largest of its own
    legend = plot.budgets(both).axes[-1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["uniform", "uniform by need"]
    (line,) = figure.axes[0].lines
    assert line.get_ydata() == pytest.approx(100 * table["miou"])
    assert line.get_xdata() == pytest.approx(100 * table["sampled_share"])
    assert "miou" not in plot.budget_table(runs)
    with pytest.raises(ConfigError, match="budget_table"):
        plot.budgets(pd.DataFrame({"share": [1]}))
    with pytest.raises(ConfigError, match="no run"):
        plot.budget_table([])


def test_the_warp_shows_the_runs_own_window() -> None:
    scene = geodeform.demo_scene()
    run = geodeform.segment_scene(scene, bbox=PART, budget="0.5%", samples=True)
    window = plot.warp_window(scene, bbox=PART, budget="0.5%")
    assert np.array_equal(window.labels, run.labels.to_numpy())
    assert np.array_equal(
        window.sampled_labels.ravel(), run.samples["class_id"].to_numpy()
    )  # all samples have data
    # what the network sees is the window, read at the sampled positions
    h, w = window.sampled_labels.shape
    x, y = window.positions[h // 2, w // 2].astype(int)
    around = window.image[y - 5 : y + 6, x - 5 : x + 6].reshape(-1, 3).mean(0)
    assert np.abs(window.sampled[h // 2, w // 2] - around).max() < 40
    figure = plot.warp(window)
    meshed, sampled, predicted, mapped = figure.axes
    (lines,) = meshed.collections
    first = lines.get_segments()[0]
    assert len(first) == w
    assert ((first[:, 0] > PART[0]) & (first[:, 0] < PART[2])).all()
    assert np.ptp(np.diff(first[:, 0])) > 0.5  # the rows' samples are not evenly apart
    assert sampled.get_images()[0].get_array().shape == (h, w, 3)
    assert predicted.get_xlim() == (0, w)
    assert mapped.get_xlim() == pytest.approx((PART[0], PART[2]))


def test_windows_of_the_warp_are_found_by_place_number_or_unevenness() -> None:
    scene = geodeform.demo_scene()
    box = (PART[0], PART[1], PART[2] + 500, PART[3])
    settings = {"bbox": box, "budget": "0.3%"}
    east = plot.warp_window(scene, at=(box[2], box[1]), **settings)
    assert east.index == 1
    assert east.frame.c == pytest.approx(box[2] - 1024)
    spread = [
        np.log(plot.warp_window(scene, index=k, **settings).magnification).std() for k in (0, 1)
    ]
    assert plot.warp_window(scene, **settings).index == int(np.argmax(spread))
    with pytest.raises(ConfigError, match="no window 7: the run has 2"):
        plot.warp_window(scene, index=7, **settings)
    with pytest.raises(ConfigError, match="not both"):
        plot.warp_window(scene, index=0, at=(0, 0), **settings)


def test_a_uniform_window_has_a_straight_grid() -> None:
    window = plot.warp_window(geodeform.demo_scene(), bbox=PART, budget="0.3%", sampler="uniform")
    assert np.ptp(window.positions[..., 0], axis=0).max() < 1e-2
    n = len(window.positions)
    cell = 1024 / n
    mean = window.image[: int(cell), : int(cell)].reshape(-1, 3).mean(0)
    assert np.abs(window.sampled[0, 0] - mean).max() < 25


# ---- the interactive map --------------------------------------------------------------------


def test_mercator_pictures_lie_where_the_ground_is() -> None:
    labels = np.zeros((1, 200, 100), np.uint8)
    labels[0, 100:, 50:] = 2
    frame = from_origin(318_000, 2_770_000, 10, 10)
    view = View(labels.astype(np.float32), np.ones((200, 100), bool), frame, CRS.from_epsg(32640))
    out, ((south, west), (north, east)) = to_mercator(
        labels, view, resampling=Resampling.nearest, nodata=255
    )
    assert set(np.unique(out)) <= {0, 2, 255}  # ids are never mixed
    # a point amid the marked quarter, by another way to WGS 84
    point = gpd.GeoSeries(gpd.points_from_xy([318_750], [2_768_500]), crs=32640).to_crs(4326)[0]
    x, y = gpd.GeoSeries([point], crs=4326).to_crs(3857)[0].coords[0]
    corners = gpd.GeoSeries(gpd.points_from_xy([west, east], [south, north]), crs=4326).to_crs(3857)
    column = (x - corners[0].x) / (corners[1].x - corners[0].x) * out.shape[2]
    row = (corners[1].y - y) / (corners[1].y - corners[0].y) * out.shape[1]
    assert out[0, int(row), int(column)] == 2
    border = gpd.GeoSeries(gpd.points_from_xy([318_470], [2_768_500]), crs=32640).to_crs(3857)[0]
    column = (border.x - corners[0].x) / (corners[1].x - corners[0].x) * out.shape[2]
    assert out[0, int(row), int(column)] == 0


def test_the_interactive_map_has_every_layer_with_a_slider(result: SegmentationResult) -> None:
    page = plot.interactive_map(result, scene=geodeform.demo_scene(), bbox=PART, polygons=True)
    html = page.get_root().render()
    for name in ("Scene", "Land cover", "Confidence", "Sampling density", "Polygons"):
        assert f'"{name}"' in html or f">{name}<" in html
    panel = json.loads(re.search(r"box\.innerHTML = (\".*\");", html)[1])
    assert panel.count('type="range"') == 4
    for area in result.class_areas:
        assert f"{area.name} {area.share:.1%}, " in panel
    pictures = re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", html)
    assert len(pictures) == 4
    cover = Image.open(io.BytesIO(base64.b64decode(pictures[1])))
    seen = {tuple(c) for c in np.asarray(cover.convert("RGBA")).reshape(-1, 4) if c[3]}
    assert seen <= {(*colour, 255) for colour in result.classes.colours}
    assert len(seen) >= 4


def test_class_names_cannot_break_the_page() -> None:
    scheme = ClassScheme(("<b>land</b>", "</script><script>x"), ((0, 0, 0), (9, 9, 9)))
    labels = _ids(np.zeros((8, 8), np.uint8), from_origin(0, 0, 10, 10), "EPSG:32640")
    html = plot.interactive_map(labels, classes=scheme).get_root().render()
    assert "</script><script>x" not in html
    assert "<b>land</b>" not in html


def test_the_interactive_map_says_what_it_lacks(
    result: SegmentationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = _ids(np.zeros((8, 8), np.uint8), None, None)
    with pytest.raises(SceneError, match="no CRS"):
        plot.interactive_map(labels, classes=SCHEME)
    with pytest.raises(ConfigError, match="GeoDataFrame"):
        plot.interactive_map(labels, classes=SCHEME, polygons=True)
    real = builtins.__import__

    def without_folium(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "folium":
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without_folium)
    with pytest.raises(GeodeformError, match=re.escape('pip install "geodeform[notebook]"')):
        plot.interactive_map(result)


_LEAFLET = """
window.calls = {};
var control = function () { return {addTo: function () {
  document.body.appendChild(this.onAdd()); return this; }}; };
window.L = new Proxy({
  DomUtil: {create: function (tag, name) {
    var made = document.createElement(tag); made.className = name; return made; }},
  DomEvent: {disableClickPropagation: function () {}, disableScrollPropagation: function () {}},
  control: Object.assign(control, {scale: function () { return stub(); },
    layers: function () { return stub(); }}),
  imageOverlay: function (url, bounds, options) {
    var layer = stub(); layer.setOpacity = function (value) {
      window.calls[bounds.join()] = value; }; window.last = layer; return layer; },
}, {get: function (target, name) { return target[name] || function () { return stub(); }; }});
function stub() { var me = {};
  ["addTo", "addLayer", "fitBounds", "on", "bindTooltip"].forEach(function (name) {
    me[name] = function () { return me; }; }); return me; }
"""


@pytest.mark.browser
def test_sliders_change_the_opacity_of_their_layer(
    result: SegmentationResult, tmp_path: Path
) -> None:
    """With a stand-in for Leaflet, which the page would load from the web."""
    sync_api = pytest.importorskip("playwright.sync_api")
    plot.interactive_map(result, tiles=None).save(tmp_path / "map.html")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_ARGUMENTS)
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.route(
            re.compile("^http"),
            lambda route: (
                route.fulfill(body=_LEAFLET, content_type="text/javascript")
                if route.request.url.endswith("/leaflet.js")
                else route.abort()
            ),
        )
        page.goto((tmp_path / "map.html").as_uri())
        sliders = page.locator(".geodeform-panel input")
        assert sliders.count() == 3
        sliders.nth(0).evaluate("e => { e.value = 0.25; e.dispatchEvent(new Event('input')); }")
        assert list(page.evaluate("Object.values(window.calls)")) == [0.25]
        assert "Land cover" in page.locator(".geodeform-panel").inner_text()
        browser.close()
    assert errors == []
