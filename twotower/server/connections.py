"""Connections whose requests have heads of bounded size, which arrive in bounded time: uvicorn bounds neither.

Without, a few thousand connections that send a byte now and then keep all others out, and one endless header takes all
memory. Bodies are bounded by the gate, idle connections by uvicorn's keep-alive time.
"""

from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from twotower.server.errors import body_of

HEAD, HEAD_S = 2**16, 10.0  # bytes of a head, and the seconds in which it must arrive


class BoundedConnection(HttpToolsProtocol):
    """A connection that is closed with an error as JSON when its head is too large, too slow, or no HTTP.

    uvicorn.Config(app, http=BoundedConnection)
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._is_head, self._bytes = True, 0
        self._timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Expect a head."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Count what arrives as long as no head is complete."""
        self._bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_head or self.cycle is None or self.cycle.response_complete:  # or bytes between two requests
            if self._bytes > HEAD:
                self._close(431, f"the request's head has more than {HEAD:,} bytes; send fewer or shorter headers")
            elif self._timer is None:
                self._expect_head()
        else:
            self._bytes = 0

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._is_head = True

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._is_head = False
        self._expect_nothing()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._expect_nothing()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._close(400, "this is not a well-formed HTTP/1.1 request")

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self._close_slow)

    def _expect_nothing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_slow(self) -> None:
        if not self.transport.is_closing():
            self._close(408, f"the request's head did not arrive within {HEAD_S:g} s")

    def _close(self, status: int, message: str) -> None:
        self._expect_nothing()
        cycle = self.cycle
        is_within = self.pipeline or (cycle is not None and cycle.response_started and not cycle.response_complete)
        if self._bytes and not is_within:  # an idle connection just ends, and one within another answer
            body = body_of(message, "head", "")
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
