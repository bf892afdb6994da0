"""A Hugging Face Hub on this machine: the part of its HTTP interface that uploads and downloads use.

`huggingface_hub` speaks to it when HF_ENDPOINT is its `url`; HF_HUB_DISABLE_XET=1 makes it send large files by git-lfs,
as to a Hub without Xet. Models and datasets, branches, commits that are all or nothing, collections. Tests break it by
`fail`.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote

Failure = int | Literal["hang", "drop", "page", "shape", "gone"]
DESCRIPTION, NOTE, TITLE = 150, 500, 60  # characters that the Hub takes at most
REGULAR_BYTES = 10 * 2**20  # of a file that is sent within a commit
LFS_SUFFIXES = (".safetensors", ".bin", ".npy", ".parquet")


class Repo:
    """A repo: its branches, each a list of commits, each a whole tree of files."""

    def __init__(self, private: bool = False):
        self.private = private
        self.branches: dict[str, list[str]] = {}
        self.trees: dict[str, dict[str, bytes]] = {}
        self.messages: dict[str, str] = {}
        self.commit("main", {}, "initial commit")

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        oid = hashlib.sha1(f"{branch} {len(self.trees)} {message}".encode()).hexdigest()
        self.trees[oid], self.messages[oid] = files, message
        self.branches.setdefault(branch, []).append(oid)
        return oid

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch or commit names."""
        return (
            self.branches[revision][-1] if revision in self.branches else revision if revision in self.trees else None
        )

    @property
    def files(self) -> dict[str, bytes]:
        return self.trees[self.branches["main"][-1]]


