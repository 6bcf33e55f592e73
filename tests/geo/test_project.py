"""Shapes near a raster, brought to its CRS: edges that are curves, poles, the 180th meridian."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import shapely

from geodeform.geo.project import meeting, project_near

LONLAT = pyproj.CRS(4326)
POLAR = pyproj.CRS(3413)
WORLD = shapely.box(-180, -90, 180, 90)


def project(shapes, bounds, target):
    return project_near(np.array(shapes, object), LONLAT, bounds, pyproj.CRS(target))


def test_a_shape_that_covers_the_raster_becomes_its_bounds_also_at_a_pole():
    bounds = (-2e5, -1e5, 3e5, 3e5)
    away = shapely.box(0, -40, 10, -30)
    parts, owners = project([away, WORLD], bounds, POLAR)
    assert owners.tolist() == [1]
    assert parts[0].equals(shapely.box(*bounds))


def test_long_edges_become_the_curves_that_they_are():
    bounds = (200000.0, 5100000.0, 800000.0, 5500000.0)
    north = shapely.box(-180, 48, 180, 90)
    parts, owners = project([north], bounds, 32632)
    assert owners.tolist() == [0]
    x, y = np.meshgrid(np.linspace(2e5, 8e5, 61), np.linspace(5.1e6, 5.5e6, 41))
    lat = pyproj.Transformer.from_crs(32632, LONLAT, always_xy=True).transform(x, y)[1]
    assert 0.2 < (lat > 48).mean() < 0.8
    clear = np.abs(lat - 48) > 1e-4  # 11 m
    assert np.array_equal(shapely.contains_xy(parts[0], x, y)[clear], (lat > 48)[clear])


def test_both_sides_of_the_180th_meridian_in_the_order_of_the_shapes():
    bounds = (1e5, 0.0, 2.2e5, 2e5)  # from about 179.4° to -179.5°
    west, east = shapely.box(-180, -2, -170, 3), shapely.box(170, -2, 180, 3)
    ring = shapely.MultiPolygon([shapely.box(-180, -2, 180, 1)])
    parts, owners = project([west, ring, east], bounds, 32601)
    assert owners.tolist() == sorted(owners)
    assert set(owners.tolist()) == {0, 1, 2}
    box = shapely.box(*bounds)
    areas = [
        shapely.union_all([p.intersection(box) for p in parts[owners == k]]).area for k in range(3)
    ]
    assert areas[0] + areas[2] == pytest.approx(box.area, rel=1e-6)
    assert 0 < areas[1] < box.area
    assert areas[1] == pytest.approx(box.area * 110.53 / 200, rel=0.02)  # 1° is 110.6 km


def test_what_is_far_away_is_not_even_projected():
    far = shapely.box(-180, -90, -170, -80)
    parts, owners = project([far, shapely.box(8, 47, 9, 48)], (4e5, 5.2e6, 5e5, 5.3e6), 32632)
    assert owners.tolist() == [1]
    assert np.isfinite(shapely.bounds(parts)).all()


def test_bounds_that_touch_a_box_meet_it():
    bounds = np.array([[0, 0, 1, 1], [2, 0, 3, 1], [1.5, 1.5, 9, 9], [4, 0, 5, 1]], float)
    assert meeting(bounds, (1, 0, 2, 2)).tolist() == [0, 1, 2]
