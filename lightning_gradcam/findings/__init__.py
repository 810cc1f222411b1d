"""Describes in sentences what a run's maps show, based on its archive and documented thresholds.

Reads each step once, and does not depend on drawing, loggers or training. Functions map a
:class:`~lightning_gradcam.findings.survey.RunSurvey` to findings; the table of kinds has one row for each kind.
"""

from lightning_gradcam.findings.find import find
from lightning_gradcam.findings.kinds import KINDS, Kind
from lightning_gradcam.findings.page import FINDINGS, brief, write_findings

__all__ = ["FINDINGS", "KINDS", "Kind", "brief", "find", "write_findings"]
