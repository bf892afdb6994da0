"""`farm data` as it is typed: folders made, shown, and sent to a Hub of this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_server import ASKED, SENT, Failure, Hub, Repo, changes
from huggingface_hub import constants
from safetensors.numpy import load, load_file
from typer.testing import CliRunner

from cli.main import app

from .conftest import ROOT, Answer

TEXTS = [f"document {number} " + "says so " * (number % 9) for number in range(200)]


class Typed:
    """Commands typed in a folder of their own, in this process; no farm is needed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {"HOME": str(folder), "FARM_HOME": str(folder / "home"), "NO_COLOR": "", "COLUMNS": "200"}

    def __call__(self, *words: str) -> Answer:
        said = CliRunner().invoke(app, ["data", *words], env=self.environment)
        return Answer(said.exit_code, said.stdout, said.stderr)

    def prepared(self, folder: str = "tokens", texts: list[str] = TEXTS) -> Path:
        """A small folder of tokens."""
        (self.folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        answer = self(
            "prepare", "corpus.jsonl", folder, "--tokenizer", "bytes", "--validation", "0.1", "--processes", "1"
        )
        assert answer.code == 0, answer.err
        return self.folder / folder


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    monkeypatch.chdir(tmp_path)
    return Typed(tmp_path)


# prepare


def test_a_folder_is_made_once_and_says_what_it_holds(typed: Typed) -> None:
    (typed.folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    words = ("prepare", "corpus.jsonl", "tokens", "--tokenizer", "bytes", "--validation", "10%", "--processes", "2")
    answer = typed(*words)
    train, validation = answer.rows
    assert [row["part"] for row in answer.rows] == ["train", "validation"]
    found = load_file(typed.folder / "tokens" / "train.safetensors")["tokens"]
    assert train["tokens"] == str(len(found))
    assert int(train["documents"]) + int(validation["documents"]) == 200
    assert f"{typed.folder}/tokens: made, " in answer.err
    again = json.loads(typed(*words, "--json").out)
    assert (again["schema"], again["outcome"]) == ("farm.data-prepare/1", "there already")
    assert again["data"][0]["fingerprint"].startswith(train["fingerprint"])
    assert "holds these tokens already; nothing was done" in typed(*words).err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["prepare", "nowhere", "out"], 3, "nowhere does not exist. Name a file or folder, or hf:OWNER/NAME"),
        (
            ["prepare", "a.txt", "out", "--tokenizer", "gpt3"],
            3,
            'gpt3 does not exist. Name a tokenizer.json, or "gpt2"',
        ),
        (["prepare", "a.txt", "out", "--validation", "2.5"], 2, "--validation 2.5 is neither a share nor a number"),
        (["prepare", "a.txt", "a.txt"], 6, "a.txt is a file. Name a folder for the tokens."),
        (["prepare", "builtin:shakespeare", "out"], 2, "'builtin:shakespeare' is unknown. The built-in one is"),
        (["prepare", "hf:nobody", "out"], 2, "'hf:nobody' is not hf:OWNER/NAME"),
        (["prepare", "a.md", "out"], 2, "a.md is not a corpus file; expected one of"),
        (["show", "nowhere"], 3, "nowhere does not exist"),
        (["show", "empty"], 2, "empty has no train split; it holds nothing. Put train.safetensors"),
        (["push", "nowhere", "us/tokens"], 2, "nowhere does not exist. Make one: farm data prepare SOURCE"),
        (["push", "empty", "us/tokens"], 2, "empty is not a folder that farm data prepare finished"),
        (["push", "empty", "tokens"], 2, "'tokens' cannot be a repo: it has no owner. Write OWNER/NAME"),
        (["push", "empty", "us/to--ens"], 2, "'us/to--ens' cannot be a repo: Cannot have -- or .. in repo_id"),
        (["push", "empty", "us/a/b"], 2, "'us/a/b' cannot be a repo: Repo id must be in the form"),
    ],
)
def test_what_cannot_be_is_one_line(typed: Typed, words: list[str], code: int, says: str) -> None:
    (typed.folder / "a.txt").write_text("text")
    (typed.folder / "a.md").write_text("text")
    (typed.folder / "empty").mkdir()
    answer = typed(*words)
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith("error: ")
    assert says in answer.err
    assert answer.err.count("\n") == 1


