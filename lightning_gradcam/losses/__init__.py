"""Losses on the maps of a training forward, with their gradients: any ``nn.Module``, no second forward.

Knows nothing of Lightning, records, pictures or files.
"""
