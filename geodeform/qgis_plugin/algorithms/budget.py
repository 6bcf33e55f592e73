"""``geodeform:budget``: what maps of several budgets would cost."""

# ruff: noqa: N802 — QGIS calls these methods by their names

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsFeature,
    QgsFeatureSink,
    QgsField,
    QgsFields,
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingParameterFeatureSink,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterString,
)
from qgis.PyQt.QtCore import QVariant

from ..budgets import DEFAULT_BUDGETS, BudgetRow, budgets_html, plan_budgets
from ..command import Cancelled, CommandError, child_environment, split_list
from .base import GeodeformAlgorithm, Parameters, cancelled, find

# the annotations are text, as of `from __future__ import annotations`
_TYPES = {"str": QVariant.String, "int": QVariant.LongLong, "float": QVariant.Double}


class BudgetAlgorithm(GeodeformAlgorithm):
    """Tabulates what maps of several budgets would cost."""

    ID = "budget"
    TITLE = "Compare budgets"
    TAGS = ("cost", "time", "memory", "estimate", "dry run")
    ABOUT = (
        "Says what mapping a scene would cost for several budgets, before any map is made: "
        "windows, samples, pixels, time and memory. For each estimate a few windows are "
        "predicted.",
    )

    def initAlgorithm(self, configuration: Mapping[str, Any] | None = None) -> None:
        """Declare parameters and outputs."""
        self.add_scene_and_model()
        self.add(
            QgsProcessingParameterString("BUDGETS", "Budgets", defaultValue=DEFAULT_BUDGETS),
            "With commas between. Each is a share of the scene (1.5%), samples a window (128 for "
            "128x128), or a total (2MP).",
        )
        self.add_bands()
        self.add_area()
        self.add_sampler()
        self.add_reading()
        self.add_device()
        self.add(
            QgsProcessingParameterFeatureSink("OUTPUT", "Budgets", QgsProcessing.TypeVector),
            "A table with a row for each budget. sampled_share is in percent.",
        )
        self.add(
            QgsProcessingParameterFileDestination(
                "OUTPUT_HTML", "Summary", "HTML files (*.html)", optional=True
            ),
            "The same for reading, in the results viewer.",
        )

    def processAlgorithm(
        self,
        parameters: Parameters,
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> dict[str, Any]:
        """Ask geodeform for each budget, then write table and summary."""
        scene = self.scene(parameters, context)
        budgets = split_list(self.parameterAsString(parameters, "BUDGETS", context))
        if not budgets:
            raise QgsProcessingException("Give at least one budget, such as 1.5%.")
        options = self.shared_options(scene, parameters, context)
        try:
            rows = plan_budgets(
                find(),
                scene.path,
                budgets,
                options,
                feedback,
                environ=child_environment(os.environ),
            )
        except Cancelled:
            return cancelled(context)
        except CommandError as error:
            raise QgsProcessingException(str(error)) from error
        # Written only now, so that a failure leaves no half table.
        results = {"OUTPUT": self._write_table(rows, parameters, context)}
        page = self.parameterAsFileOutput(parameters, "OUTPUT_HTML", context)
        if page:
            Path(page).write_text(budgets_html(rows, scene.name), encoding="utf-8")
            results["OUTPUT_HTML"] = page
        return results

    def _write_table(
        self, rows: list[BudgetRow], parameters: Parameters, context: QgsProcessingContext
    ) -> str:
        columns = QgsFields()
        for column in fields(BudgetRow):
            columns.append(QgsField(column.name, _TYPES[str(column.type)]))
        sink, destination = self.parameterAsSink(parameters, "OUTPUT", context, columns)
        if sink is None:
            raise QgsProcessingException(self.invalidSinkError(parameters, "OUTPUT"))
        for row in rows:
            feature = QgsFeature(columns)
            feature.setAttributes(list(asdict(row).values()))
            sink.addFeature(feature, QgsFeatureSink.FastInsert)
        return str(destination)
