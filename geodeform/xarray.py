"""``import geodeform.xarray`` gives every DataArray the accessor ``da.geodeform``.

Example::

    import geodeform.xarray
    import rioxarray

    scene = rioxarray.open_rasterio("scene.tif", chunks=True)
    result = scene.geodeform.segment(budget="1%", polygons=True)
    density = scene.geodeform.density(budget="1%")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

if TYPE_CHECKING:
    from geodeform.result import SegmentationResult


@xr.register_dataarray_accessor("geodeform")  # type: ignore[no-untyped-call]
class GeodeformAccessor:
    """What geodeform does with an image in memory, or a lazy one: dims (band, y, x) or (y, x).

    CRS, transform and nodata are those of ``da.rio``. Dask-backed arrays are read window by window.
    """

    def __init__(self, array: xr.DataArray) -> None:
        self._array = array

    def segment(self, **settings: Any) -> SegmentationResult:
        """Map the land cover of the image.

        Args:
            **settings: Those of :func:`geodeform.segment_scene`, such as ``budget``, ``model``,
                ``polygons=True``, or ``aoi`` with a GeoDataFrame.

        Returns:
            Labels, confidence and density as DataArrays, polygons and samples as GeoDataFrames
            where they were asked for.

        Raises:
            GeodeformError: As :func:`geodeform.segment_scene`.
        """
        from geodeform.pipeline import segment_scene

        return segment_scene(self._array, **settings)

    def density(self, **settings: Any) -> xr.DataArray:
        """Find how densely the image would be sampled, without segmenting it.

        Args:
            **settings: Those of :func:`geodeform.density_map`.

        Returns:
            (y, x) float32 sampled pixels per pixel, on cells of about one sample.

        Raises:
            GeodeformError: As :func:`geodeform.density_map`.
        """
        from geodeform.sampling import density_map

        return density_map(self._array, **settings).density
