"""A map to zoom, for notebooks and browsers: scene, land cover, confidence, density, polygons.

folium makes the page, which loads Leaflet and the background map from the web; the pictures of the
layers are inside it. Rasters come to Web Mercator, the projection of Leaflet's pictures: class ids
by nearest neighbour, values by interpolation.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import geopandas as gpd
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, Normalize, rgb2hex
from numpy.typing import NDArray
from PIL import Image  # matplotlib needs it too
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine, from_bounds
from rasterio.warp import reproject, transform_bounds

from geodeform.classes import NODATA_CLASS, ClassScheme, to_hex
from geodeform.errors import ConfigError, GeodeformError, SceneError
from geodeform.geo.affine import apply
from geodeform.plot.layers import CONFIDENCE_COLOURS, DENSITY_COLOURS, density_norm, density_ticks
from geodeform.plot.maps import classes_of
from geodeform.plot.views import Mapped, Raster, View, read_layer, read_picture
from geodeform.result import ClassArea, SegmentationResult, format_area

if TYPE_CHECKING:
    import folium

_MERCATOR = CRS.from_epsg(3857)
_LEAST_CELLS = 1000  # a coarse grid that is turned a little would get stairs for edges
_WGS84 = CRS.from_epsg(4326)
_POLYGON_COLUMNS = {"class_name": "class", "area_m2": "area (m²)", "conf_mean": "mean confidence"}


class _Overlay(NamedTuple):
    """A layer's picture and where it lies."""

    name: str
    picture: NDArray[np.uint8]  # h,w,4
    bounds: list[list[float]]  # [[south, west], [north, east]] in degrees
    opacity: float
    shown: bool
    lossy: bool = False


def interactive_map(
    source: Mapped,
    *,
    scene: Raster | None = None,
    confidence: Raster | None = None,
    density: Raster | None = None,
    polygons: gpd.GeoDataFrame | bool = False,
    classes: ClassScheme | None = None,
    bbox: Sequence[float] | None = None,
    side: int = 1400,
    tiles: Any = "OpenStreetMap",
) -> folium.Map:
    """Make a zoomable map with a switch and an opacity slider for each layer, and a legend.

    Args:
        source: A result, a class raster's file, or a DataArray (y, x) of class ids.
        scene: The scene, to lie below.
        confidence: Confidence raster; a result's own if None.
        density: Density raster; a result's own if None.
        polygons: Polygons with ``class_name`` and ``colour`` to lie on top (any CRS), or True for
            the result's own. Pixel outlines of a large map make a page of many MB: simplify them
            (``segment_scene(..., simplify=2)``).
        classes: Names and colours; a result and a file have their own.
        bbox: (xmin, ymin, xmax, ymax) in the map's CRS: show only this part.
        side: Pixels of a layer's longer side. The page holds the pictures: 1400 makes a few MB.
        tiles: Background map, as ``folium.Map`` takes it; None for none.

    Returns:
        The map: a notebook shows it, ``.save("map.html")`` writes it. Seeing it takes a network, as
        the page loads Leaflet from the web.

    Raises:
        GeodeformError: If folium is not installed, the map has no CRS, or a raster cannot be read.
    """
    try:
        import folium
    except ImportError as error:
        raise GeodeformError(
            'The interactive map needs folium: pip install "geodeform[notebook]".'
        ) from error
    scheme = classes_of(source, classes)
    if isinstance(source, SegmentationResult):
        confidence = confidence or _own(source, "confidence")
        density = density or _own(source, "density")
        if polygons is True:
            polygons = source.polygons if source.polygons is not None else False
            if polygons is False:
                raise ConfigError("The run made no polygons: run it again with polygons=True.")
    elif polygons is True:
        raise ConfigError("Only a result has polygons of its own: give polygons= a GeoDataFrame.")
    overlays = [_land_cover(read_layer(source, "labels", bbox=bbox, side=side), scheme)]
    if scene is not None:
        picture, view = read_picture(scene, bbox=bbox, side=side)
        overlays.insert(0, _scene(picture, view))
    ramps: dict[str, tuple[str, list[str]]] = {}
    if confidence is not None:
        view = read_layer(confidence, "confidence", bbox=bbox, side=side)
        norm: Normalize = Normalize(0, 1)
        overlays.append(_values("Confidence", view, CONFIDENCE_COLOURS, norm))
        ramps["Confidence"] = (CONFIDENCE_COLOURS, ["0", "0.5", "1"])
    if density is not None:
        view = read_layer(density, "density", bbox=bbox, side=side)
        norm = density_norm(view.filled(np.nan))
        overlays.append(_values("Sampling density", view, DENSITY_COLOURS, norm))
        ramps["Sampling density"] = (
            DENSITY_COLOURS,
            [f"{tick:.3g}" for tick in density_ticks(norm, 3)],
        )
    south, west, north, east = np.array([o.bounds for o in overlays]).reshape(-1, 4).T
    page = folium.Map(tiles=tiles, control_scale=True, zoom_control=True)
    layers = {}
    for overlay in overlays:
        layers[overlay.name] = folium.raster_layers.ImageOverlay(
            image=_as_url(overlay),
            bounds=overlay.bounds,
            name=overlay.name,
            opacity=overlay.opacity,
            show=overlay.shown,
        ).add_to(page)
    if isinstance(polygons, gpd.GeoDataFrame):
        _polygons(polygons, folium).add_to(page)
    folium.LayerControl(collapsed=False).add_to(page)
    areas = source.class_areas if isinstance(source, SegmentationResult) else None
    rows = [
        (to_hex(colour), name if areas is None else _legend_line(areas[k]))
        for k, (name, colour) in enumerate(zip(scheme.names, scheme.colours, strict=True))
    ]
    _panel(rows, ramps, {o.name: (layers[o.name].get_name(), o.opacity) for o in overlays}).add_to(
        page
    )
    page.fit_bounds(
        [[float(south.min()), float(west.min())], [float(north.max()), float(east.max())]]
    )
    return page


