"""Density net, segmenters, the joint model and its file."""
