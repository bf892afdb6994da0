"""Text as people have it: exactly the files that are named, only the column that is asked for, faults by row."""

import gzip
import json
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiktoken

from farm.errors import BadCorpus
from farm.study.recipe import Data
from model.corpus import gpt2
from model.corpus.sources import open_split


def read(source: Path, cache: Path, split: str = "train", **data: str) -> list[int]:
    return open_split(Data(source=str(source), tokenizer="bytes", **data), split, cache).tolist()


def of_bytes(*texts: str) -> list[int]:
    return [token for text in texts for token in [*text.encode(), 256]]


# A path is not a pattern


STRANGE = ["set[12]", "all*", "what?", "[2026]", "a::b", "{x,y}", "~home", "100%", "file:x", "ünï cödé", "a\nb"]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_a_path_is_read_to_the_letter_whatever_signs_it_holds(tmp_path: Path, suffix: str) -> None:
    """Beside set[12] lies set1, which it names as a pattern."""
    for name in [*STRANGE, "set1", "set2", "allx", "whatx", "2", "a"]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        file = folder / f"train{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.table({"text": [name]}), file)
        else:
            file.write_text(name if suffix == ".txt" else json.dumps({"text": name}))
    for name in STRANGE:
        assert read(tmp_path / name, tmp_path / "cache") == of_bytes(name), name
        assert read(tmp_path / name / f"train{suffix}", tmp_path / "cache") == of_bytes(name), name


def test_a_file_whose_name_is_a_pattern_is_itself(tmp_path: Path) -> None:
    for name in ("train[1].txt", "train1.txt", "train*.txt"):
        (tmp_path / name).write_text(name)
    assert read(tmp_path, tmp_path / "cache") == of_bytes("train*.txt", "train1.txt", "train[1].txt")
    assert read(tmp_path / "train[1].txt", tmp_path / "cache") == of_bytes("train[1].txt")


# Only what is asked for


def test_columns_that_are_not_asked_for_may_be_anything(tmp_path: Path) -> None:
    """Null in one shard, of another type in the next, and missing in the third."""
    others = [pa.array([None], pa.null()), pa.array([1], pa.int64()), pa.array(["x"], pa.string())]
    for number, other in enumerate(others):
        table = pa.table({"text": [f"p{number}"], "other": other, "meta": pa.array([{"text": "not this"}])})
        pq.write_table(table, tmp_path / f"train-0000{number}-of-00004.parquet")
    pq.write_table(pa.table({"text": ["p3"]}), tmp_path / "train-00003-of-00004.parquet")
    assert read(tmp_path, tmp_path / "cache") == of_bytes("p0", "p1", "p2", "p3")
    jsonl = tmp_path / "jsonl"
    jsonl.mkdir()
    rows = [{"text": "a", "other": None}, {"other": {"deep": [1]}, "text": "b"}, {"text": "c", "other": "2024-01-01"}]
    (jsonl / "train.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)) + "\n")
    assert read(jsonl, tmp_path / "cache") == of_bytes("a", "b", "c")


def test_a_column_whose_name_has_a_dot_is_not_a_path_into_another(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([{"b": "inner"}]), "a.b": ["outer"]}), tmp_path / "train.parquet")
    assert read(tmp_path, tmp_path / "cache", text_field="a.b") == of_bytes("outer")


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_text_in_any_of_arrows_types_is_read(tmp_path: Path, type_: pa.DataType) -> None:
    texts = [f"row {number}" for number in range(3000)]
    pq.write_table(pa.table({"text": pa.array(texts).cast(type_)}), tmp_path / "train.parquet", row_group_size=700)
    assert read(tmp_path, tmp_path / "cache") == of_bytes(*texts)


