"""`farm publish RUN|ARM|STUDY OWNER/NAME`"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cli import render
from cli.access import queue
from cli.data.source import check_installed
from cli.network import check_torch, network
from cli.options import Json, RunArmOrStudy, study_names
from cli.publish.chosen import Chosen, choose
from cli.render import Column, Sheet, say
from cli.sending import FILES, hide_bars, say_outcome
from cli.storage import within_sight
from farm.errors import BadSetting, FarmError, Unreadable
from farm.record.publication import Publication, PublishedReport
from farm.record.sample import Sample
from farm.record.store import Store, open_store
from farm.site.settings import Settings
from farm.study.run import Attempt

if TYPE_CHECKING:
    from cli.publish.collection import Collection, Models
    from cli.publish.parcel import Branch, Planned, Repo
    from model.export import TokenizerFiles

GPT2 = "openai-community/gpt2"
RepoName = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repo, made if need be.", show_default=False)]
StudyOfArm = Annotated[
    str | None,
    typer.Option("--study", metavar="STUDY", help="Whose arm it is, if several have one.", autocompletion=study_names),
]
Steps = Annotated[
    list[int] | None,
    typer.Option(
        "--checkpoint", metavar="STEP", help="Also send this kept checkpoint, as the branch step-STEP; repeatable."
    ),
]

COLUMNS = (Column("revision", "revision"), *FILES)


class Work(NamedTuple):
    """What is to be published where: of a study, what its report is made of, which of its models are published, and
    its collection, unless none is wanted."""

    chosen: Chosen | str
    there: "Repo"
    material: Any = None
    models: "Models | None" = None
    collection: "Collection | None" = None


def publish(
    name: RunArmOrStudy,
    repo: RepoName,
    study: StudyOfArm = None,
    checkpoint: Steps = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repo private.")] = False,
    no_collection: Annotated[
        bool, typer.Option("--no-collection", help="Of a study, make no collection of its report and models.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that farm did not put there, and an edited card.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing; show the files and the card. Needs no token or network.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a run's model, or a study's report, on the Hugging Face Hub, with a card of how it was made.

    A run becomes a model repo that transformers loads. Of an arm, the run of its first finished seed pair is sent, in
    the study's order: the one with the lowest loss would be picked for its luck. A study becomes a dataset repo with
    its report and ranking, whose card has links to the models of the study that were published; a collection of the
    study's name holds them all. The token (HF_TOKEN, or that of hf auth login) is checked before anything is exported.
    Weights and card are one commit: all of it shows, or nothing, and a repeat sends only what changed. A card that was
    edited on the Hub stays as it is.
    """
    check_installed("huggingface_hub")
    from huggingface_hub import HfApi

    from model.hub import check_may_write, check_private, check_repo

    check_repo(repo)
    hide_bars(as_json)
    settings = Settings.load()
    with queue(settings) as open_queue:
        chosen = choose(open_queue, name, study)
        _check_options(chosen, checkpoint, no_collection)
        if not dry_run:
            check_may_write(HfApi(), repo)
        there = _there(chosen, repo, dry_run)
        check_private(repo, there.found, private)
        there.check_own(_of(chosen), force)
        is_private = there.found.is_private if there.found else private
        work = Work(chosen, there)
        if isinstance(chosen, str):
            work = _study(settings, open_queue, work, chosen, is_private, wanted=not no_collection, dry_run=dry_run)
    if work.collection:
        work.collection.check_own(force)
    with _branches(settings, work, repo, checkpoint or ()) as branches:
        planned = [there.plan(branch, force) for branch in branches]
        commit = None if dry_run else there.send(planned, f"farm publish: {branches[-1].facts['of']}", private)
        card = _card(branches)
    failed = None if dry_run else _conclude(settings, work, commit, is_private)
    _tell(work, planned, commit, card, dry_run=dry_run, as_json=as_json)
    if failed:
        raise failed


def _check_options(chosen: Chosen | str, steps: Sequence[int] | None, no_collection: bool) -> None:
    """Raises: BadSetting. FarmError: this machine has no torch."""
    if isinstance(chosen, str):
        if steps:
            raise BadSetting(f"{chosen} is a study, and has no checkpoints.", remedy="Leave out --checkpoint.")
        return
    if no_collection:
        raise BadSetting(f"{chosen.status.id} is a run, and gets no collection.", remedy="Leave out --no-collection.")
    check_torch("Publish where the farm trains: pip install farm[node].")


def _of(chosen: Chosen | str) -> str:
    """What the repo is said to hold."""
    return f"study {chosen}" if isinstance(chosen, str) else f"run {chosen.status.id}"


def _there(chosen: Chosen | str, repo: str, dry_run: bool) -> "Repo":
    from huggingface_hub import HfApi

    from cli.publish.parcel import Repo

    return Repo(HfApi(), repo, "dataset" if isinstance(chosen, str) else "model", dry_run)


def _study(
    settings: Settings, open_queue: Any, work: Work, study: str, private: bool, *, wanted: bool, dry_run: bool
) -> Work:
    """What the report of a study is made of, the models that it has links to, and its collection, if it is `wanted` and
    there are any.

    Raises: Refused, Unanswered. Unreadable: not all of the study can be read, so that it would be half.
    """
    from cli.publish.collection import Collection, models

    there, material = work.there, _material(settings, open_queue, study)
    unanswered, store = there.unanswered, within_sight(settings)
    found = models(there.api, store, material.statuses, unanswered, private=private, dry_run=dry_run)
    collection = None
    if wanted and found.members:
        collection = Collection(there.api, there.name, study, found, dry_run=dry_run)
    return work._replace(material=material, models=found, collection=collection)


