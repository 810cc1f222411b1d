"""Names of runs, from files that anybody can write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_gradcam import Archive
from lightning_gradcam.naming import describe_runs, hyperparameters
from lightning_gradcam.report import write_report
from tests.report.archives import written
from tests.report.held import described

CLI = """# pytorch_lightning
seed_everything: {seed}
trainer:
  logger: {{class_path: x.Logger, init_args: {{save_dir: here, version: {seed}}}}}
  default_root_dir: /somewhere/{seed}
model: {{class_path: m.Net, init_args: {{lr: {lr}, api_key: hunter{seed}}}}}
"""


def named(*settings: dict[str, str]) -> list[str]:
    folders = [f"folder-{place}" for place in range(len(settings))]
    return [run["name"] for run in describe_runs(folders, settings)]


def test_a_page_of_runs_names_them_by_what_differs_and_finds_those_that_differ_by_their_seed(tmp_path: Path) -> None:
    archives = []
    for place, (lr, seed) in enumerate([("0.1", 0), ("0.1", 1), ("0.001", 0)]):
        folder = tmp_path / f"version_{place}"
        archives.append(Archive.open(written(folder / "gradcam", [0], run=str(place)).path))
        (folder / "config.yaml").write_text(CLI.format(seed=seed, lr=lr))
        # Lightning writes the model's hyperparameters once more.
        (folder / "hparams.yaml").write_text(f"lr: {lr}\n_instantiator: x\nwidth: 8\n")
    write_report(archives, tmp_path / "page.html")
    headers = [described((tmp_path / "page.html").read_text(), place) for place in range(3)]
    names = ["seed_everything=0, lr=0.1", "seed_everything=1, lr=0.1", "seed_everything=0, lr=0.001"]
    assert [header["name"] for header in headers] == names
    assert [header["seed"] for header in headers] == ["0", "1", "0"]
    families = [header["family"] for header in headers]
    assert families[0] == families[1] != families[2]
    assert "hunter" not in str(headers)


def test_runs_without_differences_or_files_have_the_names_of_their_folders() -> None:
    assert named({}, {}) == named({"lr": "0.1"}, {"lr": "0.1"}) == ["folder-0", "folder-1"]
    assert named({"lr": "0.1"}, {}, {"lr": "0.2"}) == ["lr=0.1", "folder-1", "lr=0.2"]
    assert named({"lr": "0.1"}, {"lr": "0.1"}, {"lr": "0.2"}) == [
        "lr=0.1 (folder-0)",
        "lr=0.1 (folder-1)",
        "lr=0.2",
    ]
    long, odd = f'"{"x" * 90}"', '"<b>\\u202e"'
    assert named({"a.size": "1", "b.size": "2", "c": long}, {"a.size": "2", "b.size": "1", "c": odd}) == [
        f"a.size=1, b.size=2, c={'x' * 23}…",
        "a.size=2, b.size=1, c=<b>\\u202e",
    ]
    assert "family" not in describe_runs(["a"], [{"lr": "0.1"}])[0]


@pytest.mark.parametrize(
    "content",
    [
        b"!!python/object/apply:os.system ['touch owned']",
        b"lr: [",
        b"\xff\xfe\x00",
        b"lr: 1\n" + b"x" * 200_000,
        b"a: &a {b: 1}\nc: {<<: *a}\n",
        b"a: &a [*a]",
        b"x: " + b"[" * 5_000,
        b"a: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c]",
        b"a: &a [[],[],[],[],[],[],[],[]]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
        b"d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\nlr: 1\ne: [*d,*d,*d,*d]",
        b"just text",
        b"",
    ],
)
def test_odd_and_hostile_files_count_as_missing(tmp_path: Path, content: bytes) -> None:
    archive = Archive.open(written(tmp_path / "gradcam", [0]).path)
    (tmp_path / "hparams.yaml").write_bytes(content)
    assert hyperparameters(archive.path) == {}
    assert not (tmp_path / "owned").exists()
    (tmp_path / "gradcam" / "hparams.yaml").mkdir()
    assert hyperparameters(archive.path) == {}


def test_what_no_file_tells_apart_for_certain_is_no_family_and_addresses_are_named_without_passwords(
    tmp_path: Path,
) -> None:
    def read(name: str, config: str, hparams: str = "") -> dict[str, str]:
        archive = Archive.open(written(tmp_path / name / "gradcam", [0], run=name).path)
        (tmp_path / name / "config.yaml").write_text(config)
        (tmp_path / name / "hparams.yaml").write_text(hparams)
        return hyperparameters(archive.path)

    def families(*settings: dict[str, str]) -> int:
        return len({told.get("family", place) for place, told in enumerate(describe_runs("ab", settings))})

    tokens = [read(f"t{n}", f"{{seed: {n}, max_tokens: {n}, tokenizer: x{n}, class_token: true}}") for n in range(2)]
    assert tokens[1] == {"seed": "1", "max_tokens": "1", "tokenizer": '"x1"', "class_token": "true"}
    weights = [read(f"w{n}", f"{{seed: {n}, ckpt_path: last{n}, model: {{ckpt_path: begin{n}}}}}") for n in range(2)]
    assert weights[0] == {"seed": "0", "model.ckpt_path": '"begin0"'}
    # What the second file holds could differ, too.
    unread = [read(f"u{n}", f"seed: {n}", f"lr: !!python/name:x{n}") for n in range(2)]
    assert families(*tokens) == families(*weights) == families(*unread) == 2
    address = "data: 'postgres://me:hunter2@host/base?key=hunter3&x=1'"
    assert json.loads(read("a", address)["data"]) == "postgres://…@host/base?…&…"
    (told, _) = describe_runs("ab", [{"a\n<b>" + "k" * 99: "1", "seed": f'"{"s" * 99}"'}, {"seed": "2"}])
    assert told["name"] == f"a\\n<b>{'k' * 17}…=1, seed={'s' * 23}…"
    assert told["seed"] == f"{'s' * 23}…"
