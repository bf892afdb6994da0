"""Where tokens come from: every format read to the token, every damage named, nothing paid twice."""

from pydoc_data.topics import topics

import pytest
from corpora import ROOT, tokens_of

from farm.errors import BadCorpus
from farm.study.recipe import Data
from farm.study.study import Study
from model.corpus.checks import prepare
from model.corpus.sources import open_split
from model.corpus.text import BUILTIN

# The corpus inside Python


def test_the_built_in_corpus_is_the_language_reference_byte_by_byte(tmp_path):
    data = Data(source=BUILTIN)
    train, held_out = (open_split(data, split, tmp_path) for split in ("train", "validation"))
    written = b"".join(topics[name].encode() + b"\xff" for name in sorted(topics))  # a byte that UTF-8 never has
    assert [*train, *held_out] == [256 if byte == 0xFF else byte for byte in written]
    assert max(train.max(), held_out.max()) == 256
    assert len(train) == (len(train) + len(held_out)) * 9 // 10


def test_an_unknown_built_in_corpus_or_split_is_refused(tmp_path):
    with pytest.raises(BadCorpus, match=r"builtin:shakespeare.*builtin:python-reference"):
        open_split(Data(source="builtin:shakespeare"), "train", tmp_path)
    with pytest.raises(BadCorpus, match=r"no test split.*train and validation"):
        open_split(Data(source=BUILTIN), "test", tmp_path)


@pytest.mark.parametrize("study", ["demo.toml", "dropout.toml"])
def test_a_study_of_the_built_in_corpus_fits_it(tmp_path, study):
    runs = Study.load(ROOT / "examples" / study).runs()
    assert not any(run.recipe.data.repeat for run in runs)
    assert len({prepare(run.recipe, tmp_path) for run in runs}) == 1  # one fingerprint: all arms read the same tokens


# Finding the file


@pytest.mark.parametrize("split", ["../train", "a/b", "", ".hidden", "*"])
def test_a_split_that_is_no_name_is_refused(tmp_path, split):
    tokens_of(50).tofile(tmp_path / "train.bin")
    with pytest.raises(BadCorpus, match=r"is not a valid split name"):
        open_split(Data(source=str(tmp_path / "x")), split, tmp_path)


def test_a_relative_path_is_refused_because_each_node_would_look_elsewhere(tmp_path, monkeypatch):
    tokens_of(50).tofile(tmp_path / "train.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadCorpus, match=r"relative path"):
        open_split(Data(source="."), "train", tmp_path)


def test_what_is_missing_is_said_with_what_is_there_and_what_to_put(tmp_path):
    with pytest.raises(BadCorpus, match=rf"{tmp_path}/none does not exist here"):
        open_split(Data(source=str(tmp_path / "none")), "train", tmp_path)
    (tmp_path / "readme.md").touch()
    with pytest.raises(
        BadCorpus,
        match=r"no train split; it holds readme.md. Put train.safetensors, .bin or .npy, shards of tokens such as",
    ):
        open_split(Data(source=str(tmp_path)), "train", tmp_path)
    with pytest.raises(BadCorpus, match=r"readme.md is not a corpus file"):
        open_split(Data(source=str(tmp_path / "readme.md")), "train", tmp_path)
