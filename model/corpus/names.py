"""Which files of a folder, repo or bucket make up a split."""

from itertools import product

TOKEN_SUFFIXES = (".safetensors", ".bin")
TEXT_SUFFIXES = {".parquet": "parquet", ".jsonl": "json", ".txt": "text"}  # and what `datasets` calls the format


def files_of(split: str, names: list[str]) -> list[str]:
    """Which of `names` make up a split: one file of tokens, else every text file of one format, in order of name.

    `val` is what nanoGPT and many repos write for the validation split, and data/ the folder where text lies in a repo.
    """
    called = (split, "val") if split == "validation" else (split,)
    tokens = [f"{name}{suffix}" for name in called for suffix in TOKEN_SUFFIXES]
    if found := [name for name in tokens if name in names]:
        return found[:1]
    texts = {path.removeprefix("data/"): path for path in sorted(names)}
    for name, suffix in product(called, TEXT_SUFFIXES):
        if found := [texts[t] for t in texts if t.startswith(name) and t.endswith(suffix) and "/" not in t]:
            return found
    return []


def some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"
