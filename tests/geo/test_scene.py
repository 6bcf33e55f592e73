"""Scene reads what the file holds, at any resolution, and says clearly what it cannot read."""

from __future__ import annotations

import itertools
import math
import re
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import rioxarray
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from geodeform.errors import ConfigError, SceneError
from geodeform.geo.scene import Scaling, Scene

# rioxarray 0.19 multiplies affines with the operator that affine 3.1 will deprecate
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

UTM = Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 4100000.0)
COLOURS = {"r": ColorInterp.red, "g": ColorInterp.green, "b": ColorInterp.blue}
COLOURS |= {"a": ColorInterp.alpha, "n": ColorInterp.nir, "?": ColorInterp.undefined}


def write(
    path: Path,
    data: NDArray[Any],
    *,
    transform: Affine = UTM,
    crs: str | None = "EPSG:32640",
    colours: str = "",
    names: tuple[str, ...] = (),
    **profile: Any,
) -> Path:
    """Write (C, H, W) as a GeoTIFF."""
    count, height, width = data.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=data.dtype,
        transform=transform,
        crs=crs,
        **profile,
    ) as sink:
        if colours:
            sink.colorinterp = [COLOURS[c] for c in colours]
        for number, name in enumerate(names, start=1):
            sink.set_band_description(number, name)
        sink.write(data)
    return path


def full(scene: Scene) -> Window:
    return Window(0, 0, scene.shape[1], scene.shape[0])


