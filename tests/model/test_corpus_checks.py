"""The checks of a corpus before training: length, token ids, fingerprints, and a test apart from training."""

import os
from pathlib import Path

import numpy as np
import pytest
from corpora import output, python, small, tokens_of
from safetensors.numpy import save, save_file

from farm.errors import BadCorpus
from farm.study.recipe import Recipe
from model.corpus.checks import prepare
from model.corpus.sources import open_split

# What a recipe needs of its corpus


def corpus(folder: Path, train: np.ndarray, validation: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"tokens": train}, folder / "train.safetensors")
    save_file({"tokens": validation}, folder / "validation.safetensors")


def recipe(folder: Path, **patch: dict) -> Recipe:
    """100 tokens of training (5 steps x 2 x 10) and 60 of test (from 20 on) in sequences of 10; no validation."""
    tables = {
        "model": {"context": 10, "vocab": 300},
        "train": {"batch": 2, "tokens": 100},
        "data": {"source": str(folder)},
        "evaluation": {"offset": 20, "sequences": 6, "every": 0},
    }
    return Recipe().with_patch(tables).with_patch(patch)


def test_the_fingerprint_is_that_of_the_tokens_used_and_of_no_others(tmp_path):
    train, validation = small(150), small(100, 1)
    corpus(tmp_path / "a", train, validation)
    first = prepare(recipe(tmp_path / "a"), tmp_path / "cache")
    changed = {
        "a": (0, 0),
        "trained": (100, 0),
        "after": (101, 0),
        "tested": (0, 80),
        "before": (0, 19),
        "end": (0, 81),
    }
    seen = {}
    for name, (in_train, in_test) in changed.items():
        one, two = train.copy(), validation.copy()
        one[in_train], two[in_test] = (one[in_train] + (in_train > 0)) % 300, (two[in_test] + (in_test > 0)) % 300
        corpus(tmp_path / name, one, two)
        seen[name] = prepare(recipe(tmp_path / name), tmp_path / "cache")
    assert {name for name, found in seen.items() if found == first} == {"a", "after", "before", "end"}
    assert len({seen["trained"], seen["tested"], first}) == 3


def test_a_shuffled_run_may_read_all_of_its_split_and_its_fingerprint_says_so(tmp_path):
    shuffled = {"data": {"order": "shuffled"}}
    train = small(151)
    found = []
    for name in ("a", "b"):
        corpus(tmp_path / name, train, small(100, 1))
        found.append(prepare(recipe(tmp_path / name, **shuffled), tmp_path / "cache"))
        train[150] += 1
    assert found[0] != found[1]


def test_the_scan_is_paid_once_for_as_long_as_the_file_does_not_change(tmp_path):
    corpus(tmp_path / "a", small(150), small(100, 1))
    path = tmp_path / "a" / "train.safetensors"
    first, stat = prepare(recipe(tmp_path / "a"), tmp_path / "cache"), path.stat()
    path.write_bytes(save({"tokens": small(150, 5)}))
    assert prepare(recipe(tmp_path / "a"), tmp_path / "cache") != first
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # another content that looks like the scanned file
    assert prepare(recipe(tmp_path / "a"), tmp_path / "cache") == first


@pytest.mark.parametrize(("split", "position"), [("train", 100), ("validation", 80)])
def test_a_token_outside_the_vocabulary_is_named_with_its_place_and_the_remedy_works(tmp_path, split, position):
    tokens = {"train": small(150), "validation": small(100, 1)}
    tokens[split][position] = 300
    corpus(tmp_path / "a", tokens["train"], tokens["validation"])
    fault = rf"{split}.safetensors has token 300 at position {position}; model.vocab = 300 allows 0 to 299"
    with pytest.raises(BadCorpus, match=rf"{fault}. Set model.vocab to at least 301"):
        prepare(recipe(tmp_path / "a"), tmp_path / "cache")
    prepare(recipe(tmp_path / "a", model={"vocab": 301}), tmp_path / "cache")


def test_a_token_that_nobody_reads_may_be_anything(tmp_path):
    train, validation = small(150), small(100, 1)
    train[101], validation[[19, 81]] = 9999, 9999
    corpus(tmp_path / "a", train, validation)
    prepare(recipe(tmp_path / "a"), tmp_path / "cache")


def test_a_corpus_one_token_too_short_is_refused_with_the_numbers_and_every_remedy_works(tmp_path):
    corpus(tmp_path / "a", small(100), small(100, 1))
    with pytest.raises(BadCorpus) as refused:
        prepare(recipe(tmp_path / "a"), tmp_path / "cache")
    assert "has 100 tokens; 5 steps x 2 sequences x 10 tokens, and one more to predict, need 101." in str(refused.value)
    assert "Set data.repeat = true, lower train.tokens to 80, or" in str(refused.value)
    prepare(recipe(tmp_path / "a", data={"repeat": True}), tmp_path / "cache")
    prepare(recipe(tmp_path / "a", train={"tokens": 80}), tmp_path / "cache")
    corpus(tmp_path / "a", small(101), small(100, 1))
    prepare(recipe(tmp_path / "a"), tmp_path / "cache")


