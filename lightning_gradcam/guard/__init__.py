"""Saves and restores the state of the model, the data set and the random number generators.

Does not depend on maps, layers or probes. Everything we run on a user's model runs inside this guard.
"""
