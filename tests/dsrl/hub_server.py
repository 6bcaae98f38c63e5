"""A small local server with the Hub's protocol, for a repository of datasets."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPOSITORY = "YYY-45/DSRL"
BLOCK = 1_000


class Hub(ThreadingHTTPServer):
    """The repository of the dataset: its API, and a store (another host for the client) that the Hub redirects to."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        # Path in the repository -> content.
        self.files = files
        # Content that the store serves instead of a file, with the checksum of the original.
        self.damage: dict[str, bytes] = {}
        # Number of bytes that the store serves before it drops every connection; None for all.
        self.budget: int | None = None
        # Called before each block of a file is sent, with the number of bytes sent so far.
        self.at_block: Callable[[int], None] = lambda n_sent: None
        # Status of all answers, if given.
        self.status: int | None = None
        self.gives_etag = True
        # For each answer of the store, the first byte and the number of bytes sent.
        self.served: list[tuple[int, int]] = []
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Disconnect the network."""
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        hub = self.server
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if hub.status is not None:
            self.answer(hub.status, {}, b"")
        elif parts[0] == "store":
            self.serve("/".join(parts[1:]))
        elif parts[:2] == ["api", "datasets"]:
            entries = [{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in hub.files.items()]
            self.answer(200, {}, json.dumps(entries).encode())
        else:
            assert "/".join(parts[:5]) == f"datasets/{REPOSITORY}/resolve/main"
            assert self.headers["Authorization"] == "Bearer hf_secret"
            self.redirect("/".join(parts[5:]))

    do_HEAD = do_GET

    def redirect(self, path: str) -> None:
        hub = self.server
        if path not in hub.files:
            self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "0" * 40}, b"")
            return
        headers = {
            "Location": f"http://localhost:{hub.server_port}/store/{path}",
            "X-Repo-Commit": "0" * 40,
            "X-Linked-Size": str(len(hub.files[path])),
        }
        if hub.gives_etag:
            headers["X-Linked-ETag"] = f'"{hashlib.sha256(hub.files[path]).hexdigest()}"'
        self.answer(302, headers, b"")

    def serve(self, path: str) -> None:
        hub = self.server
        assert "Authorization" not in self.headers
        content = hub.damage.get(path, hub.files[path])
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.answer(416, {}, b"")
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        sent = 0
        with contextlib.suppress(ConnectionError):  # The client has disconnected.
            while start + sent < len(content):
                hub.at_block(start + sent)
                block = content[start + sent : start + sent + BLOCK]
                if hub.budget is not None:
                    if hub.budget < len(block):
                        break
                    hub.budget -= len(block)
                self.wfile.write(block)
                sent += len(block)
        hub.served.append((start, sent))

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass
