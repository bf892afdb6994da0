"""`farm data prepare` without the command: the tokens of training, whatever happens on the way to them.

Longer than other files, since all of it needs the same small corpora.
"""

import gzip
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiktoken
from corpora import DOCUMENTS, ROOT, output, python, tokens_of
from safetensors.numpy import load_file
from waiting import wait_until

from farm.errors import BadCorpus, BadSetting, Conflict, StorageFull
from farm.study.recipe import Data
from model.corpus import cuts, holdout
from model.corpus.preparing import Done, Outcome, prepare
from model.corpus.sources import open_split

TEXTS = [f"document {number}: " + "naïve words of no use " * (number % 7) for number in range(300)]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few documents in each, so that a small corpus has many."""
    monkeypatch.setattr(cuts, "PART_BYTES", 1000)
    monkeypatch.setattr(cuts, "WINDOW", 16)


def made(source: Path, folder: Path, asked: float | int | None = None, processes: int = 1, **data: str) -> Outcome:
    data = {"tokenizer": "bytes"} | data
    cache = folder.parent / "cache"
    return prepare(Data(source=str(source), **data), asked, folder, cache, processes, lambda done: None)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tokens(folder: Path, split: str = "train") -> np.ndarray:
    return load_file(folder / f"{split}.safetensors")["tokens"]


def write(folder: Path, kind: str, texts: list[str] = TEXTS, split: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    if kind == "parquet":
        pq.write_table(
            pa.table({"n": range(len(texts)), "text": texts}), folder / f"{split}.parquet", row_group_size=77
        )
    elif kind == "one-group":
        pq.write_table(pa.table({"text": texts}), folder / f"{split}.parquet")
    elif kind == "jsonl":
        (folder / f"{split}.jsonl").write_text("\ufeff" + lines)
    elif kind == "gz":
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    else:
        for number, text in enumerate((" ".join(texts), "\ufeffshort", "")):
            (folder / f"{split}-{number}.txt").write_text(text)
    return folder


# The same tokens


@pytest.mark.parametrize("kind", ["parquet", "one-group", "jsonl", "gz", "txt"])
@pytest.mark.parametrize("tokenizer", ["bytes", "gpt2"])
def test_the_tokens_are_those_of_training_on_the_text(
    tmp_path: Path, pieces: tiktoken.Encoding, kind: str, tokenizer: str
) -> None:
    source = write(tmp_path / "source", kind)
    write(source, kind, DOCUMENTS, "validation")
    outcome = made(source, tmp_path / "out", tokenizer=tokenizer)
    for split in ("train", "validation"):
        data = Data(source=str(source), tokenizer=tokenizer)
        found = tokens(tmp_path / "out", split)
        assert np.array_equal(found, open_split(data, split, tmp_path / "cache")), split
        assert found.dtype == np.uint16
        part = outcome.manifest.parts[split]
        assert (part.tokens, part.documents) == (
            len(found),
            int((found == outcome.manifest.tokenizer.end_of_text).sum()),
        )
        assert np.array_equal(open_split(Data(source=str(tmp_path / "out")), split, tmp_path / "cache"), found)
    if kind != "gz":
        parts = cuts.cut(next(source.glob("train*")), "text", _tokenizer(tokenizer))
        assert len(parts) > 10, "there is something to share out"


def _tokenizer(name: str) -> cuts.Tokenizer:
    return cuts.BYTES if name == "bytes" else cuts.GPT2


@pytest.mark.parametrize("kind", ["parquet", "one-group", "jsonl", "txt"])
def test_parts_follow_each_other_and_leave_nothing_out(tmp_path: Path, kind: str) -> None:
    path = next(write(tmp_path, kind).glob("train*"))
    parts = cuts.cut(path, "text", cuts.BYTES)
    assert parts[0].start == 0
    assert all(before.stop == after.start for before, after in pairwise(parts))
    assert parts[-1].stop == (len(TEXTS) if path.suffix == ".parquet" else path.stat().st_size)
    assert [part.closes for part in parts] == [kind != "txt"] * (len(parts) - 1) + [True]


def test_tokens_that_others_made_become_a_folder_of_16_bits(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shards = [tokens_of(400 + number, number).astype(np.int64) for number in range(3)]
    for number, shard in enumerate(shards):
        np.save(source / f"x_train_{number}.npy", shard)
    tokens_of(90, 9).tofile(source / "x_val_0.bin")
    outcome = made(source, tmp_path / "out", tokenizer="gpt2")
    assert np.array_equal(tokens(tmp_path / "out"), np.concatenate(shards))
    assert np.array_equal(tokens(tmp_path / "out", "validation"), tokens_of(90, 9))
    assert [one.name for one in outcome.manifest.inputs] == [*(f"x_train_{n}.npy" for n in range(3)), "x_val_0.bin"]


def test_text_that_is_named_after_no_split_is_all_of_it(tmp_path: Path) -> None:
    """As the files of FineWeb are: 000_00000.parquet."""
    source = tmp_path / "10BT"
    source.mkdir()
    for number in range(3):
        share = TEXTS[number * 100 : number * 100 + 100]
        pq.write_table(pa.table({"text": share}), source / f"00{number}_00000.parquet")
    outcome = made(source, tmp_path / "out", 0.1)
    assert sum(part.documents for part in outcome.manifest.parts.values()) == 300
    (source / "notes.txt").write_text("x")
    with pytest.raises(
        BadCorpus, match=r"10BT holds text as .parquet and .txt, and none is named after the train split"
    ):
        made(source, tmp_path / "other")


# The same bytes


def test_two_processes_make_the_bytes_of_one(tmp_path: Path, pieces: tiktoken.Encoding) -> None:
    source = write(tmp_path / "source", "jsonl")
    made(source, tmp_path / "one" / "out", tokenizer="gpt2")
    outcome = made(source, tmp_path / "two" / "out", processes=2, tokenizer="gpt2")
    assert content(tmp_path / "one" / "out") == content(tmp_path / "two" / "out")
    assert {*content(tmp_path / "two" / "out")} == {"train.safetensors", "validation.safetensors", "manifest.json"}
    assert outcome.why == "made"


class Stopped(BaseException):
    """What a kill is to the code: nothing more is done."""


def test_who_is_stopped_anywhere_goes_on_to_the_same_bytes_and_repeats_no_piece(tmp_path: Path) -> None:
    source = write(tmp_path / "source", "parquet")
    data = Data(source=str(source), tokenizer="bytes")
    said: list[Done] = []
    prepare(data, None, tmp_path / "whole", tmp_path / "cache", 1, said.append)
    whole = content(tmp_path / "whole")
    folder = tmp_path / "out"
    for _ in range(len(said)):
        calls: list[Done] = []

        def stop(done: Done, calls: list[Done] = calls) -> None:
            calls.append(done)
            if len(calls) > 1 and done.tokens:  # one more piece each time
                raise Stopped

        try:
            outcome = prepare(data, None, folder, tmp_path / "cache", 1, stop)
        except Stopped:
            assert not (folder / "manifest.json").exists()
            continue
        break
    assert outcome.why == "went on"
    assert content(folder) == whole
    assert len(said) > 20


def test_who_is_stopped_while_the_files_change_places_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each file that is placed, and before the manifest: of a folder that is made again from a changed input."""
    from model.corpus import preparing

    old, new = write(tmp_path / "old" / "source", "jsonl"), write(tmp_path / "new" / "source", "jsonl", TEXTS[:200])
    made(new, tmp_path / "whole")
    for step in ("place", "write_whole"):
        for nth in (1, 2)[: 2 if step == "place" else 1]:
            folder, left = tmp_path / f"{step}{nth}" / "out", nth
            made(old, folder)
            real = getattr(preparing, step)

            def stop(*words: object, real: object = real, **named: object) -> None:
                nonlocal left
                left -= 1
                if not left:
                    raise Stopped
                real(*words, **named)  # type: ignore[operator]

            with monkeypatch.context() as patch:
                patch.setattr(preparing, step, stop)
                with pytest.raises(Stopped):
                    made(new, folder)
            assert not (folder / "manifest.json").exists(), "it does not say that it is finished"
            assert made(new, folder).why == "went on"
            assert content(folder) == content(tmp_path / "whole")


