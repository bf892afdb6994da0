"""Claims a run for every free slot and submits one Ray job per lease. Stateless, so any number of them may run."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

import ray
from ray.job_submission import JobStatus

from farm.errors import FarmError, LeaseLost
from farm.queue import node as facts
from farm.queue.budget import Spending, price, spending
from farm.queue.listing import Picture
from farm.queue.queue import Queue
from farm.queue.values import Claim, Status
from farm.study.machine import MIXED, Machine, is_mixed, parts, resource, units_in
from farm.study.run import Evaluating, Lease
from farm.study.study import Study
from workers.head.jobs import Jobs, job_id, last_words
from workers.head.presence import ABSENT_SECONDS, new_name
from workers.node.labels import JOIN_LABEL

log = logging.getLogger("farm")

REST_SECONDS = 5.0  # after Ray refused a job, and twice as long each further time: each try costs an epoch
MOST_REST_SECONDS = 120.0
COUNT_SECONDS = 10.0  # between looks at what limited studies have spent, unless one reaches its limit before
TOLD_SECONDS = 60.0  # what was counted is believed for so long
LOOK_SECONDS = 2.0  # between looks at jobs that have not said a word
START_SECONDS = 120.0  # from claim to the agent's first renewal: imports, Ray's job supervisor, a slow node


class RayNode(NamedTuple):
    """A Ray node as far as placement goes."""

    id: str
    cpus: float
    units: dict[str, float]  # machine class -> runs at a time
    name: str = ""
    host: str = ""
    address: str = ""
    joined: str | None = None  # token of the `farm join` that started it

    @property
    def facts(self) -> facts.Node:
        """The node as the queue keeps it for people to read."""
        units = {name: int(count) for name, count in self.units.items()}
        return facts.Node(
            id=self.id, name=self.name, host=self.host, address=self.address, units=units, joined=self.joined
        )


class Slot(NamedTuple):
    """A place where a run could start now. For a mixed group, its first class leads and `others` are held with it."""

    machine: str
    node: str
    cpus: float
    others: tuple["Slot", ...] = ()


class Busy(NamedTuple):
    """A run that holds a unit. `node` is None until its agent has said where it is."""

    machine: str
    node: str | None


def nodes() -> list[RayNode]:
    """The living nodes of the Ray that this process is connected to."""
    return [_node(said) for said in ray.nodes() if said["Alive"]]


def _node(said: dict[str, Any]) -> RayNode:
    total = said["Resources"]
    return RayNode(
        id=said["NodeID"],
        cpus=total.get("CPU", 0.0),
        units=units_in(total),
        name=said["NodeName"],
        host=said["NodeManagerHostname"],
        address=said["NodeManagerAddress"],
        joined=said["Labels"].get(JOIN_LABEL),
    )


def cpus(machine: Machine | None, node: RayNode) -> float:
    """CPUs that one run of `machine` holds on `node`: its threads; a GPU machine is counted by its unit alone."""
    if machine is None or not machine.is_cpu:
        return 0.0
    return min(node.cpus, machine.accelerators * machine.threads if machine.threads else node.cpus)


def free(nodes: Sequence[RayNode], busy: Sequence[Busy], known: dict[str, Machine]) -> list[Slot]:
    """Every slot that could start a run now, each one as if it were the only one to start.

    A busy run whose node is not known yet counts against the first node that has room for it; one whose node is gone
    holds nothing.
    """
    left = {node.id: _Room(node) for node in nodes}
    for run in sorted(busy, key=lambda run: run.node is None):
        homes = left.values() if run.node is None else filter(None, [left.get(run.node)])
        if home := next((room for room in homes if run.node or room.takes(run.machine, known)), None):
            home.take(run.machine, known)
    return [
        Slot(name, room.node.id, cpus(known.get(name), room.node))
        for room in left.values()
        for name in room.node.units
        if room.takes(name, known)
    ]


def together(name: str, slots: Sequence[Slot]) -> Slot | None:
    """One of the free `slots` for every class of the mixed group `name`, each on a node of its own; None without."""
    choices = [[slot for slot in slots if slot.machine == part] for part in parts(name)]
    for chosen in product(*choices):
        if len({slot.node for slot in chosen}) == len(chosen):
            return Slot(name, MIXED.join(slot.node for slot in chosen), chosen[0].cpus, chosen[1:])
    return None


def offers(name: str, slots: Sequence[Slot]) -> list[Slot]:
    """Those of the free `slots` where a run of the class or mixed group `name` could start."""
    if is_mixed(name):
        return [group] if (group := together(name, slots)) else []
    return [slot for slot in slots if slot.machine == name]


def reserve(name: str, slots: Sequence[Slot]) -> list[Busy]:
    """A free unit of each class of the mixed group `name`, as far as there are any, as if it held them.

    The runs of one class would take each unit as it comes free, and the group would never start.
    """
    found: dict[str, Busy] = {}
    for part in parts(name):
        if slot := next((slot for slot in slots if slot.machine == part and slot.node not in found), None):
            found[slot.node] = Busy(part, slot.node)
    return list(found.values())


def holds(status: Status) -> list[Busy]:
    """The units that a run holds: one, or of a mixed group one of each class."""
    classes = parts(status.run.machine)
    return [Busy(*pair) for pair in zip(classes, status.nodes or [None] * len(classes), strict=True)]


class _Room:
    """The free part of a node."""

    def __init__(self, node: RayNode):
        self.node, self.cpus, self.units = node, node.cpus, dict(node.units)

    def takes(self, name: str, known: dict[str, Machine]) -> bool:
        return self.units.get(name, 0) >= 1 and self.cpus >= cpus(known.get(name), self.node)

    def take(self, name: str, known: dict[str, Machine]) -> None:
        self.units[name] = self.units.get(name, 0) - 1
        self.cpus -= cpus(known.get(name), self.node)


class Dispatcher:
    """turn() does what can be done now; call it again and again."""

    def __init__(
        self,
        queue: Queue,
        jobs: Jobs,
        look: Callable[[], list[RayNode]] = nodes,
        declared: Mapping[str, Machine] = MappingProxyType({}),
        marker: str = "",
        name: str | None = None,
    ):
        self.queue, self.jobs, self.look = queue, jobs, look
        self.marker = marker  # of the storage: where Redis is not its index, no run is claimed
        self.declared = declared  # machine classes that the settings name, for what they cost
        self.limited: dict[str, Study] = {}  # those that have a limit
        self.spent: dict[str, Spending] = {}  # of those, when last counted
        self.uncounted: set[str] = set()  # runs of limited studies that cannot be read
        self.asked: set[str] = set()  # jobs that were asked to stop, since their study has spent its limit
        self.refused = 0  # jobs in a row
        self.resting_until = 0.0
        self.looks_at = self.counts_at = self.counted_at = 0.0
        self.name = name or new_name()

    @property
    def over_budget(self) -> frozenset[str]:
        """The studies of which no further run may start."""
        return frozenset(name for name, one in self.spent.items() if one.is_over)

    def turn(self) -> list[str]:
        """Sweep expired leases, then claim and submit until no queued run has a free slot. Returns the job ids."""
        self.queue.sweep()
        self.bury()
        self._count_spending()
        submitted: list[str] = []
        if time.monotonic() < self.resting_until or self._is_away():
            return submitted
        while (claim := self._claim()) and (job := self._submit(*claim)):
            submitted.append(job)
        return submitted

    def _is_away(self) -> bool:
        """Whether Ray takes no jobs, once it has refused one: that is asked without a lease, which costs no epoch."""
        if not self.refused or not (why := self.jobs.away()):
            return False
        log.warning("Ray is not accepting jobs: %s", why)
        self._rest()
        return True

    def _rest(self) -> None:
        """Each time twice as long."""
        self.resting_until = time.monotonic() + min(MOST_REST_SECONDS, REST_SECONDS * 2 ** min(self.refused, 9))
        self.refused += 1

    def _count_spending(self) -> None:
        """Find the studies that have spent their limit, and stop what runs of those."""
        if time.monotonic() < self.counts_at:
            return
        self.limited = self.queue.studies.limited()
        paid = {name: self.queue.listing.paid_by(name) for name in self.limited}
        self._warn_of_unread(paid)
        theirs = [status for picture in paid.values() for status in picture.statuses]
        self.spent = spending(self.limited.values(), theirs, self._classes(), time.time())
        self.counted_at = time.monotonic()
        self._count_again()
        self.queue.studies.account({name: one.usd for name, one in self.spent.items()}, TOLD_SECONDS)
        self._stop_spenders()

    def _warn_of_unread(self, paid: Mapping[str, Picture]) -> None:
        """Say of each run once that it counts nothing against a limit because it cannot be read."""
        for name, picture in paid.items():
            for run_id in picture.flaws.keys() - self.uncounted:
                log.warning("the limit of %s does not count a run that cannot be read: %s", name, picture.flaws[run_id])
        self.uncounted = {run_id for picture in paid.values() for run_id in picture.flaws}

    def _classes(self) -> dict[str, Machine]:
        return self.queue.roster.classes(self.declared)

    def _count_again(self) -> None:
        """When to look next: at once where what trains reaches a limit."""
        soonest = min((one.seconds_left for one in self.spent.values() if not one.is_over), default=COUNT_SECONDS)
        self.counts_at = self.counted_at + min(COUNT_SECONDS, soonest)

    def _expect(self, claim: Claim) -> None:
        """One more run spends from now on."""
        if one := self.spent.get(claim.study):
            rate = price(self.limited[claim.study], claim.run.machine, self._classes())
            nodes = one.nodes + len(parts(claim.run.machine))
            self.spent[claim.study] = one._replace(usd_per_hour=one.usd_per_hour + rate, nodes=nodes)
            self._count_again()

    def _stop_spenders(self) -> None:
        """Have the running runs of studies that have spent their limit save a checkpoint and wait, if their policy says
        so. One that did not hear of it is asked again at the next count."""
        stopped = {name for name in self.over_budget if self.limited[name].policy.limit_action == "stop"}
        theirs = [status for status in self.queue.listing.running() if status.study in stopped] if stopped else []
        self.asked &= {job_id(status.id, status.epoch) for status in theirs}
        for status in theirs:
            if (job := job_id(status.id, status.epoch)) not in self.asked and self._recall(status, job):
                self.asked.add(job)

    def _recall(self, status: Status, job: str) -> bool:
        reason = f"over budget: {self.spent[status.study]}"
        try:
            self.queue.recall(_lease_of(status), reason)
        except LeaseLost:
            return False
        if why := self.jobs.stop(job):
            log.warning("%s could not be asked to stop: %s; trying again", job, why)
            return False
        log.info("%s: asked for a checkpoint: %s", status.id, reason)
        return True

    def bury(self) -> None:
        """End the leases whose agent has not said a word and never will, rather than wait until they run out.

        One whose node is gone or drained, or whose job was stopped, is given back; so is one that Ray has no job for,
        unless another dispatcher is there that may be about to submit it. One whose job failed has cost the run an
        attempt. Ray's word is taken for a death only, and only until the agent has renewed; from then on leases
        decide.
        """
        if time.monotonic() < self.looks_at:
            return
        self.looks_at = time.monotonic() + LOOK_SECONDS
        silent = [status for status in self.queue.listing.running() if status.job is None]
        alive = {node.id for node in self.look()} if silent else set()
        others = (
            self.queue.roster.attending(ABSENT_SECONDS) - {self.name} if silent else set()
        )  # in a turn nothing is under way
        for status in silent:
            lease, job = _lease_of(status), job_id(status.run.id, status.epoch)
            info = self.jobs.info(job)
            try:
                if info and not alive.issuperset(status.nodes):
                    self.queue.release(lease, "its node was gone or drained before it began", is_silent=True)
                elif info and info.status is JobStatus.STOPPED:
                    self.queue.release(lease, "its job was stopped before it began", is_silent=True)
                elif info and info.status is JobStatus.FAILED:
                    self.queue.fail(lease, "agent-died", last_words(info), status.step, retryable=True)
                elif info is None and status.worker not in others and self.jobs.is_unknown(job):
                    self.queue.release(lease, f"{status.worker} claimed it, but Ray has no job for it", is_silent=True)
            except LeaseLost:
                continue

    def _claim(self) -> tuple[Claim, Slot] | None:
        waiting = self.queue.listing.backlog(self.over_budget)
        if not waiting:
            return None
        nodes, known = self.look(), self.queue.roster.machines()
        busy = [held for status in self.queue.listing.running() for held in holds(status)]
        for name in waiting:
            slots = free(nodes, busy, known)
            for slot in offers(name, slots):
                if claim := self._lease(slot):
                    return claim, slot
            if is_mixed(name) and offers(name, free(nodes, [], known)):
                busy += reserve(name, slots)
        return None

    def _lease(self, slot: Slot) -> Claim | None:
        return self.queue.claim(slot.machine, self.name, START_SECONDS, slot.node, self.over_budget, self.marker)

    def _submit(self, claim: Claim, slot: Slot) -> str | None:
        """Hand the lease to an agent on the slot's node; give it back if Ray does not take the job."""
        run, lease = claim.run, claim.lease
        leader = parts(slot.node)[0]
        also = "".join(f" --also {other.machine}@{other.node}@{other.cpus:g}" for other in slot.others)
        job = job_id(run.id, lease.epoch)
        if lease.epoch > 1:
            self.jobs.stop(job_id(run.id, lease.epoch - 1))  # should it still live: so that it gives its unit back
        refusal = self.jobs.submit(
            job,
            f'exec "${{FARM_PYTHON:-python3}}" -P -u -m workers.attempt.agent'
            f" --run {run.id} --epoch {lease.epoch} --worker {lease.worker} --job {job} --node {leader}{also}",
            metadata={
                "job_name": _title(claim),  # the dashboard's column Name
                "study": claim.study,
                "arm": run.arm,
                "machine": run.machine,
                "seeds": str(run.seeds),
            },
            resources={resource(parts(run.machine)[0]): 1},
            cpus=slot.cpus,
            node=leader,
        )
        if refusal:
            log.warning("%s: Ray refused the job: %s", run.id, refusal)
            self._give_back(claim, f"Ray refused the job: {refusal}")
            self._rest()
            return None
        self.refused = 0
        self._expect(claim)
        return job

    def _give_back(self, claim: Claim, reason: str) -> None:
        try:
            self.queue.release(claim.lease, reason)
        except FarmError as lost:
            log.warning("not given back: %s", lost)


def _title(claim: Claim) -> str:
    run = claim.run
    what = f"{run.evaluation} of " if isinstance(run, Evaluating) else ""
    return f"{what}{run.arm} s{run.seeds} on {run.machine} ({claim.study})"


def _lease_of(status: Status) -> Lease:
    """The lease that a run is under, for callers that did not claim it."""
    return Lease(run_id=status.id, epoch=status.epoch, deadline=0.0, worker=status.worker or "")
