"""`farm publish`: models and studies sent to a Hub of this machine, their cards, and what is refused."""

import json
import re
from pathlib import Path

import pytest
from hub_server import Hub, Repo, changes
from huggingface_hub import constants
from worlds import corpus

from cli.publish.study import branch
from cli.report.gather import gather
from farm.record.sample import Sample
from farm.site.settings import Settings
from farm.study.study import Study

from .conftest import Farm
from .publishing import MODEL, TOKENIZER, front, keep, publishable, published, trained


def test_a_run_is_published_once_as_one_commit_that_transformers_loads(farm: Farm, hub: Hub, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = trained(farm).run
    dry = farm("publish", run.id, "us/small", "--dry-run")
    assert (dry.code, changes(hub), hub.repos) == (0, [], {}), dry.err
    assert {row["now"] for row in dry.rows} == {"new"}
    assert {row["file"] for row in dry.rows} == MODEL | TOKENIZER
    assert f"would be sent to {hub.url}/us/small, a new repo" in dry.err
    assert "# small" in dry.err
    files = published(farm, hub, run.id, "us/small")
    repo = hub.repos["models/us/small"]
    assert set(files) == MODEL | TOKENIZER
    assert len(repo.branches["main"]) == 2, "one commit after the first, which is empty"
    assert {row["file"]: int(row["bytes"].replace(",", "")) for row in dry.rows} == {
        name: len(content) for name, content in files.items()
    }
    assert files["README.md"].decode().strip() in dry.err
    for name, content in files.items():
        (tmp_path / "got").mkdir(exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path / "got", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "got")
    assert theirs.generate(**tokenizer("def ", return_tensors="pt"), max_new_tokens=3).shape == (1, 7)
    hub.asked.clear()
    again = farm("publish", run.id, "us/small")
    assert ({row["now"] for row in again.rows}, changes(hub)) == ({"unchanged"}, []), again.err
    assert "holds all of it already; nothing was sent" in again.err


def test_the_card_says_what_the_records_say(farm: Farm, hub: Hub) -> None:
    claim = trained(farm)
    run, told = claim.run, farm.store.runs.result(claim.run.id)
    assert told is not None
    content = published(farm, hub, run.id, "us/small")["README.md"]
    card, data = content.decode().replace("\\", ""), front(content)
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    assert {"farm", "gpt2"} <= {*data["tags"]}
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == 5.5
    for words in (
        f"microbatch {told.plan.microbatch} x {told.plan.accumulation} accumulated x {told.plan.world} worker"
        " = 4 sequences of 16 tokens, 64 tokens a step",
        "42 for the weights, 23 for the order of the data and dropout",
        "| hardware | a CPU, 2 cores, 4.0 GiB of memory |",
        "This model has the best one of the 2 runs behind that.",
        'After step 4, from "and":',
        "| cost | $1.50 |",
        "0.25 kWh (of the CPU packages, by RAPL)",
        "5.5000 nats per token",
        "Over 2 seed pairs, baseline on cpu has a mean test",
        "SD 0.0007",
        "This is the baseline on cpu",
        "no-dropout on cpu is better than the baseline by 0.2000 nats (95 % interval",
        "The arm baseline is the baseline.",
        'AutoModelForCausalLM.from_pretrained("us/small")',
        'AutoTokenizer.from_pretrained("us/small")',
        f"| first weights (sha256) | {told.fingerprints.initial} |",
        f"| last weights (sha256) | {told.fingerprints.final} |",
        f"| run | {run.id} |",
        "vocab = 257",
    ):
        assert words in card, words
    said = farm.store.samples.of(run.id)
    blocks = re.findall(r"After step (\d+), from ", card)
    assert blocks == ["0", "1", "2", "3", "4", "4"], "how the first prompt became coherent, and the end of the other"
    assert said[-1].prompt == "and"
    facts = json.loads(hub.repos["models/us/small"].files["farm.json"])
    assert facts["result"]["fingerprints"]["final"] == told.fingerprints.final
    assert "host" not in facts["result"]["hardware"]


def test_of_an_arm_the_first_seed_pair_is_sent_and_not_the_lowest_loss(farm: Farm, hub: Hub) -> None:
    first = trained(farm).run
    answer = farm("publish", "baseline", "us/base", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert (told["schema"], told["run"], told["study"]) == ("farm.publish/1", first.id, "small")
    assert f"{first.id} is of 2 runs of baseline the one of the first seed pair" in answer.err
    farm.queue.put(publishable(name="twin"))
    both = farm("publish", "baseline", "us/base")
    assert (both.code, both.out) == (6, "")
    assert "2 studies have an arm 'baseline': small, twin. Write --study small." in both.err
    assert farm("publish", "baseline", "us/base", "--study", "small").code == 0
    unknown = farm("publish", "basline", "us/base", "--study", "small")
    assert (unknown.code, "did you mean 'baseline'?" in unknown.err) == (3, True)


def test_chosen_checkpoints_are_revisions(farm: Farm, hub: Hub) -> None:
    run = trained(farm).run
    kept = sorted({step for step, _, _ in farm.store.runs.checkpoints(run.id)})
    earlier = str(kept[0])
    files = published(farm, hub, run.id, "us/small", "--checkpoint", earlier, "--checkpoint", earlier)
    repo, name = hub.repos["models/us/small"], f"step-{kept[0]:08d}"
    assert repo.branches.keys() == {"main", name}
    branch = repo.trees[repo.branches[name][-1]]
    assert branch.keys() == files.keys()
    assert json.loads(branch["farm.json"])["step"] == kept[0]
    assert f'revision="{name}"' in files["README.md"].decode()
    hub.asked.clear()
    assert farm("publish", run.id, "us/small", "--checkpoint", earlier).code == 0
    assert changes(hub) == []
    missing = farm("publish", run.id, "us/small", "--checkpoint", "77")
    assert (missing.code, changes(hub)) == (3, [])
    assert "no intact checkpoint of step 77" in missing.err


BROKEN = ["PUT /lfs/", "/commit/main", "/commit/step", "objects/batch", "/branch/"]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_breaks_off_leaves_no_half_a_card_and_is_repeated(farm: Farm, hub: Hub, broken: str) -> None:
    run = trained(farm).run
    step = str(farm.store.runs.checkpoints(run.id)[-1][0])
    words = (run.id, "us/small", "--checkpoint", step)
    hub.fail[broken] = 400
    answer = farm("publish", *words)
    assert (answer.code, answer.out) == (5, "")
    assert answer.err.strip().endswith("Run the command again: it sends only what is missing.")
    repo = hub.repos["models/us/small"]
    assert repo.files == {}, "no half of it"
    assert all(not files or {*files} == MODEL | TOKENIZER for files in repo.trees.values()), "whole, wherever it is"
    hub.fail.clear()
    assert {*published(farm, hub, *words)} == MODEL | TOKENIZER


def test_a_repeat_sends_what_changed_and_removes_what_is_gone(farm: Farm, hub: Hub) -> None:
    run = trained(farm).run
    published(farm, hub, run.id, "us/small")
    repo = hub.repos["models/us/small"]
    marker = json.loads(repo.files["farm.json"])
    marker["files"].append("old.txt")
    changed = repo.files | {"old.txt": b"farm's", "theirs.txt": b"mine", "farm.json": json.dumps(marker).encode()}
    repo.commit("main", changed | {"config.json": b"{}"}, "by hand")
    hub.asked.clear()
    answer = farm("publish", run.id, "us/small")
    now = {row["file"]: row["now"] for row in answer.rows}
    assert (now["config.json"], now["old.txt"], now["model.safetensors"]) == ("changed", "removed", "unchanged")
    assert hub.sent("PUT") == [], "no large file again"
    assert repo.files["theirs.txt"] == b"mine"
    assert "old.txt" not in repo.files


def test_a_card_that_was_edited_on_the_hub_stays_unless_forced(farm: Farm, hub: Hub) -> None:
    run = trained(farm).run
    sent = published(farm, hub, run.id, "us/small")["README.md"]
    repo = hub.repos["models/us/small"]
    repo.commit("main", repo.files | {"README.md": b"---\nlicense: mit\n---\nOurs."}, "by hand")
    for _ in range(2):
        answer = farm("publish", run.id, "us/small")
        assert {row["file"]: row["now"] for row in answer.rows}["README.md"] == "kept"
        assert "was edited on the Hub and is kept; --force replaces it" in answer.err
        assert repo.files["README.md"].endswith(b"Ours.")
    assert published(farm, hub, run.id, "us/small", "--force")["README.md"] == sent


def test_a_repo_of_others_or_of_another_run_is_left_alone_unless_forced(farm: Farm, hub: Hub) -> None:
    run = trained(farm).run
    hub.repos["models/us/theirs"] = Repo()
    hub.repos["models/us/theirs"].commit("main", {".gitattributes": b"", "README.md": b"mine"}, "by hand")
    hub.repos["models/us/empty"] = Repo()
    hub.repos["models/us/empty"].commit("main", {".gitattributes": b""}, "by the Hub")
    marker = json.dumps({"schema": "farm.published/1", "of": "run another"}).encode()
    hub.repos["models/us/another"] = Repo()
    hub.repos["models/us/another"].commit("main", {"farm.json": marker}, "by farm")
    for name, says in (("theirs", "farm did not put there: README.md"), ("another", f"run another, not run {run.id}")):
        for dry in ((), ("--dry-run",)):
            answer = farm("publish", run.id, f"us/{name}", *dry)
            assert (answer.code, answer.out, changes(hub)) == (6, "", [])
            assert f"/us/{name} holds " in answer.err
            assert says in answer.err
    assert farm("publish", run.id, "us/empty").code == 0
    files = published(farm, hub, run.id, "us/theirs", "--force")
    assert {*files} == MODEL | TOKENIZER | {".gitattributes"}
    assert b"mine" not in files["README.md"]


def test_a_new_repo_is_private_if_asked(farm: Farm, hub: Hub) -> None:
    run = trained(farm).run
    published(farm, hub, run.id, "lab/small", "--private")
    assert hub.repos["models/lab/small"].private
    hub.repos["models/us/open"] = Repo()
    answer = farm("publish", run.id, "us/open", "--private")
    assert (answer.code, hub.repos["models/us/open"].files) == (6, {})
    assert "us/open is public, and --private makes only a new repo private; nothing was sent." in answer.err


def test_gpt2s_tokenizer_is_loaded_from_its_own_repo_where_its_files_are_not_here(farm: Farm, hub: Hub) -> None:
    farm.environment["TIKTOKEN_CACHE_DIR"] = str(farm.folder / "none")
    run = trained(farm, source=corpus(farm.folder), vocab=50257).run
    files = published(farm, hub, run.id, "us/small")
    card = files["README.md"].decode().replace("\\", "")
    assert {*files} == MODEL
    assert 'AutoTokenizer.from_pretrained("openai-community/gpt2")' in card
    assert "There is no tokenizer here**: it is GPT-2's, which is in openai-community/gpt2." in card
    assert str(farm.folder) not in card


def test_markup_in_names_and_samples_stays_text(farm: Farm, hub: Hub) -> None:
    evil = r'"</pre><script>x</script> ```\n---\nlicense: evil\n---\n# Owned\u001b[31m | [a](http://b)"'
    folder = farm.folder / "a`b|c <img src=x>: [x]"
    folder.mkdir()
    run = trained(farm, source=corpus(folder), vocab=67, prompt='"0"').run
    told = {"step": 4, "text": "```` and\r\n~~~", "tokens": (1,), "tokenizer": "bytes"}
    sample = Sample(prompt=json.loads(evil), temperature=1, top_k=25, seed=1, seconds=0, **told)
    with (farm.store.folder(run.id) / "1" / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.write(sample.model_dump_json() + "\n")
    content = published(farm, hub, run.id, "us/small")["README.md"]
    card = content.decode()
    assert "license" not in front(content)
    assert "\x1b" not in card
    block = re.search(r"^(`{5,})text\n(.*?)\n\1$", card, re.DOTALL | re.MULTILINE)
    assert block, "a fence longer than any in it"
    assert "# Owned" in block[2]
    outside = card.replace(block[0], "")
    assert "<img" not in outside.split("```toml")[0].split("---\n", 2)[2]
    assert "a\\`b\\|c" in outside, "of a path its last part, escaped"
    assert str(farm.folder) not in card
    assert "There is no tokenizer here" in card
    assert "use the tokenizer that made a" in card
    assert "AutoTokenizer" not in card


TOKENS = {
    "hf_read": "the token 'read-token' of us may not write to us/small; nothing was sent. Make one that may write",
    "": "there is no token of the Hugging Face Hub on this machine. Make one that may write at",
    "hf_them": "the token is that of them, who may not write to us; nothing was sent. Write one of them as the owner",
}


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_that_may_not_write_is_told_before_the_export(
    farm: Farm, hub: Hub, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm.put(name="small", init=(42,))
    claim = farm.claim()
    farm.finish(claim, 3.7)  # without a checkpoint: an export would fail
    hub.add_token("hf_read", "us", "read")
    hub.add_token("hf_them", "them")
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(farm.folder / "none"))
    answer = farm("publish", claim.run.id, "us/small")
    assert (answer.code, answer.out) == (4, "")
    assert TOKENS[token] in answer.err
    assert changes(hub) == []


def test_a_dry_run_needs_no_token(farm: Farm, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(farm).run
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(farm.folder / "none"))
    answer = farm("publish", run.id, "us/small", "--dry-run", "--json")
    assert (answer.code, changes(hub)) == (0, []), answer.err
    told = json.loads(answer.out)
    assert told["card"].startswith("---\n")
    assert (told["is_new"], told["commit"], told["dry_run"]) == (True, None, True)


def test_what_cannot_be_published_is_one_line(farm: Farm, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    farm.put(name="small", init=(42,))
    claim = farm.claim()
    for words, code, says in (
        ((claim.run.id, "us/small"), 6, f"{claim.run.id} is running, at step 1 of 10: only a finished run is"),
        (("baseline", "us/small"), 6, "no run of baseline in small is finished; nothing was sent. Wait for one: farm"),
        (("small", "us/small"), 3, "small: no run has finished yet; nothing was sent. Wait for one: farm watch small"),
        (("small", "us/small", "--checkpoint", "3"), 2, "small is a study, and has no checkpoints."),
        (("nothing", "us/small"), 3, "there is no run, arm or study 'nothing'"),
        (("small", "small"), 2, "'small' cannot be a repo: it has no owner. Write OWNER/NAME"),
        (("small", "us/a..b"), 2, "'us/a..b' cannot be a repo: "),
    ):
        answer = farm("publish", *words)
        assert (answer.code, answer.out, answer.err.count("\n")) == (code, "", 1), answer.err
        assert says in answer.err
    farm.finish(claim, 3.7)
    lost = farm("publish", claim.run.id, "us/small")
    assert (lost.code, "is not there. Is FARM_STORAGE the farm's storage?" in lost.err) == (1, True)
    assert changes(hub) == []
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    away = farm("publish", claim.run.id, "us/small")
    assert (away.code, away.out) == (5, "")
    assert "http://127.0.0.1:9 could not be reached: [Errno 111] Connection refused. Nothing was sent." in away.err


def test_a_study_is_published_with_its_report_and_repeated_without_a_change(
    farm: Farm, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm.put()
    farm.finish_all()
    answer = farm("publish", "tiny", "us/tiny")
    assert answer.code == 0, answer.err
    files = hub.repos["datasets/us/tiny"].files
    assert files.keys() == {"README.md", "farm.json", "ranking.json", "report.html", "study.toml"}
    card = files["README.md"].decode().replace("\\", "")
    assert front(files["README.md"])["viewer"] is False
    rows = json.loads(files["ranking.json"])["data"]
    for row in rows:
        if row["verdict"]:
            assert f"{row['arm']} on cpu is {row['verdict']} than the baseline by {abs(row['delta']):.4f} nats" in card
    assert "9 of 9 runs are finished" in card
    assert "| remove-dropout | model.dropout: 0.1 → 0.0 |" in card
    assert "| gradient-clipping | train.clip_grad_norm: none → 3.5 |" in card
    assert [run.id for run in Study.parse(files["study.toml"].decode()).runs()] == [
        run.id for run in farm.queue.studies.one("tiny").runs()
    ]
    assert b"<!doctype html>" in files["report.html"].lower()[:100]
    hub.asked.clear()
    again = farm("publish", "tiny", "us/tiny")
    assert ({row["now"] for row in again.rows}, changes(hub)) == ({"unchanged"}, []), again.rows
    for key, value in farm.environment.items():
        monkeypatch.setenv(key, value)
    material = gather(Settings.load(), farm.queue, "tiny")
    early, late = (branch(material._replace(when=when), "us/tiny").contents for when in (1e9, 2e9))
    assert early == late, "whenever it is made"


def test_without_a_network_a_dry_run_shows_everything(farm: Farm, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(farm).run
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    dry = farm("publish", run.id, "us/small", "--dry-run")
    assert dry.code == 0, dry.err
    assert ({row["file"] for row in dry.rows}, {row["now"] for row in dry.rows}) == (MODEL | TOKENIZER, {"unknown"})
    says = "dry run: http://127.0.0.1:9 could not be reached: [Errno 111] Connection refused. Unless it is there, this"
    assert f"{says} would be sent to http://127.0.0.1:9/us/small: 8 of 8 files" in dry.err
    assert "# small" in dry.err, "the card"
    told = json.loads(farm("publish", run.id, "us/small", "--dry-run", "--json").out)
    assert (told["is_new"], told["unanswered"] in dry.err) == (None, True)
    keep(farm, "http://127.0.0.1:9", "us/base")
    of_study = farm("publish", "small", "us/report", "--dry-run")
    assert (of_study.code, {row["now"] for row in of_study.rows}) == (0, {"unknown"})
    assert "dry run: the collection small of us is to hold us/report, us/base" in of_study.err
