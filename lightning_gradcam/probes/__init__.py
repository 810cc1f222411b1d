"""The fixed inputs: their ids, labels, masks and display pixels; how they are chosen, saved and restored.

Knows nothing of models, maps or training.
"""

from lightning_gradcam.probes.probe_set import ProbeSet

__all__ = ["ProbeSet"]
