"""A corpus in an S3 bucket: fetched once, read from the cache while the bucket is away."""

import numpy as np
import pytest
from corpora import NOWHERE, tokens_of
from safetensors.numpy import save_file

from farm.errors import BadCorpus, StorageUnusable
from farm.record.bucket import Bucket
from farm.study.recipe import Data, Recipe
from model.corpus.look import look
from model.corpus.sources import open_split

# A bucket


@pytest.fixture
def bucket(s3_uri, tmp_path):
    bucket = Bucket(s3_uri)
    for split, count in (("train", 1000), ("val", 100)):
        bucket.put(f"{split}.bin", tokens_of(count, seed=count).tobytes())
    return bucket


def test_a_bucket_is_brought_once_for_as_long_as_it_does_not_change(bucket, tmp_path, monkeypatch):
    data, reads = Data(source=bucket.uri), []
    read_into = Bucket.read_into
    monkeypatch.setattr(Bucket, "read_into", lambda self, name, file: (reads.append(name), read_into(self, name, file)))
    for _ in range(2):
        assert np.array_equal(open_split(data, "train", tmp_path), tokens_of(1000, seed=1000))
        assert np.array_equal(open_split(data, "validation", tmp_path), tokens_of(100, seed=100))
    assert reads == ["train.bin", "val.bin"]
    bucket.put("train.bin", tokens_of(900).tobytes())
    assert np.array_equal(open_split(data, "train", tmp_path), tokens_of(900))


def test_a_bucket_that_is_away_is_read_from_the_cache_or_named(bucket, tmp_path, monkeypatch, capfd):
    data = Data(source=bucket.uri)
    open_split(data, "train", tmp_path)
    bucket.put("train.bin", tokens_of(900).tobytes())
    open_split(data, "train", tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    assert np.array_equal(open_split(data, "train", tmp_path), tokens_of(900)), "what was brought last"
    assert f"{bucket.uri} cannot be reached" in capfd.readouterr().err, "which the log says"
    with pytest.raises(StorageUnusable, match=f"{bucket.uri} cannot be reached at {NOWHERE}"):
        open_split(data, "validation", tmp_path)


def test_a_look_before_queueing_sees_what_was_brought_from_a_bucket(bucket, tmp_path, monkeypatch):
    for split in ("train", "validation"):
        open_split(Data(source=bucket.uri), split, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    small = {"model": {"context": 10}, "train": {"batch": 2, "tokens": 100}, "evaluation": {"offset": 80}}
    faults, remarks = look(Recipe().with_patch({"data": {"source": bucket.uri}} | small), tmp_path, trains_here=True)
    assert ["val.bin has 100 tokens; evaluation.offset 80" in str(fault) for fault in faults] == [True]
    assert remarks == []


def test_a_bucket_that_is_away_was_what_it_was_when_seen_last(bucket, tmp_path, monkeypatch):
    """Not the newest of all that was ever brought: train.bin is there, but was replaced by a safetensors file."""
    data = Data(source=bucket.uri)
    open_split(data, "train", tmp_path)
    save_file({"tokens": tokens_of(700)}, tmp_path / "new")
    bucket.put("train.safetensors", (tmp_path / "new").read_bytes())
    open_split(data, "train", tmp_path)
    bucket.delete(["train.safetensors"])
    open_split(data, "train", tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    assert np.array_equal(open_split(data, "train", tmp_path), tokens_of(1000, seed=1000))


def test_a_bucket_that_refuses_is_not_read_from_the_cache(bucket, tmp_path, monkeypatch):
    data = Data(source=bucket.uri)
    open_split(data, "train", tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with pytest.raises(StorageUnusable, match="does not know this node's AWS credentials"):
        open_split(data, "train", tmp_path)


def test_a_bucket_without_the_split_says_what_it_holds(bucket, tmp_path):
    with pytest.raises(BadCorpus, match=rf"{bucket.uri} has no test split; it holds train.bin, val.bin"):
        open_split(Data(source=bucket.uri), "test", tmp_path)
