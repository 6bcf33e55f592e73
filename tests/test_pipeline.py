"""segment_scene end to end: the packaged model on real cuts of the packaged scene."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rioxarray
import shapely
import torch
from matplotlib.tri import LinearTriInterpolator, Triangulation
from needy_model import needy_model, without_error_net
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from rasterio.windows import Window
from scene_files import scene_file
from shapely.geometry import box

import geodeform
from geodeform.allocation import allocate, candidate_sizes
from geodeform.classes import NODATA_CLASS
from geodeform.errors import ConfigError, GeodeformError, OutputError, SceneError
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.run import begin_run

CUT = Window(900, 700, 1500, 1300)  # suburbs, a golf course, a motorway
UTM = Affine(1.0, 0.0, 317000.25, 0.0, -1.0, 2771000.75)


@pytest.fixture(scope="module")
def model() -> DeformSegmenter:
    return geodeform.load_model()


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    with rasterio.open(geodeform.demo_scene()) as dataset:
        return dataset.read(window=CUT)


@pytest.fixture(scope="module")
def scene(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "cut.tif"
    return scene_file(path, pixels, transform=UTM, crs="EPSG:32640")


def test_file_and_xarray_give_the_same_map(scene: Path, model: DeformSegmenter) -> None:
    from_file = geodeform.segment_scene(scene, model=model)
    with rioxarray.open_rasterio(scene) as array:
        from_array = geodeform.segment_scene(array, model=model)
    np.testing.assert_array_equal(from_file.labels, from_array.labels)
    assert from_file.labels.rio.crs == from_array.labels.rio.crs
    assert from_file.labels.rio.transform() == UTM
    assert from_file.labels.dims == ("y", "x")
    assert from_file.confidence is not None
    assert from_file.density is not None
    assert 0 < float(from_file.confidence.min()) <= float(from_file.confidence.max()) <= 1
    assert set(np.unique(from_file.labels)) <= set(range(len(from_file.classes)))
    assert len(np.unique(from_file.labels)) >= 3


@pytest.mark.parametrize("sampler", ["learned", "uniform"])
def test_one_window_equals_the_slow_obvious_way(
    pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter, sampler: str
) -> None:
    """Read, normalise, run the model and interpolate in the grid's triangles, all at once."""
    image = pixels[:, :640, :768]
    path = scene_file(tmp_path / "s.tif", image, transform=UTM, crs="EPSG:32640")
    result = geodeform.segment_scene(path, model=model, sampler=sampler, budget="3%")
    h, w = result.plan.sample_size
    scaling = model.spec.scaling
    x = torch.from_numpy(image.astype(np.float32) / 255)[None]
    x = (x - torch.tensor(scaling.mean).view(1, -1, 1, 1)) / torch.tensor(scaling.std).view(
        1, -1, 1, 1
    )
    with torch.inference_mode():
        out = model(x, (h, w), low_res=result.plan.low_res_size, sampler=sampler)
    probabilities = out.logits.softmax(1)[0].numpy()
    x_px, y_px = ((out.grid[0].numpy().astype(float) + 1) / 2 * np.array([768, 640])).T
    index = np.arange(h * w).reshape(h, w)
    corner, right = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
    below, across = index[1:, :-1].ravel(), index[1:, 1:].ravel()
    triangles = np.concatenate(
        [np.stack([corner, right, below], 1), np.stack([across, below, right], 1)]
    )
    mesh = Triangulation(x_px.T.ravel(), y_px.T.ravel(), triangles)
    rows, cols = np.mgrid[60:580:7, 60:700:7]  # inside the outermost samples
    expected = np.stack(
        [LinearTriInterpolator(mesh, p.ravel())(cols + 0.5, rows + 0.5) for p in probabilities]
    )
    labels = np.asarray(result.labels)[60:580:7, 60:700:7]
    confidence = np.asarray(result.confidence)[60:580:7, 60:700:7]
    top = np.sort(expected, 0)
    clear = top[-1] - top[-2] > 1e-3  # ties may fall either way in float32
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(labels[clear], expected.argmax(0)[clear])
    np.testing.assert_allclose(confidence, expected.max(0), atol=0.5 / 255 + 1e-3)


def test_a_network_that_knows_the_scale_is_told_it(
    pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter
) -> None:
    image = pixels[:, :512, :512]
    path = scene_file(tmp_path / "s.tif", image, transform=UTM, crs="EPSG:32640")
    torch.manual_seed(0)
    aware = DeformSegmenter(replace(model.spec, scale_aware=True)).eval()
    seen: list[torch.Tensor] = []
    aware.segmenter.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    result = geodeform.segment_scene(path, model=aware, sampler="learned", budget="3%")
    scaling = aware.spec.scaling
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (scaling.mean, scaling.std))
    x = (torch.from_numpy(image.astype(np.float32) / 255)[None] - mean) / std
    with torch.inference_mode():
        aware(x, result.plan.sample_size, low_res=result.plan.low_res_size)
    assert len(seen) == 2
    assert seen[0].shape[1] == 5
    torch.testing.assert_close(seen[0][:, 3:], seen[1][:, 3:], atol=1e-3, rtol=0)


