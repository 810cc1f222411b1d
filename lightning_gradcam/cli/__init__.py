"""The console script ``lightning-gradcam``: one module for each command, whose ``add`` registers it.

A command's function takes the parsed arguments and returns the exit code. It imports its dependencies itself, because
``--help`` must not wait for torch. Nothing else in the package depends on this folder.
"""

from lightning_gradcam.cli.app import main

__all__ = ["main"]
