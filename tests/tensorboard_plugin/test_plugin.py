"""The plugin as TensorBoard asks it, without a browser."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tensorboard.backend.application import TensorBoardWSGI
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client

from lightning_gradcam import Archive
from lightning_gradcam.report import Payload
from lightning_gradcam.tensorboard_plugin import GradCAMPlugin, runs, shelf
from lightning_gradcam.tensorboard_plugin.places import Place, places_of
from tests.report.archives import record, written

ROUTE = "/data/plugin/gradcam"


class Page:
    """What the page can ask of a TensorBoard."""

    def __init__(self, logdir: Path | str | None, spec: str = "") -> None:
        flags = argparse.Namespace(logdir="" if logdir is None else str(logdir), logdir_spec=spec)
        self.plugin = GradCAMPlugin(TBContext(logdir=flags.logdir, flags=flags))
        self.client = Client(TensorBoardWSGI([self.plugin]))

    def get(self, route: str, **query: Any) -> Any:
        return self.client.get(f"{ROUTE}/{route}", query_string=query)

    def runs(self) -> dict[str, dict[str, Any]]:
        self.plugin._finder.listing(patience=60, fresh=True)
        return {entry["run"]: entry for entry in self.get("runs").json["runs"]}

    def notes(self) -> list[str]:
        return list(self.get("runs").json["notes"])

    def header(self, run: str) -> dict[str, Any]:
        answer = self.get("run", run=run)
        assert answer.status_code == 200, answer.text
        return dict(answer.json)

    def refused(self, route: str, **query: Any) -> tuple[int, str]:
        answer = self.get(route, **query)
        assert answer.content_type == "application/json"
        return answer.status_code, answer.json["error"]


def test_loading_and_looking_for_archives_loads_neither_torch_nor_lightning(tmp_path: Path) -> None:
    written(tmp_path / "version_0" / "gradcam")
    code = f"""
