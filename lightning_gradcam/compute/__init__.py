"""Combines guard, capture, targets and methods to compute results from any ``nn.Module`` and its inputs.

Does not depend on Lightning, drawing or files.
"""
