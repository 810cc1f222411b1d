"""One forward of the user's model: its layers, activations and gradients, and what their axes mean.

Knows nothing of targets, CAM methods or training.
"""
