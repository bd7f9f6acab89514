"""A web server on this machine that behaves as well or as badly as a test asks."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class WebSite:
    """What is served, and what was asked for.

    Attributes:
        files: path -> content.
        redirects: path -> (address, further headers).
        tags: path -> ETag; others have one made of their content.
        types: path -> Content-Type.
        cut: path -> bytes after which the connection breaks, used up one by one.
        refusals: path -> statuses answered first, used up one by one.
        ranges: whether parts of files can be asked for.
        requests: (path, Range header) of every request, in order.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    refusals: dict[str, list[int]] = field(default_factory=dict)
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""


@contextlib.contextmanager
def serve(site: WebSite) -> Iterator[WebSite]:
    """Serve a site on a free port; `site.address` says where."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, site)

        def log_message(self, *args) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, site: WebSite) -> None:
    path, asked = handler.path, handler.headers.get("Range")
    site.requests.append((path, asked))
    if site.refusals.get(path):
        handler.send_error(site.refusals[path].pop(0))
        return
    if path in site.redirects:
        target, headers = site.redirects[path]
        handler.send_response(302)
        for name, value in {"Location": target, **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        return
    if path not in site.files:
        handler.send_error(404)
        return
    content = site.files[path]
    tag = site.tags.get(path, f'"{hash(content)}"')
    begin = 0
    if site.ranges and asked and handler.headers.get("If-Range") == tag:
        begin = int(asked.removeprefix("bytes=").rstrip("-"))
    if begin >= len(content) > 0:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(content)}")
        handler.end_headers()
        return
    handler.send_response(206 if begin else 200)
    handler.send_header("Content-Type", site.types.get(path, "application/octet-stream"))
    handler.send_header("Content-Length", str(len(content) - begin))
    handler.send_header("ETag", tag)
    handler.end_headers()
    limit = site.cut[path].pop(0) if site.cut.get(path) else len(content)
    handler.wfile.write(content[begin : begin + limit])
