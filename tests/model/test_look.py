"""A look at the data before anything is queued: what prepare would refuse, as far as this machine sees it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from farm.errors import BadCorpus
from farm.study.recipe import Recipe
from model.corpus.checks import prepare
from model.corpus.look import View, look

ROOT = Path(__file__).parents[2]


def recipe(source: Path | str, **patch: dict) -> Recipe:
    """100 tokens of training (5 steps x 2 x 10) and 60 of test (from 20 on) in sequences of 10."""
    tables = {
        "model": {"context": 10, "vocab": 300},
        "train": {"batch": 2, "tokens": 100},
        "data": {"source": str(source)},
        "evaluation": {"offset": 20, "sequences": 6},
    }
    return Recipe().with_patch(tables).with_patch(patch)


def corpus(folder: Path, train: int = 150, validation: int = 100) -> Path:
    folder.mkdir(exist_ok=True)
    for split, count in (("train", train), ("validation", validation)):
        (np.arange(count) * 7 % 300).astype("<u2").tofile(folder / f"{split}.bin")
    return folder


def told(view: View) -> list[str]:
    return [str(fault) for fault in view.faults]


@pytest.mark.parametrize(
    ("sizes", "patch"),
    [
        ((150, 100), {}),
        ((100, 100), {}),
        ((150, 80), {}),
        ((10, 100), {"data": {"repeat": True}}),
        ((150, 100), {"evaluation": {"split": "train"}}),
        ((150, 100), {"evaluation": {"split": "train", "offset": 100, "sequences": 3}}),
        ((150, 100), {"evaluation": {"split": "test"}}),
        ((150, 100), {"data": {"split": "../x"}}),
        ((0, 100), {}),
    ],
)
def test_what_is_seen_is_refused_in_the_words_of_prepare(tmp_path: Path, sizes: tuple[int, int], patch: dict) -> None:
    asked = recipe(corpus(tmp_path / "a", *sizes), **patch)
    try:
        prepare(asked, tmp_path / "elsewhere")
        expected = []
    except BadCorpus as error:
        expected = [str(error)]
    for trains_here in (True, False):
        view = look(asked, tmp_path / "cache", trains_here)
        assert (told(view), view.remarks) == (expected, [])
    assert not (tmp_path / "cache").exists()


def test_faults_of_both_splits_are_told_at_once(tmp_path: Path) -> None:
    view = look(recipe(corpus(tmp_path / "a", 100, 80)), tmp_path / "cache", trains_here=False)
    assert ["train.bin has 100 tokens" in told(view)[0], "validation.bin has 80 tokens" in told(view)[1]] == [True] * 2


def test_a_test_with_a_corpus_of_its_own_is_looked_at_there(tmp_path: Path) -> None:
    own = {"source": str(corpus(tmp_path / "test", 1, 40)), "context": 5}
    asked = recipe(corpus(tmp_path / "a", 150, 1), evaluation=own)
    assert told(look(asked, tmp_path, trains_here=True)) == [
        f"{tmp_path}/test/validation.bin has 40 tokens; evaluation.offset 20 + 6 sequences x 5 tokens, and one more to"
        " predict, end at 51. Lower evaluation.sequences to 3 or evaluation.offset."
    ]


def test_what_is_missing_is_a_fault_only_where_runs_train(tmp_path: Path) -> None:
    asked = recipe(tmp_path / "none")
    fault = f"{tmp_path}/none does not exist here. Every node must see data.source under the same path."
    assert told(look(asked, tmp_path, trains_here=True)) == [fault]
    view = look(asked, tmp_path, trains_here=False)
    assert view.faults == []
    remark = f"not seen from this machine: {tmp_path}/none does not exist here; each node checks it when a run starts"
    assert view.remarks == [remark]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "train.txt").write_text("x" * 999)
    asked = recipe(tmp_path / "a", data={"tokenizer": str(tmp_path / "tokenizer.json")}, evaluation={"split": "train"})
    assert "tokenizer.json: No such file" in told(look(asked, tmp_path, trains_here=True))[0]
    assert "tokenizer.json: No such file" in look(asked, tmp_path, trains_here=False).remarks[0]


@pytest.mark.parametrize("source", ["hf:us/nothing-of-that-name", "s3://bucket/nothing"])
def test_what_only_a_network_could_show_is_said_not_to_be_checked(tmp_path: Path, source: str, monkeypatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "HF_ENDPOINT", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    view = look(recipe(source), tmp_path, trains_here=True)
    assert view.faults == []
    assert view.remarks == [
        f"{source} is not in this machine's cache, and nothing is fetched just to check it;"
        " each node checks it when a run starts"
    ]


def test_text_is_not_tokenised_and_its_size_says_how_many_tokens_it_may_have(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "nothing"))
    for split, size in (("train", 80), ("validation", 500)):
        (tmp_path / f"{split}.txt").write_text("x" * size)
    view = look(recipe(tmp_path, model={"vocab": 50257}), tmp_path / "cache", trains_here=True)
    assert len(view.faults) == 1
    assert f"{tmp_path}/train.txt has at most 81 tokens; 5 steps x 2 sequences x 10 tokens" in told(view)[0]
    assert "Set data.repeat = true, lower train.tokens or train.batch, or train on a longer corpus" in told(view)[0]
    assert view.remarks[0].startswith("GPT-2's tokenizer is not on this machine (vocab.bpe and encoder.json): a node")
    assert f"{tmp_path}/train.txt: text, whose number of tokens is known once a node has tokenised it" in view.remarks
    assert not (tmp_path / "cache").exists()
    small = told(look(recipe(tmp_path), tmp_path / "cache", trains_here=True))
    assert "the tokenizer of" in small[0]
    assert "Set model.vocab to at least 50,257" in small[0]


def test_text_that_was_tokenised_here_is_known_to_the_token(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": "é" * 60, "more": [split] * 200}))
    asked = recipe(tmp_path, data={"tokenizer": "bytes"}, evaluation={"sequences": 11})
    assert look(asked, tmp_path / "cache", trains_here=True).faults == []
    with pytest.raises(BadCorpus, match=r"has 121 tokens; evaluation.offset 20") as refused:
        prepare(asked, tmp_path / "cache")
    view = look(asked, tmp_path / "cache", trains_here=True)
    assert (told(view), view.remarks) == ([str(refused.value)], [])


def test_the_built_in_corpus_is_counted_to_the_token(tmp_path: Path) -> None:
    from model.corpus.sources import open_split

    asked = recipe("builtin:python-reference")
    count = len(open_split(asked.data, "validation", tmp_path))
    fits = asked.with_patch({"evaluation": {"offset": count - 61}})
    assert told(look(fits, tmp_path, trains_here=True)) == []
    assert (
        f"has {count:,} tokens"
        in told(look(asked.with_patch({"evaluation": {"offset": count - 60}}), tmp_path, True))[0]
    )


def test_shards_that_are_missing_are_remarked(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}-00001-of-00003.txt").write_text("x" * 500)
    view = look(recipe(tmp_path, data={"tokenizer": "bytes"}), tmp_path / "cache", trains_here=True)
    assert "train-*-of-00003.txt: 1 of 3 files are there, without 00000, 00002" in view.remarks


LIGHT = """
import sys
from pathlib import Path
sys.modules.update(dict.fromkeys(sys.argv[3].split(",")))  # None: importing it fails as if it were not installed
from farm.study.recipe import Recipe
from model.corpus.look import look
base = {"model": {"vocab": 50257}, "evaluation": {"offset": 0, "sequences": 1}}
for source in ("builtin:python-reference", "hf:us/tokens", "s3://bucket/x", sys.argv[1]):
    view = look(Recipe().with_patch(base | {"data": {"source": source}}), Path(sys.argv[2]), False)
    print(len(view.faults), len(view.remarks))
"""


def test_the_light_client_can_look(tmp_path: Path) -> None:
    """`pip install .` without the node extra: numpy is there, because scipy is, and nothing else of what trains."""
    heavy = "torch,ray,datasets,huggingface_hub,boto3,botocore,tiktoken,tokenizers,pyarrow,requests,safetensors,psutil"
    (tmp_path / "train.jsonl").write_text("{}")
    command = [sys.executable, "-c", LIGHT, str(tmp_path), str(tmp_path / "cache"), heavy]
    found = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[:3] == ["1 0", "0 1", "0 1"], "Python's is too short, the next are not seen"
