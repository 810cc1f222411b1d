"""Drawing primitives with NumPy and Pillow: colours, text, tiles, overlays, grids and slices.

Knows nothing of sheets, files or runs; torch would give the worker its own thread pool.
"""
