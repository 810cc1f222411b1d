"""Finished pictures: sheets, film strips, animations, channel grids and filter patterns.

Knows nothing of files, loggers or training.
"""
