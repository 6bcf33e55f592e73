"""SampledPoints: where a scene was sampled, gathered window by window, as a GeoDataFrame.

This is the one output that is held in memory: about 500 bytes a point once it is a frame.
"""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from geodeform.classes import ClassScheme
from geodeform.geo.affine import apply
from geodeform.geo.scene import Scene
from geodeform.planning import SegmentationPlan
from geodeform.predict import WindowSamples


class SampledPoints:
    """Gathers the sampled points of windows; those on pixels without data are left out.

    Args:
        scene: The open scene.
        plan: Of the run.
    """

    def __init__(self, scene: Scene, plan: SegmentationPlan) -> None:
        self._scene = scene
        self._plan = plan
        self._xy: list[NDArray[np.float32]] = []  # pixels of the region
        self._columns: dict[str, list[NDArray[Any]]] = {"window": [], "magnification": []}

    def add(
        self, index: int, samples: WindowSamples, probabilities: NDArray[np.float32] | None = None
    ) -> None:
        """Add a window.

        Args:
            index: Its number in the plan.
            samples: Where it was sampled.
            probabilities: (C, h, w) of its samples, where they were predicted; of every window or
                of none.
        """
        window = self._plan.windows[index]
        xy = samples.positions.reshape(-1, 2)
        col, row = xy.astype(np.int64).T
        known = self._plan.known(self._scene, window)
        on = known[row.clip(0, known.shape[0] - 1), col.clip(0, known.shape[1] - 1)]
        self._xy.append(xy[on] + np.array([window.col_off, window.row_off], np.float32))
        columns = {
            "window": np.full(int(on.sum()), index),
            "magnification": samples.magnification.ravel()[on],
        }
        if probabilities is not None:
            columns["class_id"] = probabilities.argmax(0).astype(np.uint8).ravel()[on]
            columns["confidence"] = probabilities.max(0).ravel()[on]
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)

    def frame(self, scheme: ClassScheme | None = None) -> gpd.GeoDataFrame:
        """Return the points in the scene's CRS (pixels of the region where it has none).

        Args:
            scheme: Names of the classes, for points that were predicted.

        Returns:
            ``window``, with a scheme ``class_id``, ``class_name`` and ``confidence`` (0…1), then
            ``magnification`` (sampled pixels per scene pixel), and the points.
        """
        names = ["window", "magnification"]
        if scheme is not None:
            names[1:1] = ["class_id", "confidence"]
        types = {"window": int, "class_id": np.uint8}
        columns: dict[str, NDArray[Any]] = {
            name: np.concatenate([np.empty(0, types.get(name, np.float32)), *parts])
            for name in names
            for parts in [self._columns.get(name, [])]
        }
        if scheme is not None:
            named = np.array(scheme.names, dtype=object)[columns["class_id"]]
            columns = {
                "window": columns.pop("window"),
                "class_id": columns.pop("class_id"),
                "class_name": named,
                **columns,
            }
        xy = np.concatenate([np.empty((0, 2), np.float32), *self._xy]).astype(np.float64)
        crs = self._plan.crs
        return gpd.GeoDataFrame(
            columns,
            geometry=shapely.points(*apply(self._plan.frame, xy[:, 0], xy[:, 1])),
            crs=None if crs is None else crs.to_wkt(),
        )
