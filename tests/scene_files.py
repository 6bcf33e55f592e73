"""Small GeoTIFFs for the tests."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning


def scene_file(
    path: Path,
    pixels: NDArray[Any],
    *,
    colours: Sequence[ColorInterp] | None = None,
    **profile: Any,
) -> Path:
    """Write (bands, H, W) pixels as a tiled GeoTIFF and return its path."""
    bands, height, width = pixels.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=bands,
            height=height,
            width=width,
            dtype=np.asarray(pixels).dtype,
            tiled=True,
            **profile,
        ) as out:
            if colours is not None:
                out.colorinterp = colours
            out.write(pixels)
    return path
