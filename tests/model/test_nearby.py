"""Corpora near a person: found by name, counted without making anything, and counted right."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from farm.errors import BadCorpus
from farm.study.recipe import Data
from model.corpus import nearby
from model.corpus.nearby import LITTLE_BYTES, examine
from model.corpus.sources import open_split

TEXTS = ["Ein Haus, é, 漢字.", "", "x" * 5000, "end\n"]


def write_text(folder: Path, name: str, texts: list[str]) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    path = folder / name
    if name.endswith(".parquet"):
        parquet.write_table(pyarrow.table({"text": texts}), path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines))
    else:
        path.write_bytes(lines if name.endswith(".jsonl") else "".join(texts).encode("utf-8-sig"))


def vector(path: Path, largest: int, count: int = 1000) -> None:
    found = np.arange(count) % largest
    found[count // 2] = largest
    found.astype("<u2").tofile(path)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("files", [1, 2])
def test_what_is_counted_is_what_a_run_tokenises(tmp_path: Path, suffix: str, files: int) -> None:
    for split in ("train", "validation"):
        for number in range(files):
            write_text(tmp_path, f"{split}-{number}{suffix}", TEXTS[number:])
    cache = tmp_path / "cache"
    found = examine(str(tmp_path), cache)
    assert not cache.exists(), "nothing is made"
    data = Data(source=str(tmp_path), tokenizer="bytes")
    assert (found.kind, found.vocab, found.tokenizer, found.is_shared) == ("text", 257, "bytes", False)
    assert found.train == len(open_split(data, "train", cache)) > 5000
    assert found.test == len(open_split(data, "validation", cache))


def test_the_built_in_corpus_is_counted_as_it_is_read(tmp_path: Path) -> None:
    found = examine("builtin:python-reference", tmp_path)
    data = Data(source=found.source)
    assert (found.train, found.test) == tuple(
        len(open_split(data, split, tmp_path)) for split in ("train", "validation")
    )


@pytest.mark.parametrize(
    ("largest", "vocab", "tokenizer"),
    [(64, 65, "gpt2"), (255, 256, "gpt2"), (256, 257, "bytes"), (257, 50257, "gpt2"), (50256, 50257, "gpt2")],
)
def test_tokens_get_a_vocabulary_that_has_room_for_them(
    tmp_path: Path, largest: int, vocab: int, tokenizer: str
) -> None:
    vector(tmp_path / "train.bin", largest)
    vector(tmp_path / "val.bin", min(largest, 60))
    found = examine(str(tmp_path), tmp_path)
    assert (found.vocab, found.tokenizer, found.train, found.test) == (vocab, tokenizer, 1000, 1000)


def test_a_token_that_gpt2_lacks_asks_for_all_of_16_bits_also_at_the_end_of_a_large_file(tmp_path: Path) -> None:
    with (tmp_path / "train.bin").open("wb") as file:
        vector(tmp_path / "head", 50_000)
        file.write((tmp_path / "head").read_bytes())
        file.truncate(LITTLE_BYTES * 3)
        file.seek(0, 2)
        file.write(np.array([3, 60_000, 5], "<u2").tobytes())
    assert examine(str(tmp_path), tmp_path).vocab == 65_536


def test_shards_are_one_split_and_one_file_is_trained_on_and_tested_on(tmp_path: Path) -> None:
    for number in range(3):
        vector(tmp_path / f"web_train_{number:06}.bin", 50_000)
    found = examine(str(tmp_path), tmp_path)
    assert (found.train, found.test, found.is_shared, found.split) == (3000, None, True, "train")
    alone = examine(str(tmp_path / "web_train_000000.bin"), tmp_path)
    assert (alone.train, alone.is_shared, alone.split) == (1000, True, "validation"), "any split is the file"


def test_a_folder_is_looked_through_and_the_best_comes_first(tmp_path: Path) -> None:
    for name in ("tokens", "half", ".hidden", "node_modules", "odd"):
        (tmp_path / name).mkdir()
        vector(tmp_path / name / "train.bin", 300)
    vector(tmp_path / "tokens" / "val.bin", 300)
    (tmp_path / "odd" / "train.bin").write_bytes(b"PK\x03\x04" * 100)
    np.save(tmp_path / "array.npy", np.arange(200, dtype=np.uint16))
    np.save(tmp_path / "wide.npy", np.arange(200))
    (tmp_path / "story.txt").write_text("a story " * 10_000)
    (tmp_path / "notes.txt").write_text("short")
    (tmp_path / "weights.bin").write_bytes(bytes(200_000))
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "000.txt").write_text("a page " * 10_000)
    found = nearby.nearby(tmp_path)
    assert [one.place.name for one in found.candidates] == ["tokens", "half", "odd", "array.npy", "story.txt"]
    assert found.candidates[0].told == "tokens, 1 MiB"
    assert [place.name for place in found.raw] == ["pages"]
    assert nearby.nearby(tmp_path / "none") == ([], [])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["000.txt"], "is text that is named after no split. Make tokens of it first: farm data prepare"),
        (["validation.txt"], "has no train split"),
        ([], "has no train split; it holds nothing"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_on_says_what_to_do_first(tmp_path: Path, names: list[str], says: str) -> None:
    for name in names:
        (tmp_path / name).write_text("a page " * 10_000)
    with pytest.raises(BadCorpus, match=says):
        examine(str(tmp_path), tmp_path)
