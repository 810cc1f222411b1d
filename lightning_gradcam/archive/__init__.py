"""One folder per run: the probes, and a small file of signed maps for each logged step.

::

    manifest.json   schema, run, parent, layers, methods, targets, score, map shapes, fingerprint, versions
    probes.npz      the probe set
    steps/step-0000000469-epoch-0003.npz

Step files store each map in float16 relative to a float32 scale (its largest magnitude), so maps for small
probabilities do not underflow. No pickle is read or written. Files are written atomically and the manifest last, so a
run killed at any moment leaves a readable archive. A folder with another run's archive is not modified: the new archive
is created next to it, in ``<name>-1``, ``<name>-2``, …

Does not depend on drawing or training.
"""

from lightning_gradcam.archive.beside import start_beside
from lightning_gradcam.archive.find import find_archives
from lightning_gradcam.archive.manifest import Manifest
from lightning_gradcam.archive.ownership import TakenError
from lightning_gradcam.archive.reader import Archive
from lightning_gradcam.archive.writer import ArchiveWriter

__all__ = ["Archive", "ArchiveWriter", "Manifest", "TakenError", "find_archives", "start_beside"]
