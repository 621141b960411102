"""The pages and the interface of the app; ``guard`` stands in front of all of it.

Error ids: NN-APP-010 a value that does not fit, 011 no such file.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from jinja2 import ChoiceLoader, Environment, FileSystemLoader
from starlette.exceptions import HTTPException

from normnet.errors import InputError, NormNetError, OutputError, ResourceError
from normnet.io.atomic import output_error
from normnet.io.json_files import read_json
from normnet.report import pages
from normnet.results.names import safe_name
from normnet.results.schema import EXPORTS, FILES, RESULT, read_result
from normnet.serve.children import Child
from normnet.serve.jobs import Job, Jobs
from normnet.serve.worker import Worker

HERE = Path(__file__).parent
# Scripts and styles that pages load; those of reports are used as they are.
STATIC = {
    **{name: pages.STATIC / name for name in ("niivue.umd.js", "viewer.js", "page.css")},
    **{name: HERE / "static" / name for name in ("app.css", "jobs.js", "result.js", "calls.js")},
}
TYPES = {".js": "text/javascript", ".css": "text/css", ".gz": "application/gzip"}
VOLUMES = ("ct", "lesions", "anomaly", "lungs")
REPORT = "report.html"
DOWNLOADS = (*FILES, *EXPORTS, REPORT, RESULT)
# Endings that the readers know; any other file is stored without one.
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".zip", ".dcm")
FIRST = "result"  # the folder of the first result of a job; others are edited-1, edited-2 ...
_STATUS = {"NN-APP-004": 413, "NN-APP-005": 413, "NN-APP-006": 404, "NN-APP-007": 409}

Share = Annotated[float | None, Body(ge=0, le=1, allow_inf_nan=False)]
Removed = Annotated[list[Annotated[int, Body(ge=0, le=1000)]], Body(max_length=100)]
Title = Annotated[str, Body(embed=True, max_length=1000)]


def create_app(jobs: Jobs, worker: Worker, editor: Child) -> FastAPI:
    """The app, without its guard.

    Args:
        jobs: The queue.
        worker: Runs the jobs.
        editor: Does the tasks of ``editing.Editor``.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()
        editor.stop()
        jobs.close()

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    _add_pages(app, jobs)
    _add_uploads(app, jobs)
    _add_queue(app, jobs, worker)
    _add_results(app, jobs, editor)
    app.exception_handler(NormNetError)(_tell_error)
    app.exception_handler(RequestValidationError)(_tell_misfit)
    app.exception_handler(HTTPException)(_tell_missing)
    app.exception_handler(Exception)(_tell_bug)
    return app


def _add_pages(app: FastAPI, jobs: Jobs) -> None:
    templates = _templates()

    @app.get("/")
    def show_jobs() -> HTMLResponse:
        return HTMLResponse(templates.get_template("jobs.html").render(suffixes=SUFFIXES))

    @app.get("/jobs/{job_id}")
    def show_result(job_id: str) -> HTMLResponse:
        job = jobs.done(job_id)
        folder = jobs.place(job)
        values = {
            "job": job,
            "result": read_result(folder / FIRST) or {},
            "about": read_json(folder / "steps.json") or {},
            "saved": [(name, read_result(folder / name) or {}) for name in _edited(folder)],
            "first": FIRST,
        }
        return HTMLResponse(templates.get_template("result.html").render(values))

    @app.get("/static/{name}")
    def send_static(name: str) -> FileResponse:
        if name not in STATIC:
            raise _no_file()
        return FileResponse(STATIC[name], media_type=TYPES[STATIC[name].suffix])


def _add_uploads(app: FastAPI, jobs: Jobs) -> None:
    @app.post("/api/jobs")
    def create_job(title: Title) -> JSONResponse:
        return JSONResponse({"id": jobs.create(safe_name(title)).id}, 201)

    @app.put("/api/jobs/{job_id}/files")
    async def upload_file(job_id: str, name: str, request: Request) -> JSONResponse:
        n_bytes = int(request.headers["content-length"])
        number = jobs.reserve(job_id, n_bytes)
        place = jobs.place(jobs.get(job_id)) / "input" / f"{number:05d}{_suffix(name)}"
        try:
            with place.open("xb") as handle:
                async for chunk in request.stream():
                    n_bytes -= len(chunk)
                    if n_bytes < 0:
                        raise ResourceError("NN-APP-005", "a file longer than announced")
                    handle.write(chunk)
        except OSError as error:
            raise output_error(error, place) from error
        return JSONResponse({"number": number}, 201)


