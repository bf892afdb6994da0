"""Watches over the machines that this farm rents: waits for capacity, launches, lets them join, and ends them.

Everything that it knows is in the records (`farm.queue.rental`), and each record is written before the cloud is asked,
so that a head that was killed at any moment goes on from there:

L1 Nothing dearer than the record's limit is launched, and what has reached a limit is ended.
L2 A name is launched once: a launch whose answer was lost is looked for by its name, for as long as the cloud may need
   to list it, before it is repeated; a second instance of that name is ended.
L3 An end whose answer was lost is repeated until the cloud does not list the machine any more.
L4 Nothing that this farm rents is left when it goes down, unless a person said so.

Longer than other files and in one class of 30 methods, so that these four can be held against all that changes a
record.
"""

import logging
import random
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from farm.errors import FarmError, NoCapacity, TooOften, Unreachable
from farm.queue.node import Node
from farm.queue.queue import Queue
from farm.queue.rental import LEAVE_SECONDS, Rental, Stage
from workers.rent.arrival import folder_of
from workers.rent.engine import Engine, Instance
from workers.rent.names import keeper

RECENT = 4  # times as long, a late machine of an ended record is looked for
GONE_LOOKS = 3  # in a row without it: the cloud has ended it
BOOT_SECONDS = 3600.0  # eight GPUs take a quarter of an hour
JOIN_SECONDS = 3600.0
CLOSE_SECONDS = 30.0  # for the cloud to say that it ends what was rented
CLOSE_TURN_SECONDS = 2.0
KEEP_SECONDS = 30 * 86400.0  # records of what has ended

log = logging.getLogger("farm")


