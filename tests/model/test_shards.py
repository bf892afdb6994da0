"""A split in several files of tokens: found by the names that others give them, and read as one."""

import io
from pathlib import Path

import numpy as np
import pytest
from corpora import small, tokens_of

from farm.errors import BadCorpus
from farm.study.recipe import Data, Recipe
from model.corpus.checks import prepare
from model.corpus.look import look
from model.corpus.names import files_of, gaps
from model.corpus.sources import open_split


def llm_c(tokens: np.ndarray) -> bytes:
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, len(tokens)
    return header.tobytes() + tokens.tobytes()


def npy(tokens: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, tokens)
    return out.getvalue()


SHARDED = {  # as llm.c, modded-nanogpt, build-nanogpt and the library datasets name them
    "llm.c": ("fineweb_{}_{:06}.bin", llm_c),
    "build-nanogpt": ("edufineweb_{}_{:06}.npy", npy),
    "numbered": ("{}_{}.bin", lambda tokens: tokens.tobytes()),
    "of": ("data/{}-{:05}-of-00012.npy", npy),
}


@pytest.mark.parametrize("called", SHARDED)
def test_a_folder_of_shards_is_one_split_in_the_order_of_their_numbers(tmp_path: Path, called: str) -> None:
    pattern, write = SHARDED[called]
    shards = [tokens_of(100 + number, number) for number in range(12)]
    for number in (11, 2, 10, 0, 1, 3, 4, 5, 6, 7, 8, 9):
        path = tmp_path / pattern.format("train", number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(write(shards[number]))
    (tmp_path / pattern.format("val", 0)).write_bytes(write(tokens_of(50, 99)))
    data = Data(source=str(tmp_path))
    assert np.array_equal(open_split(data, "train", tmp_path / "cache"), np.concatenate(shards))
    assert np.array_equal(open_split(data, "validation", tmp_path / "cache"), tokens_of(50, 99))
    joined = [*(tmp_path / "cache" / "corpora").glob("*.safetensors")]
    assert len(joined) == 1, "what lies in one file is read there"
    made = joined[0].stat().st_mtime_ns
    open_split(data, "train", tmp_path / "cache")
    assert joined[0].stat().st_mtime_ns == made, "joined once"


@pytest.mark.parametrize(
    ("names", "split", "found"),
    [
        (["tiny_shakespeare_train.bin", "tiny_shakespeare_val.bin"], "train", ["tiny_shakespeare_train.bin"]),
        (["tiny_shakespeare_train.bin", "tiny_shakespeare_val.bin"], "validation", ["tiny_shakespeare_val.bin"]),
        (["train.bin", "x_train_000001.bin"], "train", ["train.bin"]),
        (["train-10B.bin", "train.txt"], "train", ["train.txt"]),
        (["pretrain_1.bin", "train_x.bin", "train_1.bin.bak"], "train", []),
        (["a_train-10B_1.npy", "a_train_1.npy"], "train-10B", ["a_train-10B_1.npy"]),
        (["x_train_1.bin", "train.txt"], "train", ["x_train_1.bin"]),
    ],
)
def test_what_the_shards_of_a_split_are_called(names: list[str], split: str, found: list[str]) -> None:
    assert files_of(split, names) == found


def test_two_sets_of_shards_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("a_train_1.bin", "a_train_2.bin", "b_train_1.bin"):
        small(50).tofile(tmp_path / name)
    with pytest.raises(BadCorpus, match=r"a_train_1.bin and b_train_1.bin could each be the train split. Move all but"):
        open_split(Data(source=str(tmp_path)), "train", tmp_path / "cache")


def test_a_damaged_shard_is_named_and_nothing_is_joined(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"x_train_{number}.bin").write_bytes(llm_c(tokens_of(50)))
    (tmp_path / "x_train_3.bin").write_bytes(llm_c(tokens_of(50))[:-2])
    with pytest.raises(BadCorpus, match=r"x_train_3.bin: llm.c header of version 1 and 50 tokens on a file of"):
        open_split(Data(source=str(tmp_path)), "train", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_shard_that_is_missing_between_others_is_warned_of() -> None:
    names = [f"fineweb_train_{number:06}.bin" for number in (1, 2, 5)]
    assert gaps(names) == ["fineweb_train_*.bin: 3 files are there, without 000003, 000004"]
    assert gaps(names[:2]) == gaps(["x_7.bin"]) == gaps(["a_1.txt", "a_3.txt"]) == []


def test_training_from_shards_is_training_from_the_file_that_they_are_of(tmp_path: Path) -> None:
    """The same fingerprints, and the same look before anything is queued."""
    train = small(150)
    found = []
    for name, cuts in (("whole", []), ("shards", [40, 90])):
        folder = tmp_path / name
        folder.mkdir()
        for number, part in enumerate(np.split(train, cuts), 1):
            (folder / f"x_train_{number}.bin").write_bytes(llm_c(part))
        (folder / "x_val_1.bin").write_bytes(llm_c(small(100, 1)))
        tables = {
            "model": {"context": 10, "vocab": 300},
            "train": {"batch": 2, "tokens": 100},
            "data": {"source": str(folder)},
            "evaluation": {"offset": 20, "sequences": 6, "every": 0},
        }
        recipe = Recipe().with_patch(tables)
        assert look(recipe, tmp_path / "cache", trains_here=True) == ([], [])
        longer = look(recipe.with_patch({"train": {"tokens": 160}}), tmp_path / "cache", trains_here=True)
        assert "x_train_1.bin" in str(longer.faults[0])
        assert "has 150 tokens; 8 steps x 2 sequences x 10 tokens" in str(longer.faults[0])
        found.append(prepare(recipe, tmp_path / "cache"))
    assert found[0] == found[1]
