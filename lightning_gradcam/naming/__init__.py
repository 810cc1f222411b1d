"""Names of runs: by the hyperparameters that differ between them, as ``hparams.yaml`` and ``config.yaml`` state them.

Does not depend on archives or torch, so that TensorBoard's tab can name runs before it reads one.
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
