"""``lightning-gradcam report``: one self-contained page of one or several runs."""

from __future__ import annotations

import argparse

from lightning_gradcam.cli.shared import EXIT_CODES, add_progress, progress

_EPILOG = f"""\
example:
  lightning-gradcam report lightning_logs/version_0/gradcam -o attention.html
  lightning-gradcam report runs/cheating runs/fixed -o both.html      # next to each other, on the same probes

{EXIT_CODES}
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="one self-contained page of one or several runs",
        description="Writes one self-contained HTML page, which opens from disk without a network: a slider over the\n"
        "epochs for all probes and layers, runs with the same probes next to each other, and below them the sheets of\n"
        "feature maps and filter patterns.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="an archive (<log dir>/<name>), or a folder with some")
    parser.add_argument("-o", "--output", default="report.html", metavar="PAGE", help="the page (default: %(default)s)")
    add_progress(parser)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from lightning_gradcam.archive import Archive, find_archives
    from lightning_gradcam.monitors.page import write_page

    found = [find_archives(run) for run in progress(chosen.runs, "runs", show=chosen.progress)]
    archives = [Archive.open(path) for path in dict.fromkeys(path for paths in found for path in paths)]
    write_page(archives, chosen.output)
    steps = sum(len(archive.steps) for archive in archives)
    print(f"{chosen.output}: {len(archives)} run(s), {steps} steps")
    return 0
