"""Leaves the model, the data set and the random numbers as they were.

Knows nothing of maps, layers or probes; whatever we run on a user's model runs inside it.
"""
