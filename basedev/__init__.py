"""Chained system images for work on Julia's own Base."""

__version__ = "0.1.0"
