"""Guard, capture, targets and methods put together: from any ``nn.Module`` and its inputs to a result.

Knows nothing of Lightning, pictures or files.
"""
