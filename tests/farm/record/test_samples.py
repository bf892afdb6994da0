"""The samples of a run's attempts, as one list: each once, however often it was resumed, and whatever was torn."""

from pathlib import Path

import pytest
from results import tiny_study

from farm.errors import Conflict
from farm.record.sample import FILE, Sample, SampleWriter, chain, parse, thin
from farm.record.store import Store

RUN = tiny_study().runs()[0].id


def said(step: int, prompt: str = "Every", text: str = " effort") -> Sample:
    return Sample(
        step=step,
        prompt=prompt,
        text=text,
        tokens=(1, 2),
        tokenizer="gpt2",
        temperature=1.0,
        top_k=25,
        seed=0,
        seconds=0.1,
    )


def attempt(store: Store, epoch: int, *samples: Sample, goes_on: tuple[int, int] | None = None) -> Path:
    """An attempt's folder with samples; `goes_on` from an epoch at a step."""
    folder = store.attempt_folder(RUN, epoch)
    folder.mkdir(parents=True)
    with SampleWriter(folder / FILE, epoch, *(goes_on or ())) as writer:
        for one in samples:
            writer.append(one)
    return folder / FILE


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_what_was_said_is_read_back(store: Store) -> None:
    told = [said(0, "[bold]<b>\x1b[31m", "\n\x00 🙂 \ufffd"), said(0, "x"), said(5)]
    attempt(store, 1, *told)
    assert store.samples.of(RUN) == told
    assert store.samples.of(RUN.replace("baseline", "other")) == []


def test_an_attempt_counts_up_to_where_the_next_took_over(store: Store) -> None:
    attempt(store, 1, said(0), said(5), said(10, text=" lost"))
    attempt(store, 3, said(10), said(15), said(20, text=" lost"), goes_on=(1, 7))
    attempt(store, 4, said(20), said(25), goes_on=(3, 15))
    assert store.samples.of(RUN) == [said(0), said(5), said(10), said(15), said(20), said(25)]


def test_an_attempt_that_goes_on_from_an_older_one_leaves_the_others_out(store: Store) -> None:
    attempt(store, 1, said(0), said(5), said(10))
    attempt(store, 2, said(10, text=" other"), goes_on=(1, 8))
    attempt(store, 3, said(10), goes_on=(1, 5))
    assert store.samples.of(RUN) == [said(0), said(5), said(10)]


def test_one_that_began_anew_stands_alone(store: Store) -> None:
    attempt(store, 1, said(0), said(5))
    attempt(store, 2, said(0, text=" new"))
    assert store.samples.of(RUN) == [said(0, text=" new")]


def test_a_torn_line_and_what_is_behind_it_are_left_out(store: Store) -> None:
    path = attempt(store, 1, said(0), said(5), said(10))
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(len(lines[0]) + len(lines[1]), len(whole)):
        path.write_bytes(whole[:cut])
        steps = [one.step for one in store.samples.of(RUN)]
        assert steps == [0, 5, 10][: len(steps)]
    path.write_bytes(b"".join([lines[0], lines[1], b"{}\n", lines[3]]))
    assert store.samples.of(RUN) == [said(0)]


def test_a_file_without_its_first_line_is_none_and_the_attempt_before_counts(store: Store) -> None:
    attempt(store, 1, said(0))
    attempt(store, 2, said(5), goes_on=(1, 3)).write_bytes(b'{"schema":"farm.sam')
    assert store.samples.of(RUN) == [said(0)]
    (store.attempt_folder(RUN, 2) / FILE).write_bytes(b"")
    assert store.samples.of(RUN) == [said(0)]


def test_a_header_that_names_itself_or_nobody_ends_the_chain(store: Store) -> None:
    files = {epoch: parse(attempt(store, epoch, said(epoch)).read_bytes()) for epoch in (1, 2)}
    whole = {epoch: file for epoch, file in files.items() if file}
    for origin in (2, 7, None):
        header = whole[2].header.model_copy(update={"from_epoch": origin})
        assert chain(whole | {2: whole[2]._replace(header=header)}) == [said(2)]


def test_an_attempt_writes_its_samples_once(store: Store) -> None:
    path = attempt(store, 1, said(0))
    with pytest.raises(Conflict, match="already exists"):
        SampleWriter(path, 1)


def test_a_few_samples_show_how_it_became_coherent(store: Store) -> None:
    many = [said(step, prompt) for step in range(0, 101, 10) for prompt in ("a", "b")]
    assert [one.step for one in thin(many, "b", 5)] == [0, 20, 50, 80, 100]
    assert {one.prompt for one in thin(many, "b", 5)} == {"b"}
    assert [one.step for one in thin(many[:6], "a", 5)] == [0, 10, 20]
    assert thin([], "a", 5) == []
