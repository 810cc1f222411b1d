"""The raw, frozen results of one step: maps, channels and gradient statistics.

Does not depend on models, and does not compute, draw or write anything itself.
"""
