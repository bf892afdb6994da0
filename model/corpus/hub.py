"""The files of a split in a Hugging Face dataset repo, fetched into the hub's own cache."""

import errno
import re
from functools import partial
from glob import escape
from importlib.util import find_spec
from pathlib import Path

from farm.errors import BadCorpus, FarmError, Unreachable, first_line
from farm.study.recipe import Data
from model.corpus.kept import full
from model.corpus.names import files_of, requirement, some

NETWORK_SECONDS = 5.0  # to be told that there is no network; a download itself may take as long as it likes


def files(data: Data, split: str) -> list[Path]:
    """The split of a dataset repo: its file of tokens, else its text files."""
    repo = _repo(data)
    # A commit never changes, so that a cached one needs no network; a branch or tag may move.
    pinned = re.fullmatch("[0-9a-f]{40}", data.revision or "")
    found = _from_cache(repo, data.revision, split) if pinned else []
    return found or _download(repo, data.revision, split)


def here(data: Data, split: str) -> list[Path]:
    """The files of the split that the hub's cache has, or none unless all are there. Asks no network."""
    repo = _repo(data)
    if not find_spec("huggingface_hub"):
        return []
    from huggingface_hub import constants  # the rest of it takes half a second to import

    return _from_cache(repo, data.revision, split) if _folder(repo, constants.HF_HUB_CACHE).is_dir() else []


def _folder(repo: str, cache: str) -> Path:
    return Path(cache) / f"datasets--{repo.replace('/', '--')}"


def _repo(data: Data) -> str:
    repo = data.source.removeprefix("hf:")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo):
        raise BadCorpus(f"data.source = {data.source!r} is not hf:OWNER/NAME.")
    return repo


def _download(repo: str, revision: str | None, split: str) -> list[Path]:
    """The files of the split, and no others, brought here; without a network, what the hub's cache has of them."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().dataset_info(repo, revision=revision, timeout=NETWORK_SECONDS)
        names = [sibling.rfilename for sibling in info.siblings or []]
        if not (chosen := files_of(split, names)):
            raise BadCorpus(
                f"hf:{repo} has no {split} split; it holds {some(names)}.",
                remedy=f"It needs {requirement(split)}.",
                is_lacking=True,
            )
        exactly = [escape(name) for name in chosen]  # of patterns, of which a name with [ ] or * would be another
        folder = Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=exactly))
        return [folder / name for name in chosen]
    except FarmError:
        raise
    except Exception as error:  # the hub's errors and its HTTP client's share no class below Exception
        if found := _from_cache(repo, revision, split):
            return found
        raise _fetch_error(repo, revision, split, error) from None


def _from_cache(repo: str, revision: str | None, split: str) -> list[Path]:
    """The files of the split in the hub's cache, or none unless all are there."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    ask = partial(snapshot_download, repo, repo_type="dataset", revision=revision, local_files_only=True)
    try:  # for no file by name, so that it does not mind those of other splits missing
        folder = Path(ask(allow_patterns=[]))
    except LocalEntryNotFoundError:
        return []
    try:
        names = [file.path for file in get_cached_repo_tree(repo, repo_type="dataset", revision=revision)]
    except CachedRepoTreeNotFoundError:  # placed there by hand or by an older hub: what is there is all there is
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    found = [folder / name for name in files_of(split, names)]
    return found if all(file.is_file() for file in found) else []


def _fetch_error(repo: str, revision: str | None, split: str, error: Exception) -> FarmError:
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    what = f"hf:{repo}" + (f" at revision {revision}" if revision else "")
    why = first_line(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return full(Path(constants.HF_HUB_CACHE))
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return BadCorpus(f"{what}: {why}", remedy="Check data.source and data.revision; a private repo needs HF_TOKEN.")
    folder = _folder(repo, constants.HF_HUB_CACHE)
    option = f" --revision {revision}" if revision else ""
    return Unreachable(
        f"{what}: the {split} split is not in {folder}, and {constants.ENDPOINT} cannot be reached ({why}).",
        remedy=f"Where there is a network, run `hf download --repo-type dataset{option} {repo} {split}.safetensors` and"
        f" copy that folder here (HF_HOME moves the cache), or set data.source to a folder that holds"
        f" {split}.safetensors.",
        page="docs/data.md#without-a-network",
    )
