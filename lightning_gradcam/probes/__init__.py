"""The probes (fixed inputs): ids, labels, masks and display pixels, and how they are chosen, saved and restored.

Does not depend on models, maps or training.
"""

from lightning_gradcam.probes.probe_set import ProbeSet

__all__ = ["ProbeSet"]
