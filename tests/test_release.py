"""The release checklist's first step, which needs no installation, on repositories made for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RELEASED = (
    "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-11-30\n\n- New.\n\n## [0.1.0] - 2026-01-01\n\n- First.\n"
)


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def repository(folder: Path, changelog: str = RELEASED) -> Path:
    (folder / ".ci").mkdir()
    for name in ("release", "environment"):
        shutil.copy(ROOT / ".ci" / name, folder / ".ci")
    (folder / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "0.2.0"\n')
    (folder / "CHANGELOG.md").write_text(changelog)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "x")
    return folder


def release(folder: Path, *steps: str) -> tuple[int, str]:
    done = subprocess.run(["sh", ".ci/release", *steps], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_version_that_the_changelog_has_can_be_released(tmp_path: Path) -> None:
    code, said = release(repository(tmp_path), "version")
    assert (code, said.splitlines()[-1]) == (0, "+ done: version")
    assert "0.2.0" in said


@pytest.mark.parametrize(
    ("changelog", "said"),
    [
        (
            RELEASED.replace("## [0.2.0] - 2026-11-30", "## [0.3.0] - 2026-11-30"),
            "the newest release in CHANGELOG.md is '0.3.0'",
        ),
        (RELEASED.replace(" - 2026-11-30", ""), "give it a heading such as '## [0.2.0] - 2"),
        (
            RELEASED.replace("[Unreleased]\n", "[Unreleased]\n\n- More.\n"),
            "still has entries under [Unreleased] (1)",
        ),
    ],
)
def test_a_changelog_that_does_not_agree_is_refused(tmp_path: Path, changelog: str, said: str) -> None:
    code, text = release(repository(tmp_path, changelog), "version")
    assert code == 1
    assert said in text


def test_what_is_not_committed_or_released_before_is_refused(tmp_path: Path) -> None:
    folder = repository(tmp_path)
    (folder / "left.py").touch()
    code, said = release(folder, "version")
    assert (code, "uncommitted changes" in said) == (1, True)
    (folder / "left.py").unlink()
    git(folder, "tag", "v0.2.0")
    code, said = release(folder, "version")
    assert (code, "the tag v0.2.0 exists" in said) == (1, True)


def test_a_step_that_is_not_there_is_refused_before_any_runs(tmp_path: Path) -> None:
    code, said = release(repository(tmp_path), "version", "instal")
    assert code == 1
    assert "there is no step 'instal'; steps are: version build install job extras tests docs oldest" in said
    assert "+ version" not in said
