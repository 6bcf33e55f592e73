from __future__ import annotations

import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.errors import OutputError
from geodeform.geo.outputs import OutputSet
from geodeform.geo.raster import (
    RASTER_SUFFIXES,
    ClassRasterWriter,
    ConfidenceRasterWriter,
    DensityRasterWriter,
    coarse_grid,
)

SCHEME = ClassScheme(
    ("building", "land & sand", "wadi <dry>", "Straße"),
    ((60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58)),
)
UTM = CRS.from_epsg(32640)
NORTH_UP = Affine(0.3 + 1e-13, 0.0, 3e5 + 1 / 3, 0.0, -0.3, 2e6 + 1 / 7)
ROTATED = Affine(0.1 / 3, 0.01 / 7, 1 / 3, 0.02 / 7, -0.1 / 9, 1 / 7)
GCPS = [
    GroundControlPoint(0.1, 1 / 3, 55.1 / 3, 25.1 / 7, 0),
    GroundControlPoint(0.5, 70.5 + 1 / 3, 56, 25, 1 / 3),
    GroundControlPoint(60, 2 / 3, 55, 24, 0),
    GroundControlPoint(60, 70, 56, 24, 0),
]


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            yield dataset


def labels(shape: tuple[int, int]) -> np.ndarray:
    """Blobs of all classes and some nodata."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    ids = ((y // 40) + (x // 60)) % len(SCHEME)
    return np.where((x + y) % 97 == 0, NODATA_CLASS, ids).astype(np.uint8)


def write_classes(path: Path, data: np.ndarray, rows: int = 256, **options: Any) -> None:
    keywords: dict[str, Any] = {"transform": NORTH_UP, "crs": UTM, "scheme": SCHEME, "tags": {}}
    with ClassRasterWriter(path, shape=data.shape, **{**keywords, **options}) as writer:
        for top in range(0, len(data), rows):
            block = data[top : top + rows]
            writer.write(Window(0, top, data.shape[1], len(block)), block)


def assert_cog(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        valid, errors, remarks = cog_validate(path, strict=True)
    assert valid, (errors, remarks)


# ---------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (512, 512), (513, 512), (1300, 1101)])
def test_class_raster_is_a_valid_cog_that_holds_what_was_written(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    path, data = tmp_path / "map.tif", labels(shape)
    write_classes(path, data, rows=300)
    assert_cog(path)
    with opened(path) as dataset:
        assert np.array_equal(dataset.read(1), data)
        assert dataset.dtypes == ("uint8",)
        assert dataset.nodata == NODATA_CLASS
        assert dataset.descriptions == ("class",)
        assert dataset.block_shapes == [(256, 256) if shape[1] == 512 else (512, 512)]
        assert dataset.compression.value == "DEFLATE"
        assert dataset.colorinterp == (ColorInterp.palette,)
        assert dataset.colormap(1)[2] == (110, 193, 228, 255)
        assert dataset.colormap(1)[NODATA_CLASS] == (0, 0, 0, 0)
        assert dataset.overviews(1) == (
            [2, 4] if shape == (1300, 1101) else [2] if max(shape) > 512 or shape[1] == 512 else []
        )


def test_names_and_attributes_are_in_the_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    write_classes(path, labels((64, 64)))
    band = ElementTree.parse(tmp_path / "map.tif.aux.xml").getroot().find("PAMRasterBand")
    assert band is not None
    names = band.find("CategoryNames")
    assert names is not None
    assert [name.text for name in names] == list(SCHEME.names)
    table = band.find("GDALRasterAttributeTable")
    assert table is not None
    assert table.get("tableType") == "thematic"
    fields = [
        (f.findtext("Name"), f.findtext("Type"), f.findtext("Usage"))
        for f in table.findall("FieldDefn")
    ]
    # GDALRATFieldType: 0 integer, 2 string; GDALRATFieldUsage: 5 value, 2 name, 6…9 colour
    assert fields == [
        ("Value", "0", "5"),
        ("Class", "2", "2"),
        ("Red", "0", "6"),
        ("Green", "0", "7"),
        ("Blue", "0", "8"),
        ("Alpha", "0", "9"),
    ]
    rows = [[cell.text for cell in row] for row in table.findall("Row")]
    assert rows[1] == ["1", "land & sand", "132", "41", "246", "255"]
    assert len(rows) == len(SCHEME)


def test_overviews_are_majorities_and_ignore_nodata(tmp_path: Path) -> None:
    data = np.full((1024, 1024), NODATA_CLASS, np.uint8)
    data[::2, ::2] = 3  # one pixel in four has data
    data[512:, 512:] = 0
    data[512::2, 512::2] = 2  # one in four differs
    path = tmp_path / "map.tif"
    write_classes(path, data)
    with opened(path) as dataset:
        half = dataset.read(1, out_shape=(512, 512))
    assert (half[:256] == 3).all()
    assert (half[256:, 256:] == 0).all()


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (UTM, NORTH_UP),
        (CRS.from_epsg(4326), ROTATED),
        (UTM, Affine(0.5, 0, 1.25, 0, 0.5, 2.5)),  # south up
        (None, NORTH_UP),
        (UTM, None),
        (None, Affine.identity()),
        (CRS.from_string("+proj=laea +lat_0=10.3 +lon_0=20 +datum=WGS84"), NORTH_UP),
        (
            CRS.from_string(
                "+proj=ob_tran +o_proj=longlat +o_lon_p=-162 +o_lat_p=39.25 +lon_0=180 "
                "+to_meter=0.0174532925199433 +datum=WGS84"
            ),
            ROTATED,  # a rotated pole, which GeoTIFF cannot express
        ),
    ],
)
@pytest.mark.parametrize("kind", ["class", "confidence", "density"])
def test_georeference_is_kept_bit_for_bit(
    tmp_path: Path, crs: CRS | None, transform: Affine | None, kind: str
) -> None:
    path = tmp_path / "map.tif"
    common: dict[str, Any] = {"shape": (5, 7), "transform": transform, "crs": crs, "tags": {}}
    if kind == "class":
        with ClassRasterWriter(path, scheme=SCHEME, **common):
            pass
    elif kind == "confidence":
        with ConfidenceRasterWriter(path, **common):
            pass
    else:
        with DensityRasterWriter(path, **common):
            pass
    with opened(path) as dataset:
        assert dataset.crs == crs
        assert tuple(dataset.transform) == tuple(transform or Affine.identity())


def test_ground_control_points_are_kept_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    write_classes(path, labels((60, 70)), transform=Affine.identity(), crs=None, gcps=(GCPS, UTM))
    assert_cog(path)
    with opened(path) as dataset:
        points, crs = dataset.gcps
    assert crs == UTM
    assert [(p.row, p.col, p.x, p.y, p.z) for p in points] == [
        (p.row, p.col, p.x, p.y, p.z) for p in GCPS
    ]


def test_tags_are_kept(tmp_path: Path) -> None:
    tags = {
        "TIFFTAG_SOFTWARE": "geodeform 0.1.0",
        "TIFFTAG_DATETIME": "2025:01:02 03:04:05",
        "model": 'dubai <é> & "x"',
        "source": "/data/Tile 7.tif",
    }
    path = tmp_path / "map.tif"
    write_classes(path, labels((60, 70)), tags=tags)
    with opened(path) as dataset:
        assert tags.items() <= dataset.tags().items()


# --------------------------------------------------------------------------- confidence, density


def test_confidence_raster_reads_back_as_fractions(tmp_path: Path) -> None:
    path = tmp_path / "confidence.tif"
    data = np.tile(np.arange(256, dtype=np.uint8), (1100, 5))
    with ConfidenceRasterWriter(
        path, shape=data.shape, transform=NORTH_UP, crs=UTM, tags={"model": "x"}
    ) as writer:
        writer.write(Window(0, 0, data.shape[1], 600), data[:600])
        writer.write(Window(0, 600, data.shape[1], 500), data[600:])
    assert_cog(path)
    with opened(path) as dataset:
        assert np.array_equal(dataset.read(1), data)
        assert dataset.scales == (1 / 255,)
        assert dataset.offsets == (0.0,)
        assert dataset.nodata == 0
        assert dataset.descriptions == ("confidence",)
        assert dataset.tags()["model"] == "x"
        masked = dataset.read(1, masked=True)
        # every confidence that the largest of up to 255 class probabilities can have is valid
        assert not masked.mask[data >= round(255 * (1 / 255))].any()
        half = dataset.read(1, out_shape=(550, 640))
    columns = data[0].reshape(-1, 2).astype(float)
    expected = np.where(columns[:, 0] == 0, columns[:, 1], columns.mean(axis=1))
    assert np.abs(half[10] - expected).max() <= 0.5  # averages, rounded, nodata left out


def test_density_raster_says_what_it_means(tmp_path: Path) -> None:
    path = tmp_path / "density.tif"
    data = np.linspace(0.001, 3, 600 * 530, dtype=np.float32).reshape(600, 530)
    data[:20] = np.nan
    with DensityRasterWriter(
        path, shape=data.shape, transform=NORTH_UP, crs=UTM, tags={},
        pixel_areas_m2=np.linspace(0.09, 0.1, 600),
    ) as writer:  # fmt: skip
        writer.write(Window(0, 0, 530, 256), data[:256])
        writer.write(Window(0, 256, 530, 344), data[256:])
    assert_cog(path)
    with opened(path) as dataset:
        assert np.array_equal(dataset.read(1), data, equal_nan=True)
        assert np.isnan(dataset.nodata)
        assert dataset.descriptions == ("sampling density", "samples per m²", "effective GSD")
        assert dataset.units == ("samples per source pixel", "1/m²", "m")
        # 0.0025 samples a pixel of 0.0958 m² are 6.2 m apart
        per_m2, gsd = dataset.read(2), dataset.read(3)
        assert np.allclose(per_m2 * np.linspace(0.09, 0.1, 600)[:, None], data, equal_nan=True)
        assert np.allclose(gsd[20:] ** -2, per_m2[20:], rtol=1e-5)
        assert np.isnan(gsd[:20]).all()
        half = dataset.read(1, out_shape=(300, 265))
    expected = data.reshape(300, 2, 265, 2).mean(axis=(1, 3))
    assert np.allclose(half[10:], expected[10:], rtol=1e-6)
    assert np.isnan(half[:10]).all()


def test_coarse_grid_keeps_the_corner_and_scales_the_pixels() -> None:
    shape, transform, gcps = coarse_grid((101, 64), 8, ROTATED, (GCPS, UTM))
    assert shape == (13, 8)
    assert transform is not None
    assert gcps is not None
    for col, row in ((0, 0), (3, 5), (8, 13)):
        assert transform @ (col, row) == pytest.approx(ROTATED @ (8 * col, 8 * row), rel=1e-14)
    assert (transform.c, transform.f) == (ROTATED.c, ROTATED.f)
    assert [(p.row * 8, p.col * 8) for p in gcps[0]] == [(p.row, p.col) for p in GCPS]
    assert coarse_grid((5, 5), 8, None) == ((1, 1), None, None)


# ------------------------------------------------------------------------------ nothing half-done


def test_existing_file_is_kept_until_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    write_classes(path, np.zeros((20, 20), np.uint8))
    with pytest.raises(OutputError, match=r"map\.tif exists already; use --overwrite"):
        write_classes(path, np.ones((20, 20), np.uint8))
    with ConfidenceRasterWriter(
        path, shape=(20, 20), transform=None, crs=None, tags={}, overwrite=True
    ) as writer:
        writer.write(Window(0, 0, 20, 20), np.full((20, 20), 9, np.uint8))
        with opened(path) as dataset:
            assert (dataset.read(1) == 0).all()
    with opened(path) as dataset:
        assert (dataset.read(1) == 9).all()
    # the class names of the former raster went with it
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]


def test_an_exception_leaves_nothing_behind(tmp_path: Path) -> None:
    def work() -> None:
        with ClassRasterWriter(
            tmp_path / "map.tif", shape=(99, 99), transform=None, crs=None, scheme=SCHEME, tags={}
        ) as writer:
            writer.write(Window(0, 0, 99, 5), np.zeros((5, 99), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert list(tmp_path.iterdir()) == []


def test_rasters_of_one_run_appear_together(tmp_path: Path) -> None:
    def work(fail: bool) -> None:
        with OutputSet() as outputs:
            for name in ("map.tif", "again.tif"):
                write_classes(
                    outputs.add(tmp_path / name, suffixes=RASTER_SUFFIXES), labels((60, 60))
                )
            assert not (tmp_path / "map.tif").exists()
            if fail:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        work(fail=True)
    assert list(tmp_path.iterdir()) == []
    work(fail=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "again.tif",
        "again.tif.aux.xml",
        "map.tif",
        "map.tif.aux.xml",
    ]


def test_wrong_blocks_and_names_are_refused(tmp_path: Path) -> None:
    common: dict[str, Any] = {"transform": None, "crs": None, "scheme": SCHEME, "tags": {}}
    with pytest.raises(OutputError, match=r"must be one of \.tif, \.tiff"):
        write_classes(tmp_path / "map.png", labels((9, 9)))
    with pytest.raises(ValueError, match="at least one pixel"):
        ClassRasterWriter(tmp_path / "map.tif", shape=(0, 4), **common)
    writer = ClassRasterWriter(tmp_path / "map.tif", shape=(9, 9), **common)
    with pytest.raises(ValueError, match="with block"):
        writer.write(Window(0, 0, 9, 9), np.zeros((9, 9), np.uint8))
    with writer:
        for window, block in (
            (Window(0, 0, 9, 9), np.zeros((9, 8), np.uint8)),
            (Window(0, 0, 9, 9), np.zeros((9, 9), np.int64)),
            (Window(0, 1, 9, 9), np.zeros((9, 9), np.uint8)),
            (Window(-1, 0, 9, 9), np.zeros((9, 9), np.uint8)),
        ):
            with pytest.raises(ValueError, match=r"does not fit|beyond"):
                writer.write(window, block)


FULL_DISK = """
import logging, resource, sys
from pathlib import Path
import numpy as np
from rasterio.windows import Window
from geodeform.classes import ClassScheme
from geodeform.errors import OutputError
from geodeform.geo.raster import ClassRasterWriter

