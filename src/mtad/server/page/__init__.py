"""The playground: a chat at `/` that shows what the two models did.

Knows no model and no scheduler: the page in the browser talks to the same routes as every other
client. The files are as they are written, without a build step, and ask for nothing from elsewhere;
in `vendor` stands what others wrote, with its licence.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from fastapi import FastAPI, HTTPException, Request, Response

__all__ = ["mount"]

_FOLDER: Final = Path(__file__).parent
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def mount(app: FastAPI) -> None:
    """Serve the page at `/` and its files below `/page/`."""
    found = [path for path in _FOLDER.rglob("*") if path.suffix in _TYPES]
    files = {path.relative_to(_FOLDER).as_posix(): path for path in found}

    def index(request: Request) -> Response:
        return _answer(request, files["index.html"])

    def file(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"the page has no file {name!r}")
        return _answer(request, files[name])

    for path, endpoint in (("/", index), ("/page/{name:path}", file)):
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)


def _answer(request: Request, path: Path) -> Response:
    content = path.read_bytes()
    headers = {
        "Cache-Control": "no-cache",
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"',
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=_TYPES[path.suffix])
