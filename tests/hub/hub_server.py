"""A Hub of one process: its HTTP interface, as the real `huggingface_hub` client uses it, with all state in memory.

Repositories of the account "me" can be written to with the token `WRITE`; `READ` reads only, any other is refused.
Large files go by LFS, and come like the others. `fail` and `cut` switch faults on, `mend` off.
"""

import base64
import hashlib
import json
import re
import socket
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread
from urllib.parse import unquote, urlsplit

WRITE, READ = "hf_writes", "hf_reads"
LARGE = (".safetensors", ".onnx")
CUT = -1
ID, REVISION = r"([\w.-]+/[\w.-]+)", "([^/]+)"
ROUTES = []


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Repository:
    private: bool
    branches: dict[str, list[Commit]]  # the last is the newest
    tags: dict[str, Commit] = field(default_factory=dict)

    def commit(self, revision="main"):
        """Of a branch, a tag or a commit's own id."""
        known = {commit.oid: commit for commits in self.branches.values() for commit in commits}
        known |= self.tags | {name: commits[-1] for name, commits in self.branches.items()}
        if revision not in known:
            raise Refusal(404, "Invalid rev id", "RevisionNotFound")
        return known[revision]


class Refusal(Exception):
    def __init__(self, status, message, code=None, **content):
        super().__init__(message)
        self.status, self.content = status, {"error": message, **content}
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}