def to_mercator(
    bands: NDArray[Any], view: View, *, resampling: Resampling, nodata: float
) -> tuple[NDArray[Any], list[list[float]]]:
    """Bring (n, h, w) values of a view to Web Mercator.

    Args:
        bands: Values on the view's cells.
        view: Where they lie.
        resampling: ``nearest`` for class ids.
        nodata: Value of cells without data, in and out.

    Returns:
        (n, h', w') on north-up cells, and their bounds [[south, west], [north, east]] in degrees.

    Raises:
        SceneError: If the view has no CRS, or does not lie in Web Mercator's part of the world.
    """
    if view.crs is None:
        raise SceneError(
            "The map has no CRS, so it has no place on an interactive map: use "
            "geodeform.plot.land_cover, or give the scene its CRS with gdal_edit.py -a_srs."
        )
    height, width = view.shape
    xs, ys = zip(
        *(apply(view.frame, *p) for p in ((0, 0), (width, 0), (width, height), (0, height))),
        strict=True,
    )
    left, bottom, right, top = transform_bounds(
        view.crs, _MERCATOR, min(xs), min(ys), max(xs), max(ys), densify_pts=51
    )
    if not (np.isfinite([left, bottom, right, top]).all() and left < right and bottom < top):
        raise SceneError("The map lies outside Web Mercator, so it cannot be shown interactively.")
    cells = max(height, width, _LEAST_CELLS)
    scale = cells / max(right - left, top - bottom)
    shape = (max(1, round((top - bottom) * scale)), max(1, round((right - left) * scale)))
    target: Affine = from_bounds(left, bottom, right, top, shape[1], shape[0])
    out = np.full((len(bands), *shape), nodata, bands.dtype)
    reproject(
        bands,
        out,
        src_transform=view.frame,
        src_crs=view.crs,
        src_nodata=nodata,
        dst_transform=target,
        dst_crs=_MERCATOR,
        dst_nodata=nodata,
        resampling=resampling,
    )
    west, south, east, north = transform_bounds(_MERCATOR, _WGS84, left, bottom, right, top)
    return out, [[south, west], [north, east]]


def _own(result: SegmentationResult, kind: str) -> Raster | None:
    layer: Raster | None = result.paths.get(kind, getattr(result, kind))
    return layer


def _land_cover(view: View, scheme: ClassScheme) -> _Overlay:
    ids = view.filled(NODATA_CLASS).astype(np.uint8)
    out, bounds = to_mercator(ids[None], view, resampling=Resampling.nearest, nodata=NODATA_CLASS)
    alpha = np.where(out[0] == NODATA_CLASS, 0, 255).astype(np.uint8)
    picture = np.dstack([scheme.palette()[out[0]], alpha])
    return _Overlay("Land cover", picture, bounds, 0.7, True)


def _scene(picture: NDArray[np.uint8], view: View) -> _Overlay:
    bands = np.where(view.valid, np.moveaxis(picture, -1, 0), np.nan).astype(np.float32)
    out, bounds = to_mercator(bands, view, resampling=Resampling.bilinear, nodata=np.nan)
    known = np.isfinite(out).all(0)
    colours = np.nan_to_num(np.moveaxis(out, 0, -1)).round().clip(0, 255)
    rgba = np.dstack([colours, 255 * known]).astype(np.uint8)
    return _Overlay("Scene", rgba, bounds, 1.0, True, lossy=True)


def _values(name: str, view: View, colours: str, norm: Normalize) -> _Overlay:
    values = view.filled(np.nan)[None]
    out, bounds = to_mercator(values, view, resampling=Resampling.bilinear, nodata=np.nan)
    ramp: Colormap = colormaps[colours]
    picture = ramp(norm(np.ma.masked_invalid(out[0])), bytes=True)
    picture[..., 3] = np.where(np.isfinite(out[0]), 255, 0)
    return _Overlay(name, picture, bounds, 0.7, False)


