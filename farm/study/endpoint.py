"""The spelling of places: HOST:PORT and s3://bucket/prefix.

The address of an IPv6 host stands in brackets, or its last group would be taken for the port.
"""

import re

PATTERN = re.compile(r"(?:\[(?P<bracketed>[^][]*)\]|(?P<bare>[^][/:\s]*))(?::(?P<port>[0-9]+))?", re.ASCII)
S3_URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[\w=-][\w.=-]*)*)/?")


def bracket(host: str) -> str:
    """`host` as it stands before a colon or in a URL: an IPv6 address in brackets, anything else as it is."""
    return f"[{host}]" if ":" in host else host


def host_port(host: str, port: int | str) -> str:
    """`host` and `port` as HOST:PORT."""
    return f"{bracket(host)}:{port}"


def split(text: str, port: int | None = None) -> tuple[str, int]:
    """The host without brackets and the port of `text`, which may leave out `port`; a bare IPv6 address has none.

    Raises: ValueError: it is neither.
    """
    if text.count(":") > 1 and "[" not in text and "]" not in text and "/" not in text:
        text = f"[{text}]"
    found = PATTERN.fullmatch(text)
    host = (found["bracketed"] or found["bare"]) if found else None
    number = int(found["port"]) if found and found["port"] else port
    if not host or number is None or not 0 < number < 65536:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host, number
