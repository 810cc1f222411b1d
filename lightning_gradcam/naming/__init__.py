"""Names runs after the hyperparameters that differ between them, read from ``hparams.yaml`` and ``config.yaml``.

Does not depend on archives or torch, because TensorBoard's tab names runs before it reads their archives.
"""

from lightning_gradcam.naming.hyperparameters import (
    FILES,
    MOST_BYTES,
    hyperparameters,
    merge_hyperparameters,
    parse_hyperparameters,
)
from lightning_gradcam.naming.names import describe_runs

__all__ = [
    "FILES",
    "MOST_BYTES",
    "describe_runs",
    "hyperparameters",
    "merge_hyperparameters",
    "parse_hyperparameters",
]
