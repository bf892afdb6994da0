"""Hosts with addresses of their own on one switch, made of Linux namespaces: as separate as one kernel allows.

Each host has its own network, mounts, name and processes; its first process reads a pipe that this process holds. When
this process ends, in whatever way, the pipe closes and the kernel ends all that ran there, with its links and mounts:
nothing has a name outside, so nothing can be left behind or be in the way of another.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

NAMESPACES = ["--net", "--mount", "--uts", "--ipc", "--pid"]
NETWORK = "10.77.0"
RUN_SECONDS = 180.0
# It buries the orphans that end up with it, says that the host is on, and waits for the pipe to close.
FIRST_PROCESS = """
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("on", flush=True)
sys.stdin.read()
"""
TOOLS = ["ip", "unshare", "nsenter", "mount"]


def obstacle() -> str | None:
    """Why this machine cannot have such hosts; None if it can."""
    if os.geteuid() != 0:
        return "not root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"no {', '.join(missing)} (Debian: iproute2, util-linux)"
    trial = "ip link add trial type bridge && ip link add one type veth peer name other && mount -t tmpfs none /mnt"
    trial += " && ip rule add pref 10 ipproto tcp dport 6380 blackhole"
    said = subprocess.run(["unshare", *NAMESPACES, "--fork", "sh", "-c", trial], capture_output=True, text=True)
    return None if said.returncode == 0 else f"the kernel refuses: {said.stderr.strip() or said.stdout.strip()}"


class Host:
    """A machine that is on until `off()`. It sees the files of this machine; `here` shows it a folder of its own."""

    def __init__(self, name: str, own: Path, here: Path, variables: Mapping[str, str]):
        self.name, self.variables = name, dict(variables)
        own.mkdir(parents=True)
        setup = 'hostname "$0" && mount --bind "$1" "$2" && ip link set lo up && exec "$3" -c "$4"'
        words = ["sh", "-c", setup, name, str(own), str(here), sys.executable, FIRST_PROCESS]
        self.power = subprocess.Popen(
            ["unshare", *NAMESPACES, "--fork", "--mount-proc", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.power.stdout is not None
        assert self.power.stdout.readline() == "on\n", f"{name} does not start"
        self.init = psutil.Process(self.power.pid).children()[0].pid
        self.started: list[subprocess.Popen] = []

    def words(self, *words: str) -> list[str]:
        return ["nsenter", f"--target={self.init}", *NAMESPACES, "--", *words]

    def run(self, *words: str, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command there and check its exit code."""
        done = subprocess.run(
            self.words(*words),
            env=self.variables,
            capture_output=True,
            text=True,
            input=stdin,
            timeout=RUN_SECONDS,
            check=False,
        )
        assert done.returncode == code, f"{self.name}: {words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *words: str, log: Path) -> subprocess.Popen:
        """Start a command there that stays; what it prints is added to `log`."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.words(*words), env=self.variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.started.append(process)
        return process

    def processes(self) -> list[psutil.Process]:
        """What runs there, without the first process and the dead."""
        theirs = os.stat(f"/proc/{self.init}/ns/pid").st_ino
        return [process for process in psutil.process_iter() if process.pid != self.init and _space(process) == theirs]

    def kill(self, spared: Sequence[int] = ()) -> None:
        """kill -9 of all that runs there but the `spared`, as often as it takes."""
        while victims := [process for process in self.processes() if process.pid not in spared]:
            for victim in victims:
                victim.send_signal(signal.SIGKILL)
            psutil.wait_procs(victims, timeout=5)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Everything there stands still for a while, and does not know it afterwards."""
        there = self.processes()
        for process in there:
            process.suspend()
        try:
            yield
        finally:
            for process in filter(psutil.Process.is_running, there):
                process.resume()
            for process in self.started:  # nsenter stops when what it started does
                process.send_signal(signal.SIGCONT)

    def off(self) -> None:
        """Pull the plug: every process there is gone when this returns."""
        assert self.power.stdin is not None
        self.power.stdin.close()
        for process in self.started:
            process.kill()
            process.wait(timeout=30)
        self.power.wait(timeout=30)


class Switch:
    """What the hosts are plugged into: host number n has the address NETWORK.n."""

    def __init__(self, own: Path, here: Path):
        self.host = Host("switch", own, here, os.environ)
        self._ip("link", "add", "switch", "type", "bridge")
        self._ip("link", "set", "switch", "up")

    def plug(self, host: Host, number: int) -> str:
        """Give `host` its link and its address, which is returned."""
        self._ip("link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", str(host.init))
        self._ip("link", "set", host.name, "master", "switch", "up")
        host.run("ip", "address", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        host.run("ip", "route", "add", "default", "dev", "eth0")  # by it Ray finds out its own address
        return f"{NETWORK}.{number}"

    def pull(self, host: Host) -> None:
        """Pull the cable of `host`: packets are lost from now on, and nobody is told."""
        self._ip("link", "set", host.name, "down")

    def push(self, host: Host) -> None:
        """Put the cable back."""
        self._ip("link", "set", host.name, "up")

    def _ip(self, *words: str) -> None:
        """`ip` in the switch's network, with the process ids that this process knows."""
        subprocess.run(["nsenter", f"--net=/proc/{self.host.init}/ns/net", "ip", *words], check=True, timeout=30)


def block(host: Host, port: int) -> None:
    """Lose every packet from `host` to TCP port `port`, anywhere."""
    host.run("ip", "rule", "add", "pref", "10", "ipproto", "tcp", "dport", str(port), "blackhole")


def unblock(host: Host) -> None:
    """Take that back."""
    host.run("ip", "rule", "delete", "pref", "10")


def allow_only(host: Host, port: int) -> None:
    """Let `host` reach TCP port `port` and nothing else."""
    host.run("ip", "rule", "add", "pref", "20", "ipproto", "tcp", "dport", str(port), "lookup", "main")
    host.run("ip", "rule", "add", "pref", "30", "unreachable")


def _space(process: psutil.Process) -> int | None:
    """The process namespace that a process lives in; None if it is dead."""
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else os.stat(f"/proc/{process.pid}/ns/pid").st_ino
    except (OSError, psutil.Error):
        return None
