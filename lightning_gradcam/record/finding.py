"""One finding about a run, with its evidence and advice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["high", "medium", "low"]
SEVERITIES: tuple[Severity, ...] = ("high", "medium", "low")


@dataclass(frozen=True)
class Finding:
    """One observation about a run's maps, with its evidence; see ``Archive.findings``.

    Attributes:
        kind: The kind of finding, such as ``"shortcut"`` or ``"settled"``; docs/findings.md lists the kinds and their
            thresholds.
        severity: ``"high"``, ``"medium"`` or ``"low"``.
        layer: The maps' layer.
        method: The maps' method.
        probes: Ids of the probes concerned, in the order of the probe set.
        epochs: The epochs concerned, -1 for the untrained model: one epoch, or the first and last of a range.
        figures: The numbers behind it, by name; always includes ``"n"``, the number of probes evaluated.
        text: The observation, as a sentence.
        advice: What to do, in one or two sentences.
        steps: The logged steps at which it is seen, one for each of ``epochs``.

    Example::

        for finding in Archive.open("lightning_logs/version_0/gradcam").findings:
            print(finding.severity, finding.kind, finding.text, finding.advice)
    """

    kind: str
    severity: Severity
    layer: str
    method: str
    probes: tuple[str, ...]
    epochs: tuple[int, ...]
    figures: Mapping[str, float] = field(hash=False)
    text: str
    advice: str
    steps: tuple[int, ...] = ()