def area_means(
    data: NDArray[Any], valid: NDArray[np.bool_], out_shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mean over the valid area of each output cell, cell by cell in float64."""
    C, H, W = data.shape
    out = np.zeros((C, *out_shape))
    known = np.zeros(out_shape, bool)
    for j, i in np.ndindex(out_shape):
        y0, y1 = j * H / out_shape[0], (j + 1) * H / out_shape[0]
        x0, x1 = i * W / out_shape[1], (i + 1) * W / out_shape[1]
        rows = np.arange(int(y0), min(math.ceil(y1), H))
        cols = np.arange(int(x0), min(math.ceil(x1), W))
        wy = np.minimum(rows + 1, y1) - np.maximum(rows, y0)
        wx = np.minimum(cols + 1, x1) - np.maximum(cols, x0)
        weight = np.outer(wy, wx) * valid[np.ix_(rows, cols)]
        known[j, i] = weight.sum() > 1e-6 * wy.sum() * wx.sum()
        if known[j, i]:
            for c in range(C):
                cell = np.where(weight > 0, data[c][np.ix_(rows, cols)], 0)
                out[c, j, i] = (weight * cell).sum() / weight.sum()
    return out, known


# ---- full resolution ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
def test_every_type_comes_as_raw_float32(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 120, (2, 19, 33)).astype(dtype)
    if np.dtype(dtype).kind in "if":
        data[0] *= -1
    with Scene.open(write(tmp_path / "scene.tif", data)) as scene:
        values, valid = scene.read(Window(3, 5, 20, 11))
        assert scene.dtype == np.dtype(dtype)
        assert scene.shape == (19, 33)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, data[:, 5:16, 3:23].astype(np.float32))
        assert valid.all()


def test_bands_are_read_in_the_order_asked_and_may_repeat(tmp_path: Path) -> None:
    data = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)
    with Scene.open(write(tmp_path / "scene.tif", data), bands=[3, 1, 3]) as scene:
        assert (scene.bands, scene.n_bands) == ((3, 1, 3), 3)
        np.testing.assert_array_equal(scene.read(full(scene))[0], data[[2, 0, 2]])


def test_georeference_is_the_files_own(tmp_path: Path) -> None:
    rotated = Affine(8.6, -5.0, 500000.1, -5.0, -8.6, 4100000.3)
    with Scene.open(
        write(tmp_path / "s.tif", np.ones((1, 4, 7), np.uint8), transform=rotated)
    ) as s:
        assert s.transform == rotated
        assert s.crs == rasterio.crs.CRS.from_epsg(32640)
        assert s.gcps == ([], None)
        assert s.geobox is not None
        assert s.geobox.shape == (4, 7)
        assert s.geobox.affine == rotated
        assert s.geobox.crs.epsg == 32640
        assert s.name == str(tmp_path / "s.tif")


def test_windows_must_be_whole_pixels_inside_the_scene(tmp_path: Path) -> None:
    with Scene.open(write(tmp_path / "scene.tif", np.ones((1, 10, 12), np.uint8))) as scene:
        scene.read(Window(2.0, 3.0, 10.0, 7.0))
        for bad in (
            Window(0, 0, 13, 10),
            Window(-1, 0, 5, 5),
            Window(0.5, 0, 5, 5),
            Window(0, 0, 0, 5),
        ):
            with pytest.raises(ValueError, match="not a window of whole pixels inside the 10 x 12"):
                scene.read(bad)
            with pytest.raises(ValueError, match="not a window"):
                scene.valid_mask(bad)
        with pytest.raises(ValueError, match="out_shape must be at least"):
            scene.read(full(scene), (0, 5))


# ---- what is data ---------------------------------------------------------------------------


def masked_scene(folder: Path, kind: str) -> tuple[Path, dict[str, Any], NDArray[Any], Any]:
    """A file with holes of one kind: (path, arguments of open, data, valid)."""
    rng = np.random.default_rng(7)
    data = rng.integers(60, 200, (3, 70, 90)).astype("float32" if kind == "nan" else "uint8")
    valid = np.ones((70, 90), bool)
    valid[:, :25] = False
    valid[50:, 60:] = False
    valid[rng.random((70, 90)) < 0.2] = False
    path = folder / f"{kind}.tif"
    arguments: dict[str, Any] = {}
    if kind == "tag":
        write(path, np.where(valid, data, 0).astype(np.uint8), nodata=0)
    elif kind == "override":
        write(path, np.where(valid, data, 0).astype(np.uint8))
        arguments = {"nodata": 0}
    elif kind == "nan":
        write(path, np.where(valid, data, np.nan))
    elif kind == "alpha":
        alpha = np.where(valid, 255, 0).astype(np.uint8)
        write(path, np.concatenate([data, alpha[None]]), colours="rgba")
    elif kind in ("internal mask", ".msk"):
        write(path, data)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal mask"),
            rasterio.open(path, "r+") as sink,
        ):
            sink.write_mask(valid)
        assert Path(f"{path}.msk").exists() == (kind == ".msk")
    return path, arguments, data, valid


KINDS = ["tag", "override", "nan", "alpha", "internal mask", ".msk"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_hole_is_seen_at_full_resolution(tmp_path: Path, kind: str) -> None:
    path, arguments, data, valid = masked_scene(tmp_path, kind)
    window = Window(10, 20, 70, 45)
    part = np.s_[20:65, 10:80]
    with Scene.open(path, **arguments) as scene:
        assert scene.has_nodata
        assert scene.n_bands == 3
        values, known = scene.read(window)
        np.testing.assert_array_equal(known, valid[part])
        np.testing.assert_array_equal(scene.valid_mask(window), valid[part])
        np.testing.assert_array_equal(values[:, known], data[:, *part][:, known])
        assert np.isfinite(values).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("out_shape", [(10, 15), (13, 17), (1, 1), (100, 120)])
def test_averages_never_mix_holes_into_data(
    tmp_path: Path, kind: str, out_shape: tuple[int, int]
) -> None:
    path, arguments, data, valid = masked_scene(tmp_path, kind)
    expected, known = area_means(data, valid, out_shape)
    with Scene.open(path, **arguments) as scene:
        values, some = scene.read(full(scene), out_shape)
        np.testing.assert_array_equal(some, known)
        np.testing.assert_allclose(values[:, some], expected[:, some], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_overviews_are_used_and_stay_unmixed(tmp_path: Path, kind: str) -> None:
    path, arguments, data, valid = masked_scene(tmp_path, kind)
    even = np.where(valid, 100, 0 if kind in ("tag", "override", "nan") else 250)
    flat = np.broadcast_to(even, data.shape).astype(data.dtype)
    with rasterio.open(path, "r+") as sink:
        sink.write(np.where(valid, flat, np.nan) if kind == "nan" else flat, [1, 2, 3])
        sink.build_overviews([2, 4, 8], Resampling.average)
    with Scene.open(path, **arguments) as scene:
        assert scene.overview_factors == (2, 4, 8)
        for out_shape in ((35, 45), (20, 20), (9, 12), (5, 6), (3, 3)):
            values, some = scene.read(full(scene), out_shape)
            assert some.sum() > 0
            np.testing.assert_allclose(values, 100, rtol=1e-5)


def test_decimated_reads_start_from_the_coarsest_sufficient_overview(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", np.zeros((1, 256, 256), np.uint8), nodata=0)
    with rasterio.open(path, "r+") as sink:
        sink.build_overviews([2, 4], Resampling.average)
    for level, value in ((0, 10), (1, 20)):  # overviews that differ from the full resolution
        with rasterio.open(path, "r+", overview_level=level) as sink:
            sink.write(np.full((1, sink.height, sink.width), value, np.uint8))
    with rasterio.open(path, "r+") as sink:
        sink.write(np.full((1, 256, 256), 5, np.uint8))
    with Scene.open(path) as scene:
        # three pixels of the overview, or more, each way for each that is read
        for side, value in ((256, 5), (64, 5), (43, 5), (42, 10), (22, 10), (21, 20), (3, 20)):
            data, _ = scene.read(full(scene), (side, side))
            assert (data == value).all(), side
        # half of the scene's side has half of its pixels
        assert (scene.read(Window(64, 64, 128, 128), (21, 21))[0] == 10).all()
        assert (scene.read(Window(64, 64, 128, 128), (10, 22))[0] == 5).all()
    with Scene.open(path, nodata=77) as scene:  # the overviews were not built for this nodata
        assert (scene.read(full(scene), (21, 21))[0] == 5).all()


def test_windows_between_overview_pixels_are_placed_exactly(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(1024, dtype=np.float32) + 0.5, (1, 512, 1024)).copy()
    path = write(tmp_path / "ramp.tif", ramp)
    with rasterio.open(path, "r+") as sink:
        sink.build_overviews([2, 4, 8], Resampling.average)
    with Scene.open(path) as scene:
        for left, width, n in ((0, 1024, 100), (101, 515, 64), (333, 400, 50)):
            data, _ = scene.read(Window(left, 7, width, 301), (20, n))
            centres = left + (np.arange(n) + 0.5) * width / n
            # inside a level's pixel the ramp is a step: its half width bounds the error
            assert np.abs(data[0] - centres).max() <= width / n / 2
            assert abs((data[0] - centres).mean()) < 0.05 * width / n


def test_filled_pixels_continue_the_data(tmp_path: Path) -> None:
    data = np.full((2, 40, 50), 9, np.float32)
    data[1] = 90
    data[:, :, 20:] = np.nan
    with Scene.open(write(tmp_path / "scene.tif", data)) as scene:
        for out_shape in (None, (13, 17)):
            values, _ = scene.read(full(scene), out_shape)
            np.testing.assert_allclose(values[0], 9, rtol=1e-6)
            np.testing.assert_allclose(values[1], 90, rtol=1e-6)
        values, valid = scene.read(Window(25, 0, 20, 20))
        assert not valid.any()
        assert (values == 0).all()


@pytest.mark.parametrize(
    ("dtype", "nodata", "one_band_is_enough"),
    [
        ("uint8", 0, False),  # black in one band is a colour
        ("uint8", 255, False),  # and so is saturation
        ("uint16", 65535, False),
        ("int16", 0, False),
        ("int16", -9999, True),  # never a measurement
        ("uint16", 9999, True),
        ("float32", -9999.0, True),
        ("float32", -3.4028234663852886e38, True),
        ("float32", math.nan, True),
        ("float64", -1e300, True),
    ],
)
def test_one_band_without_data_hides_the_pixel_unless_the_value_may_be_measured(
    tmp_path: Path, dtype: str, nodata: float, one_band_is_enough: bool
) -> None:
    data = np.full((3, 2, 3), 7, dtype)
    data[1, 0, 0] = nodata
    data[:, 1, 2] = nodata
    expected = np.ones((2, 3), bool)
    expected[1, 2] = False
    expected[0, 0] = not one_band_is_enough
    for name, tag, override in (("tag", nodata, None), ("override", None, nodata)):
        path = write(tmp_path / f"{name}.tif", data, nodata=tag)
        with Scene.open(path, nodata=override) as scene:
            np.testing.assert_array_equal(scene.valid_mask(full(scene)), expected)


def test_infinity_is_no_data(tmp_path: Path) -> None:
    data = np.full((1, 2, 2), 3, np.float32)
    data[0, 0, 1] = np.inf
    with Scene.open(write(tmp_path / "scene.tif", data)) as scene:
        values, valid = scene.read(full(scene))
        assert valid.tolist() == [[True, False], [True, True]]
        assert (values == 3).all()


def test_nodata_argument_replaces_the_files_value(tmp_path: Path) -> None:
    data = np.array([[[0, 5, 9]]], np.uint8)
    path = write(tmp_path / "scene.tif", data, nodata=0)
    with Scene.open(path) as scene:
        assert scene.valid_mask(full(scene)).tolist() == [[False, True, True]]
    with Scene.open(path, nodata=9) as scene:
        assert scene.valid_mask(full(scene)).tolist() == [[True, True, False]]
    for outside in (-1, 300, 4.5, math.nan):  # no pixel of uint8 can have it
        with Scene.open(path, nodata=outside) as scene:
            assert not scene.has_nodata
            assert scene.valid_mask(full(scene)).all()


def test_nothing_is_read_where_nothing_can_be_invalid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scene.open(write(tmp_path / "scene.tif", np.ones((1, 8, 9), np.uint8))) as scene:
        assert not scene.has_nodata
        monkeypatch.setattr(scene, "_read_level", lambda *_: pytest.fail("the file was read"))
        assert scene.valid_mask(Window(1, 2, 5, 6)).shape == (6, 5)
        assert scene.valid_mask(full(scene)).all()


def test_an_alpha_band_chosen_as_data_hides_nothing(tmp_path: Path) -> None:
    data = np.full((4, 5, 6), 80, np.uint8)
    data[3] = 0  # near infrared that GDAL took for alpha
    path = write(tmp_path / "rgbn.tif", data, colours="rgba")
    with Scene.open(path) as scene:
        assert scene.bands == (1, 2, 3)
        assert not scene.valid_mask(full(scene)).any()
    with Scene.open(path, bands=[4, 1, 2]) as scene:
        assert not scene.has_nodata
        assert scene.read(full(scene))[1].all()


# ---- bands ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("colours", "names", "expected", "rule"),
    [
        ("rgb", (), (1, 2, 3), "by colour interpretation"),
        ("bgr", (), (3, 2, 1), "by colour interpretation"),
        ("nbgra", (), (4, 3, 2), "by colour interpretation"),
        ("bgr", ("Red", "Green", "Blue"), (3, 2, 1), "by colour interpretation"),
        ("????", ("blue", "GREEN", "Red (665 nm)", "NIR"), (3, 2, 1), "by band descriptions"),
        ("????", ("B02", "B03", "B04", "B08"), (3, 2, 1), "by band descriptions"),
        ("???", ("S2_B04", "S2_B03", "S2_B02"), (1, 2, 3), "by band descriptions"),
        # for Landsat 7 B4 is infrared, for Landsat 8 it is red: too little to go by
        ("???", ("B2", "B3", "B4"), (1, 2, 3), "by file order, for want of colour"),
        ("???", (), (1, 2, 3), "--bands"),
        ("a???", (), (2, 3, 4), "by file order"),
    ],
)
def test_rgb_is_found_by_what_the_file_says(
    tmp_path: Path, colours: str, names: tuple[str, ...], expected: tuple[int, ...], rule: str
) -> None:
    data = np.zeros((len(colours), 3, 4), np.uint8)
    path = write(tmp_path / "scene.tif", data, colours=colours, names=names)
    with Scene.open(path, want=("red", "green", "blue")) as scene:
        assert scene.bands == expected
        assert rule in scene.band_note
        assert ",".join(map(str, expected)) in scene.band_note


def test_colour_and_description_complete_each_other(tmp_path: Path) -> None:
    data = np.zeros((4, 3, 4), np.uint8)
    path = write(tmp_path / "s.tif", data, colours="?rgb", names=("nir", "", "", ""))
    with Scene.open(path, want=("red", "green", "blue", "nir")) as scene:
        assert scene.bands == (2, 3, 4, 1)
        assert "by colour interpretation and band descriptions" in scene.band_note
        assert scene.band_names == ("red", "green", "blue", "nir")


def test_without_a_wish_all_bands_but_alpha_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", np.zeros((5, 3, 4), np.uint8), colours="?rgba")
    with Scene.open(path) as scene:
        assert scene.bands == (1, 2, 3, 4)
        assert scene.band_names == ("band 1", "red", "green", "blue")
    with Scene.open(path, bands=[2], want=("red", "green")) as scene:
        assert scene.bands == (2,)
        assert scene.band_note == "bands 2 as given"


@pytest.mark.parametrize(
    ("colours", "arguments", "message"),
    [
        ("?", {"want": ("red", "green", "blue")}, "has 1 band (1) but 3 are needed"),
        ("rga", {"want": ("red", "green", "blue")}, "3 bands (1 red, 2 green, 3 alpha) but 3 are"),
        ("rgb", {"bands": [1, 2, 4, 9]}, "no band 4, 9; correct --bands"),
        ("rgb", {"bands": [0]}, "no band 0"),
        ("rgb", {"bands": []}, "no bands chosen"),
    ],
)
def test_missing_bands_name_the_file_and_what_it_has(
    tmp_path: Path, colours: str, arguments: dict[str, Any], message: str
) -> None:
    data = np.zeros((len(colours), 3, 4), np.uint8)
    path = write(tmp_path / "scene.tif", data, colours=colours)
    with pytest.raises(SceneError, match=re.escape(message)) as caught:
        Scene.open(path, **arguments)
    assert "scene.tif" in str(caught.value)
    assert "--bands" in str(caught.value)


# ---- ground size ----------------------------------------------------------------------------


def ground(path: Path) -> tuple[tuple[float, float] | None, float | None]:
    with Scene.open(path) as scene:
        return scene.pixel_size_m, scene.pixel_area_m2


def test_ground_size_of_projected_scenes(tmp_path: Path) -> None:
    data = np.ones((1, 30, 40), np.uint8)
    assert ground(write(tmp_path / "utm.tif", data)) == ((10.0, 10.0), 100.0)
    feet = Affine(2.0, 0.0, 3_000_000.0, 0.0, -3.0, 13_800_000.0)
    size, area = ground(write(tmp_path / "ft.tif", data, transform=feet, crs="EPSG:2278"))
    assert size == pytest.approx((3 * 1200 / 3937, 2 * 1200 / 3937), rel=1e-6)
    assert area == pytest.approx(6 * (1200 / 3937) ** 2, rel=1e-6)
    turned = Affine(3.0, 4.0 * 2, 5e5, 4.0, -3.0 * 2, 4e6)  # columns of length 5 and 10
    size, area = ground(write(tmp_path / "turned.tif", data, transform=turned))
    assert size == pytest.approx((10, 5))
    assert area == pytest.approx(50)


def test_ground_size_of_geographic_scenes_is_geodesic(tmp_path: Path) -> None:
    at = Affine(1e-5, 0.0, 55.0, 0.0, -2e-5, 60.0)
    data = np.ones((1, 100, 200), np.uint8)
    size, area = ground(write(tmp_path / "wgs84.tif", data, transform=at, crs="EPSG:4326"))
    lat = 60 - 2e-5 * 50
    geod = pyproj.Geod(ellps="WGS84")
    tall = geod.inv(55.001, lat - 1e-5, 55.001, lat + 1e-5)[2]
    wide = geod.inv(55.001 - 5e-6, lat, 55.001 + 5e-6, lat)[2]
    assert size == pytest.approx((tall, wide), rel=1e-6)
    assert area == pytest.approx(tall * wide, rel=1e-6)
    assert size == pytest.approx((2.2283, 0.5580), rel=1e-3)


def test_web_mercators_stretch_is_taken_out(tmp_path: Path) -> None:
    x, y = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform(10.0, 60.0)
    path = write(
        tmp_path / "web.tif",
        np.ones((1, 10, 10), np.uint8),
        transform=Affine(1.0, 0.0, x, 0.0, -1.0, y),
        crs="EPSG:3857",
    )
    size, area = ground(path)
    assert size == pytest.approx((0.5, 0.5), rel=0.01)  # cos 60°
    assert area == pytest.approx(0.25, rel=0.02)


def test_ground_size_without_a_georeference_is_unknown(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        path = write(
            tmp_path / "plain.tif",
            np.ones((1, 9, 8), np.uint8),
            transform=Affine.identity(),
            crs=None,
        )
    with Scene.open(path) as scene:  # and opening it must not warn
        assert scene.crs is None
        assert scene.geobox is None
        assert scene.pixel_size_m is None
        assert scene.pixel_area_m2 is None
        assert scene.transform == Affine.identity()


def gcp_scene(path: Path, count: int) -> Path:
    corners = itertools.product((0, 40), (0, 60))
    points = [
        GroundControlPoint(row=r, col=c, x=500000 + 2.0 * c, y=4100000 - 3.0 * r)
        for r, c in corners
    ][:count]
    profile = {"driver": "GTiff", "count": 1, "height": 40, "width": 60, "dtype": "uint8"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # it gets its points below
        with rasterio.open(path, "w", **profile) as sink:
            sink.gcps = (points, rasterio.crs.CRS.from_epsg(32640))
            sink.write(np.ones((1, 40, 60), np.uint8))
    return path


def test_ground_control_points_give_the_size(tmp_path: Path) -> None:
    with Scene.open(gcp_scene(tmp_path / "gcps.tif", 4)) as scene:
        points, crs = scene.gcps
        assert len(points) == 4
        assert crs == rasterio.crs.CRS.from_epsg(32640)
        assert scene.crs is None
        assert scene.geobox is None
        assert scene.pixel_size_m == pytest.approx((3, 2))
        assert scene.pixel_area_m2 == pytest.approx(6)
    with Scene.open(gcp_scene(tmp_path / "two.tif", 2)) as scene:
        assert scene.pixel_size_m is None


# ---- xarray ---------------------------------------------------------------------------------


def same_reads(one: Scene, other: Scene) -> None:
    """Compare two scenes in every respect that an array can share with its file."""
    assert one.shape == other.shape
    assert one.transform == other.transform
    assert one.crs == other.crs
    assert one.dtype == other.dtype
    H, W = one.shape
    for window in (Window(0, 0, W, H), Window(W // 3, H // 4, W // 2, H // 2)):
        for out_shape in (None, (11, 13), (H + 5, W + 9)):
            a, b = one.read(window, out_shape), other.read(window, out_shape)
            np.testing.assert_allclose(a[0], b[0], rtol=1e-6)
            np.testing.assert_array_equal(a[1], b[1])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("chunks", [None, {"x": 20, "y": 30}])
def test_a_dataarray_reads_as_its_file(
    tmp_path: Path, masked: bool, chunks: dict[str, int] | None
) -> None:
    if chunks:
        pytest.importorskip("dask", reason="dask-backed arrays need the dask extra")
    path, _, _, _ = masked_scene(tmp_path, "tag")
    with rioxarray.open_rasterio(path, masked=masked, chunks=chunks) as array:
        with Scene.open(path) as file, Scene.open(array) as scene:
            if masked:
                assert scene.dtype == np.float32
                valid = file.valid_mask(full(file))
                np.testing.assert_array_equal(scene.valid_mask(full(scene)), valid)
            else:
                same_reads(scene, file)
        assert array.rio.crs is not None  # closing the scene leaves the caller's array open
        array.isel(x=0, y=0).to_numpy()


def array_of(data: NDArray[Any], dims: tuple[str, ...] = ("band", "y", "x")) -> xr.DataArray:
    H, W = (data.shape[dims.index(d)] for d in ("y", "x"))
    return xr.DataArray(
        data,
        dims=dims,
        coords={
            "y": 4100000 - 10 * (np.arange(H) + 0.5),
            "x": 500000 + 10 * (np.arange(W) + 0.5),
        },
        name="city",
    ).rio.write_crs(32640)


def test_dimension_orders_and_single_bands(tmp_path: Path) -> None:
    data = np.random.default_rng(1).random((3, 20, 30)).astype(np.float32)
    with Scene.open(write(tmp_path / "scene.tif", data)) as file:
        turned = array_of(data.transpose(1, 2, 0).copy(), ("y", "x", "band"))
        same_reads(Scene.open(turned), file)
        same_reads(Scene.open(array_of(data[None], ("time", "band", "y", "x"))), file)
    flat = Scene.open(array_of(data[1], ("y", "x")), bands=[1, 1])
    np.testing.assert_array_equal(flat.read(full(flat))[0], data[[1, 1]])
    assert flat.name == "DataArray 'city'"


def test_flipped_and_sliced_arrays_have_their_own_transform(tmp_path: Path) -> None:
    data = np.random.default_rng(2).random((1, 20, 30)).astype(np.float32)
    path = write(tmp_path / "scene.tif", data)
    array = rioxarray.open_rasterio(path)
    upward = Scene.open(array.isel(y=slice(None, None, -1)))
    assert upward.transform.almost_equals(Affine(10, 0, 500000, 0, 10, 4100000 - 200))
    np.testing.assert_array_equal(upward.read(full(upward))[0], data[:, ::-1])
    part = Scene.open(array.isel(y=slice(4, 9), x=slice(6, 20, 2)))
    assert part.transform.almost_equals(Affine(20, 0, 500055, 0, -10, 4100000 - 40))
    pixel = Scene.open(array.isel(y=slice(4, 5), x=slice(6, 7)))
    assert pixel.transform.almost_equals(Affine(10, 0, 500060, 0, -10, 4100000 - 40))
    array.close()


def test_rotation_and_control_points_of_arrays(tmp_path: Path) -> None:
    turned = Affine(8.6, -5.0, 500000.1, -5.0, -8.6, 4100000.3)
    path = write(tmp_path / "turned.tif", np.ones((1, 20, 30), np.uint8), transform=turned)
    with rioxarray.open_rasterio(path) as array, Scene.open(path) as file:
        same_reads(Scene.open(array), file)
    path = gcp_scene(tmp_path / "gcps.tif", 4)
    with Scene.open(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rioxarray.open_rasterio(path) as array:
            scene = Scene.open(array)
            same_reads(scene, file)
            assert scene.gcps[1] == file.gcps[1]
            assert [(p.row, p.col, p.x, p.y) for p in scene.gcps[0]] == [
                (p.row, p.col, p.x, p.y) for p in file.gcps[0]
            ]
            assert scene.pixel_size_m == file.pixel_size_m


def test_named_bands_of_arrays_are_found() -> None:
    data = np.stack([np.full((4, 5), v, np.float32) for v in (1, 2, 3)])
    array = array_of(data).assign_coords(band=["blue", "green", "red"])
    scene = Scene.open(array, want=("red", "green", "blue"))
    assert scene.bands == (3, 2, 1)
    assert scene.read(full(scene))[0][:, 0, 0].tolist() == [3, 2, 1]
    array = array_of(data)
    array.attrs["long_name"] = ("B02", "B03", "B04")
    assert Scene.open(array, want=("red", "green", "blue")).bands == (3, 2, 1)


def test_arrays_larger_than_memory_are_read_by_window() -> None:
    dask_array = pytest.importorskip("dask.array", reason="needs the dask extra")
    computed: list[tuple[int, ...]] = []

    def block(block_info: Any = None) -> NDArray[np.uint8]:
        location = block_info[None]["array-location"]
        computed.append(tuple(lo for lo, _ in location))
        return np.full([hi - lo for lo, hi in location], 50, np.uint8)

    side = 300_000  # 3 × 84 GiB
    chunks = ((3,), (1000,) * 300, (1000,) * 300)
    lazy = dask_array.map_blocks(block, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0)))
    array = xr.DataArray(lazy, dims=("band", "y", "x")).rio.write_crs(32640)
    scene = Scene.open(array)
    computed.clear()
    values, valid = scene.read(Window(150_500, 2_500, 1000, 1000))
    assert values.shape == (3, 1000, 1000)
    assert (values == 50).all()
    assert valid.all()
    assert sorted(computed) == [(0, y, x) for y in (2000, 3000) for x in (150_000, 151_000)]
    assert scene.shape == (side, side)
    np.testing.assert_allclose(scene.read(Window(0, 0, 3000, 3000), (30, 40))[0], 50, rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (xr.DataArray(np.ones((2, 3)), dims=("a", "b")), "without x and y"),
        (xr.DataArray(np.ones((2, 2, 3, 4)), dims=("t", "band", "y", "x")), "select one image"),
        (xr.DataArray(np.ones((0, 4)), dims=("y", "x")), "is empty"),
        (xr.DataArray(np.ones((3, 4), complex), dims=("y", "x")), "complex128 values"),
        (xr.DataArray(np.ones((3, 4), bool), dims=("y", "x")), "bool values"),
        (
            xr.DataArray(np.ones((3, 3)), dims=("y", "x"), coords={"x": [0, 1, 5.0]}),
            "unevenly spaced x coordinates",
        ),
    ],
)
def test_unusable_arrays_are_refused(array: xr.DataArray, message: str) -> None:
    if "x" in array.coords:
        array = array.assign_coords(y=[2.0, 1.0, 0.0])
    with pytest.raises(SceneError, match=message):
        Scene.open(array)


# ---- errors ---------------------------------------------------------------------------------


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"nowhere\.tif does not exist"):
        Scene.open(tmp_path / "nowhere.tif")
    text = tmp_path / "notes.tif"
    text.write_text("no raster")
    with pytest.raises(SceneError, match=r"notes\.tif is not a raster that GDAL can read"):
        Scene.open(text)
    with pytest.raises(SceneError, match="is not a raster"):
        Scene.open("NETCDF:nowhere.nc:red")


def test_truncated_files_name_the_window(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 255, (3, 512, 512)).astype(np.uint8)
    path = write(tmp_path / "cut.tif", data, tiled=True, blockxsize=128, blockysize=128)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Scene.open(path) as scene:
        scene.read(Window(0, 0, 100, 100))
        pattern = r"cut\.tif cannot be read at rows 400…499, columns 8…107.*fetch it again"
        with pytest.raises(SceneError, match=pattern):
            scene.read(Window(8, 400, 100, 100))
        with pytest.raises(SceneError, match=r"cut\.tif cannot be read at rows"):
            scene.read(full(scene), (64, 64))


@pytest.mark.parametrize("given", [np.ones((3, 4, 5)), xr.Dataset(), None, 7])
def test_other_things_than_scenes_are_refused(given: Any) -> None:
    match = r"^A scene is a path or an xarray\.DataArray, not (an )?[\w.]+: \w[^\n]*\.$"
    with pytest.raises(SceneError, match=match):
        Scene.open(given)


def palette_scene(path: Path, indices: NDArray[Any], **profile: Any) -> Path:
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(indices),
        height=indices.shape[1],
        width=indices.shape[2],
        dtype="uint8",
        crs="EPSG:32640",
        transform=UTM,
        photometric="palette",
        **profile,
    ) as sink:
        sink.write_colormap(1, {i: (i, 255 - i, i // 2, 255) for i in range(256)})
        sink.write(indices)
    return path


def test_colour_tables_become_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    indices = rng.integers(1, 255, (1, 60, 80)).astype(np.uint8)
    indices[0, :20] = 9
    path = palette_scene(tmp_path / "p.tif", indices)
    with rasterio.open(path, "r+") as sink:
        sink.build_overviews([2, 4], Resampling.average)
    rgb = np.concatenate([indices, 255 - indices, indices // 2])
    hidden = indices[0] == 9
    with Scene.open(path, want=("red", "green", "blue")) as scene:
        assert scene.band_note == "red, green, blue = bands 1,2,3 by the colour table"
        assert not scene.bands_guessed
        assert not scene.has_nodata
        values, valid = scene.read(full(scene))
        assert valid.all()
        np.testing.assert_array_equal(values, rgb)
    with Scene.open(path, want=("red", "green", "blue"), nodata=9) as scene:
        assert scene.has_nodata
        np.testing.assert_array_equal(scene.valid_mask(full(scene)), ~hidden)
        small, some = scene.read(full(scene), (15, 20))
        expected, known = area_means(rgb, ~hidden, (15, 20))
        np.testing.assert_array_equal(some, known)
        np.testing.assert_allclose(small[:, some], expected[:, some], rtol=1e-5)
    with Scene.open(palette_scene(tmp_path / "n.tif", indices, nodata=9), want=["blue"]) as scene:
        np.testing.assert_array_equal(scene.valid_mask(full(scene)), ~hidden)
    with Scene.open(path) as scene:  # a class map, say
        np.testing.assert_array_equal(scene.read(full(scene))[0], indices)


def test_indices_are_not_taken_for_colours(tmp_path: Path) -> None:
    path = palette_scene(tmp_path / "p.tif", np.ones((1, 4, 5), np.uint8))
    match = (
        r"Band 1 of \S+p\.tif holds indices .* leave --bands out .*gdal_translate -expand rgb\.$"
    )
    with pytest.raises(SceneError, match=match):
        Scene.open(path, bands=[1, 1, 1], want=("red", "green", "blue"))
    path = write(tmp_path / "q.tif", np.ones((1, 4, 5), np.uint8))
    with rasterio.open(path, "r+") as sink:
        sink.colorinterp = [ColorInterp.palette]
    with pytest.raises(SceneError, match=r"q\.tif"):
        Scene.open(path, want=("red", "green", "blue"))


def test_complex_rasters_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "sar.tif", np.ones((1, 4, 4), np.complex64))
    with pytest.raises(SceneError, match=r"sar\.tif holds complex64 values"):
        Scene.open(path)


def test_files_of_several_rasters_list_them(tmp_path: Path) -> None:
    grid = xr.DataArray(np.ones((4, 5), np.float32), dims=("y", "x"))
    path = tmp_path / "several.nc"
    xr.Dataset({"red": grid, "green": grid}).to_netcdf(path, engine="scipy")
    with pytest.raises(SceneError, match="holds several rasters; name one") as caught:
        Scene.open(path)
    names = re.findall(r"netcdf:\S+?:\w+", str(caught.value))
    assert len(names) == 2
    with Scene.open(names[0]) as scene:
        assert scene.shape == (4, 5)


# ---- sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (41, 1), (3, 2)])
def test_tiny_scenes(tmp_path: Path, shape: tuple[int, int]) -> None:
    data = np.random.default_rng(3).integers(1, 200, (3, *shape)).astype(np.uint8)
    with Scene.open(write(tmp_path / "scene.tif", data, nodata=0)) as scene:
        np.testing.assert_array_equal(scene.read(full(scene))[0], data)
        for out_shape in ((1, 1), (5, 7)):
            expected, _ = area_means(data, np.ones(shape, bool), out_shape)
            for kind in ("average", "bilinear", "nearest"):
                values, valid = scene.read(full(scene), out_shape, kind)
                assert values.shape == (3, *out_shape)
                assert valid.all()
                assert data.min() - 1e-3 <= values.min() <= values.max() <= data.max() + 1e-3
                if kind == "average":
                    np.testing.assert_allclose(values, expected, rtol=1e-5)
        assert scene.pixel_size_m == (10, 10)
        low, high = scene.percentiles(0, 100)
        np.testing.assert_allclose(low, data.min((1, 2)))
        np.testing.assert_allclose(high, data.max((1, 2)))


@pytest.fixture(scope="module")
def giant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than 2³¹ pixels in a sparse file: data only in one tile near the lower right."""
    path = tmp_path_factory.mktemp("giant") / "giant.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=50_000,
        width=50_000,
        dtype="uint8",
        crs="EPSG:32640",
        transform=UTM,
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="deflate",
        sparse_ok=True,
    ) as sink:
        sink.write(np.full((1, 512, 512), 200, np.uint8), window=Window(49_152, 48_640, 512, 512))
    return path


