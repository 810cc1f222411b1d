"""Whether a map can be trusted: it is measured against random maps, against other weights, and against other classes.

The measures are pure functions of arrays; :func:`~lightning_gradcam.checks.run.check_maps` asks a model for what they
need, inside the guard, and :mod:`~lightning_gradcam.checks.verdicts` turns the figures into one word for each layer and
method. Knows nothing of Lightning, drawing or files but the result's own.
"""
