"""Drawing primitives with NumPy and Pillow: colours, text, tiles, overlays, grids and slices.

Does not depend on sheets or runs, nor compute with torch, which would start a thread pool for the worker.
"""
