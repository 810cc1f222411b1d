"""Results of one step, frozen and raw: maps, channels, statistics of gradients.

Knows nothing of models, and computes, draws and writes nothing itself.
"""
