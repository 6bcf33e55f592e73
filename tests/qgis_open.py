"""Run inside QGIS (see tests/desktop.py): say how files or a project open, and draw them.

Argument: a JSON list of orders, each with "project" (a path), or "files" (lists of provider and
data source), and "draw", which maps PNG paths to {"layers": names, "extent": [xmin, ymin, xmax,
ymax], "size": [width, height]}; no layers means those that are visible. Prints a JSON list.
"""

import json
import sys

from qgis.core import (
    QgsLayerTree,
    QgsLayerTreeModel,
    QgsMapRendererSequentialJob,
    QgsMapSettings,
    QgsProject,
    QgsRasterLayer,
    QgsRasterSymbolLegendNode,
    QgsRectangle,
    QgsSymbolLegendNode,
    QgsVectorLayer,
)
from qgis.gui import QgsMapCanvas
from qgis.PyQt.QtCore import QSize, Qt
from qgis.PyQt.QtGui import QColor


def sides(extent):
    return [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()]


def legend_of(layer):
    """The legend as QGIS lists it: [text, colour]; a colour bar has neither."""
    tree = QgsLayerTree()
    model = QgsLayerTreeModel(tree)
    entries = []
    for node in model.layerLegendNodes(tree.addLayer(layer)):
        colour = None
        if isinstance(node, QgsSymbolLegendNode):
            colour = node.symbol().color().name()
        elif isinstance(node, QgsRasterSymbolLegendNode):
            swatch = node.data(Qt.DecorationRole).pixmap(16, 16).toImage()
            colour = swatch.pixelColor(swatch.rect().center()).name()
        text = node.data(0)
        entries.append([text if isinstance(text, str) else None, colour])
    return entries


def account_of(layer):
    if not layer.isValid():
        return {"valid": False}
    renderer = layer.renderer()
    account = {
        "valid": True,
        "authid": layer.crs().authid(),
        # names differ between GDAL's drivers, where a CRS has no code
        "crs_as_file": layer.crs().toProj() == layer.dataProvider().crs().toProj(),
        "renderer": renderer.type(),
        "legend": legend_of(layer),
    }
    if isinstance(layer, QgsVectorLayer):
        account["features"] = layer.featureCount()
    elif renderer.type() == "singlebandpseudocolor":
        legend = renderer.shader().rasterShaderFunction().legendSettings()
        account["number_format"] = legend.numericFormat().id()
    return account


def draw(path, layers, crs, extent, size):
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setOutputSize(QSize(*size))
    settings.setDestinationCrs(crs)
    settings.setExtent(extent)
    settings.setBackgroundColor(QColor("white"))
    settings.setFlag(QgsMapSettings.Antialiasing, False)
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    if not job.renderedImage().save(path):
        raise OSError(path)


def main(order):
    project = QgsProject.instance()
    report = {}
    if "project" in order:
        canvas = QgsMapCanvas()
        canvas.setObjectName("theMapCanvas")  # QGIS's main one
        project.readProject.connect(canvas.readProject)
        report["read"] = project.read(order["project"])
        report["error"] = project.error()
        report["title"] = project.title()
        report["abstract"] = project.metadata().abstract()
        report["authid"] = project.crs().authid()
        report["themes"] = {
            name: [
                layer.name() for layer in project.mapThemeCollection().mapThemeVisibleLayers(name)
            ]
            for name in project.mapThemeCollection().mapThemes()
        }
        extent = canvas.extent()
        report["view"] = [
            extent.xMinimum(),
            extent.yMinimum(),
            extent.xMaximum(),
            extent.yMaximum(),
        ]
        nodes = project.layerTreeRoot().findLayers()
        report["tree"] = [
            [node.parent().name(), node.name(), node.isVisible(), node.isExpanded()]
            for node in nodes
        ]
        layers = [node.layer() for node in nodes]
        visible = [node.layer() for node in nodes if node.isVisible()]
    else:
        layers = []
        for provider, source in order["files"]:
            kind = QgsRasterLayer if provider == "gdal" else QgsVectorLayer
            layers.append(kind(source, source, provider))
        visible = layers
    named = {layer.name(): layer for layer in layers}
    report["layers"] = {name: account_of(layer) for name, layer in named.items()}
    for path, what in order.get("draw", {}).items():
        shown = [named[name] for name in what["layers"]] if "layers" in what else visible
        crs = project.crs() if "project" in order else shown[0].crs()
        draw(path, shown, crs, QgsRectangle(*what["extent"]), what["size"])
    project.clear()
    return report


print(json.dumps([main(order) for order in json.loads(sys.argv[1])]))  # noqa: T201 - the answer
