"""A repo of the Hugging Face Hub: whether this machine's token may write there, what the repo holds, and one commit of
what changed."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from farm.errors import BadSetting, Conflict, FarmError, Refused, Unreachable, first_line

CARD = "README.md"
LOG_IN = "Make one that may write at https://huggingface.co/settings/tokens, and run hf auth login or set HF_TOKEN."

Kind = Literal["model", "dataset"]
Content = Path | bytes


class Sent(NamedTuple):
    """A file, and what happens to it: `new`, `changed`, `removed`, or `unchanged` and not sent."""

    file: str
    bytes: int
    now: str


class There(NamedTuple):
    """A branch of a repo: its newest commit, its files by name, as the Hub describes them, and who may see them."""

    commit: str
    files: Mapping[str, Any]
    is_private: bool


def check_repo(repo: str) -> None:
    """Raises: BadSetting: no repo of the Hub can be called that."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        if repo.count("/") == 1:
            return
        reason = "it has no owner"
    except HFValidationError as error:
        reason = first_line(error).rstrip(".").partition(": '")[0]
    raise BadSetting(
        f"{repo!r} cannot be a repo: {reason}.", remedy="Write OWNER/NAME, with letters, digits, '-', '_' and '.'."
    )


def check_may_write(api: Any, repo: str) -> None:
    """See that this machine's token may write to `repo`, which need not exist yet.

    Raises: Refused: says why not. Unreachable
    """
    from huggingface_hub.errors import LocalTokenNotFoundError

    owner = repo.partition("/")[0]
    try:
        with told(repo):
            who = api.whoami()
    except LocalTokenNotFoundError:
        raise Refused("there is no token of the Hugging Face Hub on this machine.", remedy=LOG_IN) from None
    token, name = who.get("auth", {}).get("accessToken", {}), who.get("name", "")
    role = token.get("role")
    if role == "read" or (role == "fineGrained" and not _may_write(token.get("fineGrained", {}), repo)):
        called = token.get("displayName", "")
        raise Refused(f"the token {called!r} of {name} may not write to {repo}; nothing was sent.", remedy=LOG_IN)
    members = {org["name"]: org.get("roleInOrg") for org in who.get("orgs", ())}
    if owner != name and members.get(owner, "read") == "read":
        owners = ", ".join([name, *(org for org, role in members.items() if role != "read")])
        raise Refused(
            f"the token is that of {name}, who may not write to {owner}; nothing was sent.",
            remedy=f"Write one of {owners} as the owner, or use the token of a member.",
        )


def _may_write(scopes: dict[str, Any], repo: str) -> bool:
    """Whether a fine-grained token has the permission for a repo, by itself or as one of its owner's."""
    mine = [
        one for one in scopes.get("scoped", ()) if one.get("entity", {}).get("name") in (repo, repo.partition("/")[0])
    ]
    return any("repo.write" in one.get("permissions", ()) for one in mine)


def there(api: Any, repo: str, kind: Kind, revision: str | None = None) -> There | None:
    """What a branch of the repo holds, None where there is no such repo or branch."""
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = api.repo_info(repo, repo_type=kind, revision=revision)
        tree = api.list_repo_tree(repo, repo_type=kind, revision=info.sha, recursive=True)
        return There(info.sha, {one.path: one for one in tree if isinstance(one, RepoFile)}, bool(info.private))
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None


def check_private(repo: str, found: There | None, private: bool) -> None:
    """Raises: Conflict: it was to be private, and everybody can see it."""
    if private and found and not found.is_private:
        raise Conflict(
            f"{repo} is public, and --private makes only a new repo private; nothing was sent.",
            remedy="Make it private in its settings on the Hub, or name another.",
        )


def compare(
    contents: Mapping[str, Content], found: There | None, sha256: Mapping[str, str] = MappingProxyType({})
) -> list[Sent]:
    """What is to become of each file. `sha256` has that of files where it is known already; others are read."""
    files = found.files if found else {}
    return [_compare(name, one, files.get(name), sha256.get(name)) for name, one in contents.items()]


def _compare(name: str, content: Content, there: Any, sha256: str | None) -> Sent:
    size = bytes_of(content)
    if there is None:
        return Sent(name, size, "new")
    is_same = there.size == size and known_by(there) == (
        sha256 if there.lfs and sha256 else digest(content, bool(there.lfs))
    )
    return Sent(name, size, "unchanged" if is_same else "changed")


def bytes_of(content: Content) -> int:
    """The size of a file."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def known_by(there: Any) -> str:
    """The digest that the Hub has of a file."""
    return there.lfs.sha256 if there.lfs else there.blob_id


def digest(content: Content, is_large: bool) -> str:
    """What the Hub knows a file by: sha256 of a large one, git's own of others."""
    begun = hashlib.sha256() if is_large else hashlib.sha1(b"blob %d\0" % bytes_of(content))
    with BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        return hashlib.file_digest(file, lambda: begun).hexdigest()


def commit(
    api: Any,
    repo: str,
    kind: Kind,
    contents: Mapping[str, Content],
    found: There | None,
    message: str,
    *,
    branch: str | None = None,
    remove: Collection[str] = (),
) -> str:
    """Send files as one commit on top of `found`, and return its id.

    The Hub takes a commit as a whole or not at all: large files are sent before it and show only through it. So a
    sending that breaks off leaves the branch as it was.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    added = [CommitOperationAdd(name, content) for name, content in contents.items()]
    operations = [*added, *(CommitOperationDelete(name, is_folder=False) for name in remove)]
    parent = found.commit if found else None
    where = {"repo_type": kind, "revision": branch, "parent_commit": parent}
    return api.create_commit(repo, operations, commit_message=message, **where).oid


def size_of(files: Iterable[Sent]) -> str:
    """How much is sent, for people: "2 of 6 files, 1,234 bytes"."""
    every = list(files)
    changed = [one for one in every if one.now in ("new", "changed")]
    return f"{len(changed)} of {len(every)} files, {sum(one.bytes for one in changed):,} bytes"


@contextmanager
def told(repo: str) -> Iterator[None]:
    """What the Hub's client raises, as the farm's own errors.

    Raises: Refused, Conflict, Unreachable. LocalTokenNotFoundError: there is no token.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except (FarmError, LocalTokenNotFoundError):
        raise
    except Exception as error:  # the hub's errors and its HTTP client's share no class below Exception
        said = first_line(error).rstrip(".")
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, HfHubHTTPError) and status in (401, 403):
            raise Refused(f"{constants.ENDPOINT} refuses: {said}.", remedy=LOG_IN) from None
        if isinstance(error, HfHubHTTPError) and status == 412:
            raise Conflict(
                f"{repo} was changed by another meanwhile; nothing of this was sent.", remedy="Run it again."
            ) from None
        raise Unreachable(
            f"{constants.ENDPOINT} did not take {repo}: {said}.",
            remedy="Run the command again: it sends only what is missing.",
        ) from None
