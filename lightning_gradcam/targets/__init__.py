"""Converts a model's output to the scores to explain.

Does not depend on layers, CAM methods or training.
"""
