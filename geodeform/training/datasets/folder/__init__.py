"""The user's own images with masks or polygons, for training and for torchgeo's samplers."""

from geodeform.training.datasets.folder.chips import torchgeo_dataset
from geodeform.training.datasets.folder.scenes import FolderScenes

__all__ = ["FolderScenes", "torchgeo_dataset"]
