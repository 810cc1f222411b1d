"""docs/setups.md lists every set-up, and says nothing but what its tests have given."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.setups import NOT_RUN, PROCESSES, SETUPS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "setups.md"


def test_every_set_up_is_on_the_page_and_has_passed() -> None:
    lines = PAGE.read_text().splitlines()
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    # A table's heading has an empty second cell.
    rows = {title: outcome for title, outcome in split if outcome}
    titles = [*SETUPS, *(title for tests in PROCESSES.values() for title, _ in tests)]
    assert {title: rows.get(title) for title in titles} == dict.fromkeys(titles, "passed")
    assert set(rows) == {*titles, *NOT_RUN}


@pytest.mark.parametrize("test", sorted({test.split("[")[0] for tests in PROCESSES.values() for _, test in tests}))
def test_every_row_has_a_test(test: str) -> None:
    file, name = test.split("::")
    assert any(getattr(node, "name", "") == name for node in ast.walk(ast.parse((ROOT / file).read_text())))
