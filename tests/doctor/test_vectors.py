from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from shapely import Polygon, box

from geodeform.doctor import examine
from geodeform.doctor.findings import Level, Report

UTM = 32640


def codes(report: Report, *, least: Level = Level.HINT) -> set[str]:
    return {finding.code for finding in report.findings if finding.level >= least}


def examined(path: Path) -> Report:
    (report,) = examine([path])
    return report


def squares(count: int = 4) -> gpd.GeoDataFrame:
    """A row of squares of 10 m that touch."""
    geometry = [box(3e5 + 10 * k, 2.7e6, 3e5 + 10 * (k + 1), 2.7e6 + 10) for k in range(count)]
    return gpd.GeoDataFrame(
        {
            "class_id": [k % 2 for k in range(count)],
            "class_name": [("land", "water")[k % 2] for k in range(count)],
            "area_m2": [100.0] * count,
        },
        geometry=geometry,
        crs=UTM,
    )


def _with(column: str, values: list[object]) -> gpd.GeoDataFrame:
    frame = squares(len(values))
    frame[column] = values
    return frame


def _shapes(*geometry: object, crs: int | None = UTM) -> gpd.GeoDataFrame:
    columns = squares(len(geometry)).drop(columns="geometry")
    return gpd.GeoDataFrame(columns, geometry=list(geometry), crs=crs)


A, B = box(3e5, 2.7e6, 3e5 + 10, 2.7e6 + 10), box(3e5 + 10, 2.7e6, 3e5 + 20, 2.7e6 + 10)
BOW = Polygon([(3e5, 2.7e6), (3e5 + 5, 2.7e6 + 5), (3e5 + 5, 2.7e6), (3e5, 2.7e6 + 5)])


@pytest.mark.parametrize(
    ("frame", "code", "level"),
    [
        (_shapes(A, BOW), "vector.invalid-geometry", Level.ERROR),
        (_shapes(A, None), "vector.empty-geometry", Level.WARNING),
        (_shapes(A, A), "vector.duplicates", Level.WARNING),
        (_shapes(A, box(3e5 + 5, 2.7e6, 3e5 + 20, 2.7e6 + 10)), "vector.overlaps", Level.WARNING),
        (
            _shapes(A, box(3e5 + 10.1, 2.7e6, 3e5 + 20, 2.7e6 + 10)),
            "vector.gaps",
            Level.WARNING,
        ),
        (_shapes(A, B, crs=None), "vector.no-crs", Level.WARNING),
        (_shapes(A, B, crs=4326), "vector.crs-mismatch", Level.ERROR),
        (_shapes(A, B, crs=27700), "vector.crs-area", Level.WARNING),
        (_with("class_name", ["land", "water", "sand", "water"]), "vector.class-names",
         Level.ERROR),
        (_with("class_id", [0, 1, 2, 1]), "vector.class-ids", Level.ERROR),
        (_with("class_name", ["land", None, "land", None]), "vector.class-unnamed", Level.WARNING),
        (_with("area_m2", [100.0, 250.0, 100.0, 100.0]), "vector.area", Level.WARNING),
        (squares(4).iloc[:0], "vector.no-features", Level.WARNING),
    ],
)  # fmt: skip
def test_a_broken_layer(tmp_path: Path, frame: gpd.GeoDataFrame, code: str, level: Level) -> None:
    path = tmp_path / "a.parquet"
    frame.to_parquet(path)
    assert (code, level) in {(f.code, f.level) for f in examined(path).findings}


def test_sound_squares_are_sound(tmp_path: Path) -> None:
    squares().to_parquet(tmp_path / "a.parquet", schema_version="1.1.0", write_covering_bbox=True)
    assert examined(tmp_path / "a.parquet").worst == Level.OK


def test_corners_that_neighbours_lack_are_no_overlap(tmp_path: Path) -> None:
    wide = box(3e5, 2.7e6 + 10, 3e5 + 20, 2.7e6 + 20)  # without a corner where A and B meet
    _shapes(A, B, wide).assign(area_m2=[100.0, 100.0, 200.0]).to_parquet(tmp_path / "a.parquet")
    found = codes(examined(tmp_path / "a.parquet"))
    assert "vector.unmatched-corners" in found
    assert "vector.overlaps" not in found


def test_polygons_as_gdal_polygonize_makes_them(tmp_path: Path) -> None:
    frame = squares(6).rename(columns={"class_id": "id"})[["id", "geometry"]]
    pyogrio.write_dataframe(frame, tmp_path / "a.gpkg", layer_options={"SPATIAL_INDEX": "NO"})
    found = codes(examined(tmp_path / "a.gpkg"))
    assert {"vector.duplicate-ids", "gpkg.no-index", "gpkg.no-style"} <= found


