"""CAM methods: pure functions from activations and gradients to signed maps, and their registry.

Does not depend on training, results or files. Methods access the model only through a rerun handle.
"""
