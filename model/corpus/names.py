"""The files of a folder, repo or bucket that make up a split."""

import re
from collections.abc import Iterable
from itertools import product

from farm.errors import BadCorpus

TOKEN_SUFFIXES = (".safetensors", ".bin", ".npy")
TEXT_SUFFIXES = (".parquet", ".jsonl", ".txt")
CODECS = {".gz": "gzip", ".zst": "zstd"}  # of jsonl and txt
SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)(\D.*)?")
NUMBERED = re.compile(r"(.*[_.-])(\d+)(\.bin|\.npy|\.safetensors)")


def files_of(split: str, names: Iterable[str]) -> list[str]:
    """Which of `names` make up a split: one file of tokens, else its shards, else every text file of one format.

    Text is in order of name, shards in that of their numbers. `val` is what nanoGPT and many repos write for the
    validation split, and data/ the folder where text lies in a repo. A text that is there compressed as well counts
    once.

    Raises: BadCorpus: two sets of shards could be the split.
    """
    called = (split, "val") if split == "validation" else (split,)
    there = {*names}
    tokens = [name + suffix for name, suffix in product(called, TOKEN_SUFFIXES) if name + suffix in there]
    if tokens := tokens[:1] or _shards(split, called, there):
        return tokens
    texts = {path.removeprefix("data/"): path for path in sorted(there)}
    plain = {name.removesuffix(codec_suffix(name)): name for name in sorted(texts, reverse=True) if "/" not in name}
    for name, suffix in product(called, TEXT_SUFFIXES):
        if found := [texts[plain[one]] for one in sorted(plain) if one.startswith(name) and kind(plain[one]) == suffix]:
            return found
    return []


def _shards(split: str, called: Iterable[str], there: Iterable[str]) -> list[str]:
    """The files of tokens that are named as llm.c and others name those of a split: fineweb_train_000001.bin."""
    sets: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for name in called:
        shard = re.compile(rf"(.*[_.-])?{re.escape(name)}(?:[_.-](\d+)(?:-of-\d+)?)?(\.\w+)")
        for path in sorted(there):
            if (match := shard.fullmatch(path.removeprefix("data/"))) and match[3] in TOKEN_SUFFIXES:
                sets.setdefault((match[1] or "", match[3]), []).append((int(match[2] or 0), path))
    if len(sets) > 1:
        raise BadCorpus(
            f"{' and '.join(min(found)[1] for found in sets.values())} could each be the {split} split.",
            remedy="Move all but one of these sets to another folder.",
        )
    return [path for found in sets.values() for _, path in sorted(found)]


def kind(name: str) -> str:
    """The suffix that says what a file holds, one of TOKEN_SUFFIXES or TEXT_SUFFIXES; empty where none does."""
    packed = codec_suffix(name)
    known = [suffix for suffix in (*TOKEN_SUFFIXES, *TEXT_SUFFIXES) if name.removesuffix(packed).endswith(suffix)]
    return "" if not known or (packed and known[0] not in (".jsonl", ".txt")) else known[0]


def codec_suffix(name: str) -> str:
    """The suffix that says how a file is compressed, or nothing."""
    return next((suffix for suffix in CODECS if name.endswith(suffix)), "")


def requirement(split: str) -> str:
    """What a folder, repo or bucket may hold to have a split."""
    return (
        f"{split}.safetensors, .bin or .npy, shards of tokens such as x_{split}_000001.bin, or text as"
        f" {split}*.parquet, .jsonl or .txt"
    )


def gaps(names: Iterable[str]) -> list[str]:
    """A warning for each set of files named like x-00000-of-00003, or x_000001.bin, of which some are missing."""
    names = [*names]
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
    return told + _gaps_within(names)


def _gaps_within(names: Iterable[str]) -> list[str]:
    """The same of shards that do not say how many they are: a number between two others is missing."""
    sets: dict[tuple[str, str], dict[int, str]] = {}
    for name in names:
        if (match := NUMBERED.fullmatch(name)) and not SHARD.fullmatch(name):
            sets.setdefault((match[1], match[3]), {})[int(match[2])] = match[2]
    told = []
    for (stem, end), there in sets.items():
        width = len(there[min(there)])
        if missing := [number for number in range(min(there), max(there)) if number not in there]:
            numbers = some([f"{number:0{width}}" for number in missing])
            told.append(f"{stem}*{end}: {len(there):,} files are there, without {numbers}")
    return told


def some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"