def test_giant_scenes_are_never_held_whole(giant: Path) -> None:
    tracemalloc.start()
    try:
        with Scene.open(giant) as scene:
            assert scene.shape[0] * scene.shape[1] > 2**31
            values, _ = scene.read(Window(49_100, 48_600, 900, 1000))
            assert (values == 200).sum() == 512 * 512
            values, _ = scene.read(Window(46_000, 46_000, 4000, 4000), (40, 40))
            assert values.sum() == pytest.approx(200 * 512 * 512 / 100**2, rel=1e-5)
            low, high = scene.percentiles(2, 98)
            assert (low[0], high[0]) == (0, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 250 << 20


@pytest.mark.slow
def test_a_giant_scene_is_decimated_in_strips(giant: Path) -> None:
    tracemalloc.start()
    try:
        with Scene.open(giant) as scene:
            values, _ = scene.read(full(scene), (100, 100))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert values.sum() == pytest.approx(200 * 512 * 512 / 500**2, rel=1e-4)
    assert peak < 500 << 20


def test_strips_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, arguments, _, _ = masked_scene(tmp_path, "tag")
    with Scene.open(path, **arguments) as scene:
        shapes = ((7, 9), (33, 41), (140, 180))
        kinds = ("average", "nearest", "bilinear")
        window = Window(20, 11, 60, 53)
        whole = {(s, k): scene.read(window, s, k) for s in shapes for k in kinds}
        monkeypatch.setattr("geodeform.geo.scene._STRIP_BYTES", 1)
        monkeypatch.setattr(scene._source, "block_rows", lambda level: 1)
        for (shape, kind), (values, valid) in whole.items():
            striped = scene.read(window, shape, kind)
            np.testing.assert_allclose(striped[0], values, rtol=1e-5)
            np.testing.assert_array_equal(striped[1], valid)


def test_threads_may_read_at_once(tmp_path: Path) -> None:
    data = np.random.default_rng(9).integers(0, 255, (3, 600, 700)).astype(np.uint8)
    path = write(
        tmp_path / "s.tif", data, tiled=True, blockxsize=64, blockysize=64, compress="deflate"
    )
    with rasterio.open(path, "r+") as sink:
        sink.build_overviews([2, 4], Resampling.average)
    windows = [Window(x, y, 90, 80) for y in range(0, 520, 65) for x in range(0, 610, 61)]
    with Scene.open(path) as scene, ThreadPoolExecutor(8) as pool:
        small = pool.map(lambda w: scene.read(w, (20, 23))[0], windows)
        large = pool.map(lambda w: scene.read(w)[0], windows)
        for window, a, b in zip(windows, small, large, strict=True):
            y, x = window.row_off, window.col_off
            np.testing.assert_array_equal(b, data[:, y : y + 80, x : x + 90])
            np.testing.assert_array_equal(a, scene.read(window, (20, 23))[0])


# ---- scaling --------------------------------------------------------------------------------


def test_percentiles_leave_nodata_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    data = rng.normal(1000, 100, (2, 300, 400)).astype(np.int16)
    data[1] += 5000
    data[:, :150] = -9999
    with Scene.open(write(tmp_path / "scene.tif", data, nodata=-9999)) as scene:
        low, high = scene.percentiles(2, 98)
    expected = np.percentile(data[:, 150:].reshape(2, -1), [2, 98], axis=1)
    np.testing.assert_allclose([low, high], expected, atol=2)


def test_percentiles_of_large_scenes_come_from_patches(tmp_path: Path) -> None:
    side = 5000  # more than is read whole
    row = np.linspace(0, 60000, side).astype(np.uint16)
    data = np.broadcast_to(row, (1, side, side))
    path = write(tmp_path / "s.tif", data, tiled=True, blockxsize=512, blockysize=512)
    with Scene.open(path) as scene:
        low, high = scene.percentiles(2, 98)
    np.testing.assert_allclose([low[0], high[0]], [1200, 58800], atol=1200)


def test_percentiles_need_valid_pixels_and_an_order(tmp_path: Path) -> None:
    path = write(tmp_path / "void.tif", np.zeros((1, 20, 20), np.uint8), nodata=0)
    with Scene.open(path) as scene:
        with pytest.raises(SceneError, match=r"void\.tif has no valid pixel"):
            scene.percentiles(2, 98)
        for low, high in ((98, 2), (-1, 50), (5, 101), (5, 5)):
            with pytest.raises(ConfigError, match="Percentiles must be"):
                scene.percentiles(low, high)
        assert scene.zero_share() == 0


def sparse(path: Path, side: int, block: NDArray[Any] | None, row: int = 0, col: int = 0) -> Path:
    """Write a scene of nodata 0 but for one block."""
    dtype = np.uint16 if block is None else block.dtype
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=side,
        width=side,
        dtype=dtype,
        nodata=0,
        crs="EPSG:32640",
        transform=UTM,
        tiled=True,
        blockxsize=512,
        blockysize=512,
        sparse_ok=True,
    ) as sink:
        if block is not None:
            sink.write(block[None], window=Window(col, row, block.shape[1], block.shape[0]))
    return path


