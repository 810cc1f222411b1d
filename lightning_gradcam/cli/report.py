"""Writes one self-contained HTML page for one or more runs, which you can open from disk without a network.

Example:
  lightning-gradcam report lightning_logs/version_0/gradcam -o attention.html
  lightning-gradcam report runs/cheating runs/fixed -o both.html      # side by side, on the same probes

The page has a slider over the epochs for all probes and layers, can show runs with the same probes side by side, and
ends with the sheets of feature maps and filter patterns. The command also rewrites findings.md in each run's folder.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from lightning_gradcam.cli.options import add_command, add_progress
from lightning_gradcam.cli.shared import progress
from lightning_gradcam.errors import printable

if TYPE_CHECKING:
    from lightning_gradcam.archive import Archive


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    what = "write one self-contained page for one or more runs"
    parser = add_command(commands, "report", what, doc=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="an archive (<log dir>/<name>), or a folder of archives")
    parser.add_argument(
        "-o", "--output", default="report.html", metavar="PAGE", help="the page's file (default: %(default)s)"
    )
    add_progress(parser)
    parser.set_defaults(run=_run)


def _write_findings(archive: Archive) -> None:
    """Writes a run's findings into its folder; if that fails, the page is still written."""
    from lightning_gradcam.findings import FINDINGS, write_findings

    if archive.manifest.kind != "cams":
        return
    try:
        write_findings(archive)
    except Exception as error:  # object stores raise their own exceptions
        place = f"{archive.path}/{FINDINGS}"
        print(printable(f"{place} can't be written ({type(error).__name__}: {error!s:.200})"), file=sys.stderr)


def _run(chosen: argparse.Namespace) -> int:
    from lightning_gradcam.archive import Archive, find_archives
    from lightning_gradcam.monitors.page import write_page

    found = [find_archives(run) for run in progress(chosen.runs, "runs", show=chosen.progress)]
    archives = [Archive.open(path) for path in dict.fromkeys(path for paths in found for path in paths)]
    write_page(archives, chosen.output)
    for archive in archives:
        _write_findings(archive)
    steps = sum(len(archive.steps) for archive in archives)
    print(f"{chosen.output}: {len(archives)} run(s), {steps} steps")
    return 0
