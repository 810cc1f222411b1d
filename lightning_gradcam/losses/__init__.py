"""Differentiable losses on the maps of a training forward, for any ``nn.Module`` and without a second forward.

Does not depend on Lightning, records, drawing or files.
"""
