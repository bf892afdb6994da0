"""`farm data push`: a folder of tokens to the Hugging Face Hub, as one commit of what changed."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from farm.errors import BadCorpus, BadSetting, FarmError, Refused, Unreachable, first_line
from model.corpus import token_folder
from model.corpus.names import some
from model.corpus.token_folder import MANIFEST, Manifest

CARD = "README.md"
LOG_IN = "Make one that may write at https://huggingface.co/settings/tokens, and run hf auth login or set HF_TOKEN."


class Sent(NamedTuple):
    """A file, and what happens to it: `new`, `changed`, or `unchanged` and not sent."""

    file: str
    bytes: int
    now: str


class Pushed(NamedTuple):
    """What was sent, or would be: `commit` is None where nothing was."""

    files: list[Sent]
    repo: str
    is_new: bool
    commit: str | None
    url: str


def push(folder: Path, repo: str, cache: Path, *, private: bool, dry_run: bool) -> Pushed:
    """Make the dataset repo `repo` hold the folder. All of it is checked before anything is sent.

    Raises: BadSetting: no repo can be called that. BadCorpus: the folder is not one of tokens, or damaged. Refused: the
    token may not write there. Unreachable
    """
    check_repo(repo)
    manifest = _manifest(folder, cache)
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    check_may_write(api, repo)
    with _Told(repo):
        there = _there(api, repo)
        contents = _contents(folder, repo, manifest, there)
        files = [_compare(name, one, (there or {}).get(name)) for name, one in contents.items()]
        url = f"{api.endpoint}/datasets/{repo}"
        changed = [one.file for one in files if one.now != "unchanged"]
        commit = None
        if changed and not dry_run:
            if there is None:
                api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
            operations = [CommitOperationAdd(name, contents[name]) for name in changed]
            message = f"Tokens of {manifest.asked.source}, {manifest.key[:12]}"
            commit = api.create_commit(repo, operations, commit_message=message, repo_type="dataset").oid
        return Pushed(files, repo, there is None, commit, url)


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
        with _Told(repo):
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
        owners = some([name, *(org for org, role in members.items() if role != "read")])
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


def _manifest(folder: Path, cache: Path) -> Manifest:
    manifest = token_folder.read(folder) if folder.is_dir() else None
    if manifest is None:
        raise BadCorpus(
            f"{folder} {'is not a folder that farm data prepare finished' if folder.exists() else 'does not exist'}.",
            remedy=f"Make one: farm data prepare SOURCE {folder}.",
        )
    if wrong := token_folder.find_damage(folder, manifest, cache):
        raise BadCorpus(
            f"{folder}: {some(wrong)} is not what its {MANIFEST} says.", remedy="Make it again with farm data prepare."
        )
    return manifest


def _there(api: Any, repo: str) -> dict[str, Any] | None:
    """The files of the repo by name, None where there is no such repo."""
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        tree = api.list_repo_tree(repo, repo_type="dataset", recursive=True)
        return {one.path: one for one in tree if isinstance(one, RepoFile)}
    except RepositoryNotFoundError:
        return None


def _contents(folder: Path, repo: str, manifest: Manifest, there: dict | None) -> dict[str, Path | bytes]:
    """What the repo is to hold: a card only where nobody wrote one."""
    names = [*(made.file for made in manifest.parts.values()), MANIFEST]
    found: dict[str, Path | bytes] = {name: folder / name for name in names}
    if (folder / CARD).exists():
        found[CARD] = folder / CARD
    elif CARD not in (there or {}):
        found[CARD] = card(repo, manifest).encode()
    return found


def _compare(name: str, content: Path | bytes, there: Any) -> Sent:
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if there is None:
        return Sent(name, size, "new")
    is_same = there.size == size and _digest(content, size, there) == (there.lfs.sha256 if there.lfs else there.blob_id)
    return Sent(name, size, "unchanged" if is_same else "changed")


def _digest(content: Path | bytes, size: int, there: Any) -> str:
    """What the Hub knows a file by: sha256 of a large one, git's own of others."""
    found = hashlib.sha256() if there.lfs else hashlib.sha1(b"blob %d\0" % size)
    if isinstance(content, bytes):
        found.update(content)
    else:
        with content.open("rb") as file:
            while block := file.read(2**20):
                found.update(block)
    return found.hexdigest()


def card(repo: str, manifest: Manifest) -> str:
    """The page of the repo, for who finds it."""
    rows = "".join(
        f"| {split} | {made.tokens:,} | {made.documents:,} | `{made.fingerprint}` |\n"
        for split, made in manifest.parts.items()
    )
    vocabulary = manifest.tokenizer
    return f"""---
tags:
- farm
- tokens
viewer: false
---

# {repo.partition("/")[2]}

Tokens of `{manifest.asked.source}`: {vocabulary.vocab:,} different ones, by the tokenizer `{vocabulary.name}`, each
document closed by token {vocabulary.end_of_text:,}. Each file is safetensors with one vector of uint16, `tokens`.

| part | tokens | documents | sha256 of the tokens |
|---|---|---|---|
{rows}
`{MANIFEST}` has the fingerprints of all inputs and files. To train on it with farm:

```toml
[baseline.data]
source = "hf:{repo}"
```
"""


class _Told:
    """What the Hub's client raises, as the farm's own errors."""

    def __init__(self, repo: str):
        self.repo = repo

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        from huggingface_hub import constants
        from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

        if error is None or isinstance(error, FarmError | LocalTokenNotFoundError) or not isinstance(error, Exception):
            return
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, HfHubHTTPError) and status in (401, 403):
            raise Refused(f"{constants.ENDPOINT} refuses: {first_line(error)}.", remedy=LOG_IN) from None
        raise Unreachable(
            f"{constants.ENDPOINT} did not take {self.repo}: {first_line(error)}.",
            remedy="Run the command again: it sends only what is missing.",
        ) from None
