"""`farm publish RUN|ARM|STUDY OWNER/NAME`"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import render
from cli.access import queue
from cli.data.source import check_installed
from cli.network import check_torch, network
from cli.options import Json, RunArmOrStudy, study_names
from cli.publish.chosen import Chosen, choose
from cli.render import Column, Sheet, say
from farm.errors import FarmError, Unreadable
from farm.record.sample import Sample
from farm.record.store import Store, open_store
from farm.site.settings import Settings
from farm.study.run import Attempt

if TYPE_CHECKING:
    from cli.publish.parcel import Branch, Planned, Repo
    from model.export import TokenizerFiles
    from model.hub import Kind

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

COLUMNS = (
    Column("revision", "revision"),
    Column("file", "file"),
    Column("bytes", "bytes", render.count, is_number=True),
    Column("now", "now"),
)


def publish(
    name: RunArmOrStudy,
    repo: RepoName,
    study: StudyOfArm = None,
    checkpoint: Steps = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repo private.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that farm did not put there, and an edited card.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing; show the files and the card. Needs no token.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a run's model, or a study's report, on the Hugging Face Hub, with a card of how it was made.

    A run becomes a model repo that transformers loads. Of an arm, the run of its first finished seed pair is sent, in
    the study's order: the one with the lowest loss would be picked for its luck. A study becomes a dataset repo with
    its report and ranking. The token (HF_TOKEN, or that of hf auth login) is checked before anything is exported.
    Weights and card are one commit: all of it shows, or nothing, and a repeat sends only what changed. A card that was
    edited on the Hub stays as it is.
    """
    check_installed("huggingface_hub")
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    from cli.publish.parcel import Repo
    from model.hub import check_may_write, check_private, check_repo

    check_repo(repo)
    if as_json or not sys.stderr.isatty():
        disable_progress_bars()
    settings = Settings.load()
    with queue(settings) as open_queue:
        chosen = choose(open_queue, name, study)
        _check_steps(chosen, checkpoint)
        if not dry_run:
            check_may_write(HfApi(), repo)
        kind: Kind = "dataset" if isinstance(chosen, str) else "model"
        there = Repo(HfApi(), repo, kind)
        check_private(repo, there.found, private)
        there.check_own(f"study {chosen}" if isinstance(chosen, str) else f"run {chosen.status.id}", force)
        material = _material(settings, open_queue, chosen)
    with _branches(settings, chosen, material, repo, checkpoint or ()) as branches:
        planned = [there.plan(branch, force) for branch in branches]
        commit = None if dry_run else there.send(planned, f"farm publish: {branches[-1].facts['of']}", private)
        card = _card(branches)
    _tell(there, chosen, planned, commit, card, dry_run=dry_run, as_json=as_json)


def _check_steps(chosen: Chosen | str, steps: Sequence[int] | None) -> None:
    """Raises: BadSetting"""
    from farm.errors import BadSetting

    if isinstance(chosen, str):
        if steps:
            raise BadSetting(f"{chosen} is a study, and has no checkpoints.", remedy="Leave out --checkpoint.")
        return
    check_torch("Publish where the farm trains: pip install farm[node].")


def _material(settings: Settings, open_queue: Any, chosen: Chosen | str) -> Any:
    """What the report of a study is made of.

    Raises: Unreadable: not all of it can be read, so that it would be half.
    """
    if not isinstance(chosen, str):
        return None
    from cli.report.gather import gather

    material = gather(settings, open_queue, chosen)
    if material.passed.is_any:
        raise Unreadable(f"{material.passed.lines[0]}; nothing was sent.", remedy="Run: farm doctor")
    return material


@contextmanager
def _branches(
    settings: Settings, chosen: Chosen | str, material: Any, repo: str, steps: Sequence[int]
) -> "Iterator[list[Branch]]":
    """The branches that the repo is to have, the main one last, while the files of them are there."""
    if isinstance(chosen, str):
        from cli.publish import collection

        yield [collection.branch(material, repo)]
        return
    with open_store(settings.storage) as store, TemporaryDirectory(prefix="farm-") as folder:
        yield list(_exported(store, chosen, repo, sorted(set(steps)), Path(folder)))


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


def _tell(
    repo: "Repo",
    chosen: Chosen | str,
    planned: "Sequence[Planned]",
    commit: str | None,
    card: str,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    from model.hub import size_of

    rows = [{"revision": one.branch.name} | file._asdict() for one in planned for file in one.files]
    run, study, why = (None, chosen, "") if isinstance(chosen, str) else (chosen.status.id, chosen.study, chosen.why)
    of: dict[str, Any] = {"run": run, "study": study}
    more = of | {"repo": repo.name, "type": repo.kind, "url": repo.url, "is_new": repo.found is None}
    more |= {"commit": commit, "dry_run": dry_run, "card": card}
    render.emit(Sheet("farm.publish/1", COLUMNS, rows, more=more), as_json=as_json)
    if why:
        say(why)
    files = [file for one in planned for file in one.files]
    if any(file.now == "kept" for file in files):
        say("README.md was edited on the Hub and is kept; --force replaces it")
    changed = any(one.changed or one.removed for one in planned)
    if not changed:
        say(f"{repo.url} holds all of it already; nothing {'would be' if dry_run else 'was'} sent")
    elif dry_run:
        say(f"dry run: {size_of(files)} would be sent to {repo.url}{', a new repo' if repo.found is None else ''}")
    else:
        say(f"{repo.url}: {size_of(files)}" + (f", commit {commit}" if commit else ""))
    if dry_run and not as_json:
        say(f"\nThe card:\n\n{card}")
