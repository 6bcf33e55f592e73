"""A raster layer of QGIS as geodeform reads it: its file, and areas in the file's coordinates."""

from __future__ import annotations

from dataclasses import dataclass

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsFeature,
    QgsFeatureRequest,
    QgsFields,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeatureSource,
    QgsProcessingUtils,
    QgsProviderRegistry,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorFileWriter,
)
from qgis.PyQt.QtGui import QTransform


@dataclass(frozen=True)
class LayerScene:
    """Where a raster layer's file is, and how QGIS's coordinates are the file's.

    Attributes:
        path: Path or GDAL name of the file.
        name: The layer's name.
        crs: CRS in which QGIS shows it, maybe set by the user.
        file_crs: CRS that the file has, invalid where it has none.
        flipped: Whether the file has no georeference at all: QGIS then counts rows downwards from
            0 to -height, and geodeform from 0 to height.
    """

    path: str
    name: str
    crs: QgsCoordinateReferenceSystem
    file_crs: QgsCoordinateReferenceSystem
    flipped: bool

    @classmethod
    def of(cls, layer: QgsRasterLayer) -> LayerScene:
        """Read a layer's source.

        Raises:
            QgsProcessingException: If the layer is no file (a web service, a database).
        """
        provider = layer.dataProvider()
        if layer.providerType() != "gdal":
            raise QgsProcessingException(
                f"The layer '{layer.name()}' comes from '{layer.providerType()}' and not from a "
                "file: save it as a GeoTIFF (layer menu > Export > Save As) and take that."
            )
        uri = QgsProviderRegistry.instance().decodeUri("gdal", layer.source())
        uri.pop("openOptions", None)  # such as an overview level; geodeform chooses its own
        extent = layer.extent()
        return cls(
            path=QgsProviderRegistry.instance().encodeUri("gdal", uri),
            name=layer.name(),
            crs=layer.crs(),
            file_crs=provider.crs(),
            flipped=not provider.crs().isValid()
            and extent == QgsRectangle(0, -layer.height(), layer.width(), 0),
        )

    def bbox(self, extent: QgsRectangle) -> list[float]:
        """Return xmin, ymin, xmax, ymax for ``--bbox``, of a rectangle in the layer's CRS."""
        low, high = extent.yMinimum(), extent.yMaximum()
        if self.flipped:
            low, high = -high, -low
        return [extent.xMinimum(), low, extent.xMaximum(), high]

    def write_area(self, source: QgsProcessingFeatureSource, context: QgsProcessingContext) -> str:
        """Write the polygons of a source (its selected ones, where so chosen) for ``--aoi``.

        They are always written, into a GeoPackage of their own: geodeform reads a file's first
        layer, without QGIS's selection, filter, unsaved edits, or a CRS that the user corrected.

        Returns:
            Path of the file, which QGIS removes when it ends.

        Raises:
            QgsProcessingException: If it cannot be written.
        """
        request = QgsFeatureRequest().setNoAttributes()
        crs = source.sourceCrs()
        # Else geodeform transforms, and only near the scene. Where nobody knows the scene's CRS,
        # QGIS draws the polygons' coordinates as they are, so they are taken so.
        if self.crs != self.file_crs or not self.crs.isValid():
            request.setDestinationCrs(self.crs, context.transformContext())
            crs = self.file_crs
        path = str(QgsProcessingUtils.generateTempFilename("area.gpkg"))
        options = QgsVectorFileWriter.SaveVectorOptions()
        options.driverName = "GPKG"
        options.layerName = "area"
        writer = QgsVectorFileWriter.create(
            path, QgsFields(), source.wkbType(), crs, context.transformContext(), options
        )
        # geodeform mends invalid polygons, so Processing need not refuse them
        unchecked = QgsProcessingFeatureSource.FlagSkipGeometryValidityChecks
        for feature in source.getFeatures(request, unchecked):
            geometry = feature.geometry()
            if self.flipped:
                geometry.transform(QTransform.fromScale(1, -1))
            plain = QgsFeature()
            plain.setGeometry(geometry)
            writer.addFeature(plain)
        failed, message = writer.hasError() != QgsVectorFileWriter.NoError, writer.errorMessage()
        del writer  # closes the file
        if failed:
            raise QgsProcessingException(f"The polygons cannot be written to {path}: {message}.")
        return path
