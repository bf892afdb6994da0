"""Files of tokens: safetensors, nanoGPT and llm.c, read as they lie, and refused by name where they are damaged."""

import json
import struct

import numpy as np
import pytest
from corpora import output, python, tokens_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from farm.errors import BadCorpus
from farm.study.recipe import Data
from model.corpus.sources import open_split

# Files of tokens


def test_safetensors_are_mapped_as_they_lie(tmp_path):
    """Also behind another tensor and metadata, as any tool may write them."""
    tokens = tokens_of(1000)
    save_file({"a": tokens_of(7), "tokens": tokens, "z": tokens_of(5)}, tmp_path / "train.safetensors", {"by": "us"})
    read = open_split(Data(source=str(tmp_path)), "train", tmp_path / "cache")
    assert isinstance(read, np.memmap)
    assert read.dtype == np.uint16
    assert np.array_equal(read, tokens)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({"tokens": np.zeros(9, np.int32)}, r"'tokens' is I32 \[9\], not one vector of U16"),
        ({"tokens": np.zeros((3, 3), np.uint16)}, r"'tokens' is U16 \[3, 3\], not one vector of U16"),
        ({"inputs": np.zeros(9, np.uint16), "ids": np.zeros(9)}, "no tensor 'tokens'; it holds ids, inputs"),
        ({"tokens": np.zeros(0, np.uint16)}, "holds no tokens"),
    ],
)
def test_safetensors_that_hold_something_else_are_refused_by_name_and_fault(tmp_path, tensors, fault):
    save_file(tensors, tmp_path / "train.safetensors")
    with pytest.raises(BadCorpus, match=rf"{tmp_path}/train.safetensors.*{fault}"):
        open_split(Data(source=str(tmp_path)), "train", tmp_path)


def test_safetensors_cut_anywhere_are_refused_by_name(tmp_path):
    path, whole = tmp_path / "train.safetensors", save({"tokens": tokens_of(100)})
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(BadCorpus, match=rf"{path}: (truncated|not a safetensors file)"):
            open_split(Data(source=str(path)), "train", tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=64),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=3) | st.just("U16"),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["tokens", "dtype", "shape", "data_offsets"]), inner, max_size=4)
            ),
        ).map(lambda header: _with_header(json.dumps(header).encode())),
    )
)
def test_a_damaged_header_is_refused_and_never_crashes(tmp_path, content):
    (tmp_path / "train.safetensors").write_bytes(content)
    with pytest.raises(BadCorpus, match=r"train.safetensors"):
        open_split(Data(source=str(tmp_path)), "train", tmp_path)


def _with_header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(8)


@pytest.mark.parametrize("offsets", [[-2, 6], [0, 6], [4, 4], [8, 16], [0, 2**70]])
def test_a_header_that_points_outside_its_tokens_is_refused(tmp_path, offsets):
    header = {"tokens": {"dtype": "U16", "shape": [4], "data_offsets": offsets}}
    (tmp_path / "train.safetensors").write_bytes(_with_header(json.dumps(header).encode()))
    with pytest.raises(BadCorpus, match=r"its header puts 4 tokens|truncated: 8 of the 8 bytes"):
        open_split(Data(source=str(tmp_path)), "train", tmp_path)


def test_nanogpt_files_are_mapped_and_val_is_its_name_for_validation(tmp_path):
    tokens_of(50, 1).tofile(tmp_path / "train.bin")
    tokens_of(60, 2).tofile(tmp_path / "val.bin")
    data = Data(source=str(tmp_path))
    assert np.array_equal(open_split(data, "train", tmp_path), tokens_of(50, 1))
    assert np.array_equal(open_split(data, "validation", tmp_path), tokens_of(60, 2))


def test_llm_c_files_are_mapped_behind_their_header(tmp_path):
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, 700
    path = tmp_path / "fineweb_train_000001.bin"
    path.write_bytes(header.tobytes() + tokens_of(700).tobytes())
    data = Data(source=str(path))
    assert np.array_equal(open_split(data, "train", tmp_path), tokens_of(700))
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(
        BadCorpus, match=r"fineweb_train_000001.bin: llm.c header of version 1 and 700 tokens on a file of"
    ):
        open_split(data, "train", tmp_path)


def test_half_a_token_is_refused(tmp_path):
    (tmp_path / "train.bin").write_bytes(bytes(5))
    with pytest.raises(BadCorpus, match=r"train.bin: 5 bytes are not a whole number of uint16 tokens"):
        open_split(Data(source=str(tmp_path)), "train", tmp_path)


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from farm.study.recipe import Recipe
from model.corpus.checks import prepare
from model.corpus.sources import open_split
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
folder = Path(sys.argv[1])
before = resident()
recipe = Recipe().with_patch({"data": {"source": str(folder)}, "train": {"tokens": 96 * 1024 * 1200},
                           "evaluation": {"offset": 0, "sequences": 10}})
tokens = open_split(recipe.data, "train", folder)
total = sum(int(tokens[i : i + 1025].sum()) for i in range(0, len(tokens), len(tokens) // 200))
prepare(recipe, folder / "cache")
print(len(tokens), total, resident() - before)
"""


def test_a_corpus_of_20_gb_costs_no_memory(tmp_path):
    """Mapped, sampled over its whole length, and 236 MB of it scanned: the process grows by less than 64 MiB."""
    count = 10**10
    header = json.dumps({"tokens": {"dtype": "U16", "shape": [count], "data_offsets": [0, 2 * count]}}).encode()
    for split in ("train", "validation"):
        with (tmp_path / f"{split}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 2 * count)
    length, total, grown = map(int, output(python(MEMORY, tmp_path)).split())
    assert (length, total) == (count, 0)
    assert grown < 64 * 2**20
