"""The QGIS plugin: a Processing provider whose algorithms call an installed geodeform.

QGIS runs these files in its own Python (3.8 or newer), which has neither torch nor geodeform. So
nothing here imports the rest of the package, and ``geodeform qgis-plugin`` packs the folder, as
``geodeform_qgis``, into a ZIP that QGIS installs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plugin import GeodeformPlugin


def classFactory(iface: Any) -> GeodeformPlugin:  # noqa: N802 — QGIS calls it by this name
    """Make the plugin, as QGIS asks for it.

    Args:
        iface: QGIS's window (``QgisInterface``), or None in ``qgis_process``; not needed.
    """
    from .plugin import GeodeformPlugin  # only QGIS has what this imports

    return GeodeformPlugin()
