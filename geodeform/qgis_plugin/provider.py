"""The Processing provider: three algorithms, and the setting that says where geodeform is."""

# ruff: noqa: N802 — QGIS calls these methods by their names

from __future__ import annotations

from pathlib import Path

from osgeo import ogr
from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithms import ALGORITHMS
from .command import SETTING, plugin_version

_FOLDER = Path(__file__).parent


class GeodeformProvider(QgsProcessingProvider):
    """The provider ``geodeform``."""

    def id(self) -> str:
        """Id before the colon of every algorithm's id."""
        return "geodeform"

    def name(self) -> str:
        """Name in the toolbox."""
        return "geodeform"

    def longName(self) -> str:
        """Name where there is room."""
        return "geodeform: land-cover maps for a small pixel budget"

    def versionInfo(self) -> str:
        """Version of the plugin, which is the one of the geodeform that made it."""
        return plugin_version()

    def icon(self) -> QIcon:
        """The provider's and its algorithms' icon."""
        return QIcon(self.svgIconPath())

    def svgIconPath(self) -> str:
        """The icon's file."""
        return str(_FOLDER / "icon.svg")

    def load(self) -> bool:
        """Add the setting and the algorithms."""
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        ProcessingConfig.addSetting(
            Setting(
                self.name(),
                SETTING,
                "geodeform executable (or the Python it is installed in); empty: look for it",
                "",
                valuetype=Setting.FILE,
            )
        )
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self) -> None:
        """Remove the setting."""
        ProcessingConfig.removeSetting(SETTING)

    def loadAlgorithms(self) -> None:
        """Add a new object of each algorithm; QGIS owns it."""
        for algorithm in ALGORITHMS:
            self.addAlgorithm(algorithm())

    def supportsNonFileBasedOutput(self) -> bool:
        """Outputs are files: geodeform cannot write into a database or QGIS's memory."""
        return False

    def supportedOutputRasterLayerExtensions(self) -> list[str]:
        """What geodeform writes."""
        return ["tif", "tiff"]

    def defaultRasterFileExtension(self) -> str:
        """Whatever the user's default for other providers is."""
        return "tif"

    def supportedOutputVectorLayerExtensions(self) -> list[str]:
        """What geodeform writes and this QGIS can read."""
        parquet = ["parquet"] if ogr.GetDriverByName("Parquet") is not None else []
        return ["gpkg", "fgb", "geojson", *parquet]
