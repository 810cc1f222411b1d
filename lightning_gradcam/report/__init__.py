"""One self-contained page of a run, or of several: raw maps, coloured in the browser.

Knows nothing of training or loggers: a page is made from an archive alone.
"""

from lightning_gradcam.report.gallery import Gallery, Shot
from lightning_gradcam.report.page import page, write_report
from lightning_gradcam.report.payload import Payload

# The page's name in a run's folder.
REPORT = "report.html"

__all__ = ["REPORT", "Gallery", "Payload", "Shot", "page", "write_report"]
