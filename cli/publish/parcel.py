"""What is to lie in a repo of the Hub: branch by branch, compared with what lies there, and sent so that a card never
shows beside weights of another."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from farm.errors import Conflict
from model.hub import CARD, CHANGED, Content, Kind, Sent, There, commit, compare, digest, known_by, make, read, there
from model.hub_answers import if_answered, sending

MARKER = "farm.json"  # tells a repo of farm from others, and what of farm it holds
SCHEMA = "farm.published/1"
OWN = {".gitattributes"}  # that the Hub itself puts into a new repo
MAIN = "main"


class Branch(NamedTuple):
    """The files that a branch is to hold, the card among them, and what `farm.json` says of them."""

    name: str
    contents: Mapping[str, Content]
    facts: Mapping[str, Any]


class Planned(NamedTuple):
    """A branch, what it holds now, and what becomes of each file."""

    branch: Branch
    found: There | None
    contents: Mapping[str, Content]
    files: list[Sent]

    @property
    def changed(self) -> list[str]:
        return [one.file for one in self.files if one.now in CHANGED]

    @property
    def removed(self) -> list[str]:
        return [one.file for one in self.files if one.now == "removed"]


class Repo:
    """A repo of the Hub, as it is before anything is sent. `unanswered` says why a dry run could not ask what it is."""

    def __init__(self, api: Any, name: str, kind: Kind, dry_run: bool = False):
        self.api, self.name, self.kind, self.dry_run = api, name, kind, dry_run
        self.unanswered: str | None = None
        self.found, self.marker = self._look(MAIN)

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def check_own(self, of: str, force: bool) -> None:
        """Raises: Conflict: it holds what is not farm's, or another run or study, unless by `force`."""
        files = sorted(set(self.found.files) - OWN) if self.found else []
        if not files or force:
            return
        some = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
        holds = f"holds files that farm did not put there: {some}" if self.marker is None else ""
        if self.marker is not None and self.marker.get("of") != of:
            holds = f"holds {self.marker.get('of')}, not {of}"
        if holds:
            raise Conflict(
                f"{self.url} {holds}; nothing was sent.",
                remedy="Name another repo, or write --force to replace the files of the same names.",
            )

    def plan(self, branch: Branch, force: bool) -> Planned:
        """Compare a branch with what the Hub has of it. A card that somebody edited there stays, unless by `force`."""
        found, marker = self.found, self.marker
        if branch.name != MAIN:
            found, marker = self._look(branch.name) if self.found else (None, None)
        contents = dict(branch.contents)
        card = contents[CARD]
        sent = digest(card, is_large=False)
        kept: list[Sent] = []
        if marker and found and CARD in found.files and not force:
            is_edited = known_by(found.files[CARD]) not in (marker.get("card"), sent)
            if is_edited:
                del contents[CARD]
                sent, kept = str(marker.get("card")), [Sent(CARD, found.files[CARD].size, "kept")]
        before = set(marker.get("files", ())) if marker else set()
        contents[MARKER] = _marked(branch, sent)
        gone = sorted((before - {*branch.contents, MARKER}) & set(found.files)) if found else []
        removed = [Sent(name, found.files[name].size, "removed") for name in gone] if found else []
        files = compare(contents, found, is_known=not self.unanswered)
        return Planned(branch, found, contents, [*files, *kept, *removed])

    def send(self, planned: Sequence[Planned], message: str, private: bool) -> str | None:
        """Send what changed, and return the newest commit of the main branch, None where it stayed as it was.

        Each branch is one commit, its weights and its card together, and the Hub takes a commit as a whole or not at
        all. The main branch comes last, so that a card never names a revision that is not there. What breaks off
        leaves branches, or an empty repo, and never half a card.
        """
        newest = None
        if self.found is None:
            make(self.api, self.name, self.kind, private)
        for one in sorted(planned, key=lambda one: one.branch.name == MAIN):
            if not one.changed and not one.removed:
                continue
            name = one.branch.name
            if name != MAIN and one.found is None:
                with sending(f"{self.name}, branch {name}"):
                    self.api.create_branch(self.name, repo_type=self.kind, branch=name, exist_ok=True)
            contents = {file: one.contents[file] for file in one.changed}
            newest = commit(
                self.api, self.name, self.kind, contents, one.found, message, branch=name, remove=one.removed
            )
        return newest

    def _look(self, branch: str) -> tuple[There | None, dict[str, Any] | None]:
        """What a branch holds, and its `farm.json`."""
        with if_answered(self.dry_run) as asked:
            found = there(self.api, self.name, self.kind, None if branch == MAIN else branch)
            return found, self._marker(found)
        self.unanswered = asked.unanswered
        return None, None

    def _marker(self, found: There | None) -> dict[str, Any] | None:
        if found is None or MARKER not in found.files:
            return None
        try:
            marker = json.loads(read(self.api, self.name, self.kind, found, MARKER))
        except ValueError:
            return None
        return marker if isinstance(marker, dict) and marker.get("schema") == SCHEMA else None


def _marked(branch: Branch, card: str) -> bytes:
    """`farm.json`: `card` is what git knows the card by that farm sent last."""
    told = {"schema": SCHEMA, **branch.facts, "card": card, "files": sorted(branch.contents)}
    return (json.dumps(told, indent=2) + "\n").encode()
