"""A repo of the Hugging Face Hub: whether this machine's token may write there, what the repo holds, and one commit of
what changed."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from farm.errors import BadSetting, Conflict, Refused, first_line
from model.hub_answers import LOG_IN, asking, sending

CARD = "README.md"
CHANGED = ("new", "changed", "unknown")  # what becomes of a file that is sent

Kind = Literal["model", "dataset"]
Content = Path | bytes


class Sent(NamedTuple):
    """A file, and what happens to it: `new`, `changed`, `removed`, or `unchanged` and not sent; `unknown` in a dry run
    that could not ask what the Hub has of it."""

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


class Who(NamedTuple):
    """Whose token this machine has, what the token is called and may do, and the owner's role in each organisation."""

    name: str
    token: str
    role: str | None
    scopes: Mapping[str, Collection[str]]  # permissions by repo or owner, of a fine-grained token
    orgs: Mapping[str, str | None]


def who(api: Any) -> Who:
    """Raises: Refused: the Hub does not know the token, or there is none. Unanswered"""
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        with asking("whose token this is"):
            told = api.whoami()
            token = told.get("auth", {}).get("accessToken", {})
            scopes: dict[str, set[str]] = {}
            for one in token.get("fineGrained", {}).get("scoped", ()):
                scopes.setdefault(one.get("entity", {}).get("name"), set()).update(one.get("permissions", ()))
            orgs = {org["name"]: org.get("roleInOrg") for org in told.get("orgs", ())}
            return Who(told["name"], token.get("displayName", ""), token.get("role"), scopes, orgs)
    except LocalTokenNotFoundError:
        raise Refused("there is no token of the Hugging Face Hub on this machine.", remedy=LOG_IN) from None


def check_may_write(api: Any, repo: str) -> None:
    """See that this machine's token may write to `repo`, which need not exist yet.

    Raises: Refused: says why not. Unanswered
    """
    found, owner = who(api), repo.partition("/")[0]
    may = any("repo.write" in found.scopes.get(name, ()) for name in (repo, owner))
    if found.role == "read" or (found.role == "fineGrained" and not may):
        raise Refused(
            f"the token {found.token!r} of {found.name} may not write to {repo}; nothing was sent.", remedy=LOG_IN
        )
    if owner != found.name and found.orgs.get(owner, "read") == "read":
        owners = ", ".join([found.name, *(org for org, role in found.orgs.items() if role != "read")])
        raise Refused(
            f"the token is that of {found.name}, who may not write to {owner}; nothing was sent.",
            remedy=f"Write one of {owners} as the owner, or use the token of a member.",
        )


def there(api: Any, repo: str, kind: Kind, revision: str | None = None) -> There | None:
    """What a branch of the repo holds, None where there is no such repo or branch.

    Raises: Refused, Unanswered
    """
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    with asking(f"what {repo} holds"):
        try:
            info = api.repo_info(repo, repo_type=kind, revision=revision)
            if not info.sha:
                raise ValueError("it named no commit")
            tree = api.list_repo_tree(repo, repo_type=kind, revision=info.sha, recursive=True)
            return There(info.sha, {one.path: one for one in tree if isinstance(one, RepoFile)}, bool(info.private))
        except GatedRepoError:
            raise
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None


def read(api: Any, repo: str, kind: Kind, found: There, file: str) -> bytes:
    """A small file of the repo: huggingface_hub's own downloads try a silent Hub again for many minutes.

    Raises: Refused, Unanswered
    """
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    with asking(f"what {repo} has in {file}"):
        place = hf_hub_url(repo, file, repo_type=kind, revision=found.commit, endpoint=api.endpoint)
        answer = get_session().get(place, headers=build_hf_headers())
        hf_raise_for_status(answer)
        if digest(answer.content, is_large=bool(found.files[file].lfs)) != known_by(found.files[file]):
            raise ValueError(f"it is not the {file} that is listed")
        return answer.content


def is_private(api: Any, repo: str, kind: Kind) -> bool | None:
    """Whether only members of its owner see a repo; None where there is none that this machine's token may see.

    Raises: Refused, Unanswered
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    with asking(f"whether {repo} is there"):
        try:
            return bool(api.repo_info(repo, repo_type=kind).private)
        except RepositoryNotFoundError:
            return None


def check_private(repo: str, found: There | None, private: bool) -> None:
    """Raises: Conflict: it was to be private, and everybody can see it."""
    if private and found and not found.is_private:
        raise Conflict(
            f"{repo} is public, and --private makes only a new repo private; nothing was sent.",
            remedy="Make it private in its settings on the Hub, or name another.",
        )


def compare(
    contents: Mapping[str, Content],
    found: There | None,
    sha256: Mapping[str, str] = MappingProxyType({}),
    *,
    is_known: bool = True,
) -> list[Sent]:
    """What is to become of each file. `sha256` has that of files where it is known already; others are read. Unless
    `is_known`, the Hub could not be asked what it has."""
    files = found.files if found else {}
    if not is_known:
        return [Sent(name, bytes_of(one), "unknown") for name, one in contents.items()]
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


def make(api: Any, repo: str, kind: Kind, private: bool) -> None:
    """Make a repo, which may be there by now.

    Raises: Refused, Conflict, Unreachable
    """
    with sending(repo):
        api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)


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

    Raises: Refused, Conflict, Unreachable
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    added = [CommitOperationAdd(name, content) for name, content in contents.items()]
    operations = [*added, *(CommitOperationDelete(name, is_folder=False) for name in remove)]
    parent = found.commit if found else None
    where = {"repo_type": kind, "revision": branch, "parent_commit": parent}
    with sending(repo):
        return api.create_commit(repo, operations, commit_message=message, **where).oid


def size_of(files: Iterable[Sent]) -> str:
    """How much is sent, for people: "2 of 6 files, 1,234 bytes"."""
    every = list(files)
    changed = [one for one in every if one.now in CHANGED]
    return f"{len(changed)} of {len(every)} files, {sum(one.bytes for one in changed):,} bytes"
