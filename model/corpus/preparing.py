"""`farm data prepare`: text or tokens from anywhere as a folder of tokens, by all cores.

Files are cut into parts, each part becomes a piece in `.preparing/KEY` (KEY names all that decides about the tokens),
and the pieces become the files of the folder. Who is killed goes on with the pieces that are there.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from farm.errors import BadCorpus, BadSetting, Conflict, StorageFull
from farm.files import FULL, Lock, place, write_whole
from farm.study.recipe import Data, digest
from model.corpus import crew, cuts, origin, pieces, token_folder, tokenizer
from model.corpus.assembly import join
from model.corpus.documents import Part
from model.corpus.formats import TOKEN
from model.corpus.kept import identity, keep_sha256, known_sha256, sha256_of
from model.corpus.names import TOKEN_SUFFIXES, codec_suffix, gaps, kind, some
from model.corpus.text import READING
from model.corpus.token_folder import MANIFEST, SCHEMA, WORK, Asked, Input, Made, Manifest, Vocabulary
from model.corpus.tokenizer import Tokenizer

TEXT_BYTES_PER_TOKEN = 3  # at least, of ordinary text by GPT-2's tokenizer; English has 4.5
FEW_BYTES = 2**28  # of input, whose fingerprints are not worth a process
MAKING = 1  # counts up when the same inputs would give another folder than before


class Done(NamedTuple):
    """How far it is: bytes of text behind, of all, and the tokens that they made. `note` says what is being done."""

    bytes: int
    total: int
    tokens: int
    note: str


class Outcome(NamedTuple):
    """A finished folder. `why`: made, there already, went on, or why it was made again. `remarks`: what is missing."""

    manifest: Manifest
    why: str
    remarks: list[str]


Watch = Callable[[Done], None]


def prepare(
    data: Data, validation: float | int | None, folder: Path, cache: Path, processes: int, watch: Watch
) -> Outcome:
    """Make `folder` the tokens of `data`, or see that it is that already.

    Raises: BadCorpus: the source, or a file of it. BadSetting: the folder cannot be written. Conflict: it holds
    something else, or another process is making it. StorageFull: before anything is written, or later. Unreachable,
    StorageUnusable: as open_split.
    """
    asked = _asked(data, validation)
    token_folder.check_free(folder, asked)
    with _alone(folder, cache), _writing(folder):
        return _Preparation(asked, data, folder, cache, processes, watch).run()


class _Preparation:
    """The steps, and what they share."""

    def __init__(self, asked: Asked, data: Data, folder: Path, cache: Path, processes: int, watch: Watch):
        self.asked, self.data, self.folder, self.cache = asked, data, folder, cache
        self.processes, self.watch = processes, watch
        self.made_by = tokenizer.of(data)
        self.sources = origin.sources(data, cache)
        self.held = origin.holdout_of(asked.validation, self.sources)
        self.files = [path for files in self.sources.values() for path in files]
        self.seen = {path: identity(path) for path in self.files}
        self.sizes = {path: cuts.bytes_of(path, data.text_field) for path in self.files}

    def run(self) -> Outcome:
        before = token_folder.check_free(self.folder, self.asked)
        if not before:
            self._check_room()
        inputs = self._inputs()
        key = self._key(inputs)
        work, why = self.folder / WORK / key[:16], "made"
        if before:
            wrong = token_folder.find_damage(self.folder, before, self.cache)
            if before.key == key and not wrong:
                shutil.rmtree(self.folder / WORK, ignore_errors=True)
                return self._outcome(before, "there already")
            why = f"made again: {_changes(before, inputs) if before.key != key else f'{some(wrong)} had changed'}"
            self._check_room()
        elif work.exists():
            why = "went on"
        _begin(work)
        parts = {split: [part for path in files for part in self._cut(path)] for split, files in self.sources.items()}
        made = self._make_pieces(parts, work)
        manifest = Manifest(
            schema=SCHEMA,
            key=key,
            asked=self.asked,
            tokenizer=_vocabulary(self.asked.tokenizer, self.made_by),
            inputs=inputs,
            parts=self._assemble(made, work),
        )
        if changed := [path.name for path in self.files if not path.exists() or identity(path) != self.seen[path]]:
            raise BadCorpus(
                f"{some(changed)} changed while it was read.", remedy="Run the command again when it is whole."
            )
        _finish(self.folder, work, manifest)
        for one in manifest.parts.values():
            keep_sha256(self.folder / one.file, one.sha256, self.cache)
        return self._outcome(manifest, why)

    def _outcome(self, manifest: Manifest, why: str) -> Outcome:
        return Outcome(manifest, why, gaps([path.name for path in self.files]))

    def _check_room(self) -> None:
        """Raises: StorageFull: the disk of the folder has not the room that its pieces and its files may take."""
        tokens = sum(self._most_tokens(path) for path in self.files)
        there = sum(path.stat().st_size for path in (self.folder / WORK).rglob("*") if path.is_file())
        needed = 2 * tokens * TOKEN.itemsize - there
        disk = next(path for path in (self.folder, *self.folder.parents) if path.is_dir())
        if needed > (free := shutil.disk_usage(disk).free):
            raise StorageFull(
                f"{self.folder}: {_size(sum(self.sizes.values()))} of input may need {_size(needed)} while its tokens"
                f" are made, and {_size(free)} are free there.",
                remedy="Free some space, or name a folder on another disk.",
            )

    def _most_tokens(self, path: Path) -> int:
        if kind(path.name) in TOKEN_SUFFIXES:
            return cuts.count_of(path)
        return self.sizes[path] // (1 if self.made_by is tokenizer.BYTES else TEXT_BYTES_PER_TOKEN)

    def _inputs(self) -> tuple[Input, ...]:
        """The files of the source with their fingerprints, which are computed once for as long as they stay."""
        unknown = [path for path in self.files if known_sha256(path, self.cache) is None]
        total, behind = sum(path.stat().st_size for path in unknown), 0
        processes = min(self.processes, len(unknown)) if total > FEW_BYTES else 1
        for (path, _), _ in crew.each(sha256_of, [(path, self.cache) for path in unknown], processes):
            behind += path.stat().st_size
            self.watch(Done(behind, total, 0, "fingerprints"))
        return tuple(
            Input(split=split, name=path.name, bytes=path.stat().st_size, sha256=sha256_of(path, self.cache))
            for split, files in self.sources.items()
            for path in files
        )

    def _key(self, inputs: tuple[Input, ...]) -> str:
        content = [[one.split, kind(one.name), codec_suffix(one.name), one.sha256] for one in inputs]
        ends = [self.made_by.identity, self.made_by.end_of_text]
        making = {"making": MAKING, "reading": READING, "held": self.held, "field": self.data.text_field}
        return digest(making | {"content": content, "tokenizer": ends})

    def _cut(self, path: Path) -> list[Part]:
        return cuts.cut(path, self.data.text_field, self.made_by)

    def _make_pieces(self, parts: dict[str, list[Part]], work: Path) -> dict[str, list[Path]]:
        """The pieces of every split, in order; those that are not there are made."""
        made = {
            split: [work / f"{split}-{number:06}.safetensors" for number in range(len(of_split))]
            for split, of_split in parts.items()
        }
        pairs = [pair for split in parts for pair in zip(parts[split], made[split], strict=True)]
        shares = Counter(part.path for part, _ in pairs)
        behind, tokens, todo = 0.0, 0, []
        for part, piece in pairs:
            if (count := pieces.count_of(piece)) is not None:
                behind, tokens = behind + self.sizes[part.path] / shares[part.path], tokens + count
            else:
                todo.append((part, self.data, piece))
        total = sum(self.sizes.values())
        self.watch(Done(round(behind), total, tokens, "tokens"))
        for (part, *_), count in crew.each(make_piece, todo, min(self.processes, len(todo))):
            behind, tokens = behind + self.sizes[part.path] / shares[part.path], tokens + count
            self.watch(Done(round(behind), total, tokens, "tokens"))
        return made

    def _assemble(self, made: dict[str, list[Path]], work: Path) -> dict[str, Made]:
        """The files of the folder, in `work`, of the pieces of each split.

        Raises: BadCorpus: a part would hold nothing.
        """
        if self.held is None:
            return {split: join(split, paths, None, self.made_by, work)[split] for split, paths in made.items()}
        return join("train", made["train"], self.held, self.made_by, work)


def make_piece(part: Part, data: Data, piece: Path) -> int:
    """`pieces.make` in a process of its own, which finds the tokenizer by itself."""
    return pieces.make(part, data.text_field, tokenizer.of(data), piece)


# --- what is asked for ------------------------------------------------------------------------------------------------


def _asked(data: Data, validation: float | int | None) -> Asked:
    is_path = data.source.startswith("/")
    return Asked(
        source=Path(data.source).name if is_path else data.source,
        revision=data.revision,
        tokenizer=Path(data.tokenizer).name,
        text_field=data.text_field,
        validation=validation,
    )


def _vocabulary(name: str, made_by: Tokenizer) -> Vocabulary:
    sha256 = made_by.identity["sha256"] if isinstance(made_by.identity, dict) else None
    called = "bytes" if made_by is tokenizer.BYTES else name
    return Vocabulary(name=called, vocab=made_by.vocab, end_of_text=made_by.end_of_text, sha256=sha256)


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def _changes(before: Manifest, inputs: tuple[Input, ...]) -> str:
    """In which inputs a folder differs from what it was made of."""
    then, now = ({(one.split, one.name): one.sha256 for one in them} for them in (before.inputs, inputs))
    names = [name for (_, name) in sorted(then.keys() | now.keys()) if then.get((_, name)) != now.get((_, name))]
    return f"{some(names)} changed" if names else "the tokenizer changed"


# --- the folder -------------------------------------------------------------------------------------------------------


@contextmanager
def _alone(folder: Path, cache: Path) -> Iterator[None]:
    """Raises: Conflict: another process of this machine makes this folder."""
    locks = cache / "preparing"
    locks.mkdir(parents=True, exist_ok=True)
    with Lock(locks / f"{digest({'folder': str(folder.resolve())})[:16]}.lock") as lock:
        if not lock.try_take():
            raise Conflict(f"another farm data prepare is writing {folder}.", remedy="Wait until it has finished.")
        yield


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raises: StorageFull. BadSetting: there can be no such folder, or this user may not write there."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull(
                f"{folder}: no space left for the tokens.",
                remedy="Free some space and run the command again: it goes on where it was.",
            ) from None
        at = Path(error.filename or ".")
        if at.is_relative_to(folder) or at in folder.parents:
            raise BadSetting(
                f"{folder} cannot be written: {at}: {error.strerror}.",
                remedy="Name a folder that you may make, or write to.",
            ) from None
        raise


def _begin(work: Path) -> None:
    """An empty place for pieces, or the one that an earlier call left; what belongs to other inputs goes."""
    work.mkdir(parents=True, exist_ok=True)
    for other in work.parent.iterdir():
        if other != work:
            shutil.rmtree(other)


def _finish(folder: Path, work: Path, manifest: Manifest) -> None:
    """The files in place, and the manifest last: until then the folder is unfinished, and its pieces are there."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for made in manifest.parts.values():
        place(work / made.file, folder / made.file)
    for name in {f"{split}.safetensors" for split in origin.SPLITS} - {made.file for made in manifest.parts.values()}:
        (folder / name).unlink(missing_ok=True)
    write_whole(folder / MANIFEST, manifest.to_json(), lasting=True)
    shutil.rmtree(folder / WORK)
