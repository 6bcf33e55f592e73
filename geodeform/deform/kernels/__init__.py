"""Kernels of the reverse map: numba for the CPU, torch for any device, behind one signature."""
