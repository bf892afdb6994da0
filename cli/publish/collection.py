"""The collection of a study on the Hub: its report, and the models of its runs that this farm published."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cli import render
from farm.errors import Conflict
from farm.queue.values import Status
from farm.record.publication import Publication
from farm.record.store import Store
from model.hub import Kind, is_private
from model.hub_answers import asking, if_answered, sending

TITLE_CHARACTERS = 60  # that the Hub takes at most


class Member(NamedTuple):
    """A repo that belongs in the collection of a study, and what is said of it there."""

    repo: str
    kind: Kind
    note: str


class Models(NamedTuple):
    """The published models of a study, in its order, and why others are left out. `unanswered`: why a dry run could
    not ask which of them are still on the Hub."""

    members: Sequence[Member] = ()
    left_out: Sequence[str] = ()
    unanswered: str | None = None


def models(
    api: Any,
    store: Store | None,
    statuses: Sequence[Status],
    unanswered: str | None = None,
    *,
    private: bool,
    dry_run: bool,
) -> Models:
    """The models that this farm published on the Hub of `api`. Those that are gone are left out, and so is a private
    one unless the report is `private` too: its name would show. `unanswered`: a dry run that could not ask before does
    not ask again.

    Raises: Refused, Unanswered
    """
    if store is None:
        return Models(left_out=("the storage is not here, so that nothing tells which models were published",))
    published, left_out = _published(store, statuses, api.endpoint)
    hidden: dict[str, bool | None] = dict.fromkeys(published, private)
    if not unanswered:
        with if_answered(dry_run) as asked:
            hidden = {repo: is_private(api, repo, "model") for repo in published}
        unanswered = asked.unanswered
    left_out += [f"{repo} is not on the Hub any more" for repo, found in hidden.items() if found is None]
    left_out += [f"{repo} is private, and the report is not" for repo, found in hidden.items() if found and not private]
    shown = [repo for repo, found in hidden.items() if found is not None and (private or not found)]
    return Models([Member(repo, "model", _note(published[repo])) for repo in shown], left_out, unanswered)


def _published(store: Store, statuses: Sequence[Status], hub: str) -> tuple[dict[str, Status], list[str]]:
    """The run whose model each repo holds: of several that were sent to one, the last. And what cannot be read."""
    newest: dict[str, tuple[Publication, Status]] = {}
    unread: list[str] = []
    for status in statuses:
        found, bad = store.publications.of(status.id) if status.result else ([], [])
        unread += bad
        for one in found:
            if one.hub == hub and (one.repo not in newest or newest[one.repo][0].when < one.when):
                newest[one.repo] = one, status
    return {repo: status for repo, (_, status) in newest.items()}, unread


def _note(status: Status) -> str:
    run, loss = status.run, status.result.test_loss if status.result else None
    return f"{run.arm} on {run.machine}, seeds {run.seeds.init} and {run.seeds.train}: test loss {render.loss(loss)}"


class Collection:
    """The collection of a study, as it is before anything is sent. `unanswered`: why a dry run could not ask what it
    is. `missing` are the members that it lacks, of which those that were `added` are none any more."""

    def __init__(self, api: Any, report: str, study: str, models: Models, *, dry_run: bool):
        self.api, self.study, self.title = api, study, study[:TITLE_CHARACTERS]
        self.owner = report.partition("/")[0]
        self.members = (Member(report, "dataset", f"The report and the ranking of {study}"), *models.members)
        self.found: Any = None
        self.unanswered = models.unanswered
        if not self.unanswered:
            with if_answered(dry_run) as asked:
                self.found = self._look()
            self.unanswered = asked.unanswered
        self.is_new = None if self.unanswered else self.found is None
        self.missing = self._lacked()
        self.added: list[Member] = []

    def check_own(self, force: bool) -> None:
        """Raises: Conflict: it is not farm's, unless by `force`."""
        if self.found and not force and not self._is_own(self.found):
            raise Conflict(
                f"{self.found.url} has the study's name, and farm did not make it; it is as it was.",
                remedy="Rename it, or write --no-collection, or --force to add to it.",
            )

    @property
    def is_whole(self) -> bool:
        """Whether it has every member, and says so."""
        return bool(self.found and not self.missing and not self._changes())

    def send(self, private: bool) -> None:
        """Make it whole. Until then nobody else sees a new one, and one that is there says that it is being updated.
        What others added or wrote stays.

        Raises: Refused, Conflict, Unreachable: `missing` has what it lacks.
        """
        with sending(f"the collection {self.title} of {self.owner}"):
            if self.found is None:
                told = {"namespace": self.owner, "description": self._being("made"), "private": True}
                # A list may hide a private one, which then is there already.
                self.found = self.api.create_collection(self.title, exists_ok=True, **told)
                self.check_own(force=False)
                self.missing = self._lacked()
            elif self.missing and self._is_by_farm(self.found) and self.found.description != self._being("made"):
                self._update({"description": self._being("updated")})
            for one in self.missing.copy():
                self.api.add_collection_item(self.found.slug, one.repo, one.kind, note=one.note, exists_ok=True)
                self.missing.remove(one)
                self.added.append(one)
            self._update(self._changes(private))

    def _lacked(self) -> list[Member]:
        items = {(one.item_type, one.item_id) for one in self.found.items} if self.found else set()
        return [one for one in self.members if (one.kind, one.repo) not in items]

    def _look(self) -> Any:
        """The one of this title: farm's, if there are several."""
        with asking(f"which collections {self.owner} has"):
            alike = [one for one in self.api.list_collections(owner=self.owner) if one.title == self.title]
            found = [self.api.get_collection(one.slug) for one in alike]  # a list has four items of each
            return next((one for one in found if self._is_own(one)), found[0] if found else None)

    def _is_own(self, found: Any) -> bool:
        items = {(one.item_type, one.item_id) for one in found.items}
        return self._is_by_farm(found) or ("dataset", self.members[0].repo) in items

    def _is_by_farm(self, found: Any) -> bool:
        """Whether farm wrote its description, and nobody changed it."""
        return (found.description or "").startswith(f"farm study {self.study}: ")

    def _being(self, done: str) -> str:
        return f"farm study {self.study}: being {done}"

    def _changes(self, private: bool = True) -> Mapping[str, Any]:
        """What is to become of its description, and of who sees it: what somebody else wrote stays."""
        if not self._is_by_farm(self.found):
            return {}
        count = len(self.members) - 1
        whole = f"farm study {self.study}: its report and {count:,} published model{'s' * (count != 1)}"
        opened = {"private": False} if self.found.description == self._being("made") and not private else {}
        return opened if self.found.description == whole else {"description": whole, **opened}

    def _update(self, changes: Mapping[str, Any]) -> None:
        if changes:
            self.found = self.api.update_collection_metadata(self.found.slug, **changes)

    def facts(self, dry_run: bool) -> dict[str, Any]:
        """It for programs. Of each repo what files have: `new`, `unchanged` or `unknown`; or `missing`, where it could
        not be added."""
        lack = "unknown" if self.unanswered else "new" if dry_run else "missing"
        now = dict.fromkeys(self.missing, lack) | dict.fromkeys(self.added, "new")
        items = [
            {"repo": one.repo, "type": one.kind, "note": one.note, "now": now.get(one, "unchanged")}
            for one in self.members
        ]
        url = self.found.url if self.found else None
        return {"title": self.title, "url": url, "is_new": self.is_new, "items": items}

    def outcome(self, dry_run: bool) -> str:
        """What became of it, or would."""
        where = self.found.url if self.found else f"the collection {self.title} of {self.owner}"
        lack, size = ", ".join(one.repo for one in self.missing), f"{len(self.members):,} repos"
        if self.is_whole and self.added:
            return f"{where}: {size}, of which {len(self.added):,} were added"
        if self.is_whole:
            return f"{where} holds all {size} already"
        if dry_run and self.unanswered:
            return f"dry run: {where} is to hold {lack}"
        if dry_run:
            return f"dry run: {lack or 'no repo'} would be added to {where}{', a new one' if self.is_new else ''}"
        return f"{where} is not whole: it lacks {lack or 'its description'}"
