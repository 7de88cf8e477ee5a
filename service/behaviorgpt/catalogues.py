"""The client's catalogues: uploads, their jobs, the list, and deletion."""

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.api.errors import ApiError
from service.behaviorgpt.bodies import (
    CatalogueEntry,
    CatalogueList,
    JobAnswer,
    KeywordsBody,
    StartedJob,
)
from service.behaviorgpt.refusals import Access, as_bad_request
from service.http.route_table import Route
from service.release.loaded import LoadedRelease
from service.release.map_page import map_page
from service.routes.context import Context
from service.routes.map import map_of
from service.uploads.folder import CatalogueFolder, Job, State, job_id_of
from service.uploads.form import Form, receive_form
from service.uploads.jobs import JobRunner, Progress, count_ids
from service.uploads.releases import CatalogueReleases

_keywords = msgspec.json.Decoder(KeywordsBody)
_NAME_CHARACTERS = 128
# Parts of a job for the client, by the steps of `twotower embed`.
_STAGES = {"read": "read", "read items": "read", "embed items": "embed", "build the index": "index", "publish": "publish"}


@dataclass(frozen=True, slots=True)
class Uploads:
    """The uploaded catalogues of a server that takes some, and what does their jobs."""

    folder: CatalogueFolder
    runner: JobRunner


class CatalogueRoutes:
    """Handlers of the routes of catalogues. `uploads` may be the reason why this server takes none."""

    def __init__(self, context: Context, uploads: Uploads | str, releases: CatalogueReleases, access: Access) -> None:
        self._context, self._may_upload, self._releases, self._access = context, uploads, releases, access
        self._served_id = context.settings.behaviorgpt_catalog

    @property
    def _uploads(self) -> Uploads:
        if isinstance(self._may_upload, str):
            raise ApiError("uploads_off", self._may_upload)
        return self._may_upload

    @property
    def _folder(self) -> CatalogueFolder:
        return self._uploads.folder

    @property
    def _runner(self) -> JobRunner:
        return self._uploads.runner

    def routes(self) -> tuple[Route, ...]:
        """The routes with their handlers."""
        one, job = "/v1/catalogs/{catalog_id:path}", "/v1/embed-catalog/{job_id:path}"
        return (
            _route("POST", "/v1/embed-catalog", self.embed, "admin", gives=StartedJob),
            _route("GET", job, self.job, "recommend", gives=JobAnswer),
            _route("GET", "/v1/catalogs", self.list, "recommend", gives=CatalogueList),
            _route("DELETE", one, self.delete, "admin", status=204),
            _route("POST", f"{one}/items", self.add, "admin", gives=StartedJob),
            _route("POST", f"{one}/keywords", self.keywords, "admin", takes=KeywordsBody, gives=StartedJob),
            _route("GET", "/v1/{catalog_id:path}/umap", self.map, "recommend"),
        )

    async def embed(self, request: Request) -> Response:
        """POST /v1/embed-catalog: a new catalogue, or new rows for the caller's catalogue of the same file name."""
        form, uploaded, _ = await self._receive(request)
        try:
            name = (Path(form.file_name.replace("\\", "/")).stem or "catalogue")[:_NAME_CHARACTERS]
            with_keywords = form.fields.get("keywords") == "true"
            most = self._context.settings.behaviorgpt_max_catalogs
            state, job = await asyncio.to_thread(self._folder.create, name, self._access.key_id(), uploaded, with_keywords, most)
        finally:
            shutil.rmtree(uploaded.parent, ignore_errors=True)
        return self._started(state, job)

    async def add(self, request: Request) -> Response:
        """POST /v1/catalogs/{id}/items: rows that are added, or take the places of those with the same ids."""
        catalog_id = self._uploaded_id(request)
        await asyncio.to_thread(self._folder.require, catalog_id)
        _, uploaded, num_ids = await self._receive(request)
        try:
            state, job = await asyncio.to_thread(self._folder.add, catalog_id, uploaded)
        finally:
            shutil.rmtree(uploaded.parent, ignore_errors=True)
        return self._started(state, job, num_ids)

    async def job(self, request: Request) -> Response:
        """GET /v1/embed-catalog/{job}: how far a job is."""
        job_id: str = request.path_params["job_id"]
        if job_id == self._served_job:
            return self._context.encoded(
                JobAnswer(job_id=job_id, status="ready", stage="top_terms", stage_state="done", keywords="done")
            )
        state, job = await asyncio.to_thread(self._folder.find_job, job_id)
        return self._context.encoded(
            job_answer(state, job, self._runner.progress(state.catalog_id) if job == state.pending else None)
        )

    async def list(self, _: Request) -> Response:
        """GET /v1/catalogs: the served catalogue, then the uploaded ones."""
        takes_none = isinstance(self._may_upload, str)
        key_id, states = self._access.key_id(), [] if takes_none else await asyncio.to_thread(self._folder.states)
        entries = [CatalogueEntry(catalog_id=self._served_id, catalog_name=self._served_id, status="ready", owned=False)]
        entries += [
            CatalogueEntry(catalog_id=s.catalog_id, catalog_name=s.name, status=s.status, owned=s.owner == key_id) for s in states
        ]
        return self._context.encoded(CatalogueList(entries))

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/catalogs/{id}: an uploaded catalogue and all its files."""
        catalog_id = self._uploaded_id(request)
        await asyncio.to_thread(self._folder.delete, catalog_id)
        self._runner.stop(catalog_id)
        self._releases.forget(catalog_id)
        return Response(status_code=204)

    async def keywords(self, request: Request) -> Response:
        """POST /v1/catalogs/{id}/keywords: done at once, because sections take their titles from the catalogue's own words."""
        await self._context.body(request, _keywords)
        catalog_id: str = request.path_params["catalog_id"]
        if catalog_id == self._served_id:
            return self._context.encoded(StartedJob(job_id=self._served_job, catalog_id=catalog_id, catalog_name=catalog_id))
        state, job = await asyncio.to_thread(self._folder.note_keywords, catalog_id)
        return self._context.encoded(
            StartedJob(job_id=job_id_of(state, job), catalog_id=state.catalog_id, catalog_name=state.name)
        )

    async def map(self, request: Request) -> Response:
        """GET /v1/{id}/umap: the map of the served catalogue as a page. Of an uploaded one there is none."""
        catalog_id: str = request.path_params["catalog_id"]
        if catalog_id != self._served_id:
            await asyncio.to_thread(self._folder.require, catalog_id)
            raise ApiError("not_found", f"this server draws no map of {catalog_id!r}, only of {self._served_id!r}")
        text = await asyncio.to_thread(page_of, self._context.served.current, catalog_id)
        return Response(text, media_type="text/html")

    @property
    def _served_job(self) -> str:
        """The id of the job of terms of the served catalogue, which is always done."""
        return f"job_{self._served_id}_keywords"

    def _uploaded_id(self, request: Request) -> str:
        catalog_id: str = request.path_params["catalog_id"]
        if catalog_id == self._served_id:
            raise ApiError(
                "bad_request",
                f"{catalog_id!r} is the catalogue that this server serves: change it with `twotower embed`",
            )
        return catalog_id

    async def _receive(self, request: Request) -> tuple[Form, Path, int]:
        """The form of an upload, its file, which the caller has to move or remove, and the number of its ids."""
        settings = self._context.settings
        directory = await asyncio.to_thread(self._folder.uploading)
        file = directory / "file"
        try:
            form = await receive_form(request, file, settings.behaviorgpt_max_upload_mb << 20, settings.body_timeout_s)
            return form, file, await count_ids(file)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def _started(self, state: State, job: Job, num_ids: int | None = None) -> Response:
        self._runner.hurry()
        uri = f"catalogs/{state.catalog_id}"
        job_id = job_id_of(state, job)
        return self._context.encoded(
            StartedJob(job_id=job_id, catalog_id=state.catalog_id, catalog_name=state.name, uri=uri, products=num_ids)
        )