@pytest.mark.parametrize("side_of_data", [700, 90, 5])
@pytest.mark.parametrize("overviews", [False, True])
def test_percentiles_find_the_little_that_there_is(
    tmp_path: Path, side_of_data: int, overviews: bool
) -> None:
    block = np.random.default_rng(1).integers(1000, 9000, (side_of_data,) * 2).astype(np.uint16)
    path = sparse(tmp_path / "s.tif", 8000, block, 5555, 1111)
    if overviews:
        with rasterio.open(path, "r+") as sink:
            sink.build_overviews([2, 4, 8], Resampling.nearest)
    with Scene.open(path) as scene:
        low, high = scene.percentiles(2, 98)
        expected = np.percentile(block, [2, 98])
        np.testing.assert_allclose([low[0], high[0]], expected, atol=200)
        inside = Window(1111, 5555, side_of_data, side_of_data)
        low, high = scene.percentiles(0, 100, inside)
        assert (low[0], high[0]) == (block.min(), block.max())
        with pytest.raises(SceneError, match="no valid pixel in the part to be mapped"):
            scene.percentiles(2, 98, Window(0, 0, 8000, 5555))


def test_a_scan_for_valid_pixels_is_thinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = np.arange(1, 200 * 200 + 1, dtype=np.uint16).reshape(200, 200)
    monkeypatch.setattr("geodeform.geo.scene._SAMPLE_SIDE", 32)
    monkeypatch.setattr("geodeform.geo.scene._PIECE_BYTES", 4 * 100 * 100)
    with Scene.open(sparse(tmp_path / "s.tif", 1000, block, 333, 444)) as scene:
        found = scene._gather(scene._pieces((0, 0, 1000, 1000), 0), 0)
    assert 1000 < found.shape[1] <= 2048
    assert len(np.unique(found)) == found.shape[1]
    np.testing.assert_allclose(np.percentile(found, [2, 50, 98]), [800, 20000, 39200], atol=1200)


