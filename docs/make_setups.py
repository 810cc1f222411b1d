"""Writes docs/setups.md, the results of training in many set-ups with the callback. Takes minutes.

python docs/make_setups.py
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.setups import NOT_RUN, PROCESSES, SETUPS

HEAD = """# Tested set-ups

Made by `python docs/make_setups.py`, which runs these tests; {versions}, on the CPU. Each set-up of the first table is
trained twice from the same seed, with the callback (several layers, methods and targets) and without it. The two runs
are compared bit by bit: weights, `.grad`, optimizers, schedulers, logged metrics, modes, hooks, threads, the batches of
training and validation, the module's own generators, counters and buffers, and all random numbers (torch, NumPy,
Python) before every batch and at the end.

"""


def outcomes(*paths: str) -> dict[str, str]:
    """Runs tests.

    Returns:
        Each test's id (``file::name``) to ``"passed"``, ``"skipped: …"`` or ``"FAILED"``.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-m", "slow or not slow"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, f"--junit-xml={report}", *paths], cwd=ROOT, env=environment, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    found = {}
    for case in cases:
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        skipped = case.find("skipped")
        failed = case.find("failure") is not None or case.find("error") is not None
        found[name] = "FAILED" if failed else "passed" if skipped is None else f"skipped: {skipped.get('message')}"
    return found


def table(heading: str, rows: list[tuple[str, str]]) -> str:
    """A table of two columns."""
    lines = [f"| {heading} | |", "|---|---|", *(f"| {title} | {outcome} |" for title, outcome in rows)]
    return "\n".join(lines) + "\n\n"


def main() -> None:
    """Runs everything and writes the page."""
    names = ("torch", "pytorch-lightning", "lightning", "numpy", "torchvision")
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)])
    files = sorted({test.split("::")[0] for tests in PROCESSES.values() for _, test in tests})
    found = outcomes("tests/callbacks/test_purity.py", *files)
    test = "tests/callbacks/test_purity.py::test_training_ends_in_the_same_bits"
    page = HEAD.format(versions=versions)
    page += table("one process: the same bits with and without", [(n, found[f"{test}[{n}]"]) for n in SETUPS])
    for heading, tests in PROCESSES.items():
        page += table(heading, [(title, found[name]) for title, name in tests])
    page += table("not run", list(NOT_RUN.items()))
    (ROOT / "docs" / "setups.md").write_text(page.rstrip() + "\n")


if __name__ == "__main__":
    main()
