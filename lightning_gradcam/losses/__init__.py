"""Differentiable losses on maps from the training forward pass itself, for any ``nn.Module``.

Does not depend on Lightning, records, drawing or files.
"""
