"""Creates one self-contained page for one or more runs, with raw maps that are coloured in the browser.

Does not depend on training or loggers: a page is created from archives alone.
"""

from lightning_gradcam.report.gallery import Gallery, Shot
from lightning_gradcam.report.page import page, write_report
from lightning_gradcam.report.payload import Payload

# Name of the page in a run's folder.
REPORT = "report.html"

__all__ = ["REPORT", "Gallery", "Payload", "Shot", "page", "write_report"]
