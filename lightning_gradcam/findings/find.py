"""Computes all findings of a run, most severe first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lightning_gradcam.archive import Archive
from lightning_gradcam.findings.kinds import KINDS
from lightning_gradcam.findings.movement import late_jump, moved_across_masks, moved_most, settled
from lightning_gradcam.findings.places import blank_layers, one_sided, same_for_classes, shortcut
from lightning_gradcam.findings.predictions import predictions
from lightning_gradcam.findings.survey import RunSurvey
from lightning_gradcam.record.finding import SEVERITIES, Finding

_CHECKS: tuple[Callable[[RunSurvey], Iterator[Finding]], ...] = (
    shortcut,
    predictions,
    blank_layers,
    moved_across_masks,
    late_jump,
    same_for_classes,
    one_sided,
    moved_most,
    settled,
)


def find(archive: Archive) -> tuple[Finding, ...]:
    """Returns a run's findings; see :attr:`Archive.findings`.

    Args:
        archive: The run's archive; archives of channels have no findings.

    Returns:
        The findings by severity, then in the order of :data:`KINDS`, then by descending number of probes.

    Raises:
        ArchiveError: A step is damaged.
    """
    survey = RunSurvey.of(archive) if archive.manifest.kind == "cams" else None
    # Images explained once are not a run.
    if survey is None or survey.last.stage == "explain":
        return ()
    kinds = list(KINDS)
    found = [each for check in _CHECKS for each in check(survey)]
    return tuple(
        sorted(found, key=lambda each: (SEVERITIES.index(each.severity), kinds.index(each.kind), -len(each.probes)))
    )
