"""Describes in sentences what a run's maps show, computed from its archive with documented thresholds.

Reads each step once and does not depend on drawing, loggers or training. A kind of finding is one function from a
:class:`~lightning_gradcam.findings.survey.RunSurvey` to findings, and one row in the table of kinds.
"""

from lightning_gradcam.findings.find import find
from lightning_gradcam.findings.kinds import KINDS, Kind
from lightning_gradcam.findings.page import FINDINGS, brief, write_findings

__all__ = ["FINDINGS", "KINDS", "Kind", "brief", "find", "write_findings"]
