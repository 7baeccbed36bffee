"""A server of object storage on loopback that can be told to fail: python s3_server.py.

It prints its port. Requests for /faults/RATE set how many of the others fail, in turn with an error
of the server, with a connection that is dropped before the request is carried out, with one that
is dropped after it was, and with an answer that is cut short; each says how many have failed so
far.
"""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server


class QuietHandler(MotoRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


class Faulty:
    """A WSGI application some of whose requests fail."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.rate, self.count = 0.0, 0
        self.random = random.Random(0)
        self.faults = itertools.cycle([self.refuse, self.drop, self.forget, self.cut])

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/faults/"):
            self.rate = float(path.removeprefix("/faults/"))
            start_response("200 OK", [])
            return [str(self.count).encode()]
        if self.random.random() < self.rate:
            self.count += 1
            return next(self.faults)(environ, start_response)
        return self.application(environ, start_response)

    def refuse(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response(random.choice(["500 Internal Error", "503 Slow Down"]), [])
        return [b"<Error><Code>SlowDown</Code></Error>"]

    def drop(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError

    def forget(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        list(self.application(environ, lambda *arguments: None))
        return self.drop(environ, start_response)

    def cut(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = b"".join(self.application(environ, start_response))
        yield body[: len(body) // 2]
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError


if __name__ == "__main__":
    application = Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, True, request_handler=QuietHandler)
    print(server.server_port, flush=True)
    server.serve_forever()