class Hub(ThreadingHTTPServer):
    """`requests` lists all that came, such as "PUT /lfs/<sha256>"; `large` says which files go by LFS."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories, self.blobs, self.requests, self.faults = {}, {}, [], []
        self.large, self.numbers = LARGE, count()

    def __enter__(self):
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """Connections that clients give up are no news."""

    def new_commit(self, message, files):
        return Commit(f"{next(self.numbers):040x}", message, files)

    def add(self, name, private=False):
        self.repositories[name] = Repository(private, {"main": [self.new_commit("initial commit", {})]})
        return self.repositories[name]

    def fail(self, request, status, times=1000):
        """Answer the next requests such as "POST /api/repos/create" (a pattern for the start) by a status."""
        self.faults = [(request, status)] * times

    def cut(self, request, times=1000):
        """Read half of the next such requests, then break the connection."""
        self.fail(request, CUT, times)

    def mend(self):
        self.faults = []

    def next_fault(self, request):
        if self.faults and re.match(self.faults[0][0], request):
            return self.faults.pop()[1]
        return None

    def is_large(self, path):
        return path.endswith(self.large)

    def oid(self, path, content):
        """As in git; of a large file, the SHA-256."""
        if self.is_large(path):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def route(method, path):
    def register(function):
        ROUTES.append((method, re.compile(path), function))
        return function

    return register


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        method, path = self.command, urlsplit(self.path).path
        self.server.requests.append(f"{method} {path}")
        fault = self.server.next_fault(f"{method} {path}")
        length = int(self.headers.get("Content-Length", 0))
        assert "Transfer-Encoding" not in self.headers
        self.body = self.rfile.read(length // 2 if fault == CUT else length)
        if fault == CUT:
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        try:
            if fault:
                raise Refusal(fault, f"switched on for {self.headers.get('Authorization')}")
            content, status, headers = self.content(method, path)
            self.send(content, status, **headers)
        except Refusal as refusal:
            self.send(refusal.content, refusal.status, **refusal.headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def content(self, method, path):
        """Content, status and headers, by the function of the route."""
        for route_method, pattern, function in ROUTES:
            match = pattern.fullmatch(path)
            if match and route_method == method.replace("HEAD", "GET"):
                found = function(self, *(group and unquote(group) for group in match.groups()))
                return found if isinstance(found, tuple) else (found, 200, {})
        raise Refusal(404, f"no such page: {method} {path}", "EntryNotFound")

    def send(self, content, status=200, **headers):
        if not isinstance(content, bytes):
            content, headers["Content-Type"] = json.dumps(content).encode(), "application/json"
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass

    def token(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if token not in (WRITE, READ, None):
            raise Refusal(401, "Invalid credentials in Authorization header")
        return token

    def check_writer(self, name):
        if self.token() is None:
            raise Refusal(401, "Invalid username or password.")
        if self.token() == READ or not name.startswith("me/"):
            raise Refusal(403, "You have no right to write to it")

    def repository(self, name, write=False):
        token, found = self.token(), self.server.repositories.get(name)
        if found is None or (found.private and token is None):
            raise Refusal(404 if token else 401, "Repository not found", "RepoNotFound")
        if write:
            self.check_writer(name)
        return found

    def json(self):
        return json.loads(self.body)

    @route("POST", "/api/repos/create")
    def create(self):
        wanted = self.json()
        name = f"{wanted['organization'] or 'me'}/{wanted['name']}"
        content = {"url": f"{self.server.url}/{name}"}
        self.check_writer(name)
        if name in self.server.repositories:
            raise Refusal(409, "You already created this model repo", **content)
        self.server.add(name, private=wanted.get("visibility") == "private")
        return content

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self):
        return {"errors": [], "warnings": []}

    @route("GET", f"/api/models/{ID}/auth-check(/write)?")
    def auth_check(self, name, write):
        self.repository(name, write=bool(write))
        return {}

    @route("GET", f"/api/models/{ID}/refs")
    def refs(self, name):
        repository = self.repository(name)
        branches = {key: commits[-1] for key, commits in repository.branches.items()}
        kinds = {"branches": ("heads", branches), "tags": ("tags", repository.tags), "converts": ("convert", {})}
        return {
            kind: [{"name": key, "ref": f"refs/{ref}/{key}", "targetCommit": at.oid} for key, at in known.items()]
            for kind, (ref, known) in kinds.items()
        }

    @route("POST", f"/api/models/{ID}/branch/{REVISION}")
    def create_branch(self, name, branch):
        repository = self.repository(name, write=True)
        if branch in repository.branches:
            raise Refusal(409, "Reference already exists")
        repository.branches[branch] = list(repository.branches["main"])
        return {}

    @route("POST", f"/api/models/{ID}/tag/{REVISION}")
    def create_tag(self, name, revision):
        repository, tag = self.repository(name, write=True), self.json()["tag"]
        if tag in repository.tags:
            raise Refusal(409, "Tag already exists")
        repository.tags[tag] = repository.commit(revision)
        return {}

    @route("POST", f"/api/models/{ID}/preupload/{REVISION}")
    def preupload(self, name, revision):
        files = self.repository(name, write=True).commit(revision).files
        answers = []
        for path in (file["path"] for file in self.json()["files"]):
            mode = "lfs" if self.server.is_large(path) else "regular"
            oid = self.server.oid(path, files[path]) if path in files else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    @route("POST", rf"/{ID}\.git/info/lfs/objects/batch")
    def lfs_batch(self, name):
        self.repository(name, write=True)
        actions = {kind: f"{self.server.url}/lfs/{kind}/" for kind in ("upload", "verify")}
        objects = [{"oid": wanted["oid"], "size": wanted["size"]} for wanted in self.json()["objects"]]
        for wanted in objects:
            if wanted["oid"] not in self.server.blobs:
                wanted["actions"] = {kind: {"href": href + wanted["oid"]} for kind, href in actions.items()}
        return {"transfer": "basic", "objects": objects}

    @route("PUT", "/lfs/upload/(.+)")
    def lfs_upload(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.blobs[oid] = self.body
        return b""

    @route("POST", "/lfs/verify/(.+)")
    def lfs_verify(self, oid):
        assert self.json() == {"oid": oid, "size": len(self.server.blobs[oid])}
        return b""

    @route("POST", f"/api/models/{ID}/commit/{REVISION}")
    def commit(self, name, branch):
        commits = self.repository(name, write=True).branches[branch]
        files = dict(commits[-1].files)
        for key, value in ((item["key"], item["value"]) for item in map(json.loads, self.body.splitlines())):
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            else:
                assert key == "deletedFile"
                del files[value["path"]]
        commits.append(self.server.new_commit(message, files))
        oid = commits[-1].oid
        return {"commitOid": oid, "commitUrl": f"{self.server.url}/{name}/commit/{oid}", "success": True}

    @route("GET", f"/api/models/{ID}(?:/revision/{REVISION})?")
    def info(self, name, revision):
        repository = self.repository(name)
        commit = repository.commit(revision or "main")
        siblings = [{"rfilename": path} for path in commit.files]
        content = {"id": name, "modelId": name, "sha": commit.oid, "private": repository.private, "tags": []}
        return {**content, "siblings": siblings}

    @route("GET", f"/api/models/{ID}/tree/{REVISION}(?:/(.+))?")
    def tree(self, name, revision, folder):
        files = self.repository(name).commit(revision).files
        if folder:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        listed = []
        for path, content in files.items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": self.server.oid(path, content)}
            large = {"lfs": {"oid": entry["oid"], "size": len(content), "pointerSize": 100}}
            listed.append({**entry, **(large if self.server.is_large(path) else {})})
        return listed

    @route("GET", f"/{ID}/resolve/{REVISION}/(.+)")
    def resolve(self, name, revision, path):
        commit = self.repository(name).commit(revision)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        content, oid = commit.files[path], self.server.oid(path, commit.files[path])
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{oid}"'}
        if self.server.is_large(path):
            headers |= {"X-Linked-Size": len(content), "X-Linked-ETag": f'"{oid}"'}
        return content, 200, headers
