"""The kind of a file by its first bytes, whatever its name says."""

import struct

HEAD_BYTES = 4096
TEXT_BYTES = 64  # so many in a row that are text are no tokens

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
NUMPY = b"\x93NUMPY"
ARCHIVE = "Unpack it, and name the file inside."
MAGICS = {
    LFS_POINTER: ("a git-lfs pointer, not the file that it stands for", "Fetch the file: git lfs pull."),
    NUMPY: ("a numpy array (.npy)", "Name it .npy."),
    b"PK\x03\x04": ("a zip archive (.zip, .npz, or a pickled .pt)", ARCHIVE),
    b"PAR1": ("parquet", "Name it train.parquet."),
    b"\x28\xb5\x2f\xfd": ("compressed (zstd)", ARCHIVE),
    b"BZh91AY&SY": ("compressed (bzip2)", ARCHIVE),
    b"\xfd7zXZ\x00": ("compressed (xz)", ARCHIVE),
    b"\x89HDF\r\n\x1a\n": ("HDF5", "Write its tokens as bare uint16."),
    b"ARROW1\x00\x00": ("an Arrow file", "Write its text as parquet, or its tokens as bare uint16."),
}

# llm.c's header: 256 int32, of which [magic, version, count of tokens]. No GPT-2 stream starts like it: the magic's low
# half is 55,432 read as a token, and GPT-2's vocabulary ends at 50,256. All its magics are dates of 2024 in decimal.
LLM_C_MAGIC, LLM_C_HEADER_BYTES = 20240520, 1024
LLM_C_MAGICS, LLM_C_VERSIONS = range(20240101, 20241232), range(1, 32)
LLM_C_KINDS = {
    20240520: "tokens",
    20240801: "tokens in 32 bits",
    20240326: "weights",
    20240328: "a tokenizer",
    20240522: "an evaluation",
    20240803: "weights in bf16",
}
SAFETENSORS_HEADER_BYTES = 100_000_000  # what the safetensors library itself accepts


def recognise(head: bytes) -> tuple[str, str] | None:
    """Say what a file that begins with `head` is, and what to do, where that is neither tokens nor text."""
    for magic, told in MAGICS.items():
        if head.startswith(magic):
            return told
    if _is_gzip(head):
        return "compressed (gzip)", ARCHIVE
    return None


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are text, which those of tokens in 16 bits never are."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else it is a character that the end of `head` cuts
            return False
        text = head[: error.start].decode()
    return len(head) >= TEXT_BYTES and all(char.isprintable() or char in "\t\n\r\f\v" for char in text)


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length of a header and an object of JSON: as tokens, two, then 0, 0 and 8,827."""
    return int.from_bytes(head[:8], "little") <= SAFETENSORS_HEADER_BYTES and head[8:10] == b'{"'


def llm_c(head: bytes) -> tuple[int, int, int] | None:
    """Magic, version and count of an llm.c file of any kind."""
    magic, version, count = struct.unpack("<3i", head[:12]) if len(head) >= LLM_C_HEADER_BYTES else (0, 0, 0)
    is_one = magic == LLM_C_MAGIC or (magic in LLM_C_MAGICS and version in LLM_C_VERSIONS)
    return (magic, version, count) if is_one else None


def _is_gzip(head: bytes) -> bool:
    """The magic alone is two bytes; tokens hardly look like deflate, a level and a system that exist, too."""
    if head[:3] != b"\x1f\x8b\x08" or len(head) < 10:
        return False
    flags, level, system = head[3], head[8], head[9]
    return not flags & 0xE0 and level in (0, 2, 4) and (system < 14 or system == 255)
