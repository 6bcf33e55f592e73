"""Labelled datasets in their published layouts; nothing here imports torch when it is imported."""
