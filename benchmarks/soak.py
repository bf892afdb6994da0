"""`make soak`: many tiny runs on a real farm, hurt at random. Nothing may be lost, doubled or different.

A farm with two units trains RUNS runs. At moments drawn from SEED, counted in trained steps and not in seconds, FAULTS
faults of all KINDS befall it: its processes are killed or stopped, its Redis is emptied, its files are damaged, its
commands are typed in between. A twin, the same study on a fresh farm, is left alone. In the end every run must have
succeeded once, with the numbers, weights and ledger of the twin's to the last bit, and nothing may be left behind.
"""

import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.hurt import KINDS, STEPS, TURN_SECONDS, Farm, Hurt, Soak, say, told
from farm.queue.values import Status
from farm.record import ledger
from farm.record.result import Result
from farm.study.run import State

LAST = 0.9  # of all steps: no fault later, or there would be nothing left to hurt
STUDY = """
[study]
name = "soak"
machines = ["cpu-x1"]
seeds = {{ init = {seeds}, train = [23] }}
[policy]
attempts = 100
checkpoint_seconds = 0.5
hang_seconds = 10
[baseline.model]
vocab = 257
context = 32
width = 32
layers = 2
heads = 4
dropout = 0.1
[baseline.train]
batch = 8
tokens = {tokens}
learning_rate = 1e-3
precision = "fp32"
kernels = "farm"
reduction = "canonical"
canonical_microbatch = 2
[baseline.data]
source = "builtin:python-reference"
repeat = true
[baseline.evaluation]
offset = 0
sequences = 64
[interventions.remove-dropout]
model.dropout = 0.0
"""


def schedule(chance: random.Random, faults: int, kinds: list[str]) -> list[tuple[float, str]]:
    """When, as a share of all steps, and what: every kind before any comes again."""
    order: list[str] = []
    while len(order) < faults:
        order += chance.sample(kinds, len(kinds))
    return list(zip(sorted(chance.uniform(0.02, LAST) for _ in range(faults)), order, strict=False))


def trained(farm: Farm) -> int:
    """Steps in every ledger that there is, whether they count or not."""
    steps = 0
    for path in farm.store.root.glob(f"**/{ledger.FILE}"):
        steps += path.read_bytes().count(b'"step"')
    return steps


