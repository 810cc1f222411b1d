"""Checks whether maps can be trusted, by comparing them with random maps, other weights and other classes.

The measures are pure functions of arrays. :func:`~lightning_gradcam.checks.run.check_maps` obtains their inputs from a
model, inside the guard, and :mod:`~lightning_gradcam.checks.verdicts` derives one verdict for each layer and method.
Does not depend on Lightning or drawing, and uses files only to save the result.
"""