def test_a_region_has_its_own_statistics(tmp_path: Path) -> None:
    data = np.zeros((1, 400, 600), np.uint16)
    data[0, :, 300:] = np.arange(1, 301)
    region = Window(400, 50, 100, 200)
    with Scene.open(write(tmp_path / "s.tif", data)) as scene:
        low, high = scene.percentiles(0, 100, region)
        assert (low[0], high[0]) == (101, 200)
        assert scene.zero_share() == pytest.approx(0.5)
        assert scene.zero_share(region) == 0
        assert scene.zero_share(Window(200, 0, 200, 400)) == pytest.approx(0.5)
        assert "(101…200)" in Scaling.stretch(scene, 0, 100, region).describe()
        assert "(101…200)" in Scaling.for_scene(scene, 255, (0, 100), region).describe()
        with pytest.raises(ValueError, match="not a window of whole pixels"):
            scene.percentiles(2, 98, Window(500, 0, 101, 10))


def test_scenes_without_a_valid_pixel_get_a_neutral_scaling(tmp_path: Path) -> None:
    with Scene.open(sparse(tmp_path / "void.tif", 3000, None)) as scene:
        for stretch in ("auto", (1.0, 99.0)):
            scaling = Scaling.for_scene(scene, 10_000, stretch)
            assert (scaling.offset, scaling.scale) == ((0.0,), (1e-4,))
            assert "for want of a valid pixel" in scaling.describe()
        assert not scene.any_valid(full(scene))


