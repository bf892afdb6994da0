"""`farm publish STUDY`: the collection of its report and its models on a Hub of this machine."""

import json

import pytest
from hub_server import ASKED, SENT, Hub, Repo, changes

from .conftest import Farm
from .publishing import MODEL, TOKENIZER, collected, held, keep, published, trained

WHOLE = "farm study tiny: its report and 2 published models"


def test_a_published_run_is_recorded_beside_it_and_joins_the_collection_of_its_study(farm: Farm, hub: Hub) -> None:
    run = trained(farm).run
    published(farm, hub, run.id, "us/small")
    (kept,), unread = farm.store.publications.of(run.id)
    assert (kept.hub, kept.repo, unread) == (hub.url, "us/small", [])
    assert kept.commit == hub.repos["models/us/small"].branches["main"][-1]
    published(farm, hub, run.id, "us/small")
    assert farm.store.publications.of(run.id) == ([kept], []), "a repeat writes nothing"
    answer = farm("publish", "small", "us/report")
    assert answer.code == 0, answer.err
    described = "farm study small: its report and 1 published model"
    assert held(hub, "small") == (["datasets/us/report", "models/us/small"], described, False)
    (found,) = hub.collections.values()
    assert found["items"][1]["note"]["text"] == "baseline on cpu, seeds 42 and 23: test loss 5.5000"
    assert f"{hub.url}/collections/{found['slug']}: 2 repos, of which 2 were added" in answer.err
    card = hub.repos["datasets/us/report"].files["README.md"].decode()
    assert f"- [us/small]({hub.url}/us/small): baseline on cpu, seeds 42 and 23: test loss 5.5000" in card
    hub.asked.clear()
    again = farm("publish", "small", "us/report", "--json")
    assert (again.code, changes(hub), hub.sent("PATCH")) == (0, [], [])
    told = json.loads(again.out)["collection"]
    assert (told["title"], told["is_new"], [one["now"] for one in told["items"]]) == ("small", False, ["unchanged"] * 2)
    assert "holds all 2 repos already" in again.err


def test_a_dry_run_shows_the_collection_and_changes_nothing(farm: Farm, hub: Hub) -> None:
    collected(farm, hub, "us/a", "us/b")
    dry = farm("publish", "tiny", "us/tiny", "--dry-run", "--json")
    assert (dry.code, changes(hub), hub.collections) == (0, [], {}), dry.err
    told = json.loads(dry.out)["collection"]
    assert [(one["repo"], one["type"], one["now"]) for one in told["items"]] == [
        ("us/tiny", "dataset", "new"),
        ("us/a", "model", "new"),
        ("us/b", "model", "new"),
    ]
    assert "dry run: us/tiny, us/a, us/b would be added to the collection tiny of us, a new one" in dry.err
    without = farm("publish", "tiny", "us/tiny", "--no-collection")
    assert (without.code, hub.collections) == (0, {}), without.err
    wrong = farm("publish", farm.queue.listing.statuses()[0].id, "us/a", "--no-collection")
    assert (wrong.code, "is a run, and gets no collection. Leave out --no-collection." in wrong.err) == (2, True)


MOMENTS = {  # a change of the collection, what it then holds for others, and what the output says that it lacks
    "POST /api/collections": ([], "us/tiny, us/a, us/b"),
    "items us/tiny": ([], "us/tiny, us/a, us/b"),
    "items us/b": (["datasets/us/tiny", "models/us/a"], "us/b"),
    "PATCH /api/collections": (["datasets/us/tiny", "models/us/a", "models/us/b"], "its description"),
}


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_new_collection_that_breaks_off_is_seen_by_nobody_and_is_mended(farm: Farm, hub: Hub, moment: str) -> None:
    collected(farm, hub, "us/a", "us/b")
    items, lacks = MOMENTS[moment]
    for failure, (code, says) in SENT.items():
        if failure == 409 and not moment.startswith("PATCH"):  # it is there already
            continue
        hub.collections.clear()
        hub.fail = {moment: failure}
        answer = farm("publish", "tiny", "us/tiny")
        assert answer.code == code, (failure, answer.err)
        assert says in answer.err.splitlines()[-1]
        assert "the collection tiny of us" in answer.err.splitlines()[-1]
        assert f" is not whole: it lacks {lacks}\n" in answer.err
        assert answer.rows, "the report is sent"
        if moment.startswith("POST"):
            assert hub.collections == {}
        else:
            assert held(hub) == (items, "farm study tiny: being made", True)
    hub.fail = {}
    assert "README.md" in hub.repos["datasets/us/tiny"].files
    mended = farm("publish", "tiny", "us/tiny")
    assert mended.code == 0, mended.err
    assert held(hub) == (["datasets/us/tiny", "models/us/a", "models/us/b"], WHOLE, False)