class Hub(ThreadingHTTPServer):
    """The server: `repos` by type and name, as "datasets/us/tokens", and what `whoami` says of each token.

    `asked` has every request. One whose "METHOD /path" contains a key of `fail` is answered with that status, or as a
    bad network does: it `hang`s, the connection `drop`s, a `page` of HTML comes, or JSON of another `shape`; or the
    repo is `gone`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, Repo] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.fail: dict[str, Failure] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.lists_private = True  # of collections, to those who may see them
        self.closing = threading.Event()

    def add_token(self, token: str, name: str, role: str = "write", scopes: Any = (), orgs: Any = ()) -> None:
        """Let `token` be one of the user `name`, with the fields that the Hub's own answer has."""
        access = {"displayName": f"{role}-token", "role": role, "fineGrained": {"scoped": list(scopes), "global": []}}
        members = [{"type": "org", "name": org, "roleInOrg": of} for org, of in orgs]
        auth = {"type": "access_token", "accessToken": access}
        self.tokens[token] = {"type": "user", "name": name, "orgs": members, "auth": auth}

    def make_collection(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A new collection, as its answers have it."""
        number = len(self.collections)
        slug = f"{asked['namespace']}/{asked['title']}-{number:024x}"
        told = {"slug": slug, "title": asked["title"], "owner": {"name": asked["namespace"]}, "items": []}
        told |= {"description": asked.get("description"), "private": asked["private"], "position": number}
        told |= {"lastUpdated": "2026-11-26T12:00:00.000Z", "theme": "green", "upvotes": 0}
        self.collections[slug] = told
        return told

    def sent(self, *methods: str) -> list[str]:
        """The requests of these methods, in order."""
        return [one for one in self.asked if one.partition(" ")[0] in methods]


ASKED: dict[Failure, tuple[int, str]] = {  # the exit code and the words where the Hub is asked, and fails so
    401: (4, " refuses to say "),
    403: (4, " refuses to say "),
    404: (5, " could not say "),
    409: (5, " could not say "),
    429: (5, " was asked too often: 429"),
    503: (5, " could not say "),
    "hang": (5, " could not be reached: "),
    "drop": (5, " could not be reached: "),
    "page": (5, "its answer cannot be read ("),
    "shape": (5, "its answer cannot be read ("),
}
SENT: dict[Failure, tuple[int, str]] = {  # the same where something is sent to it
    401: (4, " refuses to take "),
    403: (4, " refuses to take "),
    404: (5, " did not take "),
    "gone": (6, " was deleted or renamed meanwhile, or is another's and private: 404, Repository not found."),
    409: (6, " was changed by another meanwhile: 409"),
    429: (5, "Wait a few minutes. Run the command again: it sends only what is missing."),
    503: (5, " did not take "),
    "hang": (5, " did not take "),
    "drop": (5, " did not take "),
    "page": (5, "its answer cannot be read ("),
    "shape": (5, "its answer cannot be read ("),
}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve for the block."""
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        hub.shutdown()
        hub.server_close()
        thread.join()


def changes(hub: Hub) -> list[str]:
    """The requests that change something there."""
    return [one for one in hub.sent("POST", "PUT", "DELETE") if "validate-yaml" not in one and "preupload" not in one]


def oid(content: bytes) -> str:
    """What git knows a file by."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name: str, content: bytes) -> bool:
    return name.endswith(LFS_SUFFIXES) or len(content) > REGULAR_BYTES


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _route(self) -> None:
        path, hub = unquote(self.path.split("?")[0]), self.server
        body = self._body()
        item = f" {json.loads(body)['item']['id']}" if self.command == "POST" and path.endswith("/items") else ""
        request = f"{self.command} {path}{item}"
        hub.asked.append(request)
        for part, failure in hub.fail.items():
            if part in request:
                return self._fail(failure)
        if path == "/api/whoami-v2":
            who = hub.tokens.get(self._token())
            return self._json(who) if who else self._error(401, "Invalid credentials")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.startswith("/api/collections"):
            return self._of_collections(path.removeprefix("/api/collections").strip("/"), body)
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path.startswith("/lfs/"):
            return self._large(path.removeprefix("/lfs/"), body)
        if path.startswith("/api/"):
            kind, owner, name, *words = path.removeprefix("/api/").split("/")
            return self._of_repo(f"{kind}/{owner}/{name}", words, body)
        if ".git/info/lfs/objects/batch" in path:
            return self._batch(json.loads(body))
        return self._download(path)

    def _fail(self, failure: Failure) -> None:
        if isinstance(failure, int):
            return self._answer(failure, b"", {"X-Error-Message": f"told to fail with {failure}"})
        if failure == "gone":
            return self._error(404, "Repository not found", "RepoNotFound")
        if failure == "page":
            return self._answer(200, b"<html>Please log in to the Wi-Fi.</html>", {"Content-Type": "text/html"})
        if failure == "shape":
            return self._json(["what is this"])
        if failure == "hang":
            self.server.closing.wait(60)
        self.close_connection = True
        return None

    def _of_collections(self, words: str, body: bytes) -> None:
        """What the Hub's collections do: a title once for an owner, a repo that exists once in each."""
        hub, may = self.server, self._token() in self.server.tokens
        if not words and self.command == "GET":
            owner = parse_qs(self.path.partition("?")[2]).get("owner", [""])[0]
            seen = [one for one in hub.collections.values() if one["owner"]["name"] == owner]
            may = may and hub.lists_private
            seen = [one | {"items": one["items"][:4]} for one in seen if may or not one["private"]]
            return self._json([{key: of for key, of in one.items() if key != "position"} for one in seen])
        if self.command != "GET" and not self._may_write():
            return self._error(403, "Forbidden: you need write access to collections")
        if not words:
            return self._new_collection(json.loads(body))
        slug, _, rest = words.partition("/items")
        found = hub.collections.get(slug)
        if found is None or (found["private"] and not may):
            return self._error(404, "Collection not found")
        if self.command == "POST":
            return self._add_item(found, json.loads(body))
        if self.command == "PATCH" and not rest:
            asked = json.loads(body)
            if len(asked.get("description", "")) > DESCRIPTION:
                return self._error(400, "description is too long")
            found |= asked
            return self._json({"success": True, "data": found})
        return self._json(found)

    def _new_collection(self, asked: dict[str, Any]) -> None:
        taken = [one for one in self.server.collections.values() if one["title"] == asked["title"]]
        if taken := [one["slug"] for one in taken if one["owner"]["name"] == asked["namespace"]]:
            return self._answer(409, json.dumps({"slug": taken[0]}).encode(), {"Content-Type": "application/json"})
        if len(asked["title"]) > TITLE or len(asked.get("description", "")) > DESCRIPTION:
            return self._error(400, "title or description is too long")
        return self._json(self.server.make_collection(asked))

    def _add_item(self, found: dict[str, Any], asked: dict[str, Any]) -> None:
        kind, name = asked["item"]["type"], asked["item"]["id"]
        if f"{kind}s/{name}" not in self.server.repos:
            return self._error(404, f"{name} does not exist")
        if any((one["type"], one["id"]) == (kind, name) for one in found["items"]):
            return self._error(409, "is in the collection already")
        if len(asked.get("note", "")) > NOTE:
            return self._error(400, "note is too long")
        number = len(found["items"])
        item = {"_id": f"{number:024x}", "id": name, "type": kind, "position": number}
        found["items"].append(item | {"note": {"text": asked["note"], "html": ""}} if "note" in asked else item)
        return self._json(found)

    def _may_write(self) -> bool:
        who = self.server.tokens.get(self._token())
        return who is not None and who["auth"]["accessToken"]["role"] != "read"

    def _of_repo(self, key: str, words: list[str], body: bytes) -> None:
        repo = self.server.repos.get(key)
        if repo is None or (repo.private and self._token() not in self.server.tokens):
            return self._error(404, "Repository not found", "RepoNotFound")
        verb, revision = (words[0], words[1] if len(words) > 1 else "main") if words else ("revision", "main")
        if verb == "branch":
            return self._branch(repo, revision, json.loads(body or b"{}"))
        commit = repo.resolve(revision)
        if commit is None:
            return self._error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = repo.trees[commit]
        if verb == "tree":
            return self._json([_entry(name, content) for name, content in sorted(files.items())])
        if verb == "preupload":
            return self._json({"files": [_mode(one, files) for one in json.loads(body)["files"]]})
        if verb == "commit":
            return self._commit(key, repo, revision, body)
        siblings = [{"rfilename": name} for name in files]
        return self._json({"id": key.partition("/")[2], "sha": commit, "private": repo.private, "siblings": siblings})

    def _create(self, asked: dict[str, Any]) -> None:
        who = self.server.tokens.get(self._token())
        if who is None or not self._may_write():
            return self._error(403 if who else 401, "You don't have the rights to create a repo here")
        key = f"{asked.get('type', 'model')}s/{asked.get('organization') or who['name']}/{asked['name']}"
        is_new = key not in self.server.repos
        if is_new:
            self.server.repos[key] = Repo(asked.get("visibility") == "private")
        url = f"{self.server.url}/{key.removeprefix('models/')}"
        return self._json({"url": url, "id": key.partition("/")[2]}, 200 if is_new else 409)

    def _branch(self, repo: Repo, name: str, asked: dict[str, Any]) -> None:
        if self.command == "DELETE":
            repo.branches.pop(name, None)
        elif name in repo.branches:
            return self._error(409, f"Reference already exists: {name}")
        else:
            repo.branches[name] = [repo.resolve(asked.get("startingPoint") or "main") or ""]
        return self._json({})

    def _commit(self, key: str, repo: Repo, branch: str, body: bytes) -> None:
        """All of it or nothing: a large file that was not sent refuses the commit."""
        if not self._may_write():
            return self._error(403, "Forbidden: you may not write here")
        files, header = dict(repo.trees[repo.resolve(branch) or ""]), {}
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                header = value
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.server.large:
                    return self._error(400, f"{value['path']} was not uploaded")
                files[value["path"]] = self.server.large[value["oid"]]
            elif item["key"] == "deletedFile":
                files.pop(value["path"], None)
            elif item["key"] == "deletedFolder":
                files = {name: content for name, content in files.items() if not name.startswith(value["path"])}
        if header.get("parentCommit") not in (None, repo.resolve(branch)):
            return self._error(412, "A commit has happened since")
        commit = repo.commit(branch, files, header.get("summary", ""))
        return self._json({"commitUrl": f"{self.server.url}/{key}/commit/{commit}", "commitOid": commit})

    def _batch(self, asked: dict[str, Any]) -> None:
        """Where each large file goes that is not there yet."""
        objects = []
        for one in asked["objects"]:
            place = f"{self.server.url}/lfs/{one['oid']}"
            actions = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
            objects.append(one if one["oid"] in self.server.large else one | {"actions": actions})
        self._json({"transfer": "basic", "objects": objects})

    def _large(self, name: str, body: bytes) -> None:
        if name.endswith("/verify"):
            asked = json.loads(body)
            is_there = len(self.server.large.get(asked["oid"], b"")) == asked["size"]
            return self._json({}) if is_there else self._error(404, "not uploaded")
        if hashlib.sha256(body).hexdigest() != name:
            return self._error(400, "the content is another")
        self.server.large[name] = body
        return self._json({})

    def _download(self, path: str) -> None:
        key, _, rest = path.strip("/").partition("/resolve/")
        repo = self.server.repos.get(key if key.startswith("datasets/") else f"models/{key}")
        revision, _, name = rest.partition("/")
        commit = repo.resolve(revision) if repo else None
        if repo is None or commit is None:
            return self._error(404, "Repository not found", "RepoNotFound")
        if name not in repo.trees[commit]:
            return self._error(404, "Entry not found", "EntryNotFound")
        content = repo.trees[commit][name]
        return self._answer(200, content, {"ETag": f'"{oid(content)}"', "X-Repo-Commit": commit})

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._answer(status, json.dumps({"error": message}).encode(), headers | {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked has given up
                self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _entry(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": oid(content)}
    if is_large(name, content):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


def _mode(asked: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
    name = asked["path"]
    large = name.endswith(LFS_SUFFIXES) or asked["size"] > REGULAR_BYTES
    there = {"oid": oid(files[name])} if name in files and not large else {}
    return {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False} | there