PREPARE = """
import sys
from pathlib import Path
from farm.study.recipe import Data
from model.corpus import cuts
from model.corpus.preparing import prepare
if __name__ == "__main__":
    cuts.PART_BYTES = 10_000
    source, folder = sys.argv[1:]
    data = Data(source=source, tokenizer="bytes")
    print(prepare(data, None, Path(folder), Path(folder).parent / "cache", 2, lambda done: None).why)
"""


def test_a_kill_9_costs_the_pieces_in_work_and_leaves_no_process(tmp_path: Path) -> None:
    source, folder, code = write(tmp_path / "source", "jsonl", TEXTS * 20), tmp_path / "a" / "out", tmp_path / "code.py"
    code.write_text(PREPARE)
    command = [sys.executable, str(code), str(source)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*command, str(folder)], env=environment) as process:
        wait_until(lambda: [*folder.glob(".preparing/*/*")], "a piece is there", seconds=60)
        children = _children(process.pid)
        process.kill()
    wait_until(lambda: not any(map(_is_alive, children)), "the processes that it started end", seconds=10)
    assert len(children) >= 2
    assert not (folder / "manifest.json").exists()
    for one in (folder, tmp_path / "b" / "out"):
        said = subprocess.run([*command, str(one)], env=environment, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == ("went on" if one == folder else "made")
    assert content(folder) == content(tmp_path / "b" / "out")


def _children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Once


def test_a_repeat_does_nothing_also_from_another_place(tmp_path: Path) -> None:
    source = write(tmp_path / "a" / "source", "txt")
    assert made(source, tmp_path / "out").why == "made"
    before = {path.name: (*path.stat()[:2], path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()}
    assert made(source, tmp_path / "out").why == "there already"
    moved = tmp_path / "b" / "source"
    moved.parent.mkdir()
    source.rename(moved)
    assert made(moved, tmp_path / "out", processes=2).why == "there already"
    after = {path.name: (*path.stat()[:2], path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()}
    assert after == before


def test_a_changed_input_and_a_damaged_output_are_made_again(tmp_path: Path) -> None:
    source = write(tmp_path / "source", "jsonl")
    made(source, tmp_path / "out")
    first = content(tmp_path / "out")
    (source / "train.jsonl").write_text(json.dumps({"text": "another " * 40}))
    assert made(source, tmp_path / "out").why == "made again: train.jsonl changed"
    assert content(tmp_path / "out") != first
    write(source, "jsonl")
    made(source, tmp_path / "out")
    assert content(tmp_path / "out") == first
    path = tmp_path / "out" / "train.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    assert made(source, tmp_path / "out").why == "made again: train.safetensors had changed"
    assert content(tmp_path / "out") == first


def test_pieces_of_another_content_are_not_used(tmp_path: Path) -> None:
    source = write(tmp_path / "source", "jsonl")
    data = Data(source=str(source), tokenizer="bytes")

    def stop(done: Done) -> None:
        if done.tokens > 3000:
            raise Stopped

    with pytest.raises(Stopped):
        prepare(data, None, tmp_path / "out", tmp_path / "cache", 1, stop)
    write(source, "jsonl", TEXTS[::-1])
    assert made(source, tmp_path / "out").why == "made"
    made(source, tmp_path / "other")
    assert content(tmp_path / "out") == content(tmp_path / "other")


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "source", "txt")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(Conflict, match=r"mine holds thesis.tex, which farm data prepare did not make. Name a new"):
        made(source, tmp_path / "mine")
    with pytest.raises(Conflict, match=r"thesis.tex is a file. Name a folder"):
        made(source, tmp_path / "mine" / "thesis.tex")
    made(source, tmp_path / "out", 0.1)
    with pytest.raises(
        Conflict, match=r"made otherwise: tokenizer bytes, not gpt2; validation|tokenizer bytes, not gpt2"
    ):
        made(source, tmp_path / "out", 0.1, tokenizer="gpt2")
    (tmp_path / "b.txt").write_text("text")
    with pytest.raises(
        Conflict, match=r"made otherwise: source source, not b.txt, validation 0.1, not 0.2. Name another"
    ):
        made(tmp_path / "b.txt", tmp_path / "out", 0.2)
    (tmp_path / "out" / "manifest.json").write_text("{}")
    with pytest.raises(BadCorpus, match=r"manifest.json is not a manifest that farm data prepare wrote"):
        made(source, tmp_path / "out", 0.1)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "source", "txt")

    def again(done: Done) -> None:
        with pytest.raises(Conflict, match=r"another farm data prepare is writing \S+/out. Wait"):
            made(source, tmp_path / "out")
        raise Stopped

    with pytest.raises(Stopped):
        prepare(Data(source=str(source), tokenizer="bytes"), None, tmp_path / "out", tmp_path / "cache", 1, again)


def test_a_disk_without_room_is_seen_before_anything_is_written(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    with (tmp_path / "train.bin").open("wb") as file:
        file.truncate(free // 4 * 2 + 2**30)  # a hole; its tokens take this much twice
    with pytest.raises(
        StorageFull, match=r"GiB of input may need \S+ GiB while its tokens are made, and \S+ GiB are free"
    ):
        made(tmp_path / "train.bin", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["a file/out", "a file/far/out"])
def test_a_folder_that_cannot_be_is_named_with_what_stands_in_the_way(tmp_path: Path, place: str) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "corpus.txt").write_text("a corpus\n" * 99)
    data = Data(source=str(tmp_path / "corpus.txt"), tokenizer="bytes")
    with pytest.raises(BadSetting, match=r"cannot be written: .*a file.*: Not a directory\. Name a folder"):
        prepare(data, None, tmp_path / place, tmp_path / "cache", 1, lambda done: None)


# What is held out


def documents(found: np.ndarray) -> list[bytes]:
    ends = np.flatnonzero(found == 256)
    return [
        bytes(part.astype(np.uint8)[: -1 if number else None]) for number, part in enumerate(np.split(found, ends + 1))
    ]


@pytest.mark.parametrize("asked", [None, 0.2, 2500])
def test_whole_documents_from_all_over_are_held_out(tmp_path: Path, asked: float | int | None) -> None:
    source = write(tmp_path / "source", "jsonl")
    outcome = made(source, tmp_path / "out", asked)
    parts, total = outcome.manifest.parts, sum(part.tokens for part in outcome.manifest.parts.values())
    wanted = asked if isinstance(asked, int) else (asked or 0.01) * total
    longest = max(len(text.encode()) for text in TEXTS) + 1
    assert wanted <= parts["validation"].tokens < wanted + longest
    assert parts["train"].documents + parts["validation"].documents == 300
    numbers = {}
    for split in parts:
        text = bytes(
            np.where(tokens(tmp_path / "out", split) == 256, 0, tokens(tmp_path / "out", split)).astype(np.uint8)
        )
        numbers[split] = [TEXTS.index(one.decode()) for one in text.split(b"\0")[:-1]]
        assert numbers[split] == sorted(numbers[split]), "in the order of the source"
    assert sorted(numbers["train"] + numbers["validation"]) == [*range(300)]
    if asked:
        assert min(numbers["validation"]) < 60 < 240 < max(numbers["validation"])


def test_of_few_documents_the_end_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("x" * 5000)
    made(tmp_path / "book.txt", tmp_path / "out", 0.1)
    assert tokens(tmp_path / "out").tolist() == [120] * 4501
    assert tokens(tmp_path / "out", "validation").tolist() == [*[120] * 499, 256]


def test_what_is_held_out_of_a_stretch_is_that_of_the_whole() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        ends = np.cumsum(draw.integers(1, 9, draw.integers(100, 130)))
        total = int(ends[-1] + draw.integers(0, 3))
        edges, chosen = holdout.hold_out(ends, total, 0.3)
        whole = np.repeat(chosen, np.diff(edges, prepend=0))
        assert len(whole) == total
        start, stop = sorted(draw.choice(total + 1, 2, replace=False))
        assert np.array_equal(holdout.mask(edges, chosen, int(start), int(stop)), whole[start:stop])


@pytest.mark.parametrize(("text", "means"), [("0.01", 0.01), ("1%", 0.01), ("1_000", 1000), ("5e6", 5_000_000)])
def test_a_share_or_a_number_of_tokens_is_read(text: str, means: float) -> None:
    assert holdout.parse(text) == means
    assert type(holdout.parse(text)) is type(means)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "100%", "nan", "inf", "many", "", "1e300"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadCorpus, match=r"is neither a share nor a number of tokens. Write --validation 0.01"):
        holdout.parse(text)


# Faults


def test_what_cannot_be_made_is_named(tmp_path: Path) -> None:
    def refused(says: str, name: str, inside: bytes | str, asked: float | int | None = None, **data: str) -> None:
        folder = tmp_path / "source"
        for path in folder.glob("*"):
            path.unlink()
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(inside if isinstance(inside, bytes) else inside.encode())
        with pytest.raises(BadCorpus, match=says):
            made(folder, tmp_path / "out", asked, **data)
        assert not (tmp_path / "out" / "manifest.json").exists()

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"body": ["x"]}), sink)
    parquet = sink.getvalue().to_pybytes()
    refused(
        r"train.parquet has no column 'text'; it has body. Set data.text_field \(farm data: --text-field\)",
        "train.parquet",
        parquet,
    )
    refused("train.parquet: .*. Copy it again, or repair it", "train.parquet", parquet[:-30])
    refused(r"train.jsonl: line 3 has no 'text'; it has body", "train.jsonl", '{"text": "a"}\n' * 2 + '{"body": "x"}')
    late = "".join(json.dumps({"text": "x" * 99}) + "\n" for _ in range(100))
    refused("train.jsonl: line 101 is not JSON", "train.jsonl", late + "{")
    refused(
        "train.txt is not UTF-8: invalid start byte, byte 0xff in position 5,000", "train.txt", b"a bc" * 1250 + b"\xff"
    )
    refused("the train part holds no text. Name a source", "train.txt", "")
    refused("the train part holds no text", "train.jsonl", "")
    refused("--validation 900 of 11 tokens is 900, which leaves nothing to train on", "train.txt", "ten tokens", 900)
    refused("--validation 0.01 of 11 tokens is 0, which leaves nothing to validate on", "train.txt", "ten tokens")
    refused("holds readme.md. Put train.safetensors", "readme.md", "x")
    np.save(tmp_path / "wide.npy", np.array([256, 257, 65_536]))
    refused(
        r"train.npy has token 65,536 at position 2; 16 bits hold 0 to 65,535",
        "train.npy",
        (tmp_path / "wide.npy").read_bytes(),
        tokenizer=_wide(tmp_path),
    )
    refused(
        r"train.npy has token 257 at position 1; the tokenizer has 257. Name the tokenizer",
        "train.npy",
        (tmp_path / "wide.npy").read_bytes(),
    )


def _wide(folder: Path) -> str:
    """A tokenizer of all that 16 bits hold."""
    vocab = {"<|endoftext|>": 0} | {f"t{number}": number for number in range(1, 2**16)}
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": vocab}}))
    return str(path)


def test_a_file_that_changes_while_it_is_read_makes_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "source", "jsonl")

    def change(done: Done) -> None:
        if done.tokens > 3000:
            (source / "train.jsonl").touch()

    with pytest.raises(BadCorpus, match=r"train.jsonl changed while it was read. Run the command again"):
        prepare(Data(source=str(source), tokenizer="bytes"), None, tmp_path / "out", tmp_path / "cache", 1, change)
    assert made(source, tmp_path / "out").why == "went on"


def test_files_that_are_missing_are_warned_of(tmp_path: Path) -> None:
    for number in (0, 2):
        (tmp_path / f"train-0000{number}-of-00003.txt").write_text("x" * 500)
    assert made(tmp_path, tmp_path / "out").remarks == ["train-*-of-00003.txt: 2 of 3 files are there, without 00001"]


def test_a_source_with_a_validation_split_of_its_own_is_not_cut(tmp_path: Path) -> None:
    source = write(tmp_path / "source", "jsonl")
    write(source, "jsonl", DOCUMENTS, "validation")
    with pytest.raises(
        BadCorpus, match=r"a validation split of its own, validation.jsonl, so that --validation 0.1 has"
    ):
        made(source, tmp_path / "out", 0.1)


def test_a_process_that_is_killed_is_said_with_what_to_do() -> None:
    said = output(python(KILLED))
    assert said.startswith(
        "WorkerDied: a process that made tokens was killed, as happens when memory runs out. Run the"
    )


KILLED = """
import signal
from model.corpus import crew
if __name__ == "__main__":
    try:
        for _ in crew.each(signal.raise_signal, [(signal.SIGKILL,)] * 3, 2): pass
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""