def test_any_valid_reads_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sparse(tmp_path / "s.tif", 30_000, np.ones((1, 1), np.uint16), 21_000, 29_000)
    with Scene.open(path) as scene:
        tracemalloc.start()
        try:
            assert scene.any_valid(Window(0, 15_000, 30_000, 7000))
            assert not scene.any_valid(Window(0, 21_001, 30_000, 8999))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 64 << 20
        assert scene.any_valid(Window(29_000, 21_000, 1, 1))
        assert not scene.any_valid(Window(28_999, 20_999, 1, 1000))
    rng = np.random.default_rng(2)
    data = (rng.random((2, 150, 170)) < 1e-3).astype(np.float32)
    data[data == 0] = np.nan
    path = write(tmp_path / "f.tif", data, tiled=True, blockxsize=32, blockysize=32)
    for pieces in (4, 8 * 32 * 70, 16 << 20):
        monkeypatch.setattr("geodeform.geo.scene._PIECE_BYTES", pieces)
        with Scene.open(path, bands=[1]) as scene:
            for _ in range(40 if pieces > 4 else 3):
                y, x = rng.integers(0, 140), rng.integers(0, 160)
                height, width = rng.integers(1, 151 - y), rng.integers(1, 171 - x)
                window = Window(int(x), int(y), int(width), int(height))
                assert scene.any_valid(window) == scene.valid_mask(window).any()