def job_answer(state: State, job: Job, step: Progress | None) -> JobAnswer:
    """The state of a job as the client reads it; `step` is the step that runs."""
    job_id, is_done = job_id_of(state, job), job.status == "ready"
    if job.kind == "keywords":
        return JobAnswer(job_id=job_id, status=job.status, stage="top_terms", stage_state="done", keywords="done")
    if job.status != "pending":
        return JobAnswer(
            job_id=job_id,
            status=job.status,
            stage="publish",
            stage_state="done" if is_done else "failed",
            error=job.error,
            products_rejected=job.rejected if job.rejected and job.rejected.count else None,
            keywords="done" if job.with_keywords and is_done else None,
        )
    if step is None:
        return JobAnswer(job_id=job_id, status="pending")
    stage = _STAGES.get(step.step, "check")
    if step.total is None:
        return JobAnswer(job_id=job_id, status="pending", stage=stage, phase=step.step)
    return JobAnswer(job_id=job_id, status="pending", stage=stage, phase="items", done=int(step.done), total=int(step.total))


def _route(method: str, path: str, handler: Any, scope: Any, **more: Any) -> Route:
    return Route(method, (path,), as_bad_request(handler), scope=scope, **more)


def page_of(release: LoadedRelease, title: str) -> str:
    """The map of a release as a page with the title of every item; ApiError not_found when it has none."""
    found, column = map_of(release), release.towers.schema.items.title
    rows = found.rows_M.tolist()
    names = [None] * len(rows) if column is None else release.items.column(column).take(rows).to_pylist()
    items = [(release.item_ids[row], None if name is None else str(name)) for row, name in zip(rows, names, strict=True)]
    return map_page(title, release.id, found.compressed, items)
