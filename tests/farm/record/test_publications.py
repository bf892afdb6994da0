"""Where runs were published, as the storage keeps it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from farm.record.publication import Publication, PublishedReport
from farm.record.store import Store

RUN = "cpu-baseline-s42-12345678"


def publication(**changes: object) -> Publication:
    told = {
        "run_id": RUN,
        "hub": "https://huggingface.co",
        "repo": "us/small",
        "commit": "a",
        "weights": "w",
        "when": 1,
    }
    return Publication.model_validate(told | changes)


def test_a_publication_is_kept_for_each_repo_of_each_hub_and_the_newest_commit_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.publications.of(RUN) == ([], [])
    first, other = publication(), publication(hub="http://127.0.0.1:8080")
    for one in (first, other, publication(when=2.0), second := publication(repo="us/second")):
        store.publications.keep(one)
    assert store.publications.of(RUN) == ([other, second, first], []), "the same commit again changes nothing"
    store.publications.keep(newer := publication(commit="b", when=3.0))
    assert store.publications.of(RUN) == ([other, second, newer], [])
    assert sorted(path.name for path in (tmp_path / "runs" / RUN / "published").iterdir()) == [
        "127.0.0.1-8080--us--small.json",
        "huggingface.co--us--second.json",
        "huggingface.co--us--small.json",
    ]


def test_a_publication_that_is_cut_off_is_none_and_one_that_is_damaged_is_told_and_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.publications.keep(one := publication())
    path = tmp_path / "runs" / RUN / "published" / f"{one.file}.json"
    whole = path.read_text()
    path.write_text(whole[:-9])
    assert store.publications.of(RUN) == ([], [])
    path.write_text(whole.replace("us/small", "us/[x](evil)"))
    found, unread = store.publications.of(RUN)
    assert (found, f"{path} is damaged: " in unread[0]) == ([], True)
    store.publications.keep(one)
    assert store.publications.of(RUN) == ([one], [])


@pytest.mark.parametrize("repo", ["us", "us/a b", "us/a)", "../a", "us/a/b"])
def test_a_publication_names_a_repo(repo: str) -> None:
    with pytest.raises(ValidationError):
        publication(repo=repo)


def test_the_report_of_a_study_is_kept_apart_from_the_models_of_its_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    of = {"hub": "https://huggingface.co", "repo": "us/small", "study": "small"}
    sent = PublishedReport.model_validate(of | {"commit": "a", "when": 1.0})
    store.publications.keep(sent)
    store.publications.keep(sent.model_copy(update={"when": 2.0}))
    assert store.publications.of_study("small") == ([sent], [])
    assert (store.publications.of_study("other"), store.studies.all()) == (([], []), ({}, []))
    assert sent.url == "https://huggingface.co/datasets/us/small"
    assert [path.name for path in (tmp_path / "published" / "small").iterdir()] == ["huggingface.co--us--small.json"]
