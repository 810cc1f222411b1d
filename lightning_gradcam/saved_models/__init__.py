"""After training: loads checkpoints, explains pictures with them, and replays a run's maps.

Asks ``callbacks.host`` for all that needs Lightning; knows nothing of the command line.
"""
