"""The files of a split in an S3 bucket, fetched into the cache."""

import json
import sys
from functools import partial
from pathlib import Path

from farm.errors import BadCorpus, StorageUnusable
from farm.files import write_whole
from farm.record.bucket import Bucket
from farm.study.recipe import Data, digest
from model.corpus.kept import make_once
from model.corpus.names import files_of, requirement, some


def files(data: Data, split: str, cache: Path) -> list[Path]:
    """The split below s3://bucket/prefix, brought into the cache once for as long as it does not change there.

    Where the bucket cannot be reached, what it held when it last could be: a checkpoint knows its tokens.
    """
    bucket, folder = Bucket(data.source), _folder(data, cache)
    try:
        there = {one.name: one for one in bucket.objects("")}
    except StorageUnusable as error:
        if error.fields.get("is_away") and (found := _local_files(split, folder)):
            print(f"{error.message} Using the {split} split fetched when it was last reachable.", file=sys.stderr)
            return found
        raise
    if not (chosen := files_of(split, [*there])):
        raise BadCorpus(
            f"{data.source} has no {split} split; it holds {some([*there])}.",
            remedy=f"Put {requirement(split)} there.",
            is_lacking=True,
        )
    places = {name: folder / digest({"etag": there[name].etag, "bytes": there[name].bytes})[:16] for name in chosen}
    found = [make_once(places[name] / name, partial(bucket.read_into, name)) for name in chosen]
    _keep_listing(split, folder, found)
    return found


def here(data: Data, split: str, cache: Path) -> list[Path]:
    """The files of the split that were brought here when it was last seen, or none. Asks no network."""
    return _local_files(split, _folder(data, cache))


def _folder(data: Data, cache: Path) -> Path:
    return cache / "s3" / digest({"uri": data.source})[:16]


def _keep_listing(split: str, folder: Path, found: list[Path]) -> None:
    """Note which files were the split when it was last seen: of each, other versions may lie here, too."""
    listing, names = folder / f"{split}.listing", [file.relative_to(folder).as_posix() for file in found]
    content = json.dumps(names)
    if not listing.exists() or listing.read_text(encoding="utf-8") != content:
        write_whole(listing, content.encode())


def _local_files(split: str, folder: Path) -> list[Path]:
    """The files of the split as it was last seen, or none unless all are here."""
    listing = folder / f"{split}.listing"
    found = [folder / name for name in json.loads(listing.read_text(encoding="utf-8"))] if listing.exists() else []
    return found if all(file.is_file() for file in found) else []
