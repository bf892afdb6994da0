"""`farm sample`: what a model says that was trained here, what `farm show` has of it, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from worlds import attempt, corpus, planned, stop_after

from farm.queue.values import Claim
from farm.record.bucket import Bucket

from .conftest import Farm
from .small import STEPS, finish, small_study, train

ASKED = 'prompts = ["def ", "Ελλάδα"]\ntokens = 30'
BASE = "cpu-base"


def trained(farm: Farm, stop: int | None = None, samples: str = ASKED, **changes: Any) -> Claim:
    """The only run of a small study, trained for real, to the end or until it is stopped."""
    study = small_study(more=f"[samples]\n{samples}", **changes)
    farm.queue.put(study)
    claim = farm.claim()
    outcome = train(farm, claim, stop, samples=study.samples)
    if outcome.test_loss is not None:
        finish(farm, claim, outcome)
    return claim


def sampled(farm: Farm, *words: str) -> list[dict[str, Any]]:
    answer = farm("sample", BASE, *words, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["schema"] == "farm.sample/1"
    return told["data"]


def test_it_repeats_the_newest_sample_of_the_training_which_show_has(farm: Farm) -> None:
    claim = trained(farm)
    shown = json.loads(farm("show", BASE, "--json").out)["data"]["samples"]
    assert [(one["step"], one["prompt"]) for one in shown][-2:] == [(STEPS, "def "), (STEPS, "Ελλάδα")]
    assert len(shown) == 2 * (STEPS + 1)
    found = sampled(farm)
    assert [one.pop("run") for one in found] == [claim.run.id] * 2
    for one in (*shown, *found):
        assert one.pop("seconds") >= 0
    assert found == shown[-2:]
    said = farm("show", BASE)
    steps = [row["value"].partition(":")[0] for row in said.rows if row["what"] == "sample"]
    assert steps == ["step 0", "step 1", "step 2", "step 3", "step 4", "step 4"]


def test_each_option_changes_what_is_said(farm: Farm, tmp_path: Path) -> None:
    context = trained(farm).run.recipe.model.context
    plain = sampled(farm, "--prompt", "def ")[0]
    assert plain["text"] == sampled(farm)[0]["text"]
    for words in (("--seed", "1"), ("--temperature", "0"), ("--top-k", "257")):
        assert sampled(farm, "--prompt", "def ", *words)[0]["tokens"] != plain["tokens"], words
    assert sampled(farm, "--prompt", "def ", "--tokens", "3")[0]["tokens"] == plain["tokens"][:3]
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa\r\n\n b\n".encode())
    prompts = [one["prompt"] for one in sampled(farm, "--prompt", "x", "--prompts", str(file), "--prompt", "a")]
    assert prompts == ["x", "a", " b"]
    assert farm("sample", BASE, "--prompts", "-", reads="from a pipe").rows[0]["prompt"] == "from a pipe"
    whole, longer = "y" * context, "x" * 9 + "y" * context
    said = [farm("sample", BASE, "--prompt", one, "--seed", "3") for one in (whole, longer)]
    assert said[0].rows[0]["text"] == said[1].rows[0]["text"]
    assert [f"the model reads the last {context} of them" in one.err for one in said] == [False, True]


def test_a_run_that_trains_gives_its_newest_checkpoint_and_any_that_is_kept(farm: Farm) -> None:
    claim = trained(farm, stop=2)
    home = farm.store.folder(claim.run.id)
    run, first = claim.run, home / "1/checkpoints/step-00000002"
    attempt(run, planned(run, 1, 4), home, signals=stop_after(1), resume=first, epoch=2)
    answer = farm("sample", BASE, "--prompt", "x")
    assert (answer.rows[0]["step"], answer.err) == ("3", f"{run.id} is running: this is step 3 of 4\n")
    (older,) = sampled(farm, "--prompt", "x", "--checkpoint", "2")
    assert older["step"] == 2
    missing = farm("sample", BASE, "--checkpoint", "1")
    assert (missing.code, missing.out) == (3, "")
    assert "has no intact checkpoint of step 1 under" in missing.err
    assert missing.err.endswith("Kept are those of step 2, 3: the two newest of each attempt.\n")


def test_a_run_in_a_bucket_is_sampled_and_shown(farm: Farm, s3_uri: str) -> None:
    trained(farm)
    before = sampled(farm, "--checkpoint", str(STEPS))
    bucket = Bucket(s3_uri)
    for path in farm.store.root.rglob("*"):
        if path.is_file():
            bucket.put(str(path.relative_to(farm.store.root)), path.read_bytes())
    shutil.rmtree(farm.store.root)
    farm.environment["FARM_STORAGE"] = s3_uri
    assert [one["tokens"] for one in sampled(farm)] == [one["tokens"] for one in before]
    assert len(json.loads(farm("show", BASE, "--json").out)["data"]["samples"]) == 2 * (STEPS + 1)


def test_markup_and_control_characters_stay_text(farm: Farm) -> None:
    trained(farm, samples='prompts = ["[bold]<script>\\u001b[31m\\u202e\\n=1+1"]\nevery = 4')
    (found,) = sampled(farm)
    assert found["prompt"] == "[bold]<script>\x1b[31m\u202e\n=1+1"
    for answer in (farm("sample", BASE), farm("show", BASE)):
        assert "[bold]<script> =1+1" in answer.out
        assert not set("\x1b\u202e\x00\x07\x9b") & set(answer.out)


def test_without_a_tokenizer_prompts_and_samples_are_token_ids(farm: Farm) -> None:
    trained(farm, source=corpus(farm.folder), vocab=67, samples="tokens = 3")
    answer = farm("sample", BASE)
    assert (answer.code, answer.rows[0]["prompt"], len(answer.rows[0]["text"].split())) == (0, "0", 3)
    assert answer.err == (
        f"no tokenizer: 67 tokens are not GPT-2's: use the tokenizer that made {farm.folder};"
        " prompts and samples are token ids\n"
    )
    assert sampled(farm, "--prompt", "7 66")[0]["prompt"] == "7 66"
    refused = farm("sample", BASE, "--prompt", "Every effort")
    assert refused.code == 2
    assert "--prompt: 'Every effort' is not token ids from 0 to 66, such as '12 7'. This run has no" in refused.err


def test_a_tokenizer_that_is_not_here_is_named_with_the_remedy(farm: Farm) -> None:
    gone = farm.folder / "gone.json"
    trained(farm, source=corpus(farm.folder), vocab=67, tokenizer=f'tokenizer = "{gone}"')
    answer = farm("sample", BASE)
    assert (answer.code, answer.out) == (2, "")
    assert f"is not available here: data.tokenizer: {gone}: No such file or directory. Copy it here" in answer.err


def test_a_run_that_is_unknown_or_has_no_checkpoint_is_refused(farm: Farm) -> None:
    assert farm("sample", BASE).code == 3
    farm.queue.put(small_study(more=f"[samples]\n{ASKED}"))
    answer = farm("sample", BASE)
    assert (answer.code, answer.out) == (3, "")
    assert "has no intact checkpoint under" in answer.err
    assert "It makes one every 600 s while it trains." in answer.err


OPTIONS = {
    ("--prompt", ""): "--prompt: must not be empty, not ''. Write a text to go on from: --prompt \"Every",
    ("--top-k", "0"): "--top-k: must be at least 1, not 0. Write --top-k 25 to draw from",
    ("--temperature", "-1"): "--temperature: must be at least 0, not -1.0. Write --temperature 1",
    ("--temperature", "nan"): "--temperature: must be a finite number, not nan. Write --temperature 1",
    ("--tokens", "0"): "--tokens: must be at least 1, not 0. Write how many",
    ("--seed", "-1"): "--seed: must be at least 0, not -1. Write a whole number",
    ("--prompt", "\udcff"): "--prompt: must be UTF-8",
    ("--prompts", "gone.txt"): "--prompts gone.txt: No such file or directory. Name a text file in UTF-8",
    ("--prompts", "."): "--prompts .: Is a directory. Name a text file",
    ("--prompts", "latin.txt"): "--prompts latin.txt is not UTF-8: byte 3 is not. Name a text file",
    ("--prompts", "empty.txt"): "--prompts empty.txt holds no prompt. Name a text file",
    ("--prompts", "/dev/zero"): "--prompts /dev/zero has more than 1,048,576 bytes. Name a text file",
    ("--prompts", "many.txt"): "--prompt: must name at most 32",
}


@pytest.mark.parametrize("words", OPTIONS)
def test_an_option_that_cannot_be_is_named_with_the_remedy(farm: Farm, words: tuple[str, str]) -> None:
    (farm.folder / "latin.txt").write_bytes("nein, naïv".encode("latin-1")[5:])
    (farm.folder / "empty.txt").write_bytes(b"\n\r\n")
    (farm.folder / "many.txt").write_text("\n".join(map(str, range(33))), encoding="utf-8")
    answer = farm("sample", BASE, *words)
    assert (answer.code, answer.out) == (2, "")
    assert OPTIONS[words] in answer.err