def test_any_valid_reads_nothing_where_all_is(giant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Scene.open(giant) as scene:
        monkeypatch.setattr(scene, "_read_level", None)
        assert scene.any_valid(full(scene))
        with pytest.raises(ValueError, match="not a window of whole pixels"):
            scene.any_valid(Window(0, 0, 50_001, 1))


def test_zero_share_hints_at_untagged_nodata(tmp_path: Path) -> None:
    data = np.full((2, 100, 100), 9, np.uint16)
    data[:, :30] = 0
    data[0, 30:60] = 0  # dark in one band only
    path = write(tmp_path / "s.tif", data)
    with Scene.open(path) as scene:
        assert scene.zero_share() == pytest.approx(0.3)
    with Scene.open(path, nodata=0) as scene:
        assert scene.zero_share() == 0


def test_scaling_stored_and_stretched(tmp_path: Path) -> None:
    data = np.linspace(0, 255, 3 * 4 * 5).reshape(3, 4, 5).astype(np.float32)
    scaling = Scaling.stored(255)
    np.testing.assert_allclose(scaling.apply(data), data / 255, rtol=1e-6)
    assert scaling.describe() == "divided by 255"
    values = np.array([-1, 0, 128, 255, 400], np.float32)[None, None]
    assert scaling.apply(values)[0, 0].tolist() == pytest.approx([0, 0, 128 / 255, 1, 1])

    ramp = np.arange(10_000, dtype=np.uint16).reshape(1, 100, 100)
    constant = np.full_like(ramp, 321)
    path = write(tmp_path / "scene.tif", np.concatenate([ramp, constant]))
    with Scene.open(path) as scene:
        scaling = Scaling.stretch(scene)
        low, high = np.percentile(ramp, [2, 98])
        scaled = scaling.apply(scene.read(full(scene))[0])
        expected = np.clip((ramp[0] - low) / (high - low), 0, 1)
        np.testing.assert_allclose(scaled[0], expected, atol=1e-4)
        assert (scaled[1] == 0).all()  # a constant band has nothing to stretch
        assert "percentiles 2 and 98" in scaling.describe()
        assert "321…321" in scaling.describe()


@pytest.mark.parametrize(
    ("dtype", "model_max", "stretch", "description"),
    [
        ("uint8", 255, "auto", "divided by 255"),
        ("uint8", 10000, "auto", "stretched between percentiles 2 and 98"),
        ("uint16", 255, "auto", "stretched between percentiles 2 and 98"),
        ("float32", 255, "auto", "stretched"),
        ("uint16", 10000, "none", "divided by 10000"),
        ("uint8", 255, (1, 99), "stretched between percentiles 1 and 99"),
    ],
)
def test_the_rule_that_chooses_the_scaling(
    tmp_path: Path, dtype: str, model_max: float, stretch: Any, description: str
) -> None:
    data = np.arange(100).reshape(1, 10, 10).astype(dtype)
    with Scene.open(write(tmp_path / "scene.tif", data)) as scene:
        assert Scaling.for_scene(scene, model_max, stretch).describe().startswith(description)


def test_impossible_scalings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be positive, got 0"):
        Scaling.stored(0)
    with Scene.open(write(tmp_path / "s.tif", np.ones((1, 3, 3), np.uint8))) as scene:
        for wrong in ("hard", (1, 2, 3)):
            with pytest.raises(ConfigError, match="stretch must be"):
                Scaling.for_scene(scene, 255, wrong)


# ---- real scenes ----------------------------------------------------------------------------

REAL = [
    "scenes/landsat8_foz_2020_bgr_uint16.tif",
    "scenes/naip_5m_rgbn.tif",
    "scenes/sentinel2_korea_512_rgba.tif",
    "houston_uav/images/6435.tif",
    "houston_uav/images/6704.tif",
]


@pytest.mark.parametrize("name", REAL)
def test_real_scenes_read_as_rasterio_reads_them(shared_data: Path, name: str) -> None:
    window = Window(100, 50, 400, 380)
    with rasterio.open(shared_data / name) as source:
        expected = source.read([1, 2, 3], window=window)
        mask = source.dataset_mask(window=window) > 0
        # factors that divide the window, so that GDAL's average is over whole pixels
        average = source.read(
            [1, 2, 3], window=window, out_shape=(3, 38, 40), resampling=Resampling.average
        )
    with Scene.open(shared_data / name, want=("red", "green", "blue")) as scene:
        assert scene.bands == (1, 2, 3)
        values, valid = scene.read(window)
        np.testing.assert_array_equal(valid, mask)
        np.testing.assert_array_equal(values[:, valid], expected[:, valid])
        np.testing.assert_array_equal(scene.valid_mask(window), mask)
        small, some = scene.read(window, (38, 40))
        assert some.any()
        # GDAL rounds to integers, and leaves a 0 in one band out of that band's mean
        difference = np.abs(small[:, some] - average[:, some])
        assert np.quantile(difference, 0.99) <= 1.01
        assert scene.pixel_size_m is not None
        box = scene.geobox
        assert box is not None
        assert (box.shape, box.affine) == (scene.shape, scene.transform)
        if "rgba" in name or "houston" in name:
            assert "by colour interpretation" in scene.band_note
        else:
            assert "--bands" in scene.band_note


def test_landsats_slanted_edges_become_nodata_when_asked(shared_data: Path) -> None:
    path = shared_data / REAL[0]
    with Scene.open(path) as scene:
        assert not scene.has_nodata
        assert 0.1 < scene.zero_share() < 0.3  # which is how a user learns of it
    with Scene.open(path, bands=[3, 2, 1], nodata=0) as scene, rasterio.open(path) as source:
        raw = source.read([3, 2, 1])
        inside = raw.any(axis=0)
        np.testing.assert_array_equal(scene.valid_mask(full(scene)), inside)
        low, _ = scene.percentiles(2, 98)
        assert (low > 4000).all()
        values, some = scene.read(full(scene), (93, 102))
        # bands here are 4000 or more wherever there is data: zeros mixed in would show
        assert values[:, some].min() > raw[:, inside].min() - 1
        assert values.min() > 4000
        assert scene.pixel_size_m == (30, 30)
