"""The method on pure tensors: density, grid, sampling, reverse map; never imports rasterio."""
