"""Serves the plugin's routes: the page's files, the list of runs, and each run's header and maps."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from lightning_gradcam.errors import LightningGradCAMError, printable
from lightning_gradcam.tensorboard_plugin.places import places_of
from lightning_gradcam.tensorboard_plugin.runs import Finder, FoundRun

if TYPE_CHECKING:
    from lightning_gradcam.tensorboard_plugin.shelf import Shelf

_KINDS = {".js": "application/javascript", ".css": "text/css", ".png": "image/png"}
# Seconds that TensorBoard's start and the page wait for a search of the log directory.
_START_PATIENCE, _PAGE_PATIENCE = 1.0, 30.0
_SMALL = 1000


class GradCAMPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """TensorBoard's Grad-CAM tab.

    It is shown as soon as there is an archive below the log directory. It serves only its page's own files and these
    archives, which the page requests by their names in the list of runs.

    Args:
        context: TensorBoard's context, which contains the log directories.
    """

    plugin_name = "gradcam"

    def __init__(self, context: base_plugin.TBContext) -> None:
        flags = context.flags
        spec = getattr(flags, "logdir_spec", None)
        self._finder = Finder(places_of(context.logdir or getattr(flags, "logdir", None), spec))
        self._lock = threading.Lock()
        self._shelf: Shelf | None = None

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Returns the tab's name and the module that draws it."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="Grad-CAM")

    def is_active(self) -> bool:
        """Returns whether there is anything to show, quickly and without importing torch or Lightning."""
        return bool(self._finder.listing(patience=_START_PATIENCE).runs)

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """Returns the routes below ``data/plugin/gradcam``."""
        files = {route: _answered(partial(_response, content=content, kind=kind)) for route, kind, content in _files()}
        return {"/runs": _answered(self._runs), "/run": _answered(self._run), "/maps": _answered(self._maps), **files}

    def _runs(self, request: wrappers.Request) -> wrappers.Response:
        listing = self._finder.listing(patience=_PAGE_PATIENCE)
        runs = [run.listed() for run in listing.runs.values()]
        return _response(request, {"runs": runs, "notes": list(listing.notes)}, "application/json")

    def _run(self, request: wrappers.Request) -> wrappers.Response:
        return _response(request, self._shelved().view(self._asked(request)).header, "application/json")

    def _maps(self, request: wrappers.Request) -> wrappers.Response:
        run, mark = self._asked(request), request.args.get("mark")
        view = self._shelved().view(run, mark)
        if mark is not None and mark != view.mark:
            raise _RefusedError(409, f"The run {run.name} has changed since it was listed; reload it.")
        count = len(view.blocks)
        start, stop = _place(request, "start", 0, count), _place(request, "stop", count, count)
        maps = b"".join(view.blocks[start:stop])
        if len(maps) < _SMALL:
            return _response(request, maps, "application/octet-stream")
        packed = gzip.compress(maps, compresslevel=1, mtime=0)
        return _response(request, packed, "application/octet-stream", content_encoding="gzip")

    def _asked(self, request: wrappers.Request) -> FoundRun:
        """Returns the run named in a request."""
        name = request.args.get("run", "")
        for fresh in (False, True):
            run = self._finder.listing(patience=_PAGE_PATIENCE, fresh=fresh).runs.get(name)
            if run is not None and run.place.holds(run.folder):
                return run
        raise _RefusedError(404, f"There is no run {name!r:.300} below the log directory; it may have been deleted.")

    def _shelved(self) -> Shelf:
        with self._lock:
            if self._shelf is None:
                # Imported here because TensorBoard must not wait for torch when it starts.
                from lightning_gradcam.tensorboard_plugin.shelf import Shelf

                self._shelf = Shelf()
            return self._shelf


class _RefusedError(Exception):
    """A rejected request, with its HTTP status and a sentence for the page."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def _answered(answer: Callable[[wrappers.Request], wrappers.Response]) -> Callable[..., Any]:
    """Returns a WSGI application that reports every failure as JSON."""

    @wrappers.Request.application
    def app(request: wrappers.Request) -> wrappers.Response:
        try:
            if request.method not in ("GET", "HEAD"):
                raise _RefusedError(405, f"{request.method} is not allowed here, only GET.")
            return answer(request)
        except _RefusedError as refusal:
            status, sentence = refusal.status, str(refusal)
        except FileNotFoundError:
            status, sentence = 404, "The run no longer exists; it may have been deleted or moved."
        except LightningGradCAMError as error:
            status, sentence = 500, str(error)
        except Exception as error:
            status, sentence = 500, f"The run can't be read ({type(error).__name__}: {error!s:.200})."
        return _response(request, {"error": printable(sentence)}, "application/json", code=status)

    return app


def _response(request: wrappers.Request, content: Any, kind: str, **options: Any) -> wrappers.Response:
    found: wrappers.Response = http_util.Respond(request, content, kind, **options)
    return found


def _place(request: wrappers.Request, name: str, default: int, most: int) -> int:
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= most):
        raise _RefusedError(
            400, f"{name}: got {text!r:.40}, expected an integer from 0 to {most}, the number of steps."
        )
    return int(text)


def _files() -> Iterator[tuple[str, str, bytes]]:
    """Yields route, MIME type and content of the page's files: the tab's, the viewer's, and the colour maps."""
    for route, folder in (("/", "tensorboard_plugin"), ("/viewer/", "report"), ("/viewer/", "render")):
        for file in resources.files("lightning_gradcam").joinpath(folder, "assets").iterdir():
            kind = _KINDS.get("." + file.name.rpartition(".")[2])
            if kind is not None:
                yield route + file.name, kind, file.read_bytes()
