"""A local web server that serves files and implements the Hugging Face Hub's protocol."""

import base64
import hashlib
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Fault(NamedTuple):
    """A fault in the response to one GET request.

    Args:
        status: HTTP status to send instead of 200.
        cut_after: number of bytes after which the connection is closed early.
        pause: seconds to wait before sending each part of the body.
        body: content to send instead of the file.
        redirect: URL to redirect to.
    """

    status: int = 200
    cut_after: int | None = None
    pause: float = 0.0
    body: bytes | None = None
    redirect: str | None = None


class Server(ThreadingHTTPServer):
    """Serve `files` by path and `repositories` by "owner/name", and record all requests.

    Each GET consumes one fault from `faults[path]`. `statuses` maps a repository or a file in it
    to the hub's response: 401, 403, 404 or 500.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.repositories: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.statuses: dict[str, int] = {}
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def count(self, method: str, ending: str = "") -> int:
        return sum(m == method and p.endswith(ending) for m, p, _ in self.requests)

    def gets(self) -> Counter[str]:
        return Counter(path for method, path, _ in self.requests if method == "GET")


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        self.server.requests.append(("POST", self.path, None))
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path.startswith("/api/models/") and path.endswith("/commit/main"):
            reply = self._commit(path.removeprefix("/api/models/"), sent)
        elif "/preupload/" in path:
            how = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            reply = {"files": [{"path": f["path"], **how} for f in json.loads(sent)["files"]]}
        else:
            reply = {"url": f"{self.server.url}/owner/name"}
        self._send(200, json.dumps(reply).encode(), {"Content-Type": "application/json"})

    def _commit(self, path: str, sent: bytes) -> dict[str, str]:
        repo = "/".join(path.split("/")[:2])
        for line in sent.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                self.server.repositories[repo][value["path"]] = base64.b64decode(value["content"])
        return {
            "commitUrl": f"{self.server.url}/{repo}/commit/{COMMIT}",
            "commitOid": COMMIT,
            "hookOutput": "",
        }

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        if path.startswith("/blobs/"):
            self._send_file(path, self.server.files.get(path), {}, body)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), "/".join(parts[4:]), body)
        else:
            self._send_file(path, self.server.files.get(path), {}, body)

    def _resolve(self, repo: str, name: str, body: bool) -> None:
        status = self.server.statuses.get(f"{repo}/{name}", self.server.statuses.get(repo, 200))
        files = self.server.repositories.get(repo)
        code = {403: "GatedRepo"}.get(status)
        if files is None:
            status, code = 404, "RepoNotFound"
        elif status == 200 and name not in files:
            status, code = 404, "EntryNotFound"
        headers = {"X-Repo-Commit": COMMIT}
        if status != 200 or files is None:
            self._send(status, b"", headers | ({"X-Error-Code": code} if code else {}))
            return
        content = files[name]
        if name.endswith((".safetensors", ".bin")):  # the hub redirects to a storage server
            digest = hashlib.sha256(content).hexdigest()
            self.server.files[f"/blobs/{digest}"] = content
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            storage = self.server.url.replace(
                "127.0.0.1", "localhost"
            )  # a different host, as on the hub
            self._send(302, b"", headers | {"Location": f"{storage}/blobs/{digest}"})
            return
        etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        self._send_file(self.path, content, headers | {"ETag": f'"{etag}"'}, body)

    def _send_file(
        self, path: str, content: bytes | None, headers: dict[str, str], body: bool
    ) -> None:
        fault = Fault()
        if body and self.server.faults[path]:
            fault = self.server.faults[path].pop(0)
        if fault.redirect is not None:
            self._send(302, b"", {"Location": fault.redirect})
        elif content is None or fault.status != 200:
            self._send(404 if content is None else fault.status, b"", {})
        else:
            self._send_body(content if fault.body is None else fault.body, headers, fault, body)

    def _send_body(self, content: bytes, headers: dict[str, str], fault: Fault, body: bool) -> None:
        status, size = 200, len(content)
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            status, content = 206, content[start:]
            headers = headers | {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        sent = content if fault.cut_after is None else content[: fault.cut_after]
        piece = max(1, len(sent) // 4)
        for start in range(0, len(sent), piece):
            time.sleep(fault.pause)
            self.wfile.write(sent[start : start + piece])
        if fault.cut_after is not None:
            self.close_connection = True

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