def _material(settings: Settings, open_queue: Any, study: str) -> Any:
    from cli.report.gather import gather

    material = gather(settings, open_queue, study)
    if material.passed.is_any:
        raise Unreadable(f"{material.passed.lines[0]}; nothing was sent.", remedy="Run: farm doctor")
    return material


@contextmanager
def _branches(settings: Settings, work: Work, repo: str, steps: Sequence[int]) -> "Iterator[list[Branch]]":
    """The branches that the repo is to have, the main one last, while the files of them are there."""
    if isinstance(work.chosen, str):
        from cli.publish import study

        models = work.models.members if work.models else ()
        yield [study.branch(work.material, repo, work.there.api.endpoint, models)]
        return
    with open_store(settings.storage) as store, TemporaryDirectory(prefix="farm-") as folder:
        yield list(_exported(store, work.chosen, repo, sorted(set(steps)), Path(folder)))


def _exported(store: Store, chosen: Chosen, repo: str, steps: Sequence[int], folder: Path) -> "Iterator[Branch]":
    """The run's checkpoints and its final weights as transformers loads them, each with the card.

    Raises: NotFound, CheckpointInvalid: of a checkpoint
    """
    from cli.publish.card import Known, card, public, revision
    from cli.publish.parcel import MAIN, Branch
    from model.export import export
    from model.hub import CARD

    samples, attempts = _records(store, chosen)
    result = chosen.result.model_dump(mode="json", exclude={"hardware": {"host"}, "recipe": True})
    facts = {"of": f"run {chosen.status.id}", "study": chosen.study, "result": result}
    facts |= {"recipe": public(chosen.status.run.recipe)}
    for step in (*steps, None):
        found, name = network(store, chosen.status, step), MAIN if step is None else revision(step)
        tokenizer = export(found.gpt, chosen.status.run.recipe, folder / name)
        if tokenizer.missing and step is None:
            say(f"no tokenizer: {tokenizer.missing}")
        known = Known(samples, attempts, *_tokenizer(repo, tokenizer), steps)
        text = card(chosen, known, repo)
        files = {path.name: path for path in sorted((folder / name).iterdir())}
        yield Branch(name, {CARD: text.encode(), **files}, {**facts, "step": found.step})


def _tokenizer(repo: str, found: "TokenizerFiles") -> tuple[str | None, str | None]:
    """The repo that has the model's tokenizer, and why this one has none."""
    from model.corpus.gpt2 import END_OF_TEXT

    if found.files:
        return repo, None
    if found.end_of_text == END_OF_TEXT:  # known by its name alone: its files are not on this machine
        return GPT2, f"it is GPT-2's, which is in {GPT2}"
    return None, found.missing


def _records(store: Store, chosen: Chosen) -> tuple[list[Sample], list[Attempt]]:
    """The samples and attempts of its training; what cannot be read is not on the card."""
    trainer, samples = chosen.result.adopted or chosen.status.id, list[Sample]()
    with suppress(FarmError, OSError):
        samples = store.samples.of(trainer)
    return samples, store.runs.readable_attempts(trainer)[0]


def _card(branches: "Sequence[Branch]") -> str:
    from model.hub import CARD

    content = branches[-1].contents[CARD]
    return content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")


def _conclude(settings: Settings, work: Work, commit: str | None, private: bool) -> Exception | None:
    """Record what was sent, and make the collection whole. What failed of that is raised once the rest is told."""
    try:
        if work.collection:
            work.collection.send(private)
        _record(settings, work.chosen, work.there, commit)
    except (FarmError, OSError) as error:
        return error
    return None


def _record(settings: Settings, chosen: Chosen | str, there: "Repo", commit: str | None) -> None:
    """Have the storage know where it is: `farm show` tells it, and the collection of a study is made from that.

    Raises: StorageFull, StorageUnusable
    """
    newest = commit or (there.found.commit if there.found else "")
    of: dict[str, Any] = {"hub": there.api.endpoint, "repo": there.name, "commit": newest, "when": time.time()}
    sent: Publication | PublishedReport
    if isinstance(chosen, str):
        sent = PublishedReport(study=chosen, **of)
    else:
        sent = Publication(run_id=chosen.status.id, weights=chosen.result.fingerprints.final, **of)
    Store(settings.storage).publications.keep(sent)


def _tell(
    work: Work,
    planned: "Sequence[Planned]",
    commit: str | None,
    card: str,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    repo, chosen, collection = work.there, work.chosen, work.collection
    rows = [{"revision": one.branch.name} | file._asdict() for one in planned for file in one.files]
    run, study, why = (None, chosen, "") if isinstance(chosen, str) else (chosen.status.id, chosen.study, chosen.why)
    of: dict[str, Any] = {"run": run, "study": study}
    is_new = None if repo.unanswered else repo.found is None
    more = of | {"repo": repo.name, "type": repo.kind, "url": repo.url, "is_new": is_new}
    more |= {"commit": commit, "dry_run": dry_run, "unanswered": repo.unanswered, "card": card}
    more |= {"collection": collection and collection.facts(dry_run)}
    render.emit(Sheet("farm.publish/1", COLUMNS, rows, more=more), as_json=as_json)
    if why:
        say(why)
    files = [file for one in planned for file in one.files]
    if any(file.now == "kept" for file in files):
        say("README.md was edited on the Hub and is kept; --force replaces it")
    say_outcome(repo.url, files, commit, repo.unanswered, is_new=is_new, dry_run=dry_run)
    for told in work.models.left_out if work.models else ():
        say(f"left out of the models: {told}")
    if collection:
        say(collection.outcome(dry_run))
    if dry_run and not as_json:
        say(f"\nThe card:\n\n{card}")
