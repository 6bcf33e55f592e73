"""Metrics at full resolution."""
