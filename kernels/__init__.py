"""Compiled loops over bytes. Other packages import `kernels.boundary` only."""
