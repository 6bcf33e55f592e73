"""Georeferencing: scenes, windows, mosaics, rasters and polygons; never imports torch."""
