"""Loads checkpoints after training, explains images with them, and replays a run's maps.

Uses ``callbacks.host`` for everything that needs Lightning; does not depend on the command line.
"""
