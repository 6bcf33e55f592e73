"""Priority: where a user wants the budget to go, beside where the model would put it.

An area (``--focus``), a raster of weights (``--priority``) and classes (``--focus-class``) say what
an error counts. Windows with more weight get more of a scene's budget, and inside a window samples
move to where the weight is: for classes, to where the low-resolution view shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.warp import Resampling, reproject
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from geodeform.errors import ConfigError, SceneError
from geodeform.geo.affine import cells_transform, compose

FOCUS_WEIGHT = 4.0
"""What an error in the area, or of a class, in focus counts; elsewhere it counts 1."""

_MOST_CELLS = 4096  # a side of what is kept of a priority raster


@dataclass(frozen=True)
class Priority:
    """What an error counts at each place and of each class.

    Attributes:
        frame: (x, y) pixels of the region → map coordinates.
        crs: CRS of the frame, or None.
        area: In focus, in the CRS; None for none.
        area_name: Name of the file that the area is from, if any.
        raster: File of weights ≥ 0, of any resolution and CRS; where it has no data an error counts
            1. None for none.
        classes: Names of the classes in focus.
    """

    frame: Affine
    crs: CRS | None
    area: BaseGeometry | None = None
    area_name: str = ""
    raster: Path | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.raster is None:
            return
        if self.crs is None:
            raise SceneError(
                f"The scene has no CRS, so nothing says where {self.raster} lies on it: give the "
                "priority of a scene with one."
            )
        values = self._values[0]
        if (values < 0).any():  # NaN is not
            raise ConfigError(
                f"{self.raster} has the weight {np.nanmin(values):g}: a priority must be 0 or more "
                "everywhere."
            )

    @property
    def is_even(self) -> bool:
        """Whether every place counts the same."""
        return self.area is None and self.raster is None

    def describe(self) -> str:
        """What was asked for, in words."""
        said = []
        if self.area is not None:
            said.append(f"{self.area_name or 'an area'} counts {FOCUS_WEIGHT:g} times")
        if self.raster is not None:
            said.append(f"weights of {self.raster.name}")
        if self.classes:
            said.append(f"{', '.join(self.classes)} count {FOCUS_WEIGHT:g} times")
        return "; ".join(said)

    def weights(self, window: Window, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Weights (h, w) ≥ 0 of the cells that a window of the region is divided in.

        Args:
            window: In pixels of the region.
            shape: (h, w) cells.
        """
        transform = cells_transform(self.frame, window, shape)
        weights = np.ones(shape, np.float32)
        if self.area is not None:
            rasterize(
                [self.area], out=weights, transform=transform, default_value=FOCUS_WEIGHT,
                all_touched=True,
            )  # fmt: skip
        if self.raster is not None:
            found = self.raster_weights(window, shape)
            weights *= np.where(np.isfinite(found), found, 1)
        return weights

    def raster_weights(self, window: Window, shape: tuple[int, int]) -> NDArray[np.float32]:
        """What the raster says of the cells (h, w) of a window, NaN where it has no data.

        Args:
            window: In pixels of the region.
            shape: (h, w) cells.
        """
        found = np.full(shape, np.nan, np.float32)
        values, place, crs = self._values
        reproject(
            values,
            found,
            src_transform=place,
            src_crs=crs,
            src_nodata=np.nan,
            dst_transform=cells_transform(self.frame, window, shape),
            dst_crs=self.crs,
            dst_nodata=np.nan,
            resampling=Resampling.average,
        )
        return found

    def of_classes(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        """Weights (C,) of classes by name."""
        return np.array([FOCUS_WEIGHT if name in self.classes else 1.0 for name in names])

    @cached_property
    def _values(self) -> tuple[NDArray[np.float32], Affine, CRS]:
        """The raster's first band, NaN without data, and where it lies; large ones averaged."""
        assert self.raster is not None
        try:
            with rasterio.open(self.raster) as dataset:
                if dataset.crs is None:
                    raise SceneError(
                        f"{self.raster} has no CRS, so nothing says where it lies: give it one "
                        "(gdal_edit.py -a_srs)."
                    )
                fewer = max(1.0, max(dataset.shape) / _MOST_CELLS)
                shape = tuple(max(1, round(n / fewer)) for n in dataset.shape)
                read = dataset.read(1, masked=True, out_shape=shape, resampling=Resampling.average)
                cell = Affine.scale(dataset.width / shape[1], dataset.height / shape[0])
                return (
                    read.astype(np.float32).filled(np.nan),
                    compose(dataset.transform, cell),
                    dataset.crs,
                )
        except (RasterioError, OSError) as error:
            raise SceneError(f"{self.raster} cannot be read as a priority: {error}.") from error
