"""One folder a run: the probes once, and a small file of signed maps for each logged step.

::

    manifest.json   schema, run, parent, layers, methods, targets, score, map shapes, fingerprint, versions
    probes.npz      the probe set
    steps/step-0000000469-epoch-0003.npz

Step files hold maps as float16 shares of a float32 scale each (their largest magnitude), so that maps of small
probabilities survive. No pickle is read or written. Each file appears whole or not at all, and the manifest comes
last, so a run killed at any moment leaves a readable archive. A folder that holds another run's archive is left alone:
the new one goes next to it, into ``<name>-1``, ``<name>-2``, …

Knows nothing of drawing or training.
"""

from lightning_gradcam.archive.beside import start_beside
from lightning_gradcam.archive.find import find_archives
from lightning_gradcam.archive.manifest import Manifest
from lightning_gradcam.archive.ownership import TakenError
from lightning_gradcam.archive.reader import Archive
from lightning_gradcam.archive.writer import ArchiveWriter

__all__ = ["Archive", "ArchiveWriter", "Manifest", "TakenError", "find_archives", "start_beside"]
