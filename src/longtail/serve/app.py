"""The server: a page to drop images on, and `POST /predict`, which takes the bytes of one image.

With `?thumbnails=true`, which the page asks for, the response also holds images: what the model sees, and the
nearest training images.

It belongs to the user of this machine. It listens on the loopback interface unless told otherwise, refuses
requests that another site's page sends (`Origin`) or that came by another name (`Host`), takes no path, keeps
no image, and reads no more than 32 MiB or 50 million pixels.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from longtail.core.errors import LongtailError
from longtail.core.names import visible
from longtail.data.images.decode import BadImageError, ImageFile
from longtail.prediction.images import PredictOptions
from longtail.prediction.inputs import ImageInputs, decode_view
from longtail.runs import LoadedModel
from longtail.serve.neighbours import TrainingImages, as_jpeg

MOST_BYTES, MOST_PIXELS = 32 * 2**20, 50_000_000
SECONDS = 60.0  # that a request may take to arrive
FILES = {"/page.css": "text/css", "/page.js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Served:
    """What is served.

    Attributes:
        name: Of the run, for people.
        model: Trained.
        training: Its training images; None if neighbours are not shown.
        top: Classes of a prediction.
        nearest: Training images that are shown beside one.
    """

    name: str
    model: LoadedModel
    training: TrainingImages | None = None
    top: int = 5
    nearest: int = 5

    def predict(self, content: bytes, *, thumbnails: bool = False) -> dict[str, Any]:
        """Return what the model says of the bytes of an image file.

        Args:
            content: Of the file.
            thumbnails: Whether to add what the model sees, and the nearest training images (JPEG in base64).

        Raises:
            HTTPException: 413 for too many pixels, 400 for no image.
        """
        # the reader of files guards against all that is known of damaged ones; the name is of our making
        with tempfile.TemporaryDirectory(prefix="longtail-") as folder:
            file = Path(folder, "image")
            file.write_bytes(content)
            metadata = self.model.metadata
            try:
                opened = ImageFile(file, bit_depth=metadata.bit_depth)
                if opened.width * opened.height > MOST_PIXELS:
                    raise HTTPException(413, f"An image may have {MOST_PIXELS:,} pixels at most.")
            except BadImageError as error:
                raise HTTPException(
                    400, f"This is no image that can be read: {error.reason}."
                ) from error
            decoded = decode_view(file, metadata.image_size, metadata.fit, metadata.bit_depth)
            if decoded.view is None:
                raise HTTPException(
                    400, f"This is no image that can be read: {decoded.seen.reason}."
                )
            notes: list[str] = []
            table = self.model.predict(
                ImageInputs((file,)), PredictOptions(top=self.top), note=notes.append
            )
        row = table.iloc[0].to_dict()
        said: dict[str, Any] = {
            "predictions": [
                {"class": row[f"class_{rank}"], "probability": row[f"probability_{rank}"]}
                for rank in range(1, self.top + 1)
                if f"class_{rank}" in row
            ],
            "group": row["group"],
            "notes": [visible(note.replace(str(file), "the image")) for note in notes],
        }
        if "prediction_set" in row:
            said |= {
                key: _plain(row.get(key)) for key in ("accepted_as", "prediction_set", "unusual")
            }
        if self.training is not None:
            found = self.training.nearest(decoded.view, self.nearest, thumbnails=thumbnails)
            said["nearest"] = [
                {key: value for key, value in asdict(one).items() if value is not None}
                for one in found
            ]
        return said | ({"view": as_jpeg(decoded.view)} if thumbnails else {})

    def about(self) -> dict[str, Any]:
        """Return what the page says of the model."""
        metadata = self.model.metadata
        return {
            "name": visible(self.name), "classes": list(metadata.classes), "image_size": metadata.image_size,
            "neighbours": self.training is not None, "most_bytes": MOST_BYTES,
        }  # fmt: skip


def build_app(served: Served, hosts: Sequence[str]) -> Starlette:
    """Return the application.

    Args:
        served: The model.
        hosts: Names by which the server may be called; `*` for any.
    """
    turn = anyio.CapacityLimiter(1)  # one image after another: the model takes all cores

    async def predict(request: Request) -> Response:
        _require_own_page(request)
        asked = request.query_params.get("thumbnails", "false")
        if asked not in ("true", "false"):
            raise HTTPException(400, f"thumbnails must be true or false, not {asked!r}.")
        content = await asyncio.wait_for(_body(request), SECONDS)
        respond = partial(served.predict, content, thumbnails=asked == "true")
        return JSONResponse(await anyio.to_thread.run_sync(respond, limiter=turn))

    async def about(request: Request) -> Response:
        return JSONResponse(served.about())

    async def page(request: Request) -> Response:
        return Response(_file("page.html"), media_type="text/html; charset=utf-8")

    async def part(request: Request) -> Response:
        path = request.url.path  # one of FILES: no other has a route
        return Response(_file(path.removeprefix("/")), media_type=FILES[path])

    return Starlette(
        routes=[
            Route("/", page),
            *(Route(path, part) for path in FILES),
            Route("/about", about),
            Route("/predict", predict, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
                    Middleware(_WithHeaders)],
        exception_handlers={
            HTTPException: _refused, LongtailError: _failed, TimeoutError: _too_slow,
            ClientDisconnect: _too_slow,
        },
    )  # fmt: skip


class _WithHeaders:
    """Adds what a browser is to be told to every response."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
        async def telling(message: Any) -> None:  # noqa: ANN401 - ASGI's
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, telling)


def _require_own_page(request: Request) -> None:
    """Refuse what the page of another site sends: it could neither read the response nor needs to ask."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "Requests from the pages of other sites are refused.")


async def _body(request: Request) -> bytes:
    """Read the bytes of an image, and no more than an image may have."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind.startswith("multipart/"):
        raise HTTPException(415, _how_to_ask(request))
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise HTTPException(413, f"An image may have {MOST_BYTES // 2**20} MiB at most.")
        parts.append(part)
    if not size:
        raise HTTPException(400, "There is nothing in the body: send the bytes of an image.")
    return b"".join(parts)


def _file(name: str) -> bytes:
    return (Path(__file__).parent / name).read_bytes()


def _plain(value: Any) -> Any:  # noqa: ANN401 - a cell of a table
    return None if isinstance(value, float) and math.isnan(value) else value


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # the rest of a body that was refused is not read, so the connection cannot be used again
    headers = {"Connection": "close", **(error.headers or {})}
    said = error.detail
    if error.status_code == 405 and request.url.path == "/predict":
        said = f"/predict takes POST. {_how_to_ask(request)}"
    return JSONResponse({"error": said}, error.status_code, headers=headers)


def _how_to_ask(request: Request) -> str:
    address = request.url.replace(query="")
    return f"Send the bytes of one image as the body: curl --data-binary @photo.jpg {address}"


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 500)


async def _too_slow(request: Request, error: Exception) -> Response:
    return JSONResponse(
        {"error": "The image did not arrive in time."}, 408, headers={"Connection": "close"}
    )
