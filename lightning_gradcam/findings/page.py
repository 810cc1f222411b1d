"""Writes ``findings.md`` into a run's folder, and selects the few findings to print at the end of training."""

from __future__ import annotations

import html
from collections.abc import Sequence

from lightning_gradcam.archive import Archive
from lightning_gradcam.errors import printable
from lightning_gradcam.findings.kinds import KINDS
from lightning_gradcam.record.finding import Finding
from lightning_gradcam.storage import Storage

# Name of the file in a run's folder.
FINDINGS = "findings.md"


def write_findings(archive: Archive) -> tuple[Finding, ...]:
    """Writes ``findings.md`` atomically into the run's folder and returns the findings.

    Args:
        archive: The run's archive.

    Raises:
        ArchiveError: A step is damaged.
        OSError: The folder can't be written to.
    """
    found = archive.findings
    Storage(archive.path).write(FINDINGS, markdown(archive, found).encode("utf-8", "replace"))
    return found


def markdown(archive: Archive, findings: Sequence[Finding]) -> str:
    """Returns the text of ``findings.md``.

    Args:
        archive: The run's archive.
        findings: The run's findings, most severe first.
    """
    epochs = [epoch for epoch in archive.epochs if epoch >= 0]
    count = len(archive.steps)
    span = f", epochs {epochs[0]} to {epochs[-1]}" if epochs else ""
    lines = [
        "# Findings",
        "",
        f"Run {archive.manifest.run}: logged steps: {count}{span}; probes: {len(archive.probes)}.",
        "The page *Findings* of lightning-gradcam's documentation has the thresholds.",
    ]
    if not findings:
        lines += ["", "No finding: no threshold was reached, or there were too few probes or steps to judge."]
    for each in findings:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in each.figures.items())
        lines += [
            "",
            f"## {KINDS[each.kind].title} ({each.severity})",
            "",
            _escaped(each.text),
            "",
            f"- What to do: {_escaped(each.advice)}",
            f"- Probes: {_escaped(', '.join(each.probes))}",
            f"- Figures: {figures}",
        ]
    return "\n".join(lines) + "\n"


def brief(findings: Sequence[Finding], most: int = 2) -> list[str]:
    """Returns the sentences of the most severe findings, one per kind.

    Args:
        findings: The findings, most severe first.
        most: Maximum number of sentences.
    """
    first: dict[str, str] = {}
    for each in findings:
        first.setdefault(each.kind, printable(each.text))
    return list(first.values())[:most]


def _escaped(text: str) -> str:
    # The names of layers and probes can be any text.
    return html.escape(printable(text), quote=False)
