"""What holds for every request, whatever its route: where it comes from, how much it sends, which headers it gets."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxtune.feedback.web.pages import problem

SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")
IMPORT = "/admin/import"
MOST_BYTES, MOST_IMPORTED = 1_000_000, 50_000_000  # of a request
POLICY = "Content-Security-Policy"
HEADERS = {
    POLICY: "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # no-referrer would make a form's Origin null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Refuses what another site sends and what is too long; gives every answer its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-cache" if scope["path"].startswith("/static/") else "no-store")
            await send(message)

        request = Request(scope)
        most = MOST_IMPORTED if request.url.path == IMPORT else MOST_BYTES
        length = request.headers.get("content-length", "0")
        if request.method not in SAFE_METHODS and not is_ours(request.headers):
            await problem(request, 403, "this came from another site; open this one and do it there")(
                scope, receive, sent
            )
        elif not length.isdigit() or int(length) > most:
            await problem(request, 413, _too_long(most))(scope, receive, sent)
        else:
            await self._app(scope, _at_most(most, receive), sent)


def is_ours(headers: Headers) -> bool:
    """Whether a request was made by a page of ours, or by no page at all."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or (
        origin.startswith(("http://", "https://")) and urlsplit(origin).netloc == headers.get("host")
    )


def _at_most(most: int, receive: Receive) -> Receive:
    """What stops reading where a body without a length goes on for too long."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise HTTPException(413, _too_long(most))
        return message

    return limited


def _too_long(most: int) -> str:
    return f"more than {most // 1_000_000} MB; send less at once"