def _add_queue(app: FastAPI, jobs: Jobs, worker: Worker) -> None:
    @app.get("/api/jobs")
    def list_jobs() -> JSONResponse:
        return JSONResponse({"jobs": [_describe(job, worker) for job in jobs.all()]})

    @app.post("/api/jobs/{job_id}/start")
    def start_job(job_id: str) -> Response:
        jobs.queue(job_id)
        worker.wake()
        return Response(status_code=204)

    @app.post("/api/jobs/{job_id}/cancel")
    def cancel_job(job_id: str) -> Response:
        if jobs.cancel(job_id):
            worker.stop_job(job_id)
        return Response(status_code=204)

    @app.delete("/api/jobs/{job_id}")
    def delete_job(job_id: str) -> Response:
        if jobs.cancel(job_id):
            worker.stop_job(job_id)
        jobs.delete(job_id)
        return Response(status_code=204)


def _add_results(app: FastAPI, jobs: Jobs, editor: Child) -> None:
    @app.get("/api/jobs/{job_id}/volumes/{name}")
    def send_volume(job_id: str, name: str) -> FileResponse:
        if name not in VOLUMES:
            raise _no_file()
        place = jobs.place(jobs.done(job_id)) / "viewer" / f"{name}.nii.gz"
        return FileResponse(place, media_type=TYPES[".gz"])

    @app.post("/api/jobs/{job_id}/preview")
    def preview(job_id: str, share: Share = None, removed: Removed = []) -> JSONResponse:  # noqa: B006
        folder = jobs.place(jobs.done(job_id))
        return JSONResponse(editor.call("preview", folder, share, removed))

    @app.post("/api/jobs/{job_id}/mask")
    def send_mask(job_id: str, share: Share = None, removed: Removed = []) -> Response:  # noqa: B006
        folder = jobs.place(jobs.done(job_id))
        return Response(editor.call("mask", folder, share, removed), media_type=TYPES[".gz"])

    @app.post("/api/jobs/{job_id}/saved")
    def save(job_id: str, share: Share = None, removed: Removed = []) -> JSONResponse:  # noqa: B006
        folder = jobs.place(jobs.done(job_id))
        return JSONResponse({"name": editor.call("save", folder, share, removed)}, 201)

    @app.get("/api/jobs/{job_id}/{saved}/all.zip")
    def send_zip(job_id: str, saved: str) -> StreamingResponse:
        job = jobs.done(job_id)
        folder = _saved_folder(jobs, job, saved)
        name = f"normnet-{job.id[:6]}-{saved}"
        headers = {"content-disposition": f'attachment; filename="{name}.zip"'}
        return StreamingResponse(_zipped(folder, name), 200, headers, "application/zip")

    @app.get("/api/jobs/{job_id}/{saved}/{name}")
    def send_file(job_id: str, saved: str, name: str) -> FileResponse:
        job = jobs.done(job_id)
        place = _saved_folder(jobs, job, saved) / name
        if name not in DOWNLOADS or not place.is_file():
            raise _no_file()
        shown = f"normnet-{job.id[:6]}-{saved}-{name}"
        return FileResponse(place, media_type="application/octet-stream", filename=shown)


def _templates() -> Environment:
    places = [FileSystemLoader(HERE / "templates"), FileSystemLoader(pages.TEMPLATES)]
    return pages.environment().overlay(loader=ChoiceLoader(places))


def _describe(job: Job, worker: Worker) -> dict[str, Any]:
    progress = worker.progress
    runs = progress is not None and progress.job_id == job.id
    return {**asdict(job), "progress": asdict(progress) if progress and runs else None}


def _suffix(name: str) -> str:
    """The ending of an uploaded file that a reader needs; nothing else of its name is used."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def _edited(folder: Path) -> list[str]:
    """The edited results of a job, the oldest first."""
    names = [path.parent.name for path in folder.glob(f"edited-*/{RESULT}")]
    return sorted(names, key=lambda name: int(name.split("-")[1]))


def _saved_folder(jobs: Jobs, job: Job, saved: str) -> Path:
    folder = jobs.place(job)
    if saved not in (FIRST, *_edited(folder)):
        raise _no_file()
    return folder / saved


def _zipped(folder: Path, name: str) -> Iterator[bytes]:
    """All files of a result as a zip archive; most are compressed already."""
    buffer = _Chunks()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for file in DOWNLOADS:
            if not (folder / file).is_file():
                continue
            with (folder / file).open("rb") as source, archive.open(f"{name}/{file}", "w") as out:
                while chunk := source.read(2**20):
                    out.write(chunk)
                    yield buffer.take()
    yield buffer.take()


class _Chunks(io.RawIOBase):
    """A stream that is written to, and emptied in between."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def _no_file() -> InputError:
    return InputError("NN-APP-011", "no such file", "", "go back to the list of jobs")


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status)


def _tell_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, NormNetError)
    full = isinstance(error, OutputError) and error.code == "NN-OUT-001"
    missing = 404 if error.code == "NN-APP-011" else _STATUS.get(error.code, 400)
    return _error(507 if full else missing, str(error))


def _tell_misfit(request: Request, error: Exception) -> Response:
    return _error(422, "NN-APP-010: a value that does not fit; load the page again")


def _tell_missing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, str(_no_file()))


def _tell_bug(request: Request, error: Exception) -> Response:
    return _error(500, "NN-BUG-001: something went wrong; please report it")
