"""Pictures of scenes, maps and sampling: matplotlib for print, folium for browsers.

Every function draws on the axes (or figure) that it is given, or on a new one, and returns it;
none shows a window or changes matplotlib's settings. Maps are in map coordinates, so that anything
else in the same CRS can be drawn over them.

Example::

    import geodeform
    from geodeform import plot

    result = geodeform.segment_scene("scene.tif", budget="1%", samples=True)
    plot.land_cover(result)
    plot.class_frequency(result)
    plot.warp(plot.warp_window("scene.tif", budget="1%"))
    plot.interactive_map(result, scene="scene.tif").save("map.html")
"""

from __future__ import annotations

from geodeform.plot.charts import (
    budget_table,
    budgets,
    class_frequency,
    class_shares,
    magnification,
)
from geodeform.plot.interactive import interactive_map
from geodeform.plot.maps import confidence, density, land_cover, samples, scene
from geodeform.plot.windows import WarpedWindow, mesh, warp, warp_window

__all__ = [
    "WarpedWindow",
    "budget_table",
    "budgets",
    "class_frequency",
    "class_shares",
    "confidence",
    "density",
    "interactive_map",
    "land_cover",
    "magnification",
    "mesh",
    "samples",
    "scene",
    "warp",
    "warp_window",
]
