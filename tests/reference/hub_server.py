"""A small local server of the Hugging Face Hub's protocol."""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """
    A local server with model repositories and the three routes of the Hub's HTTP API that a download needs.

    :param commits: Content of each file: repository -> commit -> path -> content.
    :param refs: Commit of each branch and tag: (repository, branch or tag) -> commit.
    :param status: Repositories that answer with an error: repository -> (status, error code).
    :param fetched: Paths of the downloaded files, in order.
    """

    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    refs: dict[tuple[str, str], str] = field(default_factory=dict)
    status: dict[str, tuple[int, str]] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_HEAD(with_body=True)

            def do_HEAD(self, with_body: bool = False) -> None:
                status, headers, body = hub.answer(self.path)
                if with_body and "X-File" in headers:
                    hub.fetched.append(headers["X-File"])
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Disconnect the network."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def push(self, repo: str, files: Mapping[str, bytes], *refs: str) -> str:
        """Add a commit with these files, and let the branch main and the other refs point to it."""
        files = {".gitattributes": b"*.zip filter=lfs\n", "README.md": b"# A card\n", **files}
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits.setdefault(repo, {})[commit] = files
        self.refs.update({(repo, ref): commit for ref in ("main", *refs)})
        return commit

    def answer(self, route: str) -> tuple[int, dict[str, str], bytes]:
        """Make the status, the headers and the body for a route."""
        parts = [unquote(part) for part in urlsplit(route).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            parts = parts[2:]
        repo, (kind, revision), name = "/".join(parts[:2]), parts[2:4] or ("revision", "main"), "/".join(parts[4:])
        if repo in self.status:
            return self.status[repo][0], {"X-Error-Code": self.status[repo][1]}, b"{}"
        if repo not in self.commits:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        commit = self.refs.get((repo, revision), revision)
        if commit not in self.commits[repo]:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        files = self.commits[repo][commit]
        if kind == "revision":
            siblings = [{"rfilename": name} for name in files]
            return 200, {}, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode()
        if kind == "tree":
            entries = [{"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40} for name in files]
            return 200, {}, json.dumps(entries).encode()
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        etag = hashlib.sha256(files[name]).hexdigest()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "X-File": name}, files[name]
