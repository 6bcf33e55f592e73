"""``geodeform:density``: where a raster layer would be sampled."""

# ruff: noqa: N802 — QGIS calls these methods by their names

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterVectorDestination,
)

from ..command import Cancelled, CommandError
from .base import GeodeformAlgorithm, Parameters, cancelled


class DensityAlgorithm(GeodeformAlgorithm):
    """Maps how densely a raster layer would be sampled."""

    ID = "density"
    TITLE = "Sampling density"
    TAGS = ("sampling", "samples", "deformation")
    ABOUT = (
        "Shows where geodeform would sample a scene for a budget, without segmenting it: how many "
        "pixels would be read per scene pixel, and at will the points themselves.",
    )

    def initAlgorithm(self, configuration: Mapping[str, Any] | None = None) -> None:
        """Declare parameters and outputs."""
        self.add_scene_and_model()
        self.add_budget()
        self.add_bands()
        self.add_area()
        self.add_focus()
        self.add_sampler()
        self.add_reading()
        self.add_device()
        self.add_overwrite()
        self.add(
            QgsProcessingParameterRasterDestination("OUTPUT", "Sampling density"),
            "On cells of about one sample: sampled pixels per scene pixel, samples per m², "
            "effective ground sampling distance.",
        )
        self.add(
            QgsProcessingParameterVectorDestination(
                "SAMPLES",
                "Sampled points",
                QgsProcessing.TypeVectorPoint,
                optional=True,
                createByDefault=False,
            ),
            "The points that would be sampled. Held in memory, about 500 bytes a point.",
        )

    def processAlgorithm(
        self,
        parameters: Parameters,
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> dict[str, Any]:
        """Run ``geodeform density``."""
        scene = self.scene(parameters, context)
        files = {
            name: self.output_file(parameters, name, context) for name in ("OUTPUT", "SAMPLES")
        }
        options = {
            **self.shared_options(scene, parameters, context),
            "output": files["OUTPUT"],
            "samples": files["SAMPLES"],
            "overwrite": self.parameterAsBool(parameters, "OVERWRITE", context),
        }
        try:
            self.call("density", scene, options, feedback)
        except Cancelled:
            return cancelled(context)
        except CommandError as error:
            raise QgsProcessingException(str(error)) from error
        return {name: path for name, path in files.items() if path}
