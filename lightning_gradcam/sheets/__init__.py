"""Draws finished images: sheets, film strips, animations, channel grids and filter patterns.

Does not depend on loggers or training.
"""
