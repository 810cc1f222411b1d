"""CAM methods: pure functions from activations and gradients to signed maps, and their registry.

Does not depend on training, results or files. Methods access the model only through a rerun handle.
"""

from lightning_gradcam.methods.registry import (
    MODEL,
    CamMethod,
    Method,
    available_methods,
    register_method,
    relu,
    resolve_methods,
)

__all__ = ["MODEL", "CamMethod", "Method", "available_methods", "register_method", "relu", "resolve_methods"]
