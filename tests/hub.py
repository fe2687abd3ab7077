"""A Hugging Face Hub on the loopback, as far as downloads and uploads ask for it, that can be told to fail.

Large files are redirected to a second port, as the real one sends them to another host: the token must not go there.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import quote, unquote, urlsplit

from uploads import LINGER, Taking, Uploads

COMMIT = "c0ffee" * 6 + "cafe"
CHUNK = 1 << 20
LARGE = (".safetensors", ".pth", ".model")


@dataclass
class Fault:
    """What is wrong with a file's answers; `status` spoils its HEAD and GET, anything else the bytes that are sent."""

    status: int = 0
    code: str = ""  # X-Error-Code
    cut: int | None = None  # the connection ends after so many bytes
    reset: bool = False  # and not politely
    body: bytes | None = None  # sent instead, under the same description
    page: bytes | None = None  # sent instead with status 200, whatever part is asked for
    slow: float = 0.0  # seconds after each chunk
    times: int | None = None  # how many answers are spoilt; None: all
    method: str = ""  # GET: HEAD is answered as ever


@dataclass(frozen=True)
class Asked:
    """A request for a file. `cdn`: it came to the second port; `token`: the Authorization header."""

    method: str
    path: str
    revision: str
    range: str | None
    status: int
    token: str | None
    cdn: bool


@dataclass
class Hub:
    """`files` by repository and path. `endpoint` is what HF_ENDPOINT must be."""

    files: Mapping[tuple[str, str], bytes]
    endpoint: str = ""
    cdn: str = ""
    faults: dict[str, Fault] = field(default_factory=dict)  # by path
    asked: list[Asked] = field(default_factory=list)
    uploads: Uploads = field(default_factory=Uploads)

    def ranges(self, path: str) -> list[str | None]:
        """The Range of each GET that was answered with bytes of the file."""
        return [each.range for each in self.asked if each.path == path and each.method == "GET" and each.status < 300]

    def spoilt(self, path: str, method: str, body: bool) -> Fault:
        """What is to go wrong with this answer."""
        fault = self.faults.get(path, Fault())
        if bool(fault.status) == body or fault.method not in ("", method) or fault.times == 0:
            return Fault()
        if fault.times is not None:
            fault.times -= 1
        return fault


@contextmanager
def hub(files: Mapping[tuple[str, str], bytes]) -> Iterator[Hub]:
    """A hub with these files, as long as the block lasts."""
    made = Hub(files)
    servers = [_Server(made, cdn=False), _Server(made, cdn=True)]
    made.endpoint, made.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield made
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: Hub, cdn: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.cdn = hub, cdn

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class _Handler(Taking):
    protocol_version = "HTTP/1.1"
    path_in_repo = revision = ""

    def log_message(self, format: str, *args: Any) -> None:
        """Said by `Hub.asked`."""

    @property
    def ours(self) -> _Server:
        return cast(_Server, self.server)

    def do_GET(self) -> None:
        if self._take():
            return
        hub = self.ours.hub
        repo, _, rest = unquote(urlsplit(self.path).path).strip("/").partition("/resolve/")
        self.revision, _, self.path_in_repo = rest.partition("/")
        content = hub.files.get((repo, self.path_in_repo))
        large = self.path_in_repo.endswith(LARGE) or len(content or b"") > 1 << 20
        fault = hub.spoilt(self.path_in_repo, self.command, body=False) if not self.ours.cdn else Fault()
        if fault.status:
            self._refuse(fault.status, fault.code)
        elif content is None:
            self._refuse(404, "EntryNotFound")
        elif large and not self.ours.cdn:
            self._redirect(content)
        else:
            self._send(content)

    do_HEAD = do_POST = do_PUT = do_GET

    def _head(self, status: int, length: int, **headers: str) -> None:
        """The answer begins; what was asked is noted."""
        if self.path_in_repo:  # the library asks for more, and does without
            asked = (self.command, self.path_in_repo, self.revision, self.headers["Range"], status)
            self.ours.hub.asked.append(Asked(*asked, self.headers["Authorization"], self.ours.cdn))
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _refuse(self, status: int, code: str) -> None:
        body = b'{"error": "as told"}'
        self._head(status, len(body), Content_Type="application/json", **({"X_Error_Code": code} if code else {}))
        if self.command == "GET":
            self.wfile.write(body)

    def _commit(self) -> str:
        return self.revision if len(self.revision) == 40 else COMMIT

    def _redirect(self, content: bytes) -> None:
        """Size and sha256 of a large file are told beside the address of its bytes."""
        mark = hashlib.sha256(content).hexdigest()
        self._head(
            302,
            0,
            Location=f"{self.ours.hub.cdn}{quote(urlsplit(self.path).path)}?Signature=secret-of-the-cdn",
            X_Repo_Commit=self._commit(),
            X_Linked_Size=str(len(content)),
            X_Linked_ETag=f'"{mark}"',
            Accept_Ranges="bytes",
        )

    def _send(self, content: bytes) -> None:
        """The bytes that are asked for, as the fault has them."""
        fault = self.ours.hub.spoilt(self.path_in_repo, self.command, body=True) if self.command == "GET" else Fault()
        mark = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
        if fault.page is not None:
            self._head(200, len(fault.page), Content_Type="text/html")
            self.wfile.write(fault.page)
            return None
        content = content if fault.body is None else fault.body
        begin = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if begin >= len(content) > 0:
            return self._refuse(416, "")
        head = {"ETag": f'"{mark}"', "X_Repo_Commit": self._commit(), "Accept_Ranges": "bytes"}
        if self.headers["Range"]:
            head["Content_Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self._head(206 if self.headers["Range"] else 200, len(content) - begin, **head)
        if self.command == "GET":
            self._stream(memoryview(content)[begin:], fault)
        return None

    def _stream(self, content: memoryview, fault: Fault) -> None:
        end = len(content) if fault.cut is None else min(fault.cut, len(content))
        for start in range(0, end, CHUNK):
            self.wfile.write(content[start : min(start + CHUNK, end)])
            time.sleep(fault.slow)
        if end < len(content):
            self.close_connection = True
            if fault.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(LINGER, 1, 0))
                socket.close(self.connection.detach())
