"""Captures one forward pass of the user's model: layers, activations, gradients, and the meaning of their axes.

Does not depend on targets, CAM methods or training.
"""