def soak(farm: Farm, runs: int, planned: list[tuple[float, str]], chance: random.Random) -> tuple[Soak, list[Hurt]]:
    """Train the study of `runs` runs on `farm` while what is `planned` befalls it."""
    study = farm.home / "soak.toml"
    text = STUDY.format(seeds=list(range(1, runs // 2 + 1)), tokens=STEPS * 8 * 32)
    study.write_text(text, encoding="utf-8")
    farm.type("up", "--machine", "cpu-x1=2")
    under = Soak(farm, study, runs, chance)
    hurts: list[Hurt] = []
    try:
        farm.type("submit", str(study))
        while not under.turn():
            if planned and under.reached >= planned[0][0]:
                _, kind = planned.pop(0)
                hurts += filter(None, [under.inflict(kind)])
            time.sleep(TURN_SECONDS)
    except (TimeoutError, RuntimeError) as error:
        under.wrong.append(str(error))
    finally:
        for _, process in under.stopped:
            with suppress(psutil.Error):
                process.resume()
        under.wrong += down(farm)
    under.wrong += [f"no chance came for {kind}" for _, kind in planned]
    return under, hurts


def down(farm: Farm) -> Iterator[str]:
    """Take it down; what is left then and should not be."""
    try:
        farm.type("down")
    except RuntimeError as error:
        yield str(error)
    for process in farm.left():
        with suppress(psutil.Error):
            yield f"still alive after farm down: {told(process)} {' '.join(process.cmdline())[:100]}"
            process.kill()
    for path in farm.temporary.glob("farm-ray-*"):
        yield f"left behind: {path}"


def outcomes(farm: Farm) -> dict[str, Status]:
    """Every run as Redis has it, which this starts for a moment."""
    farm.server.start()
    try:
        with farm.queue() as queue:
            return {status.id: status for status in queue.listing.statuses()}
    finally:
        farm.server.stop()


def compared(farm: Farm, twin: Farm) -> Iterator[str]:
    """Whatever of the farm is not as it is at its twin, which was left alone."""
    ours, theirs = outcomes(farm), outcomes(twin)
    if ours.keys() != theirs.keys():
        yield f"other runs: {sorted(ours.keys() ^ theirs.keys())}"
    for run_id in sorted(ours.keys() & theirs.keys()):
        status = ours[run_id]
        if status.state is not State.SUCCEEDED or status.result is None:
            last = "; ".join(f"{one.cause}: {one.message}" for one in status.causes[-2:])
            yield f"{run_id} is {status.state}: {last}"
            continue
        with_outcome = [one for one in farm.store.runs.attempts(run_id) if one.outcome == "succeeded"]
        if len(with_outcome) > 1:
            yield f"{run_id} succeeded {len(with_outcome)} times"
        recorded = farm.store.runs.result(run_id)
        if recorded != status.result:
            yield f"{run_id}: Redis and result.json differ"
        here, there = numbers(farm, run_id, status.result), numbers(twin, run_id, theirs[run_id].result)
        yield from (f"{run_id}: {name} differs from the twin's" for name in here if here[name] != there[name])


def numbers(farm: Farm, run_id: str, result: Result | None) -> dict[str, object]:
    """What training alone decides."""
    assert result is not None
    names = ("test_loss", "test_tokens", "train_loss", "best_loss", "best_step", "steps", "tokens", "fingerprints")
    lines = [_without_seconds(line) for line in ledger.read(farm.store.folder(run_id))]
    return {name: getattr(result, name) for name in names} | {"ledger": lines}


def _without_seconds(line: ledger.Line) -> ledger.Line:
    validation = line.validation and line.validation._replace(seconds=0.0)
    return line._replace(seconds=0.0, validation=validation)


def number(name: str, otherwise: int) -> int:
    return int(os.environ.get(name) or otherwise)


def main() -> int:
    seed = number("SEED", random.SystemRandom().randrange(2**31))
    runs, faults = number("RUNS", 48), number("FAULTS", 40)
    kinds = os.environ.get("KINDS", "").replace(",", " ").split() or list(KINDS)
    if unknown := set(kinds) - KINDS.keys():
        sys.exit(f"unknown kinds {', '.join(sorted(unknown))}; known: {', '.join(KINDS)}")
    if runs < 2 or runs % 2:
        sys.exit(f"RUNS={runs}: two arms need an even number of runs.")
    say(f"SEED={seed} RUNS={runs} FAULTS={faults} KINDS={','.join(kinds)}")
    chance = random.Random(seed)
    planned = schedule(chance, faults, kinds)
    home = Path(tempfile.mkdtemp(prefix="soak-"))
    walls, farms = [], []
    for name, plan in (("twin", []), ("hurt", planned)):
        (home / name).mkdir()
        farm, began = Farm(home / name), time.monotonic()
        say(f"{name}: {farm.home}")
        under, hurts = soak(farm, runs, plan, chance)
        walls.append(time.monotonic() - began)
        farms.append((farm, under))
        if name == "twin" and under.wrong:
            break
    wrong = [text for _, under in farms for text in under.wrong]
    if len(farms) == 2:
        (twin, _), (hurt, under) = farms
        wrong += compared(hurt, twin)
        print(f"{len(hurts)} faults: {dict(sorted(Counter(one.kind for one in hurts).items()))}")
        print(f"`farm up` typed anew: {under.restarts}")
        print(f"wall: {walls[1]:.0f} s, {walls[1] / walls[0]:.2f} x the twin's {walls[0]:.0f} s")
        print(f"steps: {trained(hurt):,}, {trained(hurt) / trained(twin):.2f} x the twin's {trained(twin):,}")
    for text in dict.fromkeys(wrong):
        print(f"WRONG: {text}")
    if wrong:
        print(f"SEED={seed} went wrong; everything is kept in {home}")
        return 1
    print(f"SEED={seed}: {runs} runs succeeded once each, to the bit as the twin's; nothing was left behind")
    shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
