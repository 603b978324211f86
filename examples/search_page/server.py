"""Serves the page, pictures of the index, and nothing else."""

import http
import pathlib
import re
from typing import Any

import anyio.to_thread
import gradio
import PIL.Image
from search_page.collection import LARGE, SMALL, Collection
from search_page.handlers import Handlers
from search_page.labels import Classifier
from search_page.layout import layout
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response

FILES = pathlib.Path(__file__).parent
LOCAL = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    # The browser itself refuses to load anything from elsewhere.
    "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """In front of gradio: answers for pictures, and refuses what fetches from elsewhere."""

    def __init__(self, app: Any, collection: Collection, host: str):
        self.app, self.collection, self.host = app, collection, host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        answer = await self._answer(scope)
        await (answer or self.app)(scope, receive, send_with_headers)

    async def _answer(self, scope: Any) -> Response | None:
        path = scope["path"]
        # Another site's name that leads here (DNS rebinding) is not this page's.
        named = dict(scope["headers"]).get(b"host", b"").decode("latin-1").rsplit(":", 1)[0]
        if self.host in LOCAL and named.strip("[]") not in LOCAL:
            return _refused(http.HTTPStatus.BAD_REQUEST)
        if re.search(r"/proxy=|file[=/]+\w+:", path):
            return _refused(http.HTTPStatus.FORBIDDEN)
        if match := re.fullmatch(r"/picture/(\d{1,18})", path):
            large = scope["query_string"] == f"size={LARGE}".encode()
            size = LARGE if large else SMALL
            try:
                content = await anyio.to_thread.run_sync(self.collection.jpeg, int(match[1]), size)
            except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
                return _refused(http.HTTPStatus.NOT_FOUND)
            return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private"})
        return None


def _refused(status: http.HTTPStatus) -> Response:
    return PlainTextResponse(status.phrase, status)


def serve(
    collection: Collection,
    classifier: Classifier,
    title: str,
    about: str,
    host: str = "127.0.0.1",
    port: int | None = None,
) -> tuple[gradio.Blocks, str]:
    """Starts to serve in the background; returns what has `close`, and the address.

    Raises:
        OSError: the port is taken.
    """
    blocks = layout(Handlers(collection, classifier), title, about)
    guard = Middleware(Guard, collection=collection, host=host)
    font = ["system-ui", "sans-serif"]
    _, url, _ = blocks.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        footer_links=[],
        run_history=False,
        max_file_size="50mb",
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        app_kwargs={"middleware": [guard], "docs_url": None, "redoc_url": None},
        theme=gradio.themes.Default(font=font, font_mono=["ui-monospace", "monospace"]),
        css=(FILES / "page.css").read_text(),
    )
    return blocks, url
