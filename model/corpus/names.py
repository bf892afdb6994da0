"""The files of a folder, repo or bucket that make up a split."""

import re
from collections.abc import Iterable
from itertools import product

TOKEN_SUFFIXES = (".safetensors", ".bin")
TEXT_SUFFIXES = (".parquet", ".jsonl", ".txt")
CODECS = {".gz": "gzip", ".zst": "zstd"}  # of jsonl and txt
SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)(\D.*)?")


def files_of(split: str, names: Iterable[str]) -> list[str]:
    """Which of `names` make up a split: one file of tokens, else every text file of one format, in order of name.

    `val` is what nanoGPT and many repos write for the validation split, and data/ the folder where text lies in a repo.
    A text that is there compressed as well counts once.
    """
    called = (split, "val") if split == "validation" else (split,)
    there = {*names}
    tokens = [name + suffix for name, suffix in product(called, TOKEN_SUFFIXES) if name + suffix in there]
    if tokens:
        return tokens[:1]
    texts = {path.removeprefix("data/"): path for path in sorted(there)}
    plain = {name.removesuffix(codec_suffix(name)): name for name in sorted(texts, reverse=True) if "/" not in name}
    for name, suffix in product(called, TEXT_SUFFIXES):
        if found := [texts[plain[one]] for one in sorted(plain) if one.startswith(name) and kind(plain[one]) == suffix]:
            return found
    return []


def kind(name: str) -> str:
    """The suffix that says what a file holds, one of TOKEN_SUFFIXES or TEXT_SUFFIXES; empty where none does."""
    packed = codec_suffix(name)
    known = [suffix for suffix in (*TOKEN_SUFFIXES, *TEXT_SUFFIXES) if name.removesuffix(packed).endswith(suffix)]
    return "" if not known or (packed and known[0] not in (".jsonl", ".txt")) else known[0]


def codec_suffix(name: str) -> str:
    """The suffix that says how a file is compressed, or nothing."""
    return next((suffix for suffix in CODECS if name.endswith(suffix)), "")


def gaps(names: Iterable[str]) -> list[str]:
    """A warning for each set of files named like x-00000-of-00003 of which some are missing."""
    sets: dict[tuple[str, int, str], set[int]] = {}
    for name in names:
        if match := SHARD.fullmatch(name):
            sets.setdefault((match[1], int(match[3]), match[4] or ""), set()).add(int(match[2]))
    told = []
    for (stem, total, end), there in sets.items():
        missing = {*range(total)} - there
        if missing and {*range(1, total + 1)} - there:
            numbers = some([f"{number:05}" for number in sorted(missing)])
            told.append(f"{stem}-*-of-{total:05}{end}: {len(there):,} of {total:,} files are there, without {numbers}")
    return told


def some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"