def test_a_half_collection_that_no_list_shows_is_found_again(farm: Farm, hub: Hub) -> None:
    collected(farm, hub, "us/a", "us/b")
    hub.lists_private, hub.fail = False, {"items us/b": 503}
    assert farm("publish", "tiny", "us/tiny").code == 5
    hub.fail = {}
    assert farm("publish", "tiny", "us/tiny").code == 0
    assert held(hub) == (["datasets/us/tiny", "models/us/a", "models/us/b"], WHOLE, False)
    theirs = {"title": "tiny", "namespace": "lab", "private": True, "description": "Secret"}
    found = hub.make_collection(theirs)
    answer = farm("publish", "tiny", "lab/tiny")
    assert (answer.code, found["items"]) == (6, [])
    assert "has the study's name, and farm did not make it" in answer.err


def test_a_run_that_cannot_be_recorded_is_sent_and_says_so(farm: Farm, hub: Hub) -> None:
    run = trained(farm).run
    place = farm.store.folder(run.id) / "published"
    place.write_text("in the way")
    answer = farm("publish", run.id, "us/small")
    assert (answer.code, {row["file"] for row in answer.rows}) == (1, MODEL | TOKENIZER)
    assert f"{hub.url}/us/small: 8 of 8 files" in answer.err
    assert answer.err.splitlines()[-1].startswith(f"error: {place}")
    place.unlink()
    assert "nothing was sent" in farm("publish", run.id, "us/small").err
    assert [one.repo for one in farm.store.publications.of(run.id)[0]] == ["us/small"]


def test_a_collection_that_grows_says_so_until_it_is_whole_and_what_others_put_there_stays(
    farm: Farm, hub: Hub
) -> None:
    collected(farm, hub, "us/a")
    assert farm("publish", "tiny", "us/tiny").code == 0
    (found,) = hub.collections.values()
    found["items"].append({"_id": "x", "id": "them/other", "type": "model", "position": 9})
    keep(farm, hub.url, "us/a", "us/b")
    hub.repos["models/us/b"] = Repo()
    hub.fail = {"items us/b": 503}
    assert farm("publish", "tiny", "us/tiny", "--json").code == 5
    assert held(hub)[1:] == ("farm study tiny: being updated", False)
    hub.fail = {}
    assert farm("publish", "tiny", "us/tiny").code == 0
    there = ["datasets/us/tiny", "models/us/a", "models/them/other", "models/us/b"]
    assert held(hub) == (there, WHOLE, False)
    found["description"], found["private"] = "Ours.", True
    hub.asked.clear()
    assert farm("publish", "tiny", "us/tiny").code == 0
    assert (held(hub), changes(hub), hub.sent("PATCH")) == ((there, "Ours.", True), [], [])


def test_a_collection_of_the_same_name_that_farm_did_not_make_is_left_alone_unless_forced(farm: Farm, hub: Hub) -> None:
    collected(farm, hub, "us/a")
    constants_of = {"title": "tiny", "namespace": "us", "private": False, "description": "My favourites"}
    farm_less = hub.make_collection(constants_of)
    for dry in ((), ("--dry-run",)):
        answer = farm("publish", "tiny", "us/tiny", *dry)
        assert (answer.code, answer.out, changes(hub), farm_less["items"]) == (6, "", [], [])
        assert "has the study's name, and farm did not make it; it is as it was." in answer.err
    assert farm("publish", "tiny", "us/tiny", "--force").code == 0
    assert held(hub) == (["datasets/us/tiny", "models/us/a"], "My favourites", False)


