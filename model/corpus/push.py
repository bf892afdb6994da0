"""`farm data push`: a folder of tokens to the Hugging Face Hub, as one commit of what changed."""

from pathlib import Path
from typing import NamedTuple

from farm.errors import BadCorpus
from model.corpus import token_folder
from model.corpus.names import some
from model.corpus.token_folder import MANIFEST, Manifest
from model.hub import (
    CARD,
    CHANGED,
    Content,
    Sent,
    There,
    check_may_write,
    check_private,
    check_repo,
    commit,
    compare,
    make,
    there,
)
from model.hub_answers import if_answered


class Pushed(NamedTuple):
    """What was sent, or would be: `commit` is None where nothing was. `unanswered` says why the Hub could not be asked
    what it has, and then nobody knows whether the repo is new."""

    files: list[Sent]
    repo: str
    is_new: bool | None
    commit: str | None
    url: str
    unanswered: str | None = None


def push(folder: Path, repo: str, cache: Path, *, private: bool, dry_run: bool) -> Pushed:
    """Make the dataset repo `repo` hold the folder. All of it is checked before anything is sent.

    Raises: BadSetting: no repo can be called that. BadCorpus: the folder is not one of tokens, or damaged. Refused: the
    token may not write there. Conflict: the repo is public, and was to be private. Unreachable
    """
    check_repo(repo)
    manifest = _manifest(folder, cache)
    from huggingface_hub import HfApi

    api, found = HfApi(), None
    with if_answered(dry_run) as asked:
        check_may_write(api, repo)
        found = there(api, repo, "dataset")
    check_private(repo, found, private)
    contents = _contents(folder, repo, manifest, found)
    known = {made.file: made.sha256 for made in manifest.parts.values()}
    files = compare(contents, found, known, is_known=not asked.unanswered)
    changed = {one.file: contents[one.file] for one in files if one.now in CHANGED}
    newest = None
    if changed and not dry_run:
        if found is None:
            make(api, repo, "dataset", private)
        message = f"Tokens of {manifest.asked.source}, {manifest.key[:12]}"
        newest = commit(api, repo, "dataset", changed, found, message)
    is_new = None if asked.unanswered else found is None
    return Pushed(files, repo, is_new, newest, f"{api.endpoint}/datasets/{repo}", asked.unanswered)


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


def _contents(folder: Path, repo: str, manifest: Manifest, found: There | None) -> dict[str, Content]:
    """What the repo is to hold: a card only where nobody wrote one."""
    names = [*(made.file for made in manifest.parts.values()), MANIFEST]
    contents: dict[str, Content] = {name: folder / name for name in names}
    if (folder / CARD).exists():
        contents[CARD] = folder / CARD
    elif not (found and CARD in found.files):
        contents[CARD] = card(repo, manifest).encode()
    return contents


def card(repo: str, manifest: Manifest) -> str:
    """The page of the repo, for people who find it there."""
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
