"""What `farm data prepare` makes tokens of: the files of each split, and how much of one is held out."""

from pathlib import Path

from farm.errors import BadCorpus
from farm.study.recipe import Data
from model.corpus.names import TEXT_SUFFIXES, kind, some
from model.corpus.sources import split_files
from model.corpus.text import python_reference

SPLITS = ("train", "validation")
SHARE = 0.01  # of the tokens, held out where the source has no validation split of its own


def sources(data: Data, cache: Path) -> dict[str, list[Path]]:
    """The files of each split that the source has; all its text as `train` where no file is named after one.

    Raises: BadCorpus: it has nothing to train on.
    """
    if data.source.startswith("builtin:"):
        return {split: [python_reference(data, split, cache)] for split in SPLITS}
    if Path(data.source).is_file():
        return {"train": split_files(data, "train", cache)}
    found, lacking = {}, None
    for split in SPLITS:
        try:
            found[split] = split_files(data, split, cache)
        except BadCorpus as error:
            if not error.fields.get("is_lacking"):
                raise
            lacking = lacking or error
    if "train" not in found and not found and (text := _any_text(Path(data.source))):
        return {"train": text}
    if "train" not in found:
        raise lacking or BadCorpus()
    return found


def _any_text(folder: Path) -> list[Path]:
    """The text files of a folder, by name, where they are of one kind.

    Raises: BadCorpus: they are of several.
    """
    if not folder.is_dir():
        return []
    found = sorted(path for path in folder.iterdir() if kind(path.name) in TEXT_SUFFIXES)
    kinds = sorted({kind(path.name) for path in found})
    if len(kinds) > 1:
        raise BadCorpus(
            f"{folder} holds text as {' and '.join(kinds)}, and none is named after the train split.",
            remedy="Leave one kind there, or name the files train*.",
        )
    return found


def holdout_of(asked: float | int | None, sources: dict[str, list[Path]]) -> float | int | None:
    """How much of `train` is held out, or None where the source has a validation split of its own.

    Raises: BadCorpus: both.
    """
    if "validation" not in sources:
        return asked or SHARE
    if asked is not None:
        raise BadCorpus(
            f"the source has a validation split of its own, {some([path.name for path in sources['validation']])},"
            f" so that --validation {asked} has nothing to cut.",
            remedy="Leave --validation out, or name the file to cut.",
        )
    return None