logging.disable()
data = np.random.default_rng(0).integers(0, 2, (900, 900), dtype=np.uint8)
scheme = ClassScheme(("a", "b"), ((0, 0, 0), (9, 9, 9)))
for limit in range(2000, 182000, 12000):  # the whole file has about 172 kB
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with ClassRasterWriter(
            Path(sys.argv[1]) / "map.tif", shape=data.shape, transform=None, crs=None,
            scheme=scheme, tags={},
        ) as writer:
            for top in range(0, 900, 100):
                writer.write(Window(0, top, 900, 100), data[top : top + 100])
    except OutputError as error:
        print(limit, "refused", "map.tif" in str(error), any(Path(sys.argv[1]).iterdir()))
    else:
        print(limit, "written")
"""


def test_a_full_disk_is_an_error_and_never_a_damaged_file(tmp_path: Path) -> None:
    # a limit on the size of files stands in for the full disk; GDAL only logs some of its failures
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split(maxsplit=1) for line in run.stdout.splitlines()]
    assert len(lines) == 15
    assert all(what == "refused True False" for _, what in lines[:-1]), run.stdout
    assert lines[-1] == ["170000", "refused True False"]


# ------------------------------------------------------------------------------------------- large


@pytest.mark.slow
def test_beyond_two_to_the_31_pixels(tmp_path: Path) -> None:
    size = 50_000
    path = tmp_path / "map.tif"
    data = labels((512, size))
    with ClassRasterWriter(
        path, shape=(size, size), transform=NORTH_UP, crs=UTM, scheme=SCHEME, tags={}
    ) as writer:
        for top in (0, 30_011, size - 512):
            writer.write(Window(0, top, size, 512), data)
    assert_cog(path)
    with opened(path) as dataset:
        assert dataset.shape == (size, size)
        assert dataset.overviews(1) == [2, 4, 8, 16, 32, 64, 128]
        for top in (0, 30_011, size - 512):
            assert np.array_equal(dataset.read(1, window=Window(0, top, size, 512)), data)
        rest = dataset.read(1, window=Window(size - 600, 20_000, 600, 600))
    assert (rest == NODATA_CLASS).all()
    assert path.stat().st_size < 100 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20  # KiB
