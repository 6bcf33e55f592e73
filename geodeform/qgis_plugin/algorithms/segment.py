"""``geodeform:segment``: the land cover of a raster layer."""

# ruff: noqa: N802 — QGIS calls these methods by their names

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingParameterDistance,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterVectorDestination,
)

from ..command import Cancelled, CommandError, beside, check_free, move_raster
from .base import GeodeformAlgorithm, Parameters, cancelled

_BESIDE = {"CONFIDENCE": "confidence", "DENSITY": "density", "TRUST": "trust"}


class SegmentAlgorithm(GeodeformAlgorithm):
    """Maps the land cover of a raster layer."""

    ID = "segment"
    TITLE = "Segment scene"
    TAGS = ("classify", "classification", "map", "polygons", "confidence")
    ABOUT = (
        "Maps the land cover of a satellite or aerial scene for a small pixel budget: geodeform "
        "samples pixels more densely where the scene is hard, segments only these samples, and "
        "maps the prediction back to every pixel.",
        "The class raster has the scene's CRS and grid, colours and class names. What each class "
        "covers is in the log. See <i>Compare budgets</i> for what a run would cost.",
    )

    def initAlgorithm(self, configuration: Mapping[str, Any] | None = None) -> None:
        """Declare parameters and outputs."""
        self.add_scene_and_model()
        self.add_budget()
        self.add_bands()
        self.add_area()
        double = QgsProcessingParameterNumber.Double
        self.add(
            QgsProcessingParameterNumber(
                "MIN_AREA", "Smallest polygon [m²]", double, defaultValue=0, minValue=0
            ),
            "Smaller polygons are dissolved into their neighbours (px² where there is no CRS).",
        )
        self.add(
            QgsProcessingParameterDistance(
                "SIMPLIFY", "Simplify polygons by", 0, parentParameterName="INPUT", minValue=0
            ),
            "Tolerance in the units of the scene's CRS. Borders are simplified together, so there "
            "are no gaps.",
        )
        self.add_focus()
        self.add_sampler()
        self.add(
            QgsProcessingParameterNumber(
                "TIME_LIMIT", "Time limit [s]", double, optional=True, minValue=0
            ),
            "Instead of a budget: the largest that a few windows say will fit.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterNumber(
                "REFINE",
                "Refine: passes",
                QgsProcessingParameterNumber.Integer,
                optional=True,
                minValue=0,
            ),
            "Maps coarsely first, then in so many passes spends the rest of the budget where the "
            "map is unsure.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterNumber(
                "SMOOTH",
                "Smooth polygons: passes",
                QgsProcessingParameterNumber.Integer,
                optional=True,
                minValue=0,
            ),
            "Times that the corners of borders are cut.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterNumber(
                "FILL_HOLES", "Fill holes up to [m²]", double, optional=True, minValue=0
            ),
            "Smaller holes in polygons are given to the polygon around them.",
            advanced=True,
        )
        self.add_reading()
        self.add_device()
        self.add_overwrite()
        self.add(
            QgsProcessingParameterRasterDestination("OUTPUT", "Class raster"),
            "Cloud Optimized GeoTIFF with colours and class names; 255 is no data.",
        )
        skipped = {"optional": True, "createByDefault": False}
        self.add(
            QgsProcessingParameterVectorDestination(
                "POLYGONS", "Polygons", QgsProcessing.TypeVectorPolygon, **skipped
            ),
            "Class, area and mean confidence of each; valid, without gaps, never split at windows.",
        )
        self.add(
            QgsProcessingParameterRasterDestination("CONFIDENCE", "Confidence", **skipped),
            "Probability of the class of each pixel.",
        )
        self.add(
            QgsProcessingParameterRasterDestination("DENSITY", "Sampling density", **skipped),
            "Sampled pixels per scene pixel, samples per m², effective ground sampling distance.",
        )
        self.add(
            QgsProcessingParameterRasterDestination("TRUST", "Trust", **skipped),
            "Confidence times how near the samples lie.",
        )
        self.add(
            QgsProcessingParameterVectorDestination(
                "SAMPLES", "Sampled points", QgsProcessing.TypeVectorPoint, **skipped
            ),
            "The points that were sampled, with class, confidence and magnification. Held in "
            "memory, about 500 bytes a point.",
        )
        self.addOutput(QgsProcessingOutputNumber("SAMPLED_PIXELS", "Sampled pixels"))
        self.addOutput(QgsProcessingOutputNumber("SAMPLED_SHARE", "Sampled share [%]"))

    def processAlgorithm(
        self,
        parameters: Parameters,
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> dict[str, Any]:
        """Run ``geodeform segment``."""
        scene = self.scene(parameters, context)
        files = {
            name: self.output_file(parameters, name, context)
            for name in ("OUTPUT", "POLYGONS", "CONFIDENCE", "DENSITY", "TRUST", "SAMPLES")
        }
        output = Path(files["OUTPUT"])
        # geodeform puts these beside the class raster; they are moved to where they shall be
        moves = {
            beside(output, kind): Path(files[name]) for name, kind in _BESIDE.items() if files[name]
        }
        overwrite = self.parameterAsBool(parameters, "OVERWRITE", context)
        options = {
            **self.shared_options(scene, parameters, context),
            "output": files["OUTPUT"],
            "polygons": files["POLYGONS"],
            "samples": files["SAMPLES"],
            "confidence": bool(files["CONFIDENCE"]),
            "density": bool(files["DENSITY"]),
            "trust": bool(files["TRUST"]),
            # 0 is "do not", which is what leaving them out means
            "min-area": self.parameterAsDouble(parameters, "MIN_AREA", context) or None,
            "simplify": self.parameterAsDouble(parameters, "SIMPLIFY", context) or None,
            "smooth": self.parameterAsInt(parameters, "SMOOTH", context) or None,
            "fill-holes": self.parameterAsDouble(parameters, "FILL_HOLES", context) or None,
            "time-limit": self.parameterAsDouble(parameters, "TIME_LIMIT", context) or None,
            "refine": self.parameterAsInt(parameters, "REFINE", context) or None,
            "overwrite": overwrite,
        }
        try:
            check_free(moves, others=[Path(files["OUTPUT"]), scene.path], overwrite=overwrite)
            result = self.call("segment", scene, options, feedback)
            for source, target in moves.items():
                move_raster(source, target)
        except Cancelled:
            return cancelled(context)
        except CommandError as error:
            raise QgsProcessingException(str(error)) from error
        for row in result["classes"]:
            area = "" if row["area_m2"] is None else f"  {row['area_m2']:,.0f} m²"
            feedback.pushInfo(f"{row['name']}: {row['share']:.2%}  {row['pixels']:,} px{area}")
        return {
            **{name: path for name, path in files.items() if path},
            "SAMPLED_PIXELS": result["sampled_pixels"],
            "SAMPLED_SHARE": 100 * result["sampled_share"],
        }