def test_making_and_showing_import_neither_torch_nor_ray(typed: Typed) -> None:
    typed.prepared()
    code = (
        "import sys\nfrom cli.main import app\n"
        "made = ['prepare', 'corpus.jsonl', 'new', '--tokenizer', 'bytes']\n"
        "for words in (made, ['show', 'new'], ['push', 'new', 'a']):\n"
        "    try: app(['data', *words])\n"
        "    except SystemExit as end: print(end.code)\n"
        "heavy = {'torch', 'ray'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    environment = os.environ | typed.environment | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1] == "2", "the last is refused for its name"


# show


def test_a_prepared_folder_is_shown_by_the_tokenizer_that_made_it(typed: Typed) -> None:
    folder = typed.prepared()
    train, validation = typed("show", "tokens").rows
    manifest = json.loads((folder / "manifest.json").read_text())
    assert train["tokens"] == str(manifest["parts"]["train"]["tokens"])
    assert validation["documents"] == str(manifest["parts"]["validation"]["documents"])
    assert (train["vocabulary"], train["first_words"][:11]) == ("257", "document 0 ")
    told = json.loads(typed("show", "tokens", "--json").out)
    assert told["schema"] == "farm.data-show/1"
    assert [one["fingerprint"] for one in told["data"]] == [one["fingerprint"] for one in manifest["parts"].values()]
    assert told["manifest"]["key"] == manifest["key"]


def test_a_folder_of_a_tokenizer_that_is_not_at_hand_is_counted_by_what_it_says(typed: Typed) -> None:
    vocab = {"<|endoftext|>": 0, "a": 1, "b": 2}
    made_by = typed.folder / "own.json"
    made_by.write_text(json.dumps({"model": {"vocab": vocab}}))
    np.array([1, 2, 0] * 9, np.uint16).tofile(typed.folder / "train.bin")
    assert typed("prepare", "train.bin", "out", "--tokenizer", "own.json", "--validation", "3").code == 0
    answer = typed("show", "out")
    assert [(row["documents"], row["vocabulary"], row["first_words"]) for row in answer.rows] == [
        ("8", "3", ""),
        ("1", "3", ""),
    ]
    assert "own.json made the tokens: name it with --tokenizer to see the first words" in answer.err


def test_shards_are_shown_as_the_file_that_they_are_of(typed: Typed) -> None:
    tokens = np.array([*b"some text", 256, *b"some more", 256, *b"and the rest"], np.uint16)
    for folder, cuts in (("whole", []), ("shards", [4, 15])):
        (typed.folder / folder).mkdir()
        for number, part in enumerate(np.split(tokens, cuts)):
            np.save(typed.folder / folder / f"x_train_{number}.npy", part)
    whole, shards = (typed("show", name, "--tokenizer", "bytes", "--json") for name in ("whole", "shards"))
    whole, shards = (json.loads(answer.out)["data"][0] for answer in (whole, shards))
    same = ("tokens", "documents", "largest", "fingerprint")
    assert [whole[key] for key in same] == [shards[key] for key in same]
    assert (shards["tokens"], shards["documents"], shards["largest"]) == (len(tokens), 3, 256)
    assert whole["first_words"] == "some text<|endoftext|>some more<|endoftext|>and the rest"


def test_text_is_shown_as_the_tokens_that_a_run_would_make(typed: Typed) -> None:
    (typed.folder / "book.txt").write_text("one two\nthree \x1b[31m" + "four " * 90)
    answer = typed("show", "book.txt", "--tokenizer", "bytes")
    assert answer.rows[0]["tokens"] == str(18 + 1 + 450 + 1)
    assert answer.rows[0]["documents"] == "1"
    assert answer.rows[0]["first_words"].startswith("one two three four four"), "one line, and no colours"
    assert answer.rows[0]["first_words"].endswith(" ...")


def test_much_text_is_not_tokenised_to_be_shown(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.corpus import contents

    monkeypatch.setattr(contents, "SMALL_BYTES", 10)
    (typed.folder / "train.txt").write_text("rather long")
    answer = typed("show", ".", "--tokenizer", "bytes")
    assert (answer.rows[0]["tokens"], answer.rows[0]["first_words"]) == ("", "rather long")
    assert "the train part is 0 MiB of text, whose tokens are known once farm data prepare has made them" in answer.err


def test_tokens_of_another_tokenizer_are_said_to_be(typed: Typed) -> None:
    np.array([1, 2, 500] * 9, np.uint16).tofile(typed.folder / "train.bin")
    answer = typed("show", "train.bin", "--tokenizer", "bytes")
    assert "the train part has token 500, and the tokenizer 257 tokens: name the one that made it" in answer.err


# push


def test_a_folder_is_sent_once_as_one_commit_and_then_only_what_changed(typed: Typed, hub: Hub) -> None:
    folder = typed.prepared()
    dry = typed("push", "tokens", "us/tokens", "--dry-run")
    assert (dry.code, changes(hub), hub.repos) == (0, [], {}), dry.err
    assert {row["now"] for row in dry.rows} == {"new"}
    assert f"would be sent to {hub.url}/datasets/us/tokens, a new repo" in dry.err
    first = typed("push", "tokens", "us/tokens")
    assert first.code == 0, first.err
    repo = hub.repos["datasets/us/tokens"]
    assert {name: repo.files[name] for name in os.listdir(folder)} == {
        one.name: one.read_bytes() for one in folder.iterdir()
    }
    assert 'source = "hf:us/tokens"' in repo.files["README.md"].decode()
    assert np.array_equal(
        load(repo.files["train.safetensors"])["tokens"], load_file(folder / "train.safetensors")["tokens"]
    )
    assert len(repo.branches["main"]) == 2, "one commit after the first, which is empty"
    hub.asked.clear()
    again = typed("push", "tokens", "us/tokens")
    assert ({row["now"] for row in again.rows}, changes(hub)) == ({"unchanged"}, [])
    assert "holds all of it already; nothing was sent" in again.err
    (folder / "README.md").write_text("---\nlicense: mit\n---\nOurs.")
    told = json.loads(typed("push", "tokens", "us/tokens", "--json").out)
    assert {one["file"]: one["now"] for one in told["data"]}["README.md"] == "changed"
    assert hub.sent("PUT") == [], "no large file again"
    assert repo.files["README.md"].endswith(b"Ours.")
    assert told["commit"] == repo.branches["main"][-1]


def test_a_card_that_somebody_wrote_on_the_hub_stays(typed: Typed, hub: Hub) -> None:
    typed.prepared()
    hub.repos["datasets/us/tokens"] = Repo()
    hub.repos["datasets/us/tokens"].commit("main", {"README.md": b"mine", "other.txt": b"x"}, "by hand")
    assert typed("push", "tokens", "us/tokens").code == 0
    files = hub.repos["datasets/us/tokens"].files
    assert (files["README.md"], files["other.txt"]) == (b"mine", b"x")


def test_what_was_sent_is_what_a_run_trains_on(typed: Typed, hub: Hub) -> None:
    typed.prepared()
    typed("push", "tokens", "us/tokens", "--private")
    assert hub.repos["datasets/us/tokens"].private
    hub.repos["datasets/us/open"] = Repo()
    answer = typed("push", "tokens", "us/open", "--private")
    assert (answer.code, hub.repos["datasets/us/open"].files) == (6, {})
    assert "us/open is public, and --private makes only a new repo private; nothing was sent." in answer.err
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(typed.folder / "hf"), "HF_TOKEN": "hf_write", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "cli.main", "data", "show", "hf:us/tokens", "--tokenizer", "bytes", "--json"]
    said = subprocess.run(words, env=os.environ | typed.environment | own, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout)["data"] == json.loads(typed("show", "tokens", "--json").out)["data"]


TOKENS = {
    "hf_read": (
        "the token 'read-token' of us may not write to us/tokens; nothing was sent. Make one that may write",
        "us",
    ),
    "hf_other": ("the token 'fineGrained-token' of us may not write to us/tokens; nothing was sent", "us"),
    "hf_them": (
        "the token is that of them, who may not write to us; nothing was sent. Write one of them as the owner",
        "us",
    ),
    "hf_wrong": (" refuses to say whose token this is: Invalid user token. The token from HF_TOKEN", "us"),
    "": ("there is no token of the Hugging Face Hub on this machine. Make one that may write at", "us"),
    "hf_write": (
        "the token is that of us, who may not write to readers; nothing was sent. Write one of us, lab",
        "readers",
    ),
}


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_token_that_may_not_write_is_told_before_anything_is_sent(
    typed: Typed, hub: Hub, token: str, dry: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed.prepared()
    hub.add_token("hf_read", "us", "read")
    hub.add_token("hf_them", "them")
    other = {"entity": {"type": "dataset", "name": "us/other"}, "permissions": ["repo.write"]}
    weak = {"entity": {"type": "user", "name": "us"}, "permissions": ["repo.content.read"]}
    hub.add_token("hf_other", "us", "fineGrained", scopes=[other, weak])
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(typed.folder / "none"))
    says, owner = TOKENS[token]
    answer = typed("push", "tokens", f"{owner}/tokens", *dry)
    assert (answer.code, answer.out) == (4, "")
    assert says in answer.err
    assert changes(hub) == []
    assert token not in answer.err or not token


@pytest.mark.parametrize("entity", ["us/tokens", "us"])
def test_a_fine_grained_token_with_the_permission_may_write(
    typed: Typed, hub: Hub, entity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed.prepared()
    hub.add_token("hf_fine", "us", "fineGrained", scopes=[{"entity": {"name": entity}, "permissions": ["repo.write"]}])
    monkeypatch.setenv("HF_TOKEN", "hf_fine")
    assert typed("push", "tokens", "us/tokens").code == 0


@pytest.mark.parametrize("broken", ["PUT /lfs/", "/commit/", "objects/batch"])
def test_a_push_that_breaks_off_shows_nothing_and_is_repeated(typed: Typed, hub: Hub, broken: str) -> None:
    typed.prepared()
    hub.fail[broken] = 400
    answer = typed("push", "tokens", "us/tokens")
    assert (answer.code, answer.out) == (5, "")
    assert "did not take us/tokens: " in answer.err
    assert answer.err.strip().endswith("Run the command again: it sends only what is missing.")
    assert hub.repos["datasets/us/tokens"].files == {}, "no half of it"
    hub.fail.clear()
    assert typed("push", "tokens", "us/tokens").code == 0


def test_a_damaged_folder_is_not_sent(typed: Typed, hub: Hub) -> None:
    folder = typed.prepared()
    path = folder / "train.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    answer = typed("push", "tokens", "us/tokens")
    assert (answer.code, hub.asked) == (2, [])
    assert "train.safetensors is not what its manifest.json says. Make it again with farm data prepare." in answer.err


ASKING = ["GET /api/whoami-v2", "GET /api/datasets/us/tokens", "GET /api/datasets/us/tokens/tree"]
SENDING: dict[str, set[Failure]] = {  # and the answers that the client takes for a good one, or finds wrong later
    "POST /api/repos/create": {409},
    "POST /api/validate-yaml": {401, 403, 404, 409, 429, 503, "gone"},
    "/preupload/": set(),
    "objects/batch": set(),
    "PUT /lfs/": {"page", "shape"},
    "/verify": {"page", "shape"},
    "/commit/": set(),
}


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("moment", ASKING)
def test_a_hub_that_cannot_be_asked_is_said_before_anything_is_sent(typed: Typed, hub: Hub, moment: str) -> None:
    typed.prepared()
    hub.repos["datasets/us/tokens"] = Repo()
    for failure, (code, says) in ASKED.items():
        hub.fail = {moment: failure}
        answer = typed("push", "tokens", "us/tokens")
        assert (answer.code, answer.out, changes(hub)) == (code, "", []), (failure, answer.err)
        assert says in answer.err.splitlines()[-1]
        assert "did not take" not in answer.err
        assert code == 4 or "Nothing was sent. " in answer.err
        dry = typed("push", "tokens", "us/tokens", "--dry-run")
        if code == 4:
            assert (dry.code, dry.out) == (4, ""), failure
        else:
            assert (dry.code, [row["now"] for row in dry.rows]) == (0, ["unknown"] * 4), (failure, dry.err)
        assert "did not take" not in dry.err
    assert "Unless it is there, this would be sent to " in dry.err


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("moment", SENDING)
def test_a_sending_that_fails_in_any_way_shows_nothing_and_is_repeated(typed: Typed, hub: Hub, moment: str) -> None:
    typed.prepared()
    for failure, (code, says) in SENT.items():
        if failure in SENDING[moment]:
            continue
        hub.repos.clear()
        hub.large.clear()
        hub.fail = {moment: failure}
        answer = typed("push", "tokens", "us/tokens")
        assert (answer.code, answer.out) == (code, ""), (failure, answer.err)
        assert says in answer.err.splitlines()[-1], failure
        assert all(repo.files == {} for repo in hub.repos.values()), "no half of it"
    hub.fail.clear()
    assert typed("push", "tokens", "us/tokens").code == 0


def test_without_a_network_a_dry_run_shows_all_and_a_push_ends_at_once(
    typed: Typed, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed.prepared()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    dry = typed("push", "tokens", "us/tokens", "--dry-run")
    assert (dry.code, {row["now"] for row in dry.rows}) == (0, {"unknown"})
    says = "dry run: http://127.0.0.1:9 could not be reached: [Errno 111] Connection refused. Unless it is there, this"
    assert f"{says} would be sent to http://127.0.0.1:9/datasets/us/tokens: 4 of 4 files, " in dry.err
    told = json.loads(typed("push", "tokens", "us/tokens", "--dry-run", "--json").out)
    assert (told["is_new"], told["commit"], told["unanswered"] in dry.err) == (None, None, True)
    real = typed("push", "tokens", "us/tokens")
    assert (real.code, real.out) == (5, "")
    assert "Connection refused. Nothing was sent. Run it again when there is a network." in real.err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = typed("push", "tokens", "us/tokens")
    assert (offline.code, "offline mode is enabled" in offline.err) == (5, True)