import sys
from argparse import Namespace
from importlib.metadata import entry_points
from tensorboard.backend.application import TensorBoardWSGI
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client
(entry,) = entry_points(group="tensorboard_plugins", name="gradcam")
plugin = entry.load()(TBContext(logdir={str(tmp_path)!r}, flags=Namespace(logdir_spec="")))
assert plugin.is_active()
client = Client(TensorBoardWSGI([plugin]))
assert client.get("{ROUTE}/runs").json["runs"][0]["steps"] == 2
assert client.get("{ROUTE}/index.js").status_code == 200
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"torch", "lightning", "pytorch_lightning", "numpy"}}))
assert client.get("{ROUTE}/run?run=version_0/gradcam").status_code == 200
"""
    # Not from the checkout, where the metadata of an earlier installation may lie.
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "lightning", "pytorch_lightning"} & set(eval(done.stdout))


def test_the_tab_appears_with_the_first_archive(tmp_path: Path) -> None:
    page = Page(tmp_path / "logs")
    assert not page.plugin.is_active()
    assert page.runs() == {}
    written(tmp_path / "logs" / "version_0" / "gradcam", [])
    assert page.runs()["version_0/gradcam"]["steps"] == 0
    assert page.plugin.is_active()
    data = page.plugin.frontend_metadata()
    assert (data.tab_name, data.es_module_path) == ("Grad-CAM", "/index.js")


def test_without_a_log_directory_there_is_nothing() -> None:
    page = Page(None)
    assert not page.plugin.is_active()
    assert page.runs() == {}
    assert not GradCAMPlugin(TBContext()).is_active()


def test_runs_have_tensorboards_names_and_what_their_manifests_say(tmp_path: Path) -> None:
    first = written(tmp_path / "fashion" / "version_0" / "gradcam", run="one")
    written(tmp_path / "fashion" / "version_0" / "gradcam_2", [0], probes=1)
    written(tmp_path / "version_1" / "gradcam" / "inside", [0])
    written(tmp_path / "version_1" / "gradcam", [0])
    written(tmp_path / ".hidden" / "gradcam", [0])
    (tmp_path / "other" / "steps").mkdir(parents=True)
    (tmp_path / "other" / "manifest.json").write_text('{"name": "an app"}')
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    found = Page(tmp_path).runs()
    assert list(found) == ["fashion/version_0/gradcam", "fashion/version_0/gradcam_2", "version_1/gradcam"]
    entry = found["fashion/version_0/gradcam"]
    assert (entry["id"], entry["steps"], entry["problem"]) == ("one", 2, "")
    assert (entry["fingerprint"], entry["created"]) == (first.manifest.fingerprint, first.manifest.created)
    assert found["fashion/version_0/gradcam_2"]["fingerprint"] != entry["fingerprint"]
    assert list(Page(tmp_path / "version_1" / "gradcam").runs()) == ["."]


def test_runs_are_named_by_their_hyperparameters_which_are_read_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, content in enumerate(["{lr: 0.1, seed: 0}", "{lr: 0.1, seed: 1}", "!!python/name:os.system", "", ""]):
        written(tmp_path / f"v{place}" / "gradcam", [0], run=str(place))
        (tmp_path / f"v{place}" / "hparams.yaml").write_text(content)
    (tmp_path / "v0" / "gradcam" / "config.yaml").write_text("model: {width: 8}")
    (tmp_path / "v4" / "hparams.yaml").write_bytes(b"x: " + b"[" * 99_000)
    page = Page(tmp_path)
    found = page.runs()
    folders = [f"v{place}/gradcam" for place in range(5)]
    assert list(found) == folders
    assert [run["name"] for run in found.values()] == ["seed=0, width=8", "seed=1", *folders[2:]]
    assert [run.get("seed") for run in found.values()] == ["0", "1", None, None, None]
    (tmp_path / "v0" / "gradcam" / "config.yaml").unlink()
    asked: list[tuple[str, ...]] = []
    read = Place.read

    def reading(self: Place, *parts: str, **options: Any) -> bytes:
        asked.append(parts)
        return read(self, *parts, **options)

    monkeypatch.setattr(Place, "read", reading)
    (tmp_path / "v3" / "hparams.yaml").write_text("{lr: 0.2, seed: 0}")
    found = page.runs()
    assert [run["name"] for run in found.values()][:4] == [
        "lr=0.1, seed=0",
        "lr=0.1, seed=1",
        "v2/gradcam",
        "lr=0.2, seed=0",
    ]
    families = [run.get("family") for run in found.values()]
    assert families[0] == families[1] != families[3]
    assert [parts for parts in asked if parts[-1] != "manifest.json"] == [("v3", "hparams.yaml")]


def test_several_log_directories_are_named_as_tensorboard_names_them(tmp_path: Path) -> None:
    for name in "abc":
        written(tmp_path / name / "version_0" / "gradcam", run=name)
    page = Page(None, f"first:{tmp_path}/a,{tmp_path}/b,third:{tmp_path}/c/version_0/gradcam,gone:{tmp_path}/nowhere")
    assert {name: entry["id"] for name, entry in page.runs().items()} == {
        "first/version_0/gradcam": "a",
        "version_0/gradcam": "b",
        "third": "c",
    }
    assert page.header("third")["id"] == "c"
    assert [place.prefix for place in places_of("logs", "a:b")] == [""]
    assert places_of("~/logs", None)[0].root == os.path.realpath(Path.home() / "logs")


def test_the_page_gets_what_a_report_has(tmp_path: Path) -> None:
    archive = written(tmp_path / "version_0" / "gradcam", [-1, 0, 1])
    page = Page(tmp_path)
    header = page.header("version_0/gradcam")
    expected = Payload.of(Archive.open(archive.path), title="version_0/gradcam")
    own = {"block": 3 * 2 * 25, "mark": header["mark"], "marks": header["marks"]}
    assert header == {**json.loads(json.dumps(expected.header)), **own}
    assert len(set(header["marks"])) == 3
    answer = page.get("maps", run="version_0/gradcam", mark=header["mark"])
    assert (answer.data, answer.content_type) == (expected.maps(), "application/octet-stream")
    part = page.get("maps", run="version_0/gradcam", start=1, stop=2)
    assert part.data == expected.maps(1, 2)
    assert page.get("maps", run="version_0/gradcam", start=3).data == b""


def test_large_answers_are_packed_for_who_can_unpack_them(tmp_path: Path) -> None:
    written(tmp_path / "gradcam", range(10))
    page = Page(tmp_path)
    plain = page.get("maps", run="gradcam")
    packed = page.client.get(f"{ROUTE}/maps?run=gradcam", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) == len(packed.data)
    import gzip

    assert gzip.decompress(packed.data) == plain.data == page.get("maps", run="gradcam", stop=10).data


def test_of_a_growing_run_only_the_new_step_is_read_and_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As with many steps: none is compared with the last, which would be made anew for all.
    monkeypatch.setattr(shelf, "_FEW", 0)
    archive = written(tmp_path / "gradcam", [0, 1])
    page = Page(tmp_path)
    before, listed = page.header("gradcam"), page.runs()["gradcam"]
    old = page.get("maps", run="gradcam").data
    assert page.header("gradcam")["mark"] == before["mark"]
    for file in (tmp_path / "gradcam" / "steps").glob("*-epoch-0001.npz"):  # whoever reads it again finds it broken
        times = file.stat()
        file.write_bytes(bytes(times.st_size))
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    archive.append(record(archive.probes, 2))
    after = page.header("gradcam")
    assert page.runs()["gradcam"]["mark"] != listed["mark"]
    assert after["marks"][:2] == before["marks"]
    assert after["steps"][:2] == before["steps"]
    assert [step["epoch"] for step in after["steps"]] == [0, 1, 2]
    new = page.get("maps", run="gradcam", start=2, mark=after["mark"]).data
    assert page.get("maps", run="gradcam").data == old + new
    status, sentence = page.refused("maps", run="gradcam", mark=before["mark"])
    assert (status, "has changed since it was listed" in sentence) == (409, True)


def test_a_rewound_run_shows_its_new_steps(tmp_path: Path) -> None:
    archive = written(tmp_path / "gradcam", [0, 1, 2])
    page = Page(tmp_path)
    before, listed = page.header("gradcam"), page.runs()["gradcam"]
    archive.rewind(10)
    assert page.runs()["gradcam"]["steps"] == 1
    assert page.header("gradcam")["marks"] == before["marks"][:1]
    for epoch in (1, 2):
        archive.append(record(archive.probes, epoch, seed=1))
    after = page.header("gradcam")
    assert page.runs()["gradcam"]["steps"] == listed["steps"]
    assert page.runs()["gradcam"]["mark"] != listed["mark"]
    assert [a == b for a, b in zip(after["marks"], before["marks"], strict=True)] == [True, False, False]
    expected = Payload.of(Archive.open(archive.path))
    assert page.get("maps", run="gradcam", mark=after["mark"]).data == expected.maps()


def test_another_run_in_the_same_folder_is_another_run(tmp_path: Path) -> None:
    first = written(tmp_path / "gradcam", [0], run="one")
    page = Page(tmp_path)
    before = page.header("gradcam")
    first.discard()
    written(tmp_path / "gradcam", [0], run="two", probes=1)
    after = page.header("gradcam")
    assert (before["id"], after["id"]) == ("one", "two")
    assert after["probes"][0]["id"] == "p1-0"
    assert not set(before["marks"]) & set(after["marks"])


def test_a_damaged_step_is_left_out_and_said(tmp_path: Path) -> None:
    archive = written(tmp_path / "gradcam", [0, 1, 2])
    file = sorted((tmp_path / "gradcam" / "steps").iterdir())[1]
    file.write_bytes(file.read_bytes()[:100])
    page = Page(tmp_path)
    header = page.header("gradcam")
    assert [step["epoch"] for step in header["steps"]] == [0, 2]
    assert header["remark"] == "1 of the step files can't be read and are left out"
    assert len(page.get("maps", run="gradcam").data) == 2 * header["block"]
    file.unlink()
    archive._written = None
    archive.append(record(archive.probes, 1))
    assert page.header("gradcam")["remark"] == ""


def test_damaged_archives_are_said_and_stop_nothing(tmp_path: Path) -> None:
    for name in ("manifest", "schema", "probes", "first", "whole"):
        written(tmp_path / name / "gradcam")
    (tmp_path / "manifest" / "gradcam" / "manifest.json").write_text('{"run": ')
    (tmp_path / "schema" / "gradcam" / "manifest.json").write_text('{"run": "x", "fingerprint": "y", "schema": 99}')
    (tmp_path / "probes" / "gradcam" / "probes.npz").write_bytes(b"nothing")
    min((tmp_path / "first" / "gradcam" / "steps").iterdir()).write_bytes(b"nothing")
    page = Page(tmp_path)
    found = page.runs()
    assert "manifest.json can't be read (JSONDecodeError" in found["manifest/gradcam"]["problem"]
    said = {name: page.refused("run", run=f"{name}/gradcam") for name in ("manifest", "schema", "probes", "first")}
    assert {status for status, _ in said.values()} == {500}
    assert "the manifest in" in said["manifest"][1]
    assert "schema 99" in said["schema"][1]
    assert "probes.npz" in said["probes"][1]
    assert "delete that file to read the rest" in said["first"][1]
    assert len(page.header("whole/gradcam")["steps"]) == 2


def spoilt(file: Path, kind: str) -> None:
    """Puts something in a file's place that can't be read as one."""
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "dangling link":
        file.symlink_to(file.parent / "nowhere")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(file))
    else:
        file.write_text("{}")
        file.chmod(0)


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link", "socket", "unreadable"])
def test_a_manifest_that_is_no_file_to_read_hides_no_other_run(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an archive beside it, in the folder above it, and in the archive's own folder below."""
    monkeypatch.chdir(tmp_path)
    logs = tmp_path / "logs"
    written(logs / "bad" / "gradcam")
    spoilt(logs / "bad" / "gradcam" / "manifest.json", kind)
    written(logs / "good" / "gradcam")
    (logs / "steps").mkdir()
    (logs / "probes.npz").write_bytes(b"")
    spoilt(logs / "manifest.json", kind)
    opened = os.open

    def refusing(path: Any, *args: Any, **options: Any) -> int:
        # For root everything can be read.
        if str(path).endswith("manifest.json") and os.path.isfile(path) and not os.stat(path).st_mode & 0o777:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(os, "open", refusing)
    page = Page(logs)
    found: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: found.append(page.runs()), daemon=True)
    asking.start()
    asking.join(30)
    assert found, "the list of runs is waited for"
    assert found[0]["good/gradcam"]["problem"] == ""
    assert all(run["problem"] for name, run in found[0].items() if name != "good/gradcam")
    assert ("bad/gradcam" in found[0]) == (kind == "unreadable")
    assert len(page.header("good/gradcam")["steps"]) == 2
    assert page.notes() == []


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link", "socket", "unreadable"])
def test_whatever_has_the_name_of_a_step_is_left_out(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    archive = written(tmp_path / "logs" / "gradcam")
    name = sorted(os.listdir(Path(archive.path, "steps")))[-1]
    spoilt(Path(archive.path, "steps", name), kind)
    header = Page(tmp_path / "logs").header("gradcam")
    assert len(header["steps"]) == 1


def test_what_fails_in_one_run_is_said_of_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        written(tmp_path / name / "gradcam")
    listed = Place.entries

    def failing(self: Place, folder: str, **options: Any) -> Any:
        if folder == "a/gradcam/steps" or folder == "b":
            raise RuntimeError("no answer")
        return listed(self, folder, **options)

    monkeypatch.setattr(Place, "entries", failing)
    page = Page(tmp_path)
    assert {name: run["problem"] for name, run in page.runs().items()} == {
        "a/gradcam": "its steps can't be listed (RuntimeError: no answer)",
        "c/gradcam": "",
    }
    assert page.notes() == [f"{tmp_path}/b can't be read (RuntimeError: no answer)."]


def test_a_run_that_has_gone_is_not_found(tmp_path: Path) -> None:
    written(tmp_path / "gradcam")
    page = Page(tmp_path)
    page.header("gradcam")
    for file in (tmp_path / "gradcam").rglob("*.*"):
        file.unlink()
    status, sentence = page.refused("run", run="gradcam")
    assert status == 404
    assert "deleted" in sentence


@pytest.mark.parametrize(
    "name",
    ["", "..", "../secret/gradcam", "a/../../secret/gradcam", "%2e%2e/secret/gradcam", "./a", "a/", "A", "a\0", "{}"],
)
def test_what_is_not_in_the_list_is_not_found(tmp_path: Path, name: str) -> None:
    written(tmp_path / "logs" / "a")
    written(tmp_path / "secret" / "gradcam")
    page = Page(tmp_path / "logs")
    assert list(page.runs()) == ["a"]
    for route in ("run", "maps"):
        assert page.refused(route, run=name.format(tmp_path / "secret" / "gradcam"))[0] == 404
    for path in ("/../../../secret/gradcam/manifest.json", "/viewer/%2e%2e/payload.py", "/viewer/../payload.py"):
        assert page.client.get(ROUTE + path).status_code == 404


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("linked", ["logs/a", "logs/a/gradcam", "logs/a/gradcam/manifest.json", "logs/a/gradcam/steps"])
def test_links_out_of_the_log_directory_are_not_followed(tmp_path: Path, linked: str) -> None:
    written(tmp_path / "logs" / "a" / "gradcam")
    inside = tmp_path / linked
    outside = tmp_path / "outside" / inside.name
    outside.parent.mkdir()
    inside.rename(outside)
    inside.symlink_to(outside)
    page = Page(tmp_path / "logs")
    assert sum(entry["steps"] for entry in page.runs().values()) == 0
    if linked.endswith("steps"):
        assert page.header("a/gradcam")["steps"] == []
    else:
        assert page.refused("run", run="a/gradcam")[0] == 404


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_that_come_later_are_not_followed_either(tmp_path: Path) -> None:
    archive = written(tmp_path / "logs" / "a" / "gradcam", [0, 1])
    other = written(tmp_path / "outside" / "gradcam", [2])
    page = Page(tmp_path / "logs")
    page.runs()
    (file,) = (Path(other.path) / "steps").iterdir()
    (Path(archive.path) / "steps" / file.name).symlink_to(file)
    assert page.runs()["a/gradcam"]["steps"] == 2
    header = page.header("a/gradcam")
    assert ([step["epoch"] for step in header["steps"]], header["remark"]) == ([0, 1], "")
    probes = Path(archive.path) / "probes.npz"
    probes.unlink()
    probes.symlink_to(Path(other.path) / "probes.npz")
    assert Page(tmp_path / "logs").refused("run", run="a/gradcam")[0] == 500
    (tmp_path / "logs" / "a").rename(tmp_path / "moved")
    (tmp_path / "logs" / "a").symlink_to(tmp_path / "moved")
    assert page.refused("run", run="a/gradcam")[0] == 404
    assert list(Page(tmp_path / "logs" / "a").runs()) == ["gradcam"], "the log directory itself may be a link"


def test_only_whole_numbers_and_get_are_taken(tmp_path: Path) -> None:
    written(tmp_path / "gradcam", [0, 1])
    page = Page(tmp_path)
    for start in ("-1", "3", "1.0", "x", "٣", "9" * 30):
        status, sentence = page.refused("maps", run="gradcam", start=start)
        assert (status, "from 0 to 2" in sentence) == (400, True)
    assert page.get("maps", run="gradcam", start=2, stop=1).data == b""
    answer = page.client.post(f"{ROUTE}/runs")
    assert (answer.status_code, answer.json) == (405, {"error": "POST is not allowed here, only GET."})
    assert page.client.head(f"{ROUTE}/runs").data == b""


def test_the_pages_files_are_served_and_no_others(tmp_path: Path) -> None:
    page = Page(tmp_path)
    seen, waiting = set(), ["index.js"]
    while waiting:
        name = waiting.pop()
        seen.add(name)
        answer = page.get(name)
        assert answer.status_code == 200, name
        assert answer.content_type == "application/javascript; charset=utf-8"
        for other in re.findall(r"from '(\./[^']+)'", answer.text):
            target = os.path.normpath(os.path.join(os.path.dirname(name), other))
            if target not in seen:
                waiting.append(target)
    assert {"viewer/viewer.js", "source.js", "picker.js"} <= seen
    for name in ("tab.css", "viewer/viewer.css"):
        assert page.get(name).content_type == "text/css; charset=utf-8"
    assert page.get("viewer/colormaps.png").content_type == "image/png"
    for name in ("plugin.py", "viewer/payload.py", "viewer/", "viewer", "viewer/report.html", "nothing.js"):
        assert page.get(name).status_code == 404
    kinds = {os.path.splitext(route)[1] for route in page.plugin.get_plugin_apps()}
    assert kinds == {"", ".js", ".css", ".png"}


def test_a_search_that_gets_too_long_is_ended_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a")
    written(tmp_path / "z" / "deep" / "gradcam")
    monkeypatch.setattr(runs, "_MAX_FOLDERS", 3)
    page = Page(tmp_path)
    assert list(page.runs()) == ["a"]
    (note,) = page.notes()
    assert "too large to be searched completely: the search stopped after 3 folders" in note
    monkeypatch.setattr(runs, "_MAX_FOLDERS", 20)
    monkeypatch.setattr(runs, "_MAX_ENTRIES", 5)
    assert list(Page(tmp_path).runs()) == ["a"]


def test_archives_in_a_store_are_found_and_read() -> None:
    root = "memory://plugin-logs"
    try:
        archive = written(f"{root}/version_0/gradcam", [0, 1])
        page = Page(root)
        found = page.runs()
        assert (list(found), found["version_0/gradcam"]["steps"]) == (["version_0/gradcam"], 2)
        assert page.get("maps", run="version_0/gradcam").data == Payload.of(Archive.open(archive.path)).maps()
        archive.append(record(archive.probes, 2))
        assert page.runs()["version_0/gradcam"]["mark"] != found["version_0/gradcam"]["mark"]
        assert len(page.header("version_0/gradcam")["steps"]) == 3
    finally:
        fsspec.filesystem("memory").rm("/plugin-logs", recursive=True)


def test_a_store_that_nobody_knows_is_said() -> None:
    page = Page("nostore://bucket/logs")
    assert page.runs() == {}
    assert not page.plugin.is_active()
    (note,) = page.notes()
    assert note.startswith("nostore://bucket/logs can't be read (ValueError: Protocol not known")


def test_who_asks_waits_no_longer_than_he_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network disk that hangs: the walk goes on, and whoever asks gets what is known."""
    written(tmp_path / "gradcam")
    go = threading.Event()

    class Slow(Place):
        def entries(self, folder: str, *, states: Any = False) -> Any:
            go.wait(60)
            return super().entries(folder, states=states)

    finder = runs.Finder([Slow("", str(tmp_path))])
    assert finder.listing(patience=0).runs == {}
    (walk,) = [thread for thread in threading.enumerate() if thread.name == "gradcam-archives"]
    assert finder.listing(patience=0).runs == {}, "and no second walk has begun"
    assert [thread for thread in threading.enumerate() if thread.name == "gradcam-archives"] == [walk]
    go.set()
    assert list(finder.listing(patience=60).runs) == ["gradcam"]


def test_many_steps_are_thinned_so_that_those_shown_stay(tmp_path: Path) -> None:
    archive = written(tmp_path / "gradcam", range(9))
    run = runs.found(places_of(str(tmp_path), None)).runs["gradcam"]
    small = shelf.Shelf(max_bytes=5 * 150)
    header = json.loads(small.view(run).header)
    assert [step["epoch"] for step in header["steps"]] == [0, 2, 4, 6, 8]
    assert header["remark"] == "5 of 9 logged steps"
    archive.append(record(archive.probes, 9))
    assert [step["epoch"] for step in json.loads(small.view(run).header)["steps"]] == [0, 4, 8, 9]


def test_runs_not_asked_for_lately_are_forgotten(tmp_path: Path) -> None:
    for name in "abc":
        written(tmp_path / name)
    found = runs.found(places_of(str(tmp_path), None)).runs
    size = len(shelf.Shelf().view(found["a"]))
    kept: Callable[[shelf.Shelf], list[str]] = lambda s: [folder for _, folder in s._readers]  # noqa: E731
    small = shelf.Shelf(room=2 * size + 100)
    for name in "abca":
        small.view(found[name])
    assert kept(small) == ["c", "a"]
    tiny = shelf.Shelf(room=1)
    for name in "abc":
        tiny.view(found[name])
    assert kept(tiny) == ["c"]


def test_many_ask_at_once(tmp_path: Path) -> None:
    written(tmp_path / "a")
    written(tmp_path / "b", run="other")
    page = Page(tmp_path)
    found: list[tuple[str, int]] = []

    def ask(name: str) -> None:
        client = Client(page.client.application)
        found.append((name, len(client.get(f"{ROUTE}/run?run={name}").json["steps"])))

    threads = [threading.Thread(target=ask, args=("ab"[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [("a", 2)] * 4 + [("b", 2)] * 4
