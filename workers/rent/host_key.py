"""A host key for a machine that does not exist yet, so that ssh knows it at the first contact.

cloud-init, which is what runs a cloud's `user_data`, makes it the machine's own before sshd starts. The invitation with
the farm's secrets then goes to that machine, and to no other that answers at its address.
"""

import subprocess
from pathlib import Path

KEY, KNOWN = "host_key", "known_hosts"


def make(folder: Path, name: str) -> None:
    """Put into `folder` the key, and what ssh is to know of the host `name`."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / KEY)]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    kind, key = _public(folder)
    (folder / KNOWN).write_text(f"{name} {kind} {key}\n", encoding="utf-8")


def user_data(folder: Path) -> str:
    """What cloud-init is told, so that the machine has the key, and no other."""
    private = (folder / KEY).read_text(encoding="utf-8")
    lines = "".join(f"    {line}\n" for line in private.splitlines())
    public = " ".join(_public(folder))
    return f"#cloud-config\nssh_deletekeys: true\nssh_keys:\n  ed25519_private: |\n{lines}  ed25519_public: {public}\n"


def _public(folder: Path) -> tuple[str, str]:
    kind, key, *_ = (folder / f"{KEY}.pub").read_text(encoding="utf-8").split()
    return kind, key
