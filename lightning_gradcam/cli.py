"""The console script ``lightning-gradcam``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from lightning_gradcam.errors import LightningGradCAMError

_REPORT_EXAMPLE = """\
example:
  lightning-gradcam report lightning_logs/version_0/gradcam -o attention.html
  lightning-gradcam report runs/cheating runs/fixed -o both.html      # next to each other, on the same probes

exit codes: 0 the page is written; 1 a run can't be read, or the page can't be written; 2 wrong usage
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Instead of those of the command line.

    Returns:
        The exit code: 0; 1 where the command failed, with one line on standard error.
    """
    chosen = _parser().parse_args(arguments)
    try:
        return int(chosen.run(chosen))
    except LightningGradCAMError as error:
        print(f"lightning-gradcam: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"lightning-gradcam: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("lightning-gradcam", description="Look at what GradCAMCallback has recorded.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('lightning-gradcam')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    report = commands.add_parser(
        "report",
        help="one self-contained page of one or several runs",
        description="Writes one self-contained HTML page, which opens from disk without a network: a slider over the"
        " epochs for all probes and layers, and runs with the same probes next to each other.",
        epilog=_REPORT_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="an archive (<log dir>/<name>), or a folder with some")
    report.add_argument("-o", "--output", default="report.html", metavar="PAGE", help="the page (default: %(default)s)")
    report.set_defaults(run=_report)
    return parser


def _report(chosen: argparse.Namespace) -> int:
    # Loaded with the command that needs it: --help need not wait for torch.
    from lightning_gradcam.archive import Archive, find_archives
    from lightning_gradcam.report import write_report

    paths = dict.fromkeys(path for run in chosen.runs for path in find_archives(run))
    archives = [Archive.open(path) for path in paths]
    write_report(archives, chosen.output)
    steps = sum(len(archive.steps) for archive in archives)
    print(f"{chosen.output}: {len(archives)} run(s), {steps} steps")
    return 0
