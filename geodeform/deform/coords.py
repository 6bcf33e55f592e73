"""Coordinates: the only place that converts between pixel and normalised coordinates.

Convention (GDAL's, and ``align_corners=False`` of ``torch.nn.functional.grid_sample``): pixel
(0, 0) is the top-left corner's pixel and its centre lies at 0.5, so an axis of ``size`` pixels runs
from 0 to ``size`` and ``x_norm = 2x / size − 1`` runs from −1 to 1. Shapes are (y, x), points are
(x, y). An *index* coordinate, as in eq. 3, is a pixel coordinate minus 0.5: it is an integer at
each pixel's centre.

Nothing here imports torch: every function takes numpy arrays and tensors alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]
"""Rows and columns, (y, x)."""


@overload
def to_normalised(pixel: float, size: int) -> float: ...
@overload
def to_normalised(pixel: NDArray[Any], size: int) -> NDArray[Any]: ...
@overload
def to_normalised(pixel: Tensor, size: int) -> Tensor: ...
def to_normalised(pixel: Any, size: int) -> Any:
    """Turn pixel coordinates of one axis (0…size, centres at 0.5) into normalised ones (−1…1).

    >>> to_normalised(0.5, 4)
    -0.75
    """
    return pixel * (2 / size) - 1


@overload
def to_pixel(norm: float, size: int) -> float: ...
@overload
def to_pixel(norm: NDArray[Any], size: int) -> NDArray[Any]: ...
@overload
def to_pixel(norm: Tensor, size: int) -> Tensor: ...
def to_pixel(norm: Any, size: int) -> Any:
    """Turn normalised coordinates of one axis (−1…1) into pixel ones (0…size, centres at 0.5).

    >>> to_pixel(-0.75, 4)
    0.5
    """
    return (norm + 1) * (size / 2)


@overload
def grid_to_pixels(grid: NDArray[Any], size: Size) -> NDArray[Any]: ...
@overload
def grid_to_pixels(grid: Tensor, size: Size) -> Tensor: ...
def grid_to_pixels(grid: Any, size: Size) -> Any:
    """Turn a sampling grid into pixel coordinates.

    Args:
        grid: (…, 2) normalised (x, y), floating point.
        size: (H, W) of the image that the grid samples.

    Returns:
        (…, 2) pixel (x, y) with centres at 0.5, same type as ``grid``.
    """
    return (grid + 1) * _pair(grid, size[1] / 2, size[0] / 2)


@overload
def pixels_to_grid(pixels: NDArray[Any], size: Size) -> NDArray[Any]: ...
@overload
def pixels_to_grid(pixels: Tensor, size: Size) -> Tensor: ...
def pixels_to_grid(pixels: Any, size: Size) -> Any:
    """Turn pixel coordinates into a sampling grid; the inverse of :func:`grid_to_pixels`.

    Args:
        pixels: (…, 2) pixel (x, y) with centres at 0.5, floating point.
        size: (H, W) of the image that the grid samples.

    Returns:
        (…, 2) normalised (x, y), same type as ``pixels``.
    """
    return pixels * _pair(pixels, 2 / size[1], 2 / size[0]) - 1


def uniform_positions(n: int, n_source: int) -> NDArray[np.float64]:
    """Index coordinates, in an axis of ``n_source`` pixels, of ``n`` equal cells' centres.

    ``x_a = (a + ½)·n_source/n − ½``: half a pixel right whatever the ratio.

    >>> uniform_positions(2, 4).tolist()
    [0.5, 2.5]
    """
    return (np.arange(n, dtype=np.float64) + 0.5) * (n_source / n) - 0.5


def uniform_normalised(n: int) -> NDArray[np.float64]:
    """Normalised coordinates of the centres of ``n`` equal cells, inside (−1, 1).

    >>> uniform_normalised(2).tolist()
    [-0.5, 0.5]
    """
    return (2 * np.arange(n, dtype=np.float64) + 1) / n - 1


def _pair(like: Any, x: float, y: float) -> Any:
    """(x, y) as an array or a tensor of the type, precision and device of ``like``."""
    if isinstance(like, np.ndarray):
        return np.array([x, y], like.dtype)
    return like.new_tensor([x, y])
