"""Models that others trained: scored by `farm eval --reference`, and what the table says of them and of the gap."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from results import reference, result
from worlds import VOCAB, attempt, corpus, planned

from farm.queue.unreadable import find_flaws
from farm.study.recipe import Model
from farm.study.run import Run
from farm.study.study import Study
from model import export
from model.init import initialise

from .conftest import Answer, Farm

STUDY = """
[study]
name = "small"
machines = ["cpu"]
[baseline.model]
vocab = {vocab}
context = 8
width = 8
layers = 1
heads = 2
dropout = 0.0
{model}
[baseline.train]
batch = 4
tokens = 128
precision = "fp32"
learning_rate = 0.01
[baseline.data]
source = "{source}"
[baseline.evaluation]
offset = 16
sequences = 9
{further}
[interventions.slow]
train.learning_rate = 0.001
"""
FURTHER = "[evaluations.start]\noffset = 0\nsequences = 5\n"


@pytest.fixture
def farm(farm: Farm) -> Farm:
    """A farm that has been up, with a corpus beside it."""
    farm.serve()
    corpus(farm.folder)
    return farm


def submitted(farm: Farm, further: str = FURTHER, model: str = "", vocab: int = VOCAB) -> list[Run]:
    text = STUDY.format(source=farm.folder, vocab=vocab, model=model, further=further)
    study = Study.parse(text)
    farm.queue.put(study)
    return study.runs()


def trained(farm: Farm) -> dict[str, tuple[float, Path]]:
    """Train the study for real. By arm: the test loss of its run, and the exported folder."""
    submitted(farm)
    found: dict[str, tuple[float, Path]] = {}
    while farm.queue.listing.backlog().get("cpu"):
        claim = farm.claim()
        outcome, _ = attempt(claim.run, planned(claim.run, 1, 4), farm.store.folder(claim.run.id), epoch=1)
        assert outcome.test_loss is not None
        told = result(claim.run, outcome.test_loss, fingerprints=_fingerprints(farm, claim.run, outcome.fingerprints))
        farm.queue.finish(claim.lease, told)
        place = farm.store.folder(claim.run.id) / "1" / str(outcome.checkpoint)
        export.write(export.load_network(place, claim.run), farm.folder / claim.run.arm)
        found[claim.run.arm] = outcome.test_loss, farm.folder / claim.run.arm
    return found


def _fingerprints(farm: Farm, run: Run, found: Any) -> Any:
    """With the tokens that an agent would have found to be tested."""
    from model.corpus.checks import items

    tested = items(run.recipe, farm.folder / "cache")
    return found.model_copy(update={"tokens": found.tokens.model_copy(update={"tested": tested})})


def untrained(folder: Path, **changes: Any) -> Path:
    shape = {"vocab": VOCAB, "context": 8, "width": 16, "layers": 1, "heads": 2, "dropout": 0.0, "tie_weights": True}
    export.write(initialise(Model(**shape | changes), seed=3), folder)
    return folder


def asked(farm: Farm, folder: Path, *words: str) -> Answer:
    return farm("eval", "small", "--reference", str(folder), *words)


def table(farm: Farm, *words: str) -> dict[str, Any]:
    return json.loads(farm("table", "small", *words, "--json").out)


def theirs(folder: Path, offset: int, sequences: int) -> float:
    """The mean loss that transformers gives on a slice of the validation split."""
    stream = np.fromfile(folder.parent / "validation.bin", dtype=np.uint16).astype(np.int64)[offset:]
    network = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    losses = []
    for first in range(0, sequences * 8, 8):
        x, y = (torch.from_numpy(stream[first + shift : first + shift + 8]) for shift in (0, 1))
        with torch.no_grad():
            losses.append(torch.nn.functional.cross_entropy(network(x[None]).logits[0], y).item())
    return sum(losses) / len(losses)


def test_a_model_of_ours_has_its_own_test_loss_and_what_transformers_computes(farm: Farm) -> None:
    test_loss, folder = trained(farm)["baseline"]
    answer = asked(farm, folder, "--name", "twin", "--json")
    assert answer.code == 0, answer.err
    rows = {row["evaluation"]: row for row in json.loads(answer.out)["data"]}
    assert rows["test_loss"]["value"] == pytest.approx(test_loss, abs=1e-6), "batches of another size, so no bits"
    assert rows["test_loss"]["value"] == pytest.approx(theirs(folder, 16, 9), abs=1e-5)
    assert rows["start"]["value"] == pytest.approx(theirs(folder, 0, 5), abs=1e-5)
    assert (rows["test_loss"]["count"], rows["start"]["count"]) == (9, 5)
    assert "test_loss: 1 batch" in answer.err, "progress is on stderr"
    assert farm.store.studies.references("small") == farm.queue.studies.references("small")
    assert table(farm)["references"][0]["evaluation"] == rows["test_loss"]["evaluation_id"]


def test_twice_is_once_and_other_weights_of_that_name_are_a_conflict(farm: Farm) -> None:
    submitted(farm, further="")
    folder = untrained(farm.folder / "other")
    assert [row["now"] for row in asked(farm, folder).rows] == ["scored"]
    before = farm.queue.studies.references("small")
    again = asked(farm, folder)
    assert ([row["now"] for row in again.rows], "other has its scores already" in again.err) == (["known"], True)
    submitted(farm)
    assert [row["now"] for row in asked(farm, folder).rows] == ["known", "scored"], "a new evaluation is added"
    assert farm.queue.studies.references("small").models[0].scores[0] == before.models[0].scores[0]
    answer = asked(farm, untrained(farm.folder / "wider", width=32), "--name", "other")
    assert (answer.code, "reference 'other' of 'small' has weights" in answer.err) == (6, True)
    assert len(farm.queue.studies.references("small").models) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "weights are a pickle"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "model-1-of-2.safetensors"), "several files"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"not tensors"), "not the tensors"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not the config of a GPT-2"),
        (lambda folder: _configured(folder, model_type="llama"), "model_type is 'llama'"),
        (lambda folder: _configured(folder, layer_norm_epsilon=1e-6), "layer_norm_epsilon is 1e-06"),
        (lambda folder: untrained(folder, vocab=VOCAB + 1), f"vocabulary of {VOCAB + 1} tokens, the study's data of"),
        (lambda folder: untrained(folder, context=7), "has a context of 7 tokens, the evaluation of 8"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_the_reason(farm: Farm, change: Any, reason: str) -> None:
    submitted(farm)
    folder = untrained(farm.folder / "other")
    change(folder)
    answer = asked(farm, folder)
    assert (answer.code, answer.out) == (1, ""), answer.err
    assert reason in answer.err
    assert farm.queue.studies.references("small").models == ()


def _configured(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")


def test_words_that_do_not_go_together_and_names_that_are_none_are_refused(farm: Farm) -> None:
    run = submitted(farm)[0]
    folder = untrained(farm.folder / "other")
    assert asked(farm, folder, "--stale").code == 2
    assert asked(farm, folder, "--machine", "cpu").code == 2
    assert farm("eval", "small", "--name", "other").code == 2
    assert asked(farm, farm.folder / "nowhere").code == 3
    assert asked(farm, folder, "--name", "No Name").code == 1
    assert farm("eval", run.id, "--reference", str(folder)).code == 3, "a run has no table"
    assert asked(farm, folder, "--name", "slow").code == 6, "an arm is called so"
    assert asked(farm, folder, "strat").code == 3


def brought(farm: Farm, run: Run, **values: float) -> None:
    """References with these test losses, as if they had been scored."""
    store = farm.store.studies.references("small")
    for name, value in values.items():
        store = store.join(reference(run, name, value, count=9, standard_error=0.01))
    farm.store.studies.keep_references(store)
    farm.queue.studies.refer(store)


def finished(farm: Farm) -> Run:
    """A baseline at 4.0 and an arm at 3.8."""
    runs = submitted(farm)
    losses = {"baseline": 4.0, "slow": 3.8}
    while farm.queue.listing.backlog().get("cpu"):
        claim = farm.claim()
        farm.finish(claim, losses[claim.run.arm])
    return runs[0]


def test_the_gap_is_a_column_only_where_there_is_a_reference(farm: Farm) -> None:
    run = finished(farm)
    assert "gap" not in farm("table", "small").out
    assert {row["gap_closed"] for row in table(farm)["data"]} == {None}
    brought(farm, run, far=3.0, near=3.5, worse=4.5)
    found = table(farm)
    rows = {row["arm"]: row for row in found["data"]}
    assert set(rows) == {"baseline", "slow"}, "references are no arms"
    assert rows["slow"]["gap_closed"] == pytest.approx(40.0), "of the two better ones the nearest"
    assert (rows["slow"]["gap_to"], rows["baseline"]["gap_closed"]) == ("near", 0.0)
    assert [row["name"] for row in found["references"]] == ["far", "near", "worse"]
    answer = farm("table", "small")
    in_tsv = {row["arm"]: row for row in answer.rows}
    assert [in_tsv[name]["reference"] for name in ("slow", "near")] == ["False", "True"]
    assert (in_tsv["near"]["rank"], in_tsv["near"]["verdict"], in_tsv["near"]["mean"]) == ("", "", "3.5")
    assert "mean to near, the nearest of the references better than the baseline" in answer.err
    shown = farm("table", "small", "--format", "md").out
    assert "gap closed %" in shown
    assert "| near (reference) |" in shown


def test_no_gap_is_left_where_the_baseline_is_as_good(farm: Farm) -> None:
    run = finished(farm)
    brought(farm, run, equal=4.0, worse=4.5)
    assert {row["gap_closed"] for row in table(farm)["data"]} == {None}
    assert "no gap to close on cpu: no reference is better than the baseline" in farm("table", "small").err


def test_a_reference_that_another_evaluation_or_other_tokens_scored_does_not_stand_beside_the_rows(farm: Farm) -> None:
    run = finished(farm)
    other = run.model_copy(update={"recipe": run.recipe.with_patch({"evaluation": {"offset": 8}})})
    brought(farm, other, old=3.0)
    answer = farm("table", "small")
    assert "reference old is not shown: scored by test_loss@" in answer.err
    assert (table(farm)["references"], "gap_closed" in answer.out) == ([], False)
    brought(farm, run, elsewhere=3.0)
    references = farm.queue.studies.references("small")
    (one,) = references.find("elsewhere").scores  # type: ignore[union-attr]
    moved = one.model_copy(update={"items": "1" * 64})
    models = tuple(m.model_copy(update={"scores": (moved,)}) if m.name == "elsewhere" else m for m in references.models)
    farm.queue.studies.refer(references.model_copy(update={"models": models}))
    assert "elsewhere is not shown: scored on different tokens" in farm("table", "small").err


def test_where_their_record_is_not_seen_they_are_not_forgotten(farm: Farm) -> None:
    brought(farm, finished(farm), one=3.0)
    farm.environment["FARM_STORAGE"] = str(farm.folder / "elsewhere")
    for words in (["--arm", "one"], []):
        answer = farm("forget", "small", *words, "-y")
        assert (answer.code, "cannot be reached from this machine: nothing was changed" in answer.err) == (5, True), (
            answer.err
        )
        assert [one.name for one in farm.queue.studies.references("small").models] == ["one"]
        assert len(farm.queue.listing.statuses("small")) == 2, "nor is any run"


def test_they_come_back_with_a_reindex_go_with_forget_and_what_is_spoilt_is_named(farm: Farm) -> None:
    brought(farm, finished(farm), one=3.0, two=3.5)
    farm.queue.redis.hdel("farm:references", "small")
    assert farm("reindex").code == 0
    assert farm.queue.studies.references("small") == farm.store.studies.references("small")
    farm.queue.redis.hset("farm:references", "small", "{")
    (flaw,) = find_flaws(farm.queue.scripts)
    assert "a reference model of 'small'" in str(flaw)
    assert farm("table", "small").code == 1
    assert farm("reindex").code == 0
    assert farm("forget", "small", "--arm", "one").code == 7, "it asks first"
    gone = farm("forget", "small", "--arm", "one", "-y")
    assert [(row["run"], row["was"]) for row in gone.rows] == [("one", "reference")]
    assert [one.name for one in farm.queue.studies.references("small").models] == ["two"]
    assert len(farm.queue.listing.statuses("small")) == 2, "and no run"
    record = farm.store.root / "references" / "small.json"
    whole = record.read_text(encoding="utf-8")
    record.write_text(whole[:-20], encoding="utf-8")
    answer = farm("reindex")
    assert (answer.code, f"{record} is damaged" in answer.err) == (1, True)
    record.write_text(whole, encoding="utf-8")
    assert farm("forget", "small", "-y").code == 0
    assert (farm.queue.studies.references("small").models, record.exists()) == ((), False)
