"""Who may talk to the app: a page of its own, in the browser of the person who started it.

Every request needs the token, which came with the printed address and is then kept in a cookie that
scripts cannot read. The ``Host`` must be the app's own (another site may give its name the address
127.0.0.1), and whatever changes something must come from a page of the app.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]

MAX_BODY_BYTES = 2**16  # of all requests but uploads, which have their own limit
_READS = ("GET", "HEAD")
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Stands in front of an ASGI app.

    Args:
        app: What it guards.
        token: Secret.
        port: On which the app listens.
    """

    def __init__(self, app: App, token: str, port: int):
        self._app, self._token = app, token
        self._cookie = f"normnet_{port}"
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send
    ) -> None:
        """Answer, or pass on what is allowed."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        if headers.get("host", "") not in self._hosts:
            await _answer(send, 403, "NN-APP-008: a request to another host")
            return
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["path"] == "/" and "token" in query:
            await self._welcome(send, query["token"][0])
            return
        status, refusal = self._refusal(scope, headers)
        if refusal:
            await _answer(send, status, refusal)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_encoded(_HEADERS)]
            await send(message)

        await self._app(scope, receive, send_guarded)

    async def _welcome(self, send: Send, token: str) -> None:
        """Put the token into the cookie, and take it out of the address."""
        if not self._is_token(token):
            await _answer(send, 403, _NO_TOKEN)
            return
        cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        await _answer(send, 303, "", {"location": "/", "set-cookie": cookie})

    def _refusal(self, scope: Message, headers: dict[str, str]) -> tuple[int, str]:
        if not self._is_token(_cookies(headers).get(self._cookie, "")):
            return 403, _NO_TOKEN
        if scope["method"] in _READS:
            return 0, ""
        own = headers.get("origin", "") == f"http://{headers['host']}"
        if not own or headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return 403, "NN-APP-008: a request from another site"
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
            return 411, "NN-APP-005: a request without its length"
        if scope["method"] != "PUT" and int(length) > MAX_BODY_BYTES:
            return 413, "NN-APP-005: a request that is too long"
        return 0, ""

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())


_NO_TOKEN = "NN-APP-008: no token, or a wrong one; open the address that normnet serve printed"


def _cookies(headers: dict[str, str]) -> dict[str, str]:
    """Cookies by name; those of other programs on this machine may hold anything."""
    pairs = (part.partition("=") for part in headers.get("cookie", "").split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _answer(send: Send, status: int, text: str, extra: dict[str, str] | None = None) -> None:
    body = text.encode()
    headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body))}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": _encoded({**headers, **_HEADERS, **(extra or {})}),
        }
    )
    await send({"type": "http.response.body", "body": body})
