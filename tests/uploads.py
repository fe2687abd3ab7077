"""The side of the local Hub that takes files: repositories, large files on the second port, commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

import yaml

LINGER = "HH" if sys.platform == "win32" else "ii"  # the two numbers of SO_LINGER
OWNER = "joe"


@dataclass
class Repo:
    """One repository: what has been committed, in order."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: list[list[str]] = field(default_factory=list)


@dataclass
class Refusal:
    """What goes wrong with a request; `cut`: the connection ends after so many bytes of its body."""

    status: int = 0
    says: str = "as told"
    cut: int | None = None
    times: int = 1_000_000


@dataclass
class Uploads:
    """`refusals` by `whoami`, `info`, `create`, `preupload`, `batch`, `put SHA256`, `commit`; `asked` are such names."""

    token: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # by sha256, committed or not
    refusals: dict[str, Refusal] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: list[tuple[str, str | None]] = field(default_factory=list)  # what came with each

    def puts(self) -> list[str]:
        """The large files that were sent, by sha256; a cut one counts as many times as it was begun."""
        return [each.split()[1] for each in self.asked if each.startswith("put ")]


class Taking(BaseHTTPRequestHandler):
    """Answers what is sent; `ours` is the server of tests/hub.py."""

    ours: Any

    @property
    def _uploads(self) -> Uploads:
        found: Uploads = self.ours.hub.uploads
        return found

    def _take(self) -> bool:
        """Answer the request, if it is one of these."""
        path, me = urlsplit(self.path).path, f"{self.command} {urlsplit(self.path).path}"
        for pattern, answer in self._answers().items():
            if found := re.fullmatch(pattern, me):
                name = f"put {path.rpartition('/')[2]}" if answer == self._put else answer.__name__.strip("_")
                self._uploads.asked.append(name)
                self._uploads.tokens.append((name, self.headers["Authorization"]))
                self._answer(name, answer, found.groups())
                return True
        return False

    def _answers(self) -> dict[str, Callable[..., Any]]:
        return {
            "GET /api/whoami-v2": self._whoami,
            r"GET /api/models/([^/]+/[^/]+)(?:/revision/main)?": self._info,
            "POST /api/repos/create": self._create,
            "POST /api/validate-yaml": self._yaml,
            "POST /api/models/([^/]+/[^/]+)/preupload/main": self._preupload,
            r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch": self._batch,
            "PUT /lfs/([0-9a-f]+)": self._put,
            "POST /api/models/([^/]+/[^/]+)/commit/main": self._commit_to,
        }

    def _answer(self, name: str, answer: Callable[..., Any], words: tuple[str, ...]) -> None:
        refusal = self._uploads.refusals.get(name, Refusal(times=0))
        spoilt, refusal.times = refusal.times > 0, refusal.times - 1
        known = self.headers["Authorization"] == f"Bearer {self._uploads.token}"
        if spoilt and refusal.cut is not None:
            self._cut(refusal.cut)
            return
        body = self._body()
        if spoilt:
            status, document = refusal.status, {"error": refusal.says}
        elif not known and name != "yaml" and not name.startswith("put "):
            status, document = 401, {"error": "Invalid credentials in Authorization header"}
        else:
            status, document = answer(body, *words)
        self._json(status, document, document.get("error", ""))

    def _cut(self, after: int) -> None:
        self.rfile.read(after)
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(LINGER, 1, 0))
        socket.close(self.connection.detach())

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _json(self, status: int, document: dict[str, Any], error: str = "") -> None:
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        if error:
            self.send_header("X-Error-Message", error)
        self.end_headers()
        self.wfile.write(text)

    # ---- what is asked

    def _whoami(self, _: bytes) -> tuple[int, dict[str, Any]]:
        return 200, {"type": "user", "name": OWNER, "orgs": []}

    def _info(self, _: bytes, name: str) -> tuple[int, dict[str, Any]]:
        if (repo := self._uploads.repos.get(name)) is None:
            return 404, {"error": "Repository not found"}
        card = repo.files.get("README.md", b"").decode()
        siblings = [{"rfilename": path} for path in repo.files]
        told = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---\n") else None
        return 200, {"id": name, "private": repo.private, "siblings": siblings, "cardData": told, "tags": []}

    def _create(self, body: bytes) -> tuple[int, dict[str, Any]]:
        asked = json.loads(body)
        name = f"{asked['organization'] or OWNER}/{asked['name']}"
        if not name.startswith(f"{OWNER}/"):
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        if name in self._uploads.repos:
            return 409, {"error": "You already created this model repo", "url": f"{self.ours.hub.endpoint}/{name}"}
        private = asked.get("visibility") == "private" or asked.get("private") is True  # 2.4 and 0.34
        self._uploads.repos[name] = Repo(private)
        return 200, {"url": f"{self.ours.hub.endpoint}/{name}", "name": name, "id": name}

    def _yaml(self, _: bytes) -> tuple[int, dict[str, Any]]:
        return 200, {"warnings": [], "errors": []}

    def _preupload(self, body: bytes, _: str) -> tuple[int, dict[str, Any]]:
        rows = [
            {"path": each["path"], "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular"}
            for each in json.loads(body)["files"]
        ]
        return 200, {"files": [{**row, "shouldIgnore": False} for row in rows]}

    def _batch(self, body: bytes, _: str) -> tuple[int, dict[str, Any]]:
        rows = []
        for each in json.loads(body)["objects"]:
            address = {"href": f"{self.ours.hub.cdn}/lfs/{each['oid']}?Signature=secret-of-the-cdn"}
            rows.append({**each, **({} if each["oid"] in self._uploads.large else {"actions": {"upload": address}})})
        return 200, {"transfer": "basic", "objects": rows}

    def _put(self, body: bytes, oid: str) -> tuple[int, dict[str, Any]]:
        assert hashlib.sha256(body).hexdigest() == oid
        self._uploads.large[oid] = body
        return 200, {}

    def _commit_to(self, body: bytes, name: str) -> tuple[int, dict[str, Any]]:
        repo, changed = self._uploads.repos[name], []
        for row in map(json.loads, body.splitlines()):
            value = row["value"]
            if row["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                repo.files[value["path"]] = self._uploads.large[value["oid"]]
            changed += [value["path"]] if "path" in value else []
        repo.commits.append(changed)
        return 200, {"commitUrl": f"{self.ours.hub.endpoint}/{name}/commit/{'c0' * 20}", "commitOid": "c0" * 20}
