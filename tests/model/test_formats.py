"""Bytes of another type than their name says: read where that is plain, refused in words elsewhere."""

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save

from farm.errors import BadCorpus
from farm.study.recipe import Data
from model.corpus import magic
from model.corpus.sources import open_split

TOKENS = np.random.default_rng(0).integers(0, 50257, 5000)


def opened(path: Path) -> np.ndarray:
    return open_split(Data(source=str(path)), "train", path.parent / "cache")


def npy(tokens: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, tokens)
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("tokens.npy", npy(TOKENS))
    return out.getvalue()


def llm_c(number: int, version: int, dtype: str) -> bytes:
    header = np.zeros(256, "<i4")
    header[:3] = number, version, len(TOKENS)
    return header.tobytes() + TOKENS.astype(dtype).tobytes()


U2 = TOKENS.astype("<u2").tobytes()
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234567\n"
EVERY_SECOND = "every second value is 0 or nearly so, as when tokens of 32 bits are read as 16"
OF_FOUR = "the second to fourth of every four values are 0 or nearly so, as when tokens of 64 bits"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (TOKENS.astype("<u4").tobytes(), EVERY_SECOND),
        (TOKENS.astype(">u4").tobytes(), EVERY_SECOND),
        (TOKENS.astype("<i8").tobytes(), OF_FOUR),
        ((TOKENS * 2 + 30_000).astype("<u4").tobytes(), EVERY_SECOND),  # of a vocabulary beyond 16 bits
        ((TOKENS * 2 + 30_000).astype("<i8").tobytes(), OF_FOUR),
        ((TOKENS % 200).astype("<u4").tobytes(), EVERY_SECOND),
        (npy(TOKENS), r"its numbers are int64, not uint16. farm data prepare \S+train.bin FOLDER writes them"),
        (npy(TOKENS.astype(">u2")), "its numbers are uint16, big-endian, not uint16"),
        (npy(TOKENS.astype(np.float32)), r"an array of float32 \[5000\], not one vector of whole numbers"),
        (npy(TOKENS.astype("<u2").reshape(50, 100)), r"an array of uint16 \[50, 100\], not one vector"),
        (npy(TOKENS.astype("<u2"))[:-4], "truncated: 4 of the 10,000 bytes of its array are missing"),
        (npy(TOKENS.astype("<u2"))[:40], "not a .npy file: its header cannot be read"),
        (npy(TOKENS.astype("<u4").view("<u2")), EVERY_SECOND),
        (zipped(), "a zip archive"),
        (gzip.compress(U2, mtime=0), r"compressed \(gzip\)"),
        (pa.compress(U2, codec="zstd", asbytes=True), r"compressed \(zstd\)"),
        (b"PAR1" + U2, "it is parquet, not tokens"),
        (POINTER, "a git-lfs pointer, .*git lfs pull"),
        (b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>", "it is text, not tokens"),
        ("Ein Text, der so lang ist, dass man ihn für das nimmt, was er ist: naïve, é, 🙂".encode() * 99, "it is text"),
        (llm_c(20240801, 7, "<u4"), "llm.c header 20240801, which stands for tokens in 32 bits"),
        (llm_c(20240520, 2, "<u2"), "llm.c header of version 2"),
        (llm_c(20240326, 3, "<u2"), "llm.c header 20240326, which stands for weights"),
        (save({"tokens": TOKENS.astype(np.uint32)}), r"'tokens' is U32 \[5000\], not one vector of U16"),
        (save({"tokens": TOKENS.astype("<u4").view("<u2")}), EVERY_SECOND),
        (save({"weights": np.zeros(9)}), "no tensor 'tokens'; it holds weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # a zip archive says when it was made
)  # fmt: skip
def test_a_bin_that_holds_something_else_is_refused_by_what_it_is(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(content)
    with pytest.raises(BadCorpus, match=rf"{path}: ({fault})|{path}: it is ({fault})"):
        opened(path)


def test_wide_tokens_behind_a_start_of_zeros_are_seen(tmp_path: Path) -> None:
    """A memory-mapped file whose first part was never written."""
    np.concatenate([np.zeros(20_000), TOKENS]).astype("<u4").tofile(tmp_path / "train.bin")
    with pytest.raises(BadCorpus, match="tokens of 32 bits"):
        opened(tmp_path / "train.bin")


@pytest.mark.parametrize("name", ["train.npy", "train.bin"])
def test_a_numpy_array_is_mapped_where_it_lies(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(npy(TOKENS.astype("<u2")))
    read = open_split(Data(source=str(tmp_path)), "train", tmp_path / "cache")
    assert isinstance(read, np.memmap)
    assert np.array_equal(read, TOKENS)
    assert not (tmp_path / "cache").exists()


def test_what_is_named_npy_and_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.npy").write_bytes(U2)
    with pytest.raises(BadCorpus, match=r"train.npy: not a .npy file: it does not begin as one"):
        opened(tmp_path / "train.npy")


def test_safetensors_that_are_named_bin_are_read(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(save({"a": np.zeros(3), "tokens": TOKENS.astype(np.uint16)}))
    assert np.array_equal(opened(tmp_path / "train.bin"), TOKENS)


@given(
    arrays.arrays(np.uint16, st.integers(16, 600), elements=st.integers(0, 65535)).filter(
        lambda tokens: tokens[1 : len(tokens) // 4 * 4 : 2].max() > 15 and tokens[: len(tokens) // 4 * 4 : 2].any()
    )
)
def test_tokens_are_not_taken_for_anything_else(tmp_path_factory: pytest.TempPathFactory, tokens: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("tokens") / "train.bin"
    tokens.tofile(path)
    is_other = magic.recognise(tokens.tobytes()) or magic.is_text(tokens.tobytes())
    if not is_other:
        assert np.array_equal(opened(path), tokens)


@pytest.mark.parametrize("vocab", [2, 67, 257, 50257, 65536])
def test_real_looking_streams_of_any_vocabulary_are_read(tmp_path: Path, vocab: int) -> None:
    for seed in range(20):
        tokens = np.random.default_rng(seed).integers(0, vocab, 4000).astype("<u2")
        tokens.tofile(tmp_path / "train.bin")
        assert np.array_equal(opened(tmp_path / "train.bin"), tokens)
        assert not magic.is_text(tokens.tobytes()[: magic.HEAD_BYTES])


def test_a_few_tokens_are_too_few_to_judge(tmp_path: Path) -> None:
    np.array([38, 0, 78, 0], "<u2").tofile(tmp_path / "train.bin")
    assert opened(tmp_path / "train.bin").tolist() == [38, 0, 78, 0]


def test_a_header_of_llm_c_is_no_stream_of_gpt2() -> None:
    for number in (magic.LLM_C_MAGICS.start, magic.LLM_C_MAGIC, magic.LLM_C_MAGICS.stop - 1):
        assert struct.unpack("<2H", struct.pack("<i", number))[0] > 50256