def test_a_corpus_shorter_than_one_sequence_is_refused_even_when_it_may_repeat(tmp_path):
    corpus(tmp_path / "a", small(10), small(100, 1))
    with pytest.raises(BadCorpus, match=r"has 10 tokens; one sequence is model.context \+ 1 = 11"):
        prepare(recipe(tmp_path / "a", data={"repeat": True}), tmp_path / "cache")


def test_a_test_slice_that_leaves_its_split_is_refused_and_the_remedy_works(tmp_path):
    corpus(tmp_path / "a", small(150), small(80, 1))
    fault = r"has 80 tokens; evaluation.offset 20 \+ 6 sequences x 10 tokens, and one more to predict, end at 81"
    with pytest.raises(BadCorpus, match=rf"{fault}. Lower evaluation.sequences to 5"):
        prepare(recipe(tmp_path / "a"), tmp_path / "cache")
    prepare(recipe(tmp_path / "a", evaluation={"sequences": 5}), tmp_path / "cache")


@pytest.mark.parametrize("order", ["sequential", "shuffled"])
def test_a_test_on_what_was_trained_on_is_refused_also_under_another_name(tmp_path, order):
    tokens = small(200)
    corpus(tmp_path / "a", tokens, tokens)
    (tmp_path / "a" / "alias.safetensors").symlink_to(tmp_path / "a" / "train.safetensors")
    for split in ("train", "alias"):
        with pytest.raises(
            BadCorpus, match=r"of the file that the test reads from token 99 on. Use another evaluation.split"
        ):
            prepare(
                recipe(tmp_path / "a", data={"order": order}, evaluation={"split": split, "offset": 99}),
                tmp_path / "cache",
            )


def test_one_file_may_serve_for_both_when_the_test_begins_where_training_ends(tmp_path):
    tokens_of(200).tofile(tmp_path / "all.bin")
    one = recipe(tmp_path / "all.bin", model={"vocab": 50257}, evaluation={"offset": 100, "every": 0.05})
    assert prepare(one, tmp_path / "cache").validated is None, "before the test lies what is trained on"
    with pytest.raises(BadCorpus, match="the file that a validation reads from token 20 on"):
        prepare(one.with_patch({"evaluation": {"validation_sequences": 8}}), tmp_path / "cache")
    with pytest.raises(BadCorpus, match=r"offset of at least 100"):
        prepare(one.with_patch({"evaluation": {"offset": 99}}), tmp_path / "cache")


def test_preparing_a_corpus_loads_neither_torch_nor_ray(tmp_path):
    code = "import sys, model.corpus.checks, model.data; print({'torch', 'ray', 'datasets'} & sys.modules.keys())"
    assert output(python(code)) == "set()"


def test_the_test_may_have_a_corpus_of_its_own(tmp_path):
    """Arms that train on other tokens are tested on the same ones."""
    for name, seed in (("a", 0), ("b", 7), ("common", 3)):
        corpus(tmp_path / name, small(150, seed), small(100, seed + 1))
    common = {"evaluation": {"source": str(tmp_path / "common")}}
    one, other = (prepare(recipe(tmp_path / name, **common), tmp_path / "cache") for name in ("a", "b"))
    own = prepare(recipe(tmp_path / "a"), tmp_path / "cache")
    assert one.tested == other.tested != own.tested
    assert one.trained == own.trained != other.trained
    assert one.head == own.head != other.head
    assert np.array_equal(
        open_split(recipe(tmp_path / "a", **common).tested_data, "validation", tmp_path / "cache"), small(100, 4)
    )


def test_the_beginning_has_a_fingerprint_that_runs_of_any_length_share(tmp_path):
    long = (np.arange(5000) % 300).astype(np.uint16)
    corpus(tmp_path / "a", long, small(100, 1))
    short, longer = (
        prepare(recipe(tmp_path / "a", train={"tokens": count}), tmp_path / "cache") for count in (2000, 4000)
    )
    assert short.head == longer.head
    assert short.trained != longer.trained


def test_a_test_on_a_shorter_context_needs_fewer_tokens(tmp_path):
    corpus(tmp_path / "a", small(150), small(41, 1))
    with pytest.raises(BadCorpus, match="sequences x 10 tokens"):
        prepare(recipe(tmp_path / "a"), tmp_path / "cache")
    prepare(recipe(tmp_path / "a", evaluation={"context": 2}), tmp_path / "cache")