def test_text_is_read_to_the_byte_also_where_lines_end_as_on_windows(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\x0cthree\r\n")
    assert read(tmp_path, tmp_path / "cache") == of_bytes("one\r\ntwo\x0cthree\r\n")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_text_is_read_and_counts_once_beside_what_was_unpacked(tmp_path: Path, suffix: str) -> None:
    def packed(content: bytes) -> bytes:
        return gzip.compress(content) if suffix == ".gz" else pa.compress(content, codec="zstd", asbytes=True)

    lines = b"".join(json.dumps({"text": f"{n}"}).encode() + b"\n" for n in range(5000))
    (tmp_path / f"train-0.jsonl{suffix}").write_bytes(packed(lines) + packed(b'{"text": "second member"}'))
    (tmp_path / "train-1.jsonl").write_text('{"text": "plain"}')
    (tmp_path / f"train-1.jsonl{suffix}").write_bytes(packed(b'{"text": "plain"}'))
    assert read(tmp_path, tmp_path / "cache") == of_bytes(*map(str, range(5000)), "second member", "plain")
    text = tmp_path / f"book.txt{suffix}"
    text.write_bytes(packed("naïve".encode()))
    assert read(text, tmp_path / "cache") == of_bytes("naïve")
    text.write_bytes(packed(lines)[:-9])
    with pytest.raises(BadCorpus, match=rf"{text}: Truncated compressed stream. Copy it again"):
        read(text, tmp_path / "cache")


def test_what_the_library_datasets_writes_is_read_as_it_reads_it(tmp_path: Path) -> None:
    import datasets

    rows = {"text": ["one\r\ntwo", "", "naïve 🙂", 'quoted " \\ \u2028'], "label": [None, 1, 2, 3]}
    made = datasets.Dataset.from_dict(rows)
    for name in ("parquet", "jsonl"):
        (tmp_path / name).mkdir()
        write = made.to_parquet if name == "parquet" else made.to_json
        write(str(tmp_path / name / f"train-00000-of-00001.{name}"))
        theirs = datasets.load_dataset(str(tmp_path / name), split="train", cache_dir=str(tmp_path / "theirs"))
        assert read(tmp_path / name, tmp_path / "cache") == of_bytes(*theirs["text"]), name
    assert [*made["text"]] == rows["text"]


# Faults


def parquet(*values: object, type_: pa.DataType | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": pa.array(list(values), type_), "n": list(range(len(values)))}), sink)
    return sink.getvalue().to_pybytes()


TWO_TEXTS = [pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"ok\xff\xfe")]
BROKEN = pa.Array.from_buffers(pa.string(), 2, [None, *TWO_TEXTS])
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("train.parquet", parquet("x", None), "row 1: 'text' is null, not text"),
        ("train.parquet", parquet(None, None), "row 0: 'text' is null, not text"),
        ("train.parquet", parquet(1, 2), "row 0: 'text' is of type int, not text"),
        ("train.parquet", parquet(*BROKEN), "row 1 is not UTF-8: .* can't decode byte 0xff in position 0"),
        ("train.jsonl", b'{"text": "x"}\n\n{"text": null}', "line 3: 'text' is null, not text"),
        ("train.jsonl", b'{"text": "x"}\n{"body": "y", "id": 1}', "line 2 has no 'text'; it has body, id. Set data"),
        ("train.jsonl", b'{"text": "x"}\n["y"]', "line 2 is not an object"),
        ("train.jsonl", b'{"text": "x"}\n{"te', "line 2 is not JSON"),
        ("train.jsonl", b'{"text": "\xff"}', "line 1 is not JSON: .* can't decode byte 0xff"),
        ("train.jsonl", b'{"text": "x"}\n{"text": "\\ud83d"}', r"line 2: 'text' has half of a surrogate .* U\+D83D"),
        ("train.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("train.txt", b"fine \xff\xfe", "is not UTF-8: .* position 5"),
        ("train.txt", POINTER, "git-lfs pointer.*git lfs pull"),
        ("train.parquet", POINTER, "it is a git-lfs pointer"),
        ("train.jsonl", gzip.compress(b'{"text": "x"}', mtime=0), r"it is compressed \(gzip\)"),
        ("train.parquet", b"PAR1 not", ": Parquet"),
        ("train.jsonl.gz", b'{"text": "x"}', ": incorrect header|Truncated|zlib"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, fault: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadCorpus, match=re.escape(f"{tmp_path}/{name}") + f".*{fault}"):
        read(tmp_path, tmp_path / "cache")
    assert not [*(tmp_path / "cache").rglob("*.bin")]


def test_shards_that_are_missing_are_warned_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in (0, 2):
        (tmp_path / f"train-0000{number}-of-00004.txt").write_text("x")
    read(tmp_path, tmp_path / "cache")
    told = f"{tmp_path}: train-*-of-00004.txt: 2 of 4 files are there, without 00001, 00003\n"
    assert capfd.readouterr().err == told
    for number in (1, 3):
        (tmp_path / f"train-0000{number}-of-00004.txt").write_text("x")
    read(tmp_path, tmp_path / "cache")
    for number in (1, 2):
        (tmp_path / f"validation-0000{number}-of-00002.txt").write_text("counted from 1")
    read(tmp_path, tmp_path / "cache", "validation")
    assert capfd.readouterr().err == ""


# Blanks


def test_a_million_blanks_have_the_tokens_of_shorter_texts(tmp_path: Path, pieces: tiktoken.Encoding) -> None:
    """tiktoken's own pattern gives up on them when something follows: a run is one piece, but for its last blank."""
    for blank, tail in ((" ", "x"), ("\n", "y"), ("\u3000", "!"), (" ", "")):
        text = "before" + blank * 1_000_000 + tail
        (tmp_path / "train.txt").write_text(text)
        found = open_split(Data(source=str(tmp_path)), "train", tmp_path / "cache").tolist()
        cut = [blank * 999_999, blank + tail] if tail else [blank * 1_000_000]
        alone = [token for piece in ["before", *cut] for token in pieces.encode_ordinary(piece)]
        assert found == [*alone, 50256], (blank, tail)


def test_where_a_text_is_cut_no_token_changes(pieces: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt2, "LONG", 4)
    draw = random.Random(1)
    signs = ["a", "é1", "!", " ", "\n", "\t ", "\r\n", "\u3000", "\x85", "\xa0", "\x1c", "'s"]
    longest = 0
    for _ in range(3000):
        text = "".join(draw.choice(signs) * draw.choice([1, 1, 2, 9, 30]) for _ in range(draw.randrange(9)))
        cut = [*gpt2.pieces(text)]
        assert "".join(cut) == text
        assert [t for piece in cut for t in pieces.encode_ordinary(piece)] == pieces.encode_ordinary(text), repr(text)
        longest = max(longest, len(cut))
    assert longest > 4


def test_what_the_pattern_calls_a_blank_is_what_is_cut_at() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    blank = tiktoken.Encoding("blank", pat_str=r"\s", mergeable_ranks=ranks, special_tokens={})
    every = (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assert {char for char in every if blank.encode_ordinary(char)} == set(gpt2.BLANKS)
