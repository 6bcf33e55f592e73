"""Datasets, losses and the Lightning task; needs the `train` extra."""
