"""Text that becomes tokens: by which tokenizer, once, and by one process at a time."""

import fcntl
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import DOCUMENTS, NOWHERE, expected, output, python
from waiting import wait_until

from farm.errors import BadCorpus, StorageFull, Unreachable
from farm.study.recipe import Data, digest
from model.corpus import gpt2
from model.corpus.sources import open_split
from model.corpus.text import BUILTIN


def test_parquet_jsonl_and_txt_become_the_tokens_of_gpt2_each_document_closed_by_end_of_text(tmp_path, pieces):
    assert pieces.encode("Hello, world.") == [15496, 11, 995, 13]
    for number in range(2):  # two shards, whose order is that of their names
        share = DOCUMENTS[number * 2 : number * 2 + 2]
        rows = [{"id": i, "body": text} for i, text in enumerate(share)]
        pq.write_table(pa.Table.from_pylist(rows), _inside(tmp_path / "parquet/data") / f"train-{number}.parquet")
        (_inside(tmp_path / "jsonl") / f"train-{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        for index, text in enumerate(share):
            (_inside(tmp_path / "txt") / f"train-{number}{index}.txt").write_text(text)
    for kind in ("parquet", "jsonl", "txt"):
        data = Data(source=str(tmp_path / kind), text_field="body")
        assert open_split(data, "train", tmp_path / "cache").tolist() == expected(pieces, DOCUMENTS), kind


def _inside(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_text_is_tokenised_once_and_again_only_when_its_content_changes(tmp_path, pieces):
    source, data = tmp_path / "book.txt", Data(source=str(tmp_path / "book.txt"))
    source.write_text("one")
    first = open_split(data, "train", tmp_path / "cache").filename
    made = first.stat()
    source.touch()
    again = open_split(data, "train", tmp_path / "cache").filename
    assert (again, again.stat().st_ino, again.stat().st_mtime_ns) == (first, made.st_ino, made.st_mtime_ns)
    source.write_text("two")
    assert open_split(data, "train", tmp_path / "cache").tolist() == expected(pieces, ["two"])


def test_tokens_that_were_made_by_an_older_reading_are_not_used(tmp_path, pieces):
    """They may be those of another file, whose name the path of this one was taken for as a pattern."""
    (tmp_path / "book.txt").write_text("mine")
    old = {"content": [[".txt", hashlib.sha256(b"mine").hexdigest()]], "tokenizer": "gpt2", "field": "text"}
    (tmp_path / "cache" / "corpora").mkdir(parents=True)
    np.array([1, 2, 3], np.uint16).tofile(tmp_path / "cache" / "corpora" / f"{digest(old)}.bin")
    found = open_split(Data(source=str(tmp_path / "book.txt")), "train", tmp_path / "cache")
    assert found.tolist() == expected(pieces, ["mine"])


def test_a_row_without_text_is_named_and_leaves_nothing_behind(tmp_path, pieces):
    (tmp_path / "train.jsonl").write_text('{"text": "fine"}\n{"text": null, "content": "x"}')
    with pytest.raises(BadCorpus, match=r"train.jsonl: line 2: 'text' is null, not text.*Set data.text_field"):
        open_split(Data(source=str(tmp_path)), "train", tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "corpora").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.parquet", b"PAR1 not"),
        ("train.jsonl", b'{"text": "x"}\n{"te'),
        ("train.jsonl", b'{"text": "half \\ud83d of a pair"}'),
        ("train.txt", b"\xff\xfe\xfa"),
    ],
)
def test_text_that_cannot_be_read_is_refused_by_name(tmp_path, pieces, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadCorpus, match=name):
        open_split(Data(source=str(tmp_path)), "train", tmp_path / "cache")


def test_what_a_killed_process_left_unfinished_is_made_anew(tmp_path, pieces):
    (tmp_path / "book.txt").write_text("whole")
    made = open_split(Data(source=str(tmp_path / "book.txt")), "train", tmp_path / "cache").filename
    made.rename(made.with_suffix(".unfinished"))
    made.with_suffix(".unfinished").write_bytes(b"half of a very long corpus")
    again = open_split(Data(source=str(tmp_path / "book.txt")), "train", tmp_path / "cache")
    assert again.tolist() == expected(pieces, ["whole"])


def test_a_full_disk_is_said_and_may_be_tried_again(tmp_path):
    made = open_split(Data(source=BUILTIN), "train", tmp_path).filename
    made.unlink()
    made.with_suffix(".unfinished").symlink_to("/dev/full")
    with pytest.raises(StorageFull, match=f"{tmp_path}/corpora: no space left for the corpus") as full:
        open_split(Data(source=BUILTIN), "train", tmp_path)
    assert full.value.retryable
    assert len(open_split(Data(source=BUILTIN), "train", tmp_path)) > 100_000


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(BadCorpus, match=rf"{tmp_path}/cache.*: Not a directory"):
        open_split(Data(source=BUILTIN), "train", tmp_path / "cache")


OPEN = """
import sys
from pathlib import Path
from farm.study.recipe import Data
from model.corpus.sources import open_split
print(open_split(Data(source=sys.argv[1]), "train", Path(sys.argv[2])).tolist()[:9])
"""


def test_of_two_processes_one_makes_the_corpus_and_the_other_waits_for_it(tmp_path):
    made = open_split(Data(source=BUILTIN), "train", tmp_path).filename
    made.unlink()
    lock = made.with_suffix(".lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = python(OPEN, BUILTIN, tmp_path)
        wait_until(lambda: _is_waited_for(lock), "the second process waits for the lock", seconds=30)
        np.array([1, 2, 3], np.uint16).tofile(made)
    assert output(second) == "[1, 2, 3]"


def _is_waited_for(lock: Path) -> bool:
    inode = f":{lock.stat().st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_without_a_network_the_tokenizer_says_which_file_goes_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    monkeypatch.setenv("HTTPS_PROXY", NOWHERE)
    (tmp_path / "train.txt").write_text("text")
    with pytest.raises(Unreachable) as refused:
        open_split(Data(source=str(tmp_path)), "train", tmp_path / "cache")
    place = tmp_path / "tiktoken" / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee"
    assert f"needs vocab.bpe, which is not at {place}" in str(refused.value)
    assert f"fetch {gpt2.URL}vocab.bpe and copy it to {place} here (TIKTOKEN_CACHE_DIR moves" in str(refused.value)


def test_a_damaged_file_of_the_tokenizer_is_fetched_again_rather_than_used(tmp_path, pieces):
    for path in (tmp_path / "tiktoken").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Unreachable, match=r"needs vocab.bpe"):
        gpt2.encoder()
