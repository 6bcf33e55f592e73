"""The plugin object that QGIS loads and unloads; all it does is add the Processing provider."""

# ruff: noqa: N802 — QGIS calls these methods by their names

from __future__ import annotations

from qgis.core import QgsApplication

from .provider import GeodeformProvider


class GeodeformPlugin:
    """Adds the provider to Processing, in the window and in ``qgis_process``."""

    def __init__(self) -> None:
        self.provider: GeodeformProvider | None = None

    def initProcessing(self) -> None:
        """Add the provider; ``qgis_process`` calls this alone."""
        self.provider = GeodeformProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Add the provider when the window starts."""
        self.initProcessing()

    def unload(self) -> None:
        """Remove the provider."""
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
            self.provider = None