GEOREFERENCES = {
    "utm": {"transform": UTM, "crs": "EPSG:32640"},
    "rotated": {
        "transform": Affine(0.83, 0.55, 317000.1, 0.55, -0.83, 2771000.7),
        "crs": "EPSG:32640",
    },
    "geographic": {"transform": Affine(1e-5, 0, 55.2, 0, -9e-6, 25.0), "crs": "EPSG:4326"},
    "gcps": {
        "gcps": [
            GroundControlPoint(r, c, 317000 + c + 0.1 * r, 2771000 - r)
            for r in (0, 600)
            for c in (0, 500)
        ],
        "crs": "EPSG:32640",
    },
    "no crs": {},
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", sorted(GEOREFERENCES))
def test_the_georeference_is_kept_bit_for_bit(
    kind: str, pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter
) -> None:
    source = scene_file(tmp_path / "s.tif", pixels[:, :601, :499], **GEOREFERENCES[kind])
    target = tmp_path / "map.tif"
    result = geodeform.segment_scene(
        source, model=model, output=target, confidence=tmp_path / "c.tif", polygons=True
    )
    with (
        rasterio.open(source) as a,
        rasterio.open(target) as b,
        rasterio.open(tmp_path / "c.tif") as c,
    ):
        for out in (b, c):
            assert out.shape == a.shape
            assert out.transform == a.transform
            assert out.crs == a.crs
            assert [(p.row, p.col, p.x, p.y) for p in out.gcps[0]] == [
                (p.row, p.col, p.x, p.y) for p in a.gcps[0]
            ]
            assert out.gcps[1] == a.gcps[1]
        assert b.nodata == NODATA_CLASS
        assert b.colormap(1)[0][:3] == model.spec.classes.colours[0]
        tags = b.tags()
    assert tags["model_architecture"] == model.spec.architecture
    assert tags["scaling"] == "divided by 255"
    assert tags["model"] == "dubai"
    assert result.polygons is not None
    assert shapely.is_valid(result.polygons.geometry.values).all()
    if kind == "utm":
        assert result.polygons.area_m2.sum() == pytest.approx(601 * 499, rel=1e-9)
    if kind == "no crs":
        assert any("no CRS" in note for note in result.plan.notes)
        assert result.class_areas[0].area_m2 is None


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_ground_control_points_place_everything(
    pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter
) -> None:
    """Rasters keep the points; vectors, areas, bbox and AOI use the affine fitted to them."""
    fitted = Affine(1.0, 0.1, 317000.0, 0.0, -1.0, 2771000.0)
    source = scene_file(tmp_path / "s.tif", pixels[:, :601, :499], **GEOREFERENCES["gcps"])
    whole = geodeform.segment_scene(source, model=model, polygons=True, samples=True)
    assert whole.polygons is not None
    assert whole.samples is not None
    assert whole.polygons.crs == whole.samples.crs == "EPSG:32640"
    assert whole.polygons.union_all().buffer(1).covers(whole.samples.union_all())
    total = sum(a.area_m2 or 0 for a in whole.class_areas)
    assert total == pytest.approx(601 * 499, rel=1e-6)
    assert whole.polygons.area_m2.sum() == pytest.approx(total, rel=1e-6)

    region = box(317100, 2770600, 317300, 2770800)
    for part in ({"bbox": region.bounds}, {"aoi": region}):
        out = tmp_path / f"{next(iter(part))}.tif"
        result = geodeform.segment_scene(
            source,
            model=model,
            output=out,
            density=out.with_suffix(".d.tif"),
            polygons=True,
            **part,
        )
        assert result.polygons is not None
        assert result.polygons.union_all().buffer(0.5).covers(region)
        for path, factor in ((out, 1), (out.with_suffix(".d.tif"), result.plan.density_factor)):
            with rasterio.open(path) as raster:
                points, crs = raster.gcps
            assert crs == "EPSG:32640"
            left, top = result.plan.region.col_off, result.plan.region.row_off
            for point in points:  # each still lies where the fitted affine puts its pixel
                x, y = fitted @ (point.col * factor + left, point.row * factor + top)
                assert (x, y) == pytest.approx((point.x, point.y), abs=1e-6)


def test_no_seam_shows_on_a_real_map(model: DeformSegmenter) -> None:
    """Class changes between neighbouring pixels are no more frequent where windows begin or end."""
    result = geodeform.segment_scene(
        geodeform.demo_scene(), model=model, bbox=(316699, 2768000, 319699, 2770996), budget="1%"
    )
    labels = np.asarray(result.labels)
    windows = result.plan.windows
    for axis, starts, length in (
        (1, windows.col_starts, windows.window[1]),
        (0, windows.row_starts, windows.window[0]),
    ):
        change = (np.diff(labels.astype(int), axis=axis) != 0).mean(1 - axis)
        edges = [e for s in starts for e in (s, s + length) if 0 < e < labels.shape[axis]]
        assert len(edges) >= 4
        at_edges = change[np.array(edges) - 1].mean()
        assert at_edges < change.mean() + 3 * change.std() / np.sqrt(len(edges))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (3, 500), (37, 41)])
