"""Provides TensorBoard's Grad-CAM tab, which shows the archives below its log directory in the ``report.html`` viewer.

TensorBoard finds :class:`GradCAMPlugin` by its entry point; there is nothing to configure. Importing this package and
searching for archives imports neither torch nor Lightning; reading the first archive does.

Does not depend on training: it only reads archives.
"""

from lightning_gradcam.tensorboard_plugin.plugin import GradCAMPlugin

__all__ = ["GradCAMPlugin"]