def _as_url(overlay: _Overlay) -> str:
    """The picture as a data URL. WebP has an alpha channel at a quarter of PNG's size."""
    packed = io.BytesIO()
    options = {"quality": 88} if overlay.lossy else {"lossless": True}
    Image.fromarray(overlay.picture).save(packed, "WEBP", **options)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"


def _polygons(polygons: gpd.GeoDataFrame, folium: Any) -> Any:
    """The polygons as a layer, outlined in their colours, with a tip for each."""
    kept = {k: v for k, v in _POLYGON_COLUMNS.items() if k in polygons}
    colour = ["colour"] if "colour" in polygons else []
    table = polygons[[*kept, *colour, polygons.geometry.name]].to_crs(_WGS84.to_wkt())
    for name in ("area_m2", "conf_mean"):
        if name in kept:
            table[name] = table[name].astype(float).round(3 if name == "conf_mean" else 0)

    def style(feature: dict[str, Any]) -> dict[str, Any]:
        paint = feature["properties"].get("colour", "#000000")
        return {"color": "#202020", "weight": 0.8, "fillColor": paint, "fillOpacity": 0.35}

    tip = folium.GeoJsonTooltip([*kept], [*kept.values()]) if kept else None
    return folium.GeoJson(
        table, name="Polygons", style_function=style, tooltip=tip, show=False, embed=True
    )


def _legend_line(area: ClassArea) -> str:
    size = "" if area.area_m2 is None else f", {format_area(area.area_m2)}"
    return f"{area.name} {area.share:.1%}{size}"


def _panel(
    rows: Sequence[tuple[str, str]],
    ramps: Mapping[str, tuple[str, list[str]]],
    layers: Mapping[str, tuple[str, float]],
) -> Any:
    """A box on the map: the classes, each value layer's ramp, an opacity slider for each layer.

    Args:
        rows: Colour and text of each class.
        ramps: Colour map and three numbers of each value layer.
        layers: The script's name of each layer, and its opacity.
    """
    from branca.element import MacroElement
    from jinja2 import Template

    parts = [
        f'<div><i style="background:{colour}"></i>{html.escape(text)}</div>'
        for colour, text in rows
    ]
    for name, (colours, ticks) in ramps.items():
        stops = ",".join(rgb2hex(colormaps[colours](k / 8)) for k in range(9))
        numbers = "".join(f"<span>{tick}</span>" for tick in ticks)
        parts.append(
            f'<p>{html.escape(name)}</p><div class="ramp" style="background:'
            f'linear-gradient(90deg,{stops})"></div><div class="ticks">{numbers}</div>'
        )
    parts.append("<p>Opacity</p>")
    parts.extend(
        f'<label><span>{html.escape(name)}</span><input type="range" min="0" max="1" step="0.05" '
        f'value="{opacity}" data-layer="{script}" aria-label="Opacity of {html.escape(name)}">'
        "</label>"
        for name, (script, opacity) in layers.items()
    )

    class Panel(MacroElement):
        _template = Template(_PANEL)

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self._name = "GeodeformPanel"
            self.content = "".join(parts)
            self.layers = [script for script, _ in layers.values()]

    return Panel()


_PANEL = """
{% macro header(this, kwargs) %}
<style>
.geodeform-panel {background: rgba(255, 255, 255, 0.92); color: #202020; padding: 8px 10px;
  border-radius: 4px; box-shadow: 0 1px 4px rgba(0, 0, 0, 0.4); font: 12px/1.5 sans-serif;}
.geodeform-panel i {display: inline-block; width: 14px; height: 11px; margin-right: 6px;
  border: 1px solid #808080;}
.geodeform-panel p {margin: 6px 0 2px; font-weight: bold;}
.geodeform-panel .ramp {height: 10px;}
.geodeform-panel .ticks, .geodeform-panel label {display: flex; justify-content: space-between;
  align-items: center; gap: 8px;}
.geodeform-panel label {margin: 0; font-weight: normal;}
.geodeform-panel input {width: 90px; margin: 0;}
</style>
{% endmacro %}
{% macro script(this, kwargs) %}
(function () {
  var layers = {
    {%- for name in this.layers %}"{{ name }}": {{ name }}{{ "," if not loop.last }}{% endfor -%}
  };
  var panel = L.control({position: "bottomleft"});
  panel.onAdd = function () {
    var box = L.DomUtil.create("div", "geodeform-panel");
    box.innerHTML = {{ this.content|tojson }};
    L.DomEvent.disableClickPropagation(box);
    L.DomEvent.disableScrollPropagation(box);
    box.querySelectorAll("input").forEach(function (slider) {
      slider.addEventListener("input", function () {
        layers[slider.dataset.layer].setOpacity(Number(slider.value));
      });
    });
    return box;
  };
  panel.addTo({{ this._parent.get_name() }});
})();
{% endmacro %}
"""