def test_odd_sizes_down_to_one_pixel(
    shape: tuple[int, int], pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter
) -> None:
    source = scene_file(
        tmp_path / "s.tif", pixels[:, : shape[0], : shape[1]], transform=UTM, crs="EPSG:32640"
    )
    for sampler in ("learned", "uniform"):
        result = geodeform.segment_scene(source, model=model, sampler=sampler, polygons=True)
        assert result.labels.shape == shape
        assert (np.asarray(result.labels) != NODATA_CLASS).all()
        assert result.facts.sampled_pixels <= shape[0] * shape[1]
        assert result.polygons is not None
        assert result.polygons.area_m2.sum() == pytest.approx(shape[0] * shape[1])


def test_nodata_stays_nodata_and_empty_windows_are_skipped(
    pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter
) -> None:
    image = np.zeros((3, 1300, 3400), np.uint8)
    image[:, :, :1100] = np.maximum(pixels[:, :, :1100], 1)
    image[:, 200:420, 300:800] = 0
    source = scene_file(tmp_path / "s.tif", image, transform=UTM, crs="EPSG:32640", nodata=0)
    result = geodeform.segment_scene(source, model=model, polygons=True)
    labels = np.asarray(result.labels)
    empty = (image == 0).all(0)
    np.testing.assert_array_equal(labels == NODATA_CLASS, empty)
    assert result.facts.windows_skipped > 0
    assert np.isnan(np.asarray(result.confidence)[empty]).all()
    assert result.polygons is not None
    assert result.polygons.area_m2.sum() == pytest.approx((~empty).sum())
    assert sum(a.pixels for a in result.class_areas) == (~empty).sum()


def test_an_alpha_band_hides_and_does_not_count_as_data(
    pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter
) -> None:
    alpha = np.full((1, 600, 700), 255, np.uint8)
    alpha[:, :100] = 0
    image = np.concatenate([pixels[:, :600, :700], alpha])
    source = scene_file(
        tmp_path / "s.tif",
        image,
        transform=UTM,
        crs="EPSG:32640",
        colours=[ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha],
    )
    labels = np.asarray(geodeform.segment_scene(source, model=model).labels)
    np.testing.assert_array_equal(labels == NODATA_CLASS, alpha[0] == 0)