def test_what_is_gone_private_or_on_another_hub_is_neither_linked_nor_collected(farm: Farm, hub: Hub) -> None:
    collected(farm, hub, "us/a", "us/gone", "us/hidden")
    keep(farm, "https://huggingface.co", "us/elsewhere")
    del hub.repos["models/us/gone"]
    hub.repos["models/us/hidden"].private = True
    answer = farm("publish", "tiny", "us/tiny")
    assert answer.code == 0, answer.err
    assert held(hub)[0] == ["datasets/us/tiny", "models/us/a"]
    assert "left out of the models: us/gone is not on the Hub any more" in answer.err
    assert "left out of the models: us/hidden is private, and the report is not" in answer.err
    card = hub.repos["datasets/us/tiny"].files["README.md"].decode()
    assert ("us/a)" in card, "us/gone" in card, "us/hidden" in card) == (True, False, False)
    assert farm("publish", "tiny", "lab/tiny", "--private").code == 0
    secret = [one for one in hub.collections.values() if one["owner"]["name"] == "lab"]
    assert [(one["private"], [item["id"] for item in one["items"]]) for one in secret] == [
        (True, ["lab/tiny", "us/a", "us/hidden"])
    ]


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("moment", ["GET /api/collections", "GET /api/models/us/a", "GET /datasets/us/tiny/resolve"])
def test_what_the_hub_does_not_say_of_a_study_is_said_before_anything_is_sent(
    farm: Farm, hub: Hub, moment: str
) -> None:
    collected(farm, hub, "us/a")
    assert farm("publish", "tiny", "us/tiny").code == 0
    for failure, (code, says) in ASKED.items():
        hub.asked.clear()
        hub.fail = {moment: failure}
        answer = farm("publish", "tiny", "us/tiny")
        assert (answer.code, answer.out, changes(hub)) == (code, "", []), (failure, answer.err)
        assert says in answer.err.splitlines()[-1], failure
    dry = farm("publish", "tiny", "us/tiny", "--dry-run")
    assert (dry.code, changes(hub)) == (0, []), dry.err


def test_show_tells_where_a_run_and_its_study_were_published(farm: Farm, hub: Hub) -> None:
    run = trained(farm).run
    assert json.loads(farm("show", run.id, "--json").out)["data"]["published"] == []
    published(farm, hub, run.id, "us/small")
    answer = farm("publish", "small", "us/report")
    assert answer.code == 0, answer.err
    model = hub.repos["models/us/small"].branches["main"][-1]
    report = hub.repos["datasets/us/report"].branches["main"][-1]
    (line,) = [row["value"] for row in farm("show", run.id).rows if row["what"] == "published"]
    assert line.startswith(f"{hub.url}/us/small: {run.id}, commit {model[:12]}, ")
    assert line.endswith(" ago")
    study = farm("show", "small")
    lines = [row["value"] for row in study.rows if row["what"] == "published"]
    assert [line.partition(", commit")[0] for line in lines] == [
        f"{hub.url}/us/small: {run.id}",
        f"{hub.url}/datasets/us/report: report of small",
    ]
    assert {row["what"]: row["value"] for row in study.rows}["runs"] == "4: 4 succeeded"
    (told,) = json.loads(farm("show", run.id, "--json").out)["data"]["published"]
    assert (told["hub"], told["repo"], told["commit"], told["url"]) == (
        hub.url,
        "us/small",
        model,
        f"{hub.url}/us/small",
    )
    whole = json.loads(farm("show", "small", "--json").out)
    assert (whole["schema"], whole["unreadable"]) == ("farm.show-study/1", [])
    data = whole["data"]
    assert (data["runs"], data["states"], data["machines"]) == (4, {"succeeded": 4}, ["cpu"])
    assert (data["arms"], data["seeds"]) == (["baseline", "no-dropout"], ["42.23", "22.23"])
    assert [(one["repo"], one["commit"]) for one in data["published"]] == [("us/small", model), ("us/report", report)]
    hub.asked.clear()
    assert (farm("publish", "small", "us/report").code, changes(hub)) == (0, []), "a record changes no card"
    assert len(farm.store.publications.of_study("small")[0]) == 1


def test_show_says_what_it_cannot_read_of_publications_and_what_is_not_here(farm: Farm, hub: Hub) -> None:
    collected(farm, hub, "us/a", "us/b")
    first, second = farm.queue.listing.statuses()[:2]
    (path,) = (farm.store.folder(first.id) / "published").iterdir()
    path.write_text(path.read_text().replace("us/a", "no repo"))
    answer = farm("show", "tiny")
    told = [row["value"].partition(",")[0] for row in answer.rows if row["what"] == "published"]
    assert (answer.code, told) == (0, [f"{hub.url}/us/b: {second.id}"])
    assert f"warning: {path} is damaged: " in answer.err
    farm.environment["FARM_STORAGE"] = str(farm.folder / "not" / "here")
    for name in ("tiny", second.id):
        away = farm("show", name, "--json")
        assert (away.code, json.loads(away.out)["data"]["published"]) == (0, None), away.err
