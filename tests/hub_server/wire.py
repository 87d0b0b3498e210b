"""HTTP/1.1 on a socket: reads a request, finds its answer, sends it well or badly."""

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from hub_server import routes
from hub_server.blobs import Blob
from hub_server.faults import Fault
from hub_server.log import Request
from hub_server.reply import HubError, Reply

if TYPE_CHECKING:
    from hub_server.server import HubServer


@dataclass
class Call:
    """A request as its action sees it."""

    hub: "HubServer"
    request: Request
    route: routes.Route
    query: dict[str, str]
    pieces: Callable[[], Iterator[bytes]]

    def body(self) -> bytes:
        return b"".join(self.pieces())

    def spool(self) -> Blob:
        return Blob.of_pieces(self.pieces())


class Host(ThreadingHTTPServer):
    """One of the two hosts, with the means to end its connections."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: "HubServer", name: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub, self.name = hub, name
        # the two hosts differ by name too: huggingface_hub 1 does not look at ports
        place = "localhost" if name == "storage" else "127.0.0.1"
        self.url = f"http://{place}:{self.server_address[1]}"
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # a client that goes away is no error; a hook that fails is
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self.hub.errors.append(error)

    def drop_connections(self) -> None:
        """Ends the connections that clients keep open."""
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        self.drop_connections()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Host

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        hub = self.server.hub
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.server.name, self.command, path, query, headers)
        route = routes.find(request.host, request.method, path)
        request.kind, request.repo, request.file = route.kind, route.repo or None, route.path or None
        values = dict(parse_qsl(query, keep_blank_values=True))
        call = Call(hub, request, route, values, self._body(request))
        hub.complete(call)
        hub.log.add(request)
        faults = hub.rules.taken(request)
        request.faults = [type(fault).__name__ for fault in faults]
        reply = self._reply(call, faults)
        request.status = 0 if reply.reset else reply.status
        if reply.reset:
            self._break()
            return
        # a client that still writes its request would not see the answer
        for _ in call.pieces():
            pass
        self._send(request, reply)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _reply(self, call: Call, faults: list[Fault]) -> Reply:
        reply = None
        for fault in faults:
            reply = reply or fault.instead(call.request)
        if reply is None:
            try:
                reply = call.hub.act(call)
            except HubError as error:
                reply = error.reply()
            except Exception as error:
                call.hub.errors.append(error)
                reply = HubError(500, f"error in the test server: {error!r}").reply()
        for fault in faults:
            fault.shape(call.request, reply)
        reply.plan(call.request.headers)
        for fault in faults:
            fault.spoil(call.request, reply)
        return reply

    def _body(self, request: Request) -> Callable[[], Iterator[bytes]]:
        """Reads the request's body, once; what is left is read by whoever asks again."""

        def sized(left: int) -> Iterator[bytes]:
            while left and (piece := self.rfile.read(min(left, 1 << 18))):
                left -= len(piece)
                request.received += len(piece)
                yield piece

        def chunked() -> Iterator[bytes]:
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield from sized(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass

        if "chunked" in request.headers.get("transfer-encoding", "").lower():
            body = chunked()
        else:
            body = sized(int(request.headers.get("content-length", 0)))
        return lambda: body

    def _send(self, request: Request, reply: Reply) -> None:
        length = reply.length
        self.send_response(reply.status, HTTPStatus(reply.status).phrase)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(length))
        ends = reply.cut is not None and request.method != "HEAD" and reply.cut < length
        if reply.delay and (request.method == "HEAD" or not reply.length):
            time.sleep(reply.delay)
        try:
            self.end_headers()
            if request.method != "HEAD":
                self._send_body(request, reply)
        except OSError:
            ends = True
        if ends:
            self._break(reply.cut_hard)

    def _send_body(self, request: Request, reply: Reply) -> None:
        stop = reply.stop if reply.cut is None else min(reply.stop, reply.start + reply.cut)
        at = reply.start
        for piece in reply.body.pieces(reply.start, stop, reply.piece):
            if reply.delay:
                time.sleep(reply.delay)
            out = bytearray(piece)
            if reply.flip is not None and at <= reply.flip < at + len(out):
                out[reply.flip - at] ^= 0xFF
            # Counted first: a client that has all its bytes finds them in the statistics.
            request.sent += len(out)
            self.connection.sendall(out)
            at += len(out)

    def _break(self, hard: bool = True) -> None:
        self.close_connection = True
        if hard:
            # a linger of no time: close() sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