def test_bands_are_found_by_colour_interpretation_or_named(
    pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter
) -> None:
    rgb = pixels[:, :500, :500]
    plain = scene_file(tmp_path / "rgb.tif", rgb, transform=UTM, crs="EPSG:32640")
    bgr = scene_file(
        tmp_path / "bgr.tif",
        rgb[::-1],
        transform=UTM,
        crs="EPSG:32640",
        colours=[ColorInterp.blue, ColorInterp.green, ColorInterp.red],
    )
    unnamed = scene_file(
        tmp_path / "x.tif",
        rgb[[2, 0, 1]],
        transform=UTM,
        crs="EPSG:32640",
        colours=[ColorInterp.undefined] * 3,
    )
    expected = np.asarray(geodeform.segment_scene(plain, model=model).labels)
    np.testing.assert_array_equal(geodeform.segment_scene(bgr, model=model).labels, expected)
    named = geodeform.segment_scene(unnamed, model=model, bands=(2, 3, 1))
    np.testing.assert_array_equal(named.labels, expected)
    with pytest.raises(SceneError, match=r"x\.tif"):
        geodeform.segment_scene(unnamed, model=model, bands=(1, 2))
    with pytest.raises(SceneError, match=r"x\.tif"):
        geodeform.segment_scene(unnamed, model=model, bands=(1, 2, 9))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_any_dtype_is_stretched_and_says_so(
    dtype: str, pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter
) -> None:
    values = (pixels[:, :700, :700].astype("float64") * 30 + 200).astype(dtype)
    source = scene_file(tmp_path / "s.tif", values, transform=UTM, crs="EPSG:32640")
    result = geodeform.segment_scene(source, model=model, output=tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as out:
        assert "percentiles 2 and 98" in out.tags()["scaling"]
    # the same values stretched by the same percentiles as 8-bit must give much the same map
    eight_bit = scene_file(
        tmp_path / "8.tif", pixels[:, :700, :700], transform=UTM, crs="EPSG:32640"
    )
    same = geodeform.segment_scene(eight_bit, model=model, stretch=(2, 98))
    assert (np.asarray(result.labels) == np.asarray(same.labels)).mean() > 0.99


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", ["learned", "uniform"])
def test_a_gpu_gives_the_same_map(scene: Path, sampler: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    on_cpu = geodeform.segment_scene(scene, sampler=sampler, device="cpu")
    on_gpu = geodeform.segment_scene(scene, sampler=sampler, device="cuda")
    assert on_gpu.facts.device.startswith("cuda:0")
    assert (np.asarray(on_cpu.labels) == np.asarray(on_gpu.labels)).mean() > 0.999


def test_budgets_are_kept(scene: Path, model: DeformSegmenter) -> None:
    pixels = 1500 * 1300
    share = geodeform.segment_scene(scene, model=model, budget="1%")
    assert 0.006 < share.facts.sampled_share <= 0.01
    total = geodeform.segment_scene(scene, model=model, budget="20kP")
    assert 0.6 * 20_000 < total.facts.sampled_pixels <= 20_000
    window = geodeform.segment_scene(scene, model=model, budget="64", overlap=0)
    assert window.plan.sample_size == (64, 64)
    assert window.facts.sampled_pixels == 64 * 64 * window.facts.windows
    assert window.facts.sampled_pixels < pixels


def test_a_coarser_or_finer_scene_gets_windows_of_the_models_ground_extent(
    pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter
) -> None:
    assert model.spec.window_m is not None
    finer = scene_file(
        tmp_path / "f.tif", pixels, transform=Affine.scale(0.5, -0.5), crs="EPSG:32640"
    )
    plan = geodeform.segment_scene(finer, model=model).plan
    assert plan.window_size == (1300, 1500)  # 2048 px windows, the scene is smaller
    assert any("pixels of 0.5 m" in note for note in plan.notes)
    coarser = geodeform.segment_scene(finer, model=model, gsd=2.0)
    assert coarser.plan.window_size == (
        round(model.spec.window_m[0] / 2),
        round(model.spec.window_m[1] / 2),
    )


def test_density_is_where_the_samples_are(scene: Path, model: DeformSegmenter) -> None:
    result = geodeform.segment_scene(scene, model=model, sampler="learned", samples=True)
    assert result.density is not None
    assert result.samples is not None
    density = np.asarray(result.density)
    assert np.isfinite(density).all()
    assert (density > 0).all()
    factor = round(result.density.rio.resolution()[0])
    inside = density[: 1300 // factor, : 1500 // factor]
    windows = result.facts.windows
    covered = windows * np.prod(result.plan.window_size) / (1500 * 1300)  # overlaps count twice
    mean = result.facts.sampled_pixels / (1500 * 1300) / covered
    assert inside.mean() == pytest.approx(mean, rel=0.1)
    uniform = geodeform.segment_scene(scene, model=model, sampler="uniform")
    assert uniform.density is not None
    np.testing.assert_allclose(
        uniform.density,
        np.prod(uniform.plan.sample_size) / np.prod(uniform.plan.window_size),
        rtol=1e-4,
    )


def test_samples_lie_inside_the_scene_and_number_what_was_said(
    scene: Path, tmp_path: Path, model: DeformSegmenter
) -> None:
    path = tmp_path / "samples.gpkg"
    result = geodeform.segment_scene(scene, model=model, samples=path)
    frame = gpd.read_file(path, layer="samples")
    assert len(frame) == result.facts.sampled_pixels
    assert frame.crs == "EPSG:32640"
    left, top = UTM.c, UTM.f
    assert frame.total_bounds[0] >= left
    assert frame.total_bounds[3] <= top
    assert frame.total_bounds[2] <= left + 1500
    assert frame.total_bounds[1] >= top - 1300
    assert set(frame.columns) >= {"window", "class_id", "class_name", "confidence", "magnification"}


def test_bbox_and_area_of_interest(scene: Path, tmp_path: Path, model: DeformSegmenter) -> None:
    left, top = UTM.c, UTM.f
    wanted = (left + 100, top - 900, left + 700, top - 200)
    result = geodeform.segment_scene(scene, model=model, bbox=wanted)
    assert result.labels.rio.bounds() == wanted
    triangle = shapely.Polygon(
        [(left + 50, top - 50), (left + 800, top - 60), (left + 90, top - 700)]
    )
    path = tmp_path / "aoi.gpkg"
    gpd.GeoDataFrame(geometry=[triangle], crs="EPSG:32640").to_crs("EPSG:4326").to_file(path)
    result = geodeform.segment_scene(scene, model=model, aoi=path, polygons=True)
    assert result.polygons is not None
    assert result.polygons.area_m2.sum() == pytest.approx(triangle.area, rel=0.01)
    assert result.polygons.union_all().symmetric_difference(triangle).area < 0.01 * triangle.area
    with pytest.raises(SceneError, match="lies outside"):
        geodeform.segment_scene(scene, model=model, bbox=(0, 0, 1, 1))
    with pytest.raises(ConfigError, match="xmin < xmax"):
        geodeform.segment_scene(scene, model=model, bbox=(1, 1, 0, 0))


def test_density_and_samples_leave_out_what_is_not_mapped(
    pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter
) -> None:
    image = np.maximum(pixels[:, :1100, :1000], 1)
    image[:, 300:700, 500:] = 0
    source = scene_file(tmp_path / "s.tif", image, transform=UTM, crs="EPSG:32640", nodata=0)
    area = shapely.Polygon(
        [(UTM.c + 20, UTM.f - 20), (UTM.c + 980, UTM.f - 30), (UTM.c + 40, UTM.f - 1080)]
    )
    result = geodeform.segment_scene(source, model=model, aoi=area, samples=True)
    labels = np.asarray(result.labels)
    assert result.density is not None
    assert result.samples is not None
    factor = result.plan.density_factor
    rows, cols = (-(-n // factor) for n in labels.shape)
    padded = np.full((rows * factor, cols * factor), NODATA_CLASS)
    padded[: labels.shape[0], : labels.shape[1]] = labels
    known = (padded != NODATA_CLASS).reshape(rows, factor, cols, factor).any((1, 3))
    np.testing.assert_array_equal(np.isfinite(result.density), known)
    points = result.samples.geometry
    assert area.buffer(1).covers(shapely.MultiPoint(list(points)))
    inverse = ~result.labels.rio.transform()
    col = np.floor(inverse.a * points.x + inverse.c).astype(int)
    row = np.floor(inverse.e * points.y + inverse.f).astype(int)
    assert (labels[row, col] != NODATA_CLASS).all()
    assert 0.2 * result.facts.sampled_pixels < len(points) < 0.6 * result.facts.sampled_pixels


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_areas_of_interest_that_do_not_fit_are_refused(
    scene: Path, pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter
) -> None:
    left, top = UTM.c, UTM.f
    around = box(left - 900, top - 3000, left + 3000, top + 900).difference(
        box(left - 800, top - 2900, left + 2900, top + 800)
    )
    with pytest.raises(SceneError, match="lies outside"):
        geodeform.segment_scene(scene, model=model, aoi=around)
    plain = scene_file(tmp_path / "plain.tif", pixels[:, :200, :200])
    lonlat = gpd.GeoDataFrame(geometry=[box(55, 25, 56, 26)], crs="EPSG:4326")
    with pytest.raises(SceneError, match=r"plain\.tif has no CRS"):
        geodeform.segment_scene(plain, model=model, aoi=lonlat)
    bow_tie = shapely.Polygon(
        [(left, top), (left + 400, top - 400), (left + 400, top), (left, top - 400)]
    )
    result = geodeform.segment_scene(scene, model=model, aoi=bow_tie, polygons=True)
    assert result.polygons is not None
    assert result.polygons.area_m2.sum() == pytest.approx(80_000, rel=0.02)
    world = gpd.GeoDataFrame(geometry=[box(-180, -90, 180, 90)], crs="EPSG:4326")
    everywhere = geodeform.segment_scene(scene, model=model, aoi=world)
    assert everywhere.labels.shape == (1300, 1500)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:3035", Affine(8000, 0, 2.4e6, 0, -8000, 5.4e6)),  # all Europe: edges are curves
        ("EPSG:3413", Affine(1000, 0, -2e5, 0, -1000, 3e5)),  # holds the north pole
        ("EPSG:3413", Affine(1000, 0, -150000, 0, -1000, 125000)),  # its centre is the pole
        ("EPSG:32701", Affine(10, 0, 180000, 0, -10, 8e6)),  # across 180°
    ],
)
def test_an_area_around_the_world_hides_nothing(
    crs: str, transform: Affine, pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter
) -> None:
    source = scene_file(tmp_path / "s.tif", pixels[:, :250, :300], transform=transform, crs=crs)
    world = gpd.GeoDataFrame(geometry=[box(-180, -90, 180, 90)], crs="EPSG:4326")
    result = geodeform.segment_scene(source, model=model, aoi=world, budget="1%")
    assert result.labels.shape == (250, 300)
    assert (np.asarray(result.labels) != NODATA_CLASS).all()


def test_a_neighbours_footprint_lies_outside(
    scene: Path, tmp_path: Path, model: DeformSegmenter
) -> None:
    right = UTM.c + 1500
    beside = gpd.GeoSeries([box(right, UTM.f - 1300, right + 900, UTM.f)], crs="EPSG:32640")
    for crs in ("EPSG:32640", "EPSG:4326", "EPSG:3857"):
        with pytest.raises(SceneError, match="lies outside"):
            geodeform.segment_scene(scene, model=model, aoi=beside.to_crs(crs))
    with pytest.raises(SceneError, match="lies outside"):
        geodeform.segment_scene(scene, model=model, bbox=(right - 1e-8, 0, right + 9, 3e6))
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SceneError, match=r"table\.csv cannot be read .* 0 layers with geometries"):
        geodeform.segment_scene(scene, model=model, aoi=tmp_path / "table.csv")


def test_a_map_of_geodeform_is_an_area_of_interest(
    scene: Path, tmp_path: Path, model: DeformSegmenter
) -> None:
    """Its styles are a second table, which is no layer."""
    path = tmp_path / "map.gpkg"
    settings = {"model": model, "budget": "32", "polygons": path}
    first = geodeform.segment_scene(scene, bbox=(317200, 2770100, 317600, 2770500), **settings)
    inside = geodeform.segment_scene(scene, model=model, budget="32", aoi=path)
    np.testing.assert_array_equal(inside.labels, first.labels)


def test_inputs_are_never_overwritten(scene: Path, tmp_path: Path, model: DeformSegmenter) -> None:
    path = tmp_path / "aoi.gpkg"
    area = box(UTM.c + 10, UTM.f - 300, UTM.c + 300, UTM.f - 10)
    gpd.GeoDataFrame(geometry=[area], crs="EPSG:32640").to_file(path)
    with pytest.raises(OutputError, match="input"):
        geodeform.segment_scene(scene, model=model, aoi=path, polygons=path, overwrite=True)
    assert len(gpd.read_file(path)) == 1


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_geojson_of_a_scene_without_crs_is_refused(
    pixels: NDArray[np.uint8], tmp_path: Path, model: DeformSegmenter
) -> None:
    plain = scene_file(tmp_path / "plain.tif", pixels[:, :200, :200])
    with pytest.raises(OutputError, match="no CRS"):
        geodeform.segment_scene(plain, model=model, polygons=tmp_path / "p.geojson")


def test_the_shared_scenes_are_all_mapped(
    shared_data: Path, tmp_path: Path, model: DeformSegmenter
) -> None:
    paths = [*shared_data.glob("scenes/*.tif"), *shared_data.glob("houston_uav/images/*.tif")]
    assert len(paths) == 5
    for path in paths:
        result = geodeform.segment_scene(
            path, model=model, output=tmp_path / path.name, polygons=True, budget="10kP"
        )
        with rasterio.open(path) as before, rasterio.open(tmp_path / path.name) as after:
            assert after.crs == before.crs
            assert after.transform == before.transform
            assert after.shape == before.shape
        assert result.polygons is not None
        assert shapely.is_valid(result.polygons.geometry.values).all()
        assert sum(a.pixels for a in result.class_areas) > 0


def test_polygons_are_valid_gap_free_and_measured(scene: Path, model: DeformSegmenter) -> None:
    result = geodeform.segment_scene(scene, model=model, polygons=True, min_area=100, simplify=3)
    frame = result.polygons
    assert frame is not None
    assert frame.crs == "EPSG:32640"
    assert shapely.is_valid(frame.geometry.values).all()
    assert shapely.coverage_is_valid(frame.geometry.values)
    region = box(*result.labels.rio.bounds())
    assert frame.union_all().symmetric_difference(region).area < 1e-3
    np.testing.assert_allclose(frame.area_m2, frame.area, rtol=1e-9)
    assert frame.conf_mean.between(0, 1).all()
    assert set(frame.class_name) <= set(model.spec.classes.names)


def test_outputs_appear_together_or_not_at_all(
    scene: Path, tmp_path: Path, model: DeformSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OutputError("the disk is full")

    (tmp_path / "map.tif").write_text("what was here before")
    monkeypatch.setattr("geodeform.pipeline.write_polygons", fail)
    with pytest.raises(OutputError, match="disk is full"):
        geodeform.segment_scene(
            scene,
            model=model,
            output=tmp_path / "map.tif",
            confidence=tmp_path / "conf.tif",
            polygons=tmp_path / "p.gpkg",
            overwrite=True,
        )
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]
    assert (tmp_path / "map.tif").read_text() == "what was here before"


def test_an_existing_output_is_refused_before_any_work(
    scene: Path, tmp_path: Path, model: DeformSegmenter
) -> None:
    (tmp_path / "map.tif").touch()
    calls: list[tuple[int, int]] = []
    with pytest.raises(OutputError, match=r"map\.tif exists already; use --overwrite"):
        geodeform.segment_scene(
            scene,
            model=model,
            output=tmp_path / "map.tif",
            progress=lambda done, total: calls.append((done, total)),
        )
    assert calls == []
    with pytest.raises(OutputError, match="input"):
        geodeform.segment_scene(scene, model=model, output=scene, overwrite=True)


def test_the_summary_is_json(scene: Path, tmp_path: Path, model: DeformSegmenter) -> None:
    result = geodeform.segment_scene(
        scene, model=model, output=tmp_path / "m.tif", quicklook=tmp_path / "q.png"
    )
    told = json.loads(json.dumps(result.summary()))
    assert told["outputs"]["labels"].endswith("m.tif")
    assert sum(c["pixels"] for c in told["classes"]) == 1500 * 1300
    assert (tmp_path / "q.png").read_bytes()[:4] == b"\x89PNG"
    assert result.confidence is None


def test_estimates_write_nothing_and_count_right(
    scene: Path, tmp_path: Path, model: DeformSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = geodeform.estimate(scene, model=model, budget="1%")
    done = geodeform.segment_scene(scene, model=model, budget="1%")
    assert told.plan.sampled_pixels == done.facts.sampled_pixels
    assert len(told.plan.active) == done.facts.windows
    assert told.seconds > 0
    assert told.memory_bytes > 50 << 20
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlap": 0.9}, "overlap"),
        ({"min_area": -1.0}, "min_area"),
        ({"budget": "lots"}, "budget"),
        ({"sampler": "random"}, "sampler"),
        ({"gsd": -1.0}, "ground sampling distance"),
        ({"gsd": float("inf")}, "ground sampling distance"),
        ({"bbox": (1, 2, 3)}, "four numbers"),
        ({"device": "tpu"}, "device"),
        ({"device": "cuda:99"}, "not available"),
        ({"model": "no/such/model.safetensors"}, "no/such/model"),
    ],
)
def test_bad_settings_are_one_clear_sentence(
    scene: Path, model: DeformSegmenter, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(GeodeformError, match=message) as caught:
        geodeform.segment_scene(scene, **{"model": model, **settings})
    assert "\n" not in str(caught.value)


# --- allocation ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def needy(model: DeformSegmenter) -> DeformSegmenter:
    return needy_model(model)


@pytest.mark.parametrize("sampler", ["learned", "uniform"])
def test_windows_of_mixed_sizes_are_predicted_as_alone(
    scene: Path, needy: DeformSegmenter, sampler: str
) -> None:
    with begin_run(
        scene, model=needy, device="cpu", bands=None, nodata=None, sampler=sampler,
        allocation="even",
    ) as run:  # fmt: skip
        sizes = [(32, 32), (64, 64), (96, 96)]
        plan = replace(run.plan, sizes=tuple(sizes[k % 3] for k in range(len(run.plan.active))))
        with replace(run, plan=plan).predictor() as predictor:
            batches = predictor.batches(plan.active)
            assert sorted(index for batch in batches for index in batch) == list(plan.active)
            assert max(map(len, batches)) > 1
            mixed = list(predictor.predict(plan.active))
            placed = list(predictor.place(plan.active))
        assert [index for index, _ in mixed] == [index for index, _ in placed] == list(plan.active)
        for size in sizes:
            even = replace(run.plan, sample_size=size)
            with replace(run, plan=even).predictor() as predictor:
                alone = dict(predictor.predict(even.active))
            for (index, ours), (_, samples) in zip(mixed, placed, strict=True):
                if plan.size_of(index) != size:
                    continue
                np.testing.assert_allclose(
                    ours.probabilities, alone[index].probabilities, atol=1e-5
                )
                np.testing.assert_array_equal(samples.positions, alone[index].samples.positions)
        assert plan.sampled_pixels == sum(p.probabilities[0].size for _, p in mixed)


def test_a_budget_goes_where_errors_are_expected(
    scene: Path, needy: DeformSegmenter, tmp_path: Path
) -> None:
    even = geodeform.segment_scene(scene, model=needy, allocation="even", budget="64")
    out, density = tmp_path / "map.tif", tmp_path / "density.tif"
    need = geodeform.segment_scene(scene, model=needy, budget="64", output=out, density=density)
    plan = need.plan
    assert even.plan.sizes == ()
    assert len(set(plan.sizes)) > 1
    assert 0.8 * even.facts.sampled_pixels < need.facts.sampled_pixels <= even.facts.sampled_pixels
    assert need.facts.sampled_pixels == plan.sampled_pixels
    # the same by hand: views, expected errors, the cheapest fewest
    with begin_run(
        scene, model=needy, device="cpu", bands=None, nodata=None, budget="64", allocation="even"
    ) as run:  # fmt: skip
        sizes = candidate_sizes(run.plan, needy.spec)
        sides = [24, 32, 64, 96, 128, 160, 170]
        assert sizes == [(side, side) for side in sides]
        views = np.stack(
            [
                run.plan.scaling.apply(run.scene.read(run.plan.scene_window(k), (32, 32))[0])
                for k in run.plan.active
            ]
        )
        mean, std = (
            np.array(v, np.float32).reshape(-1, 1, 1)
            for v in (needy.spec.scaling.mean, needy.spec.scaling.std)
        )
        with torch.inference_mode():
            errors = needy.expected_errors(torch.from_numpy((views - mean) / std), sizes)
        shares = errors.sum(2).mean((2, 3)).numpy()
        chosen = allocate(shares, np.array([h * w for h, w in sizes]), run.plan.sampled_pixels)
    assert plan.sizes == tuple(sizes[k] for k in chosen)
    with rasterio.open(out) as raster:
        assert raster.tags()["allocation"] == "need"
        assert raster.tags()["sample_size"] == plan.shown_size()
        assert sum(json.loads(raster.tags()["sample_sizes"]).values()) == len(plan.active)
    assert need.summary()["sample_sizes"].keys() <= {f"{side}x{side}" for side in sides}
    assert even.summary()["allocation"] == "even"
    assert plan.shown_size().startswith("32x32 to ")
    with rasterio.open(density) as raster:  # denser where more was given
        values = raster.read(1)
    assert np.nanmax(values) > 2 * np.nanmin(values)


def test_more_samples_than_the_model_knows_are_shared_out_evenly(
    scene: Path, needy: DeformSegmenter, caplog: pytest.LogCaptureFixture
) -> None:
    for budget, by_need in (("160", True), ("256", False)):
        caplog.clear()
        run = geodeform.segment_scene(scene, model=needy, budget=budget)
        even = geodeform.segment_scene(scene, model=needy, budget=budget, allocation="even")
        assert bool(run.plan.sizes) == by_need
        assert 0.8 < run.facts.sampled_pixels / even.facts.sampled_pixels <= 1
        told = [r for r in caplog.messages if "does not know where they are needed" in r]
        assert bool(told) != by_need


def test_empty_windows_get_nothing_of_the_budget(
    pixels: NDArray[np.uint8], needy: DeformSegmenter, tmp_path: Path
) -> None:
    half = pixels.copy()
    half[:, :, 700:] = 0
    path = scene_file(tmp_path / "half.tif", half, transform=UTM, crs="EPSG:32640", nodata=0)
    even = geodeform.segment_scene(path, model=needy, allocation="even", budget="64")
    need = geodeform.segment_scene(path, model=needy, allocation="need", budget="64")
    assert need.facts.windows_skipped == even.facts.windows_skipped > 0
    assert need.facts.sampled_pixels <= even.facts.sampled_pixels
    np.testing.assert_array_equal(need.labels == NODATA_CLASS, even.labels == NODATA_CLASS)


def test_a_model_without_expectations_allocates_evenly(scene: Path, model: DeformSegmenter) -> None:
    simple = without_error_net(model)
    with pytest.raises(ConfigError, match="does not know how wrong it is"):
        geodeform.segment_scene(scene, model=simple, allocation="need")
    with pytest.raises(ConfigError, match="Unknown allocation 'fair'"):
        geodeform.segment_scene(scene, model=model, allocation="fair")
    assert geodeform.segment_scene(scene, model=simple).plan.sizes == ()
    packaged = geodeform.segment_scene(scene, model=model)
    assert packaged.plan.allocation()["allocation"] == "need"


# --- priority ------------------------------------------------------------------------------------

WEST = box(*UTM * (0, 1300), *UTM * (500, 0))  # the cut's western third, in map coordinates
SPOT = box(*UTM * (600, 760), *UTM * (760, 600))  # 160 m


def mean_density(result: geodeform.SegmentationResult, rows: slice, columns: slice) -> float:
    """Mean of a part of the density raster, by rows and columns of the cut."""
    assert result.density is not None
    factor = result.plan.density_factor
    return float(
        result.density[
            tuple(slice(part.start // factor, -(-part.stop // factor)) for part in (rows, columns))
        ].mean()
    )


def test_samples_move_into_the_focus(scene: Path, model: DeformSegmenter, tmp_path: Path) -> None:
    spot, far = (slice(620, 740),) * 2, (slice(600, 1300), slice(900, 1500))
    plain = geodeform.segment_scene(scene, model=model)
    out, density = tmp_path / "map.tif", tmp_path / "density.tif"
    shifted = geodeform.segment_scene(scene, model=model, focus=SPOT, output=out, density=density)
    assert mean_density(shifted, *spot) > 1.3 * mean_density(plain, *spot)
    assert mean_density(shifted, *far) <= 1.01 * mean_density(plain, *far)
    assert shifted.facts.sampled_pixels == plain.facts.sampled_pixels
    with rasterio.open(out) as raster:
        assert raster.tags()["priority"] == "an area counts 4 times"


def test_windows_in_focus_get_more(
    scene: Path, needy: DeformSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alike(views: torch.Tensor, sizes: list[tuple[int, int]]) -> torch.Tensor:
        return (
            torch.tensor([8 / h for h, _ in sizes])
            .view(1, -1, 1, 1, 1)
            .expand(len(views), -1, 5, 4, 4)
        )

    monkeypatch.setattr(needy, "expected_errors", alike)
    inside, outside = ((slice(0, 1300), part) for part in (slice(0, 450), slice(750, 1500)))
    settings = {"model": needy, "budget": "48", "sampler": "uniform"}
    plain = geodeform.segment_scene(scene, **settings)
    shifted = geodeform.segment_scene(scene, focus=WEST, **settings)
    assert mean_density(shifted, *inside) > 1.2 * mean_density(plain, *inside)
    assert mean_density(shifted, *outside) < mean_density(plain, *outside)


def test_a_priority_raster_counts_in_any_crs(
    scene: Path, model: DeformSegmenter, tmp_path: Path
) -> None:
    """The same weights as the focus, drawn in degrees, give nearly the same density."""
    spot = gpd.GeoSeries([SPOT], crs="EPSG:32640").to_crs(4326)
    left, bottom, right, top = spot.total_bounds
    weights = np.full((1, 40, 40), 4, np.float32)
    path = scene_file(
        tmp_path / "weights.tif", weights, crs="EPSG:4326", nodata=-1,
        transform=rasterio.transform.from_bounds(left, bottom, right, top, 40, 40),
    )  # fmt: skip
    ours = geodeform.segment_scene(scene, model=model, priority=path)
    theirs = geodeform.segment_scene(scene, model=model, focus=SPOT)
    assert ours.density is not None
    assert theirs.density is not None
    ratio = np.asarray(ours.density) / np.asarray(theirs.density)
    assert np.nanquantile(ratio, 0.02) > 0.8
    assert np.nanquantile(ratio, 0.98) < 1.25


def test_what_cannot_be_followed_is_said(
    scene: Path, model: DeformSegmenter, needy: DeformSegmenter, tmp_path: Path
) -> None:
    ok = geodeform.segment_scene(scene, model=needy, focus_classes=["road", "WATER"])
    assert ok.plan.priority is not None
    assert ok.plan.priority.classes == ("Road", "Water")
    simple = without_error_net(model)
    with pytest.raises(ConfigError, match=r"Nothing can follow"):
        geodeform.segment_scene(scene, model=simple, focus_classes=["road"], sampler="uniform")
    with pytest.raises(ConfigError, match=r"Nothing can follow"):
        geodeform.segment_scene(
            scene, model=model, focus=WEST, sampler="uniform", allocation="even"
        )
    with pytest.raises(ConfigError, match=r"no class 'rode'.*Road"):
        geodeform.segment_scene(scene, model=needy, focus_classes=["rode"])
    with pytest.raises(SceneError, match=r"cut\.tif lies outside the focus area\.$"):
        geodeform.segment_scene(scene, model=model, focus=box(0, 0, 1, 1))
    values = np.full((1, 8, 8), -2, np.float32)
    where = {"crs": "EPSG:32640", "transform": UTM}
    bad = scene_file(tmp_path / "bad.tif", values, **where)
    with pytest.raises(ConfigError, match=r"bad\.tif has the weight -2"):
        geodeform.segment_scene(scene, model=model, priority=bad)
    lost = scene_file(tmp_path / "lost.tif", -values, transform=UTM)
    with pytest.raises(SceneError, match=r"lost\.tif has no CRS"):
        geodeform.segment_scene(scene, model=model, priority=lost)
    text = tmp_path / "text.tif"
    text.write_text("no raster")
    with pytest.raises(SceneError, match=r"text\.tif cannot be read as a priority"):
        geodeform.segment_scene(scene, model=model, priority=text)