class Landlord:
    """Of what one engine rents. turn() carries every machine one step further; call it again and again."""

    def __init__(self, queue: Queue, home: Path, engine: Engine, clock: Callable[[], float] = time.time):
        self.queue, self.home, self.engine, self.clock = queue, home, engine, clock
        self.pace = engine.pace
        self._arriving: dict[str, Future[None]] = {}
        self._looks_at = self._capacity_at = self._launches_at = 0.0

    def mine(self) -> list[Rental]:
        """The records of the machines that this farm watches over, and that the engine rents."""
        own = keeper(self.home)
        return [one for one in self.queue.roster.rentals() if (one.keeper, one.cloud) == (own, self.engine.name)]

    def begin(self) -> None:
        """After this farm was down: what was kept is to join again."""
        for one in self.mine():
            if one.is_kept:
                again = one.stage in (Stage.JOINING, Stage.UP, Stage.LEAVING)
                to = Stage.BOOTING if again else one.stage
                self._save(one, one.on(to, self.clock(), one.note, is_kept=False, idle_since=None))

    def turn(self) -> None:
        """Look, and do what is due. A cloud that does not answer is asked again later."""
        rentals, now = self.mine(), self.clock()
        live = [one for one in rentals if not one.is_over]
        recent = [one for one in rentals if one.ended is not None and now - one.ended < RECENT * self.pace.settle]
        self._forget(rentals, now)
        if not live and not recent:
            self.engine.forget()
            return
        if now < self._looks_at:
            return
        try:
            there = self.engine.instances()
        except FarmError as error:
            self._rest(live, error, now)
            return
        self._looks_at = now + _about(self.pace.look)
        self._end_strays(rentals, there)
        nodes = {node.name: node for node in self.queue.roster.nodes()}
        for one in live:
            self._step(one, there, nodes.get(one.name))

    def close(self, reason: str, seconds: float = CLOSE_SECONDS, name: str | None = None) -> list[Rental]:
        """End everything that is not to be kept (L4), or the machine `name`, trying for so long; those that may still
        cost money."""
        deadline = time.monotonic() + seconds
        while True:
            mine = [one for one in self.mine() if name in (None, one.name) and not one.is_over and not one.is_kept]
            for one in mine:
                if one.stage is not Stage.ENDING:
                    self._save(one, one.ending(reason, self.clock()))
            paid = [one for one in self.mine() if one.may_cost and one.name in {each.name for each in mine}]
            left = [one for one in paid if not self._is_told_to_end(one)]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(min(CLOSE_TURN_SECONDS, self.pace.look))

    def _is_told_to_end(self, one: Rental) -> bool:
        """Whether the cloud says that it ends the machine, or does not list it; asks it to."""
        try:
            is_launching = self._is_launching(one)
            if (ids := self._paid_for(one.name)) or is_launching:
                self.engine.end(one.name, ids)
                ids = self._paid_for(one.name)
        except FarmError as error:
            log.warning("%s could not be ended: %s", one.name, error)
            return False
        if ids or (one.instance is None and not self._has_settled(one)):
            return False
        now = self.clock()
        self._save(one, one.on(Stage.ENDED, now, ended=now))
        return True

    def _step(self, one: Rental, there: Sequence[Instance], node: Node | None) -> None:
        """Carry one machine one step further."""
        found = next((it for it in there if it.name == one.name and it.id == (one.instance or it.id)), None)
        now = self.clock()
        if found and one.missing:
            before, one = one, one.model_copy(update={"missing": 0})
            self._save(before, one)
        if one.may_cost and one.stage is not Stage.ENDING and (reason := one.limit(now, self._early)):
            self._end(one, found, reason)
            return
        if one.stage in (Stage.LAUNCHING, Stage.BOOTING) and self._is_awaited(one, found):
            return
        match one.stage:
            case Stage.WAITING:
                self._look_for_capacity(one, found)
            case Stage.LAUNCHING:
                self._look_for_launched(one, found)
            case Stage.BOOTING | Stage.JOINING | Stage.UP | Stage.LEAVING if found is None or found.is_over:
                self._miss(one, found)
            case Stage.BOOTING if found:
                self._boot(one, found)
            case Stage.JOINING if found:
                self._join(one, found, node)
            case Stage.UP:
                self._watch(one, node)
            case Stage.LEAVING:
                self._leave(one, found, node)
            case Stage.ENDING:
                self._end(one, found)

    def _look_for_capacity(self, one: Rental, found: Instance | None) -> None:
        now = self.clock()
        if found and not found.is_over:  # a launch of which this record does not know: a Redis that lost a write
            self._save(one, one.on(Stage.BOOTING, now, launched=now, instance=found.id, **_facts(found)))
            return
        if now < max(self._capacity_at, self._launches_at):
            return
        try:
            place = self.engine.find(one)
        except (TooOften, Unreachable) as error:
            self._rest([one], error, now)
            return
        except FarmError as error:
            self._capacity_at = now + _about(self.pace.capacity)
            self._note(one, str(error))
            return
        asking = one.on(
            Stage.LAUNCHING,
            now,
            f"asked for a {place.type} in {place.region}",
            type=place.type,
            place=place.region,
            usd_per_hour=place.usd_per_hour,
            launched=now,
        )
        if self._save(one, asking):
            self._launches_at = now + self.pace.launch
            self._launch(asking)

    def _launch(self, one: Rental) -> None:
        """Launch what the record says that is being launched (L2)."""
        log.info("%s: launching a %s in %s at $%.2f/h", one.name, one.type, one.place, one.usd_per_hour)
        try:
            instance = self.engine.launch(one)
        except Unreachable as error:
            self._note(one, f"{error} It may be launched all the same: looking for it by its name")
        except (FarmError, OSError) as error:
            self._not_launched(one, error)
        else:
            if instance is not None:
                self._save(one, one.on(Stage.BOOTING, self.clock(), "it boots", instance=instance))

    def _not_launched(self, one: Rental, error: FarmError | OSError) -> None:
        """Nothing was launched: wait for capacity, or give up."""
        now = self.clock()
        nothing: dict[str, Any] = {"launched": None, "usd_per_hour": None, "type": None, "place": None}
        if isinstance(error, NoCapacity | TooOften):
            self._capacity_at = now + _about(self.pace.capacity)
            self._save(one, one.on(Stage.WAITING, now, str(error), **nothing))
        else:
            self._save(one, one.on(Stage.WAITING, now, **nothing).ending(f"not launched: {error}", now))

    def _is_awaited(self, one: Rental, found: Instance | None) -> bool:
        """Whether a launch that is under way has not shown a machine yet, or has just failed."""
        try:
            return self.engine.is_launching(one.name) and found is None
        except Unreachable as error:
            self._note(one, f"{error} It may be launched all the same: looking for it by its name")
            return True
        except FarmError as error:
            if found is None or found.is_over:
                self._not_launched(one, error)
            else:
                self._end(one, found, f"not launched: {error}")
            return True

    def _is_launching(self, one: Rental) -> bool:
        """The same of a machine that is to end in any case."""
        try:
            return self.engine.is_launching(one.name)
        except FarmError:
            return False

    def _look_for_launched(self, one: Rental, found: Instance | None) -> None:
        now = self.clock()
        if found and found.is_over:
            self._save(one, one.on(Stage.ENDED, now, reason="the cloud ended it", ended=now))
        elif found:
            self._save(one, one.on(Stage.BOOTING, now, "it boots", instance=found.id, **_facts(found)))
        elif self._is_gone(one):
            self._save(one, one.on(Stage.WAITING, now, "the launch came to nothing", launched=None, usd_per_hour=None))

    def _is_gone(self, one: Rental) -> bool:
        """Whether the cloud, which does not list it now, has not for so long that there is no such machine. If that is
        not sure yet, this look is counted.
        """
        is_sure = one.missing + 1 >= GONE_LOOKS and self._has_settled(one)
        if not is_sure:
            self._save(one, one.model_copy(update={"missing": one.missing + 1}))
        return is_sure

    def _has_settled(self, one: Rental) -> bool:
        """Whether a machine that was launched would be listed by now."""
        return one.launched is None or self.clock() - one.launched > self.pace.settle

    def _miss(self, one: Rental, found: Instance | None) -> None:
        """The cloud does not list it, or says that it is gone."""
        now = self.clock()
        if found is None and not self._is_gone(one):
            return
        said = f"the cloud says that it is {found.status}" if found else "the cloud does not list it any more"
        self._save(one, one.on(Stage.ENDED, now, reason=one.reason or said, ended=now))

    def _boot(self, one: Rental, found: Instance) -> None:
        now = self.clock()
        if found.status == "unhealthy":
            self._end(one, found, "the cloud says that it is unhealthy")
        elif found.status == "active" and found.address:
            self._save(one, one.on(Stage.JOINING, now, "farm is being installed", address=found.address))
        elif now - one.entered > BOOT_SECONDS:
            self._end(one, found, f"it did not boot within {BOOT_SECONDS / 60:g} min")

    def _join(self, one: Rental, found: Instance, node: Node | None) -> None:
        now = self.clock()
        if node is not None:
            if one.machine in node.units:
                self._save(one, one.on(Stage.UP, now, "", idle_since=now))
            else:
                other = ", ".join(sorted(node.units)) or "no machine class"
                self._end(one, found, f"it is {other}, and not the {one.machine} that was asked for")
        elif now - one.entered > JOIN_SECONDS:
            self._end(one, found, f"it did not join within {JOIN_SECONDS / 60:g} min: {one.note}")
        elif one.name not in self._arriving:
            self._arriving[one.name] = self._in_background(one, found)
        elif (arriving := self._arriving[one.name]).done():
            if error := arriving.exception():
                del self._arriving[one.name]  # and again at the next turn
                said = error if isinstance(error, FarmError) else f"{type(error).__name__}: {error}"
                self._note(one, f"{said} Trying again")
            else:
                self._note(one, "farm join was started there")

    def _in_background(self, one: Rental, found: Instance) -> Future[None]:
        """Let it join, from a thread that ends with this process, as does the ssh that it started."""
        coming: Future[None] = Future()

        def bring() -> None:
            try:
                self.engine.bring(one, found)
                coming.set_result(None)
            except Exception as error:
                coming.set_exception(error)

        threading.Thread(target=bring, name=f"arrival of {one.name}", daemon=True).start()
        return coming

    def _watch(self, one: Rental, node: Node | None) -> None:
        now = self.clock()
        if reason := one.limit(now, LEAVE_SECONDS + self._early):
            self._save(one, one.on(Stage.LEAVING, now, "what trains saves a checkpoint", reason=reason))
        elif node is not None and self._trains(node):
            if one.idle_since is not None:
                self._save(one, one.model_copy(update={"idle_since": None, "note": ""}))
        elif one.idle_since is None:
            self._save(one, one.model_copy(update={"idle_since": now}))
        elif now - one.idle_since >= 60 * one.idle_minutes:
            self._save(one, one.on(Stage.LEAVING, now, reason=f"it was idle for {one.idle_minutes:g} min"))

    def _leave(self, one: Rental, found: Instance | None, node: Node | None) -> None:
        now = self.clock()
        if node is not None:
            self.queue.roster.drain(node.id, one.reason or "it is ended")
        if node is None or not self._trains(node) or now - one.entered > LEAVE_SECONDS:
            self._end(one, found)

    @property
    def _early(self) -> float:
        """Seconds before a limit at which a machine is ended: the next look may be after it."""
        return 2 * self.pace.look

    def _trains(self, node: Node) -> bool:
        return any(node.id in status.nodes for status in self.queue.listing.running())

    def _end(self, one: Rental, found: Instance | None, reason: str = "") -> None:
        """L3: ask the cloud for it, again at each look until it is gone. The record says so before."""
        now = self.clock()
        if one.stage is not Stage.ENDING:
            before, one = one, one.ending(reason, now)
            if not self._save(before, one):
                return
        is_launching = self._is_launching(one)
        if not is_launching and (found.is_over if found else self._is_gone(one)):
            self._save(one, one.on(Stage.ENDED, now, ended=now))
        elif is_launching or (found and found.is_paid_for):
            try:
                self.engine.end(one.name, [found.id] if found else [])
                self._note(one, "the cloud was asked to end it")
            except FarmError as error:
                self._note(one, f"{error} Trying again")

    def _end_strays(self, rentals: Sequence[Rental], there: Sequence[Instance]) -> None:
        """L2: end instances that have the name of a record which has another instance, or has ended."""
        records = {one.name: one for one in rentals}
        for it in there:
            one = records.get(it.name)
            if one is None or not it.is_paid_for or not (one.is_over or one.instance not in (None, it.id)):
                continue
            log.warning("%s: a second instance of that name (%s) is ended", one.name, it.id)
            try:
                self.engine.end(it.name, [it.id])
            except FarmError as error:
                log.warning("%s could not be ended: %s; trying again", it.id, error)

    def _paid_for(self, name: str) -> list[str]:
        """The ids of the machines of that name that have to be ended."""
        return [it.id for it in self.engine.instances() if it.name == name and it.is_paid_for]

    def _rest(self, live: Sequence[Rental], error: FarmError, now: float) -> None:
        """Ask the cloud nothing for a while, and say why."""
        self._looks_at = self._capacity_at = now + _about(self.pace.rest)
        for one in live:
            self._note(one, str(error))

    def _note(self, one: Rental, note: str) -> None:
        self._save(one, one.model_copy(update={"note": note}))

    def _save(self, before: Rental, after: Rental) -> bool:
        """Record it, unless another has changed the record meanwhile; whether it was."""
        if before == after:
            return True
        saved = self.queue.roster.change_rental(before.name, lambda now: after if now == before else now)
        if saved == after and (after.stage, after.note) != (before.stage, before.note):
            why = f": {after.note or after.reason}" if after.note or after.reason else ""
            log.info("%s is %s%s", after.name, after.stage, why)
        if after.stage is not Stage.JOINING:
            self._arriving.pop(after.name, None)
        if saved == after and after.is_over:  # the script that set it up may hold secrets
            shutil.rmtree(folder_of(self.home, after.name), ignore_errors=True)
        return saved == after

    def _forget(self, rentals: Sequence[Rental], now: float) -> None:
        """Forget what has ended long ago."""
        for one in rentals:
            if one.ended is not None and now - one.ended > KEEP_SECONDS:
                self.queue.roster.change_rental(one.name, lambda _: None)


def _about(seconds: float) -> float:
    """So long, give or take: several farms of one account are not to ask in step."""
    return seconds * random.uniform(0.8, 1.2)


def _facts(found: Instance) -> dict[str, Any]:
    """What the cloud says of an instance that was found by its name."""
    known = {"type": found.type, "place": found.region, "usd_per_hour": found.usd_per_hour}
    return {key: value for key, value in known.items() if value is not None}