def _sql(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as database, database:
            for statement in statements:
                database.execute(statement)

    return change


@pytest.mark.parametrize(
    ("breakage", "code", "level"),
    [
        (_sql("PRAGMA application_id = 7"), "gpkg.application-id", Level.ERROR),
        (_sql("PRAGMA user_version = 0"), "gpkg.version", Level.WARNING),
        (_sql("UPDATE layer_styles SET styleQML = '<qgis'"), "gpkg.style-malformed", Level.ERROR),
        (_sql("UPDATE layer_styles SET styleQML = '<sld/>'"), "gpkg.style-malformed", Level.ERROR),
        (_sql("UPDATE layer_styles SET useAsDefault = 0"), "gpkg.style-default", Level.WARNING),
        (_sql("UPDATE layer_styles SET f_table_name = 'x'"), "gpkg.style-layer", Level.WARNING),
        (_sql("DROP TABLE layer_styles"), "gpkg.no-style", Level.HINT),
        (
            _sql("UPDATE gpkg_geometry_columns SET table_name = 'gone'"),
            "gpkg.missing-table",
            Level.ERROR,
        ),
        (_sql("DROP TABLE gpkg_contents"), "gpkg.tables", Level.ERROR),
        (lambda path: path.write_bytes(path.read_bytes()[:9000]), "gpkg.damaged", Level.ERROR),
    ],
)
def test_a_broken_geopackage(
    run: Path, breakage: Callable[[Path], None], code: str, level: Level
) -> None:
    breakage(run / "map.gpkg")
    report = examined(run / "map.gpkg")
    assert report.kind == "GeoPackage"
    assert (code, level) in {(f.code, f.level) for f in report.findings}


def test_a_locked_geopackage(run: Path) -> None:
    with closing(sqlite3.connect(run / "map.gpkg", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        (finding,) = (f for f in examined(run / "map.gpkg").findings if f.level == Level.ERROR)
    assert "locked" in finding.message


def _geo(path: Path, change: Callable[[dict], None]) -> None:
    """Change the metadata of a GeoParquet file."""
    table = pq.read_table(path)
    geo = json.loads(table.schema.metadata[b"geo"])
    change(geo)
    metadata = {**table.schema.metadata, b"geo": json.dumps(geo).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def _column(name: str, value: object) -> Callable[[dict], None]:
    return lambda geo: geo["columns"]["geometry"].update({name: value})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda geo: geo.update(version="0.4.0"), "geoparquet.version"),
        (lambda geo: geo.pop("primary_column"), "geoparquet.damaged"),
        (lambda geo: geo.update(primary_column="shape"), "geoparquet.damaged"),
        (lambda geo: geo["columns"]["geometry"].pop("covering"), "geoparquet.no-covering"),
        (_column("bbox", [0, 0, 1, 1]), "geoparquet.bbox"),
        (
            _column("covering", {"bbox": {"xmin": ["gone", "xmin"]}}),
            "geoparquet.covering",
        ),
        (_column("orientation", "counterclockwise"), "geoparquet.orientation"),
    ],
)
def test_broken_geoparquet(tmp_path: Path, change: Callable[[dict], None], code: str) -> None:
    path = tmp_path / "a.parquet"
    frame = squares()
    frame.geometry = shapely.orient_polygons(np.asarray(frame.geometry.array), exterior_cw=True)
    frame.to_parquet(path, schema_version="1.1.0", write_covering_bbox=True)
    _geo(path, change)
    assert code in codes(examined(path))


def test_a_covering_of_other_features(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    squares().to_parquet(path, schema_version="1.1.0", write_covering_bbox=True)
    table = pq.read_table(path)
    boxes = table["bbox"].combine_chunks()
    at = table.schema.names.index("bbox")
    turned = boxes.take(np.arange(len(boxes))[::-1])
    pq.write_table(table.set_column(at, table.schema.field(at), turned), path)
    assert "geoparquet.covering" in codes(examined(path), least=Level.ERROR)


def test_parquet_that_is_no_geoparquet(tmp_path: Path) -> None:
    squares().drop(columns="geometry").to_parquet(tmp_path / "a.parquet")
    assert codes(examined(tmp_path / "a.parquet")) == {"geoparquet.damaged"}
    (tmp_path / "b.parquet").write_bytes(b"PAR1" + bytes(100))
    assert codes(examined(tmp_path / "b.parquet")) == {"geoparquet.damaged"}


def test_flatgeobuf_without_index(tmp_path: Path) -> None:
    pyogrio.write_dataframe(squares(), tmp_path / "a.fgb", layer_options={"SPATIAL_INDEX": "NO"})
    assert codes(examined(tmp_path / "a.fgb")) == {"flatgeobuf.no-index"}
    (tmp_path / "b.fgb").write_bytes((tmp_path / "a.fgb").read_bytes()[:60])
    assert "flatgeobuf.damaged" in codes(examined(tmp_path / "b.fgb"))


RING = [[55, 25], [55.1, 25], [55.1, 25.1], [55, 25.1], [55, 25]]


def _geojson(ring: list[list[float]], **members: object) -> str:
    feature = {
        "type": "Feature",
        "properties": {},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    return json.dumps({"type": "FeatureCollection", "features": [feature], **members})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (_geojson(RING[::-1]), "geojson.winding"),
        (_geojson([[y + 65, x + 80] for x, y in RING]), "geojson.range"),
        (_geojson([[x * 1e4, y * 1e5] for x, y in RING]), "geojson.range"),
        (
            _geojson(RING, crs={"type": "name", "properties": {"name": "EPSG:32640"}}),
            "geojson.crs",
        ),
        (_geojson(RING)[:-20], "geojson.damaged"),
    ],
)
def test_broken_geojson(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    assert code in codes(examined(path))


def test_swapped_coordinates_are_called_so(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(_geojson([[y, x + 80] for x, y in RING]))
    (finding,) = (f for f in examined(path).findings if f.code == "geojson.range")
    assert "latitude before longitude" in finding.message
