"""Records as objects of an S3 bucket: `s3://bucket/prefix`, on AWS or whatever AWS_ENDPOINT_URL names.

An object is there in full or not at all, and there is no rename: what consists of several objects is complete when the
last one is there. Creating exclusively is a conditional put (`If-None-Match: *`). Credentials come from where AWS' own
tools take them, and no message repeats them. boto3 is imported at the first request: whoever reads only Redis needs
none of it.
"""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

from farm.errors import FarmError, StorageFull, StorageUnusable
from farm.files import storage_errors, writing_whole
from farm.study.endpoint import S3_URI, bracket

DELETED_AT_ONCE = 1000  # keys in one request, by the protocol
UNKNOWN = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
FULL = ("QuotaExceeded", "ServiceQuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507")
CONFLICTS = 3  # of conditional puts at the same moment, before it counts as taken
WITHOUT_CONDITION = "cannot keep two writers apart: it ignores `If-None-Match: *`."


class Patience(NamedTuple):
    """How long a request may take: to be connected, until something more is read, and how often it is tried."""

    connect_seconds: float
    read_seconds: float
    tries: int


PATIENT = Patience(5.0, 30.0, 3)
BRIEF = Patience(2.0, 5.0, 1)  # for a command that can do without: a bucket that is away costs it 2 s, not 15


class Object(NamedTuple):
    """An object without its content. `modified` is in Unix seconds; `etag` changes when the content does."""

    name: str
    bytes: int
    modified: float
    etag: str


class Bucket:
    """A storage that is a prefix of an S3 bucket. Names are relative to it.

    Every method raises StorageUnusable, with the remedy, when the bucket cannot be reached (then its field `is_away` is
    true) or refuses.
    """

    def __init__(self, uri: str, patience: Patience = PATIENT):
        match = S3_URI.fullmatch(uri)
        assert match, "settings and studies let no other URI through"
        self.bucket, self.prefix = match[1], match[2].strip("/")
        self.uri = "/".join(filter(None, ["s3:/", self.bucket, self.prefix]))
        self._patience = patience

    def get(self, name: str) -> bytes | None:
        """A record, or None where there is none."""
        with self._refusals():
            try:
                return self._client.get_object(Bucket=self.bucket, Key=self._key(name))["Body"].read()
            except self._client.exceptions.NoSuchKey:
                return None

    def put(self, name: str, content: bytes) -> None:
        """Write a record, over an older one.

        Raises: StorageFull
        """
        with self._refusals():
            self._client.put_object(Bucket=self.bucket, Key=self._key(name), Body=content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a record unless there is one of that name; whether it was written.

        Also False when it was written but the answer was lost; callers that care look at what is there.

        Raises: StorageFull
        """
        with self._refusals():
            from botocore.exceptions import ClientError

            for _ in range(CONFLICTS):
                try:
                    self._client.put_object(Bucket=self.bucket, Key=self._key(name), Body=content, IfNoneMatch="*")
                    return True
                except ClientError as error:
                    if _code(error) in ("PreconditionFailed", "412"):
                        return False
                    if _code(error) not in ("ConditionalRequestConflict", "409"):  # another writer is at it right now
                        raise
        return False

    def names(self, folder: str) -> list[str]:
        """The names directly below `folder`, in order."""
        start = self._key(f"{folder}/")
        with self._refusals():
            pages = self._pages(Prefix=start, Delimiter="/")
            found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
            found += [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return sorted(key.removeprefix(start).rstrip("/") for key in found if key != start)

    def objects(self, folder: str) -> list[Object]:
        """Every object below `folder`, however deep."""
        start = self._key(f"{folder}/" if folder else "")
        with self._refusals():
            found = [entry for page in self._pages(Prefix=start) for entry in page.get("Contents", [])]
        return [self._object(entry) for entry in found]

    def find(self, name: str) -> Object | None:
        """The size, time and etag of an object, or None where there is none."""
        with self._refusals():  # a listing: HEAD answers without a word, so that no error could be told from another
            answer = self._client.list_objects_v2(Bucket=self.bucket, Prefix=self._key(name), MaxKeys=1)
        found = [self._object(entry) for entry in answer.get("Contents", [])]
        return found[0] if found and found[0].name == name else None

    def upload(self, file: BinaryIO, name: str) -> None:
        """Write an object from an open file, which is closed then; in parts when it is large.

        Raises: StorageFull
        """
        with self._refusals():
            self._client.upload_fileobj(file, self.bucket, self._key(name))

    def read_into(self, name: str, file: BinaryIO) -> None:
        """Append an object to an open file, in parts when it is large."""
        with self._refusals():
            self._client.download_fileobj(self.bucket, self._key(name), file)

    def download(self, found: Object, path: Path) -> None:
        """Write an object to `path`, all at once, with the object's time.

        Raises: StorageFull: here, on this node.
        """
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with writing_whole(path) as file:
                self.read_into(found.name, file)
                file.flush()  # or what is written later would set the time again
                os.utime(file.fileno(), (found.modified, found.modified))

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects, in this order; those that are gone are fine."""
        keys = [{"Key": self._key(name)} for name in names]
        with self._refusals():
            from botocore.exceptions import ClientError

            for first in range(0, len(keys), DELETED_AT_ONCE):
                chunk = {"Objects": keys[first : first + DELETED_AT_ONCE], "Quiet": True}
                answer = self._client.delete_objects(Bucket=self.bucket, Delete=chunk)
                for refused in answer.get("Errors", []):  # beside a status of 200
                    if refused.get("Code") != "NoSuchKey":
                        raise ClientError(answer | {"Error": refused}, "DeleteObjects")

    def remove(self, name: str) -> None:
        """Remove an object, or all that are below a folder; those that are gone are fine."""
        self.delete([*(found.name for found in self.objects(name)), name])

    def check(self) -> None:
        """Make sure that records can be written, read, listed and removed here, and that no two writers create one.

        Raises: StorageFull
        """
        probe = f"check/{secrets.token_hex(8)}"
        self.create(probe, b"farm")
        try:
            if self.create(probe, b"another") or self.get(probe) != b"farm":
                raise self._unusable(
                    WITHOUT_CONDITION,
                    "Use a server that supports conditional puts: AWS, MinIO, Ceph, R2 and others do.",
                )
            if probe.partition("/")[2] not in self.names("check"):
                raise self._unusable("does not list what was just written.", "Use a store with consistent listings.")
        finally:
            self.delete([probe])

    @cached_property
    def _client(self) -> Any:
        try:
            from boto3.session import Session
            from botocore.config import Config
        except ImportError:
            raise self._unusable("needs boto3, which is not installed.", "Try: pip install boto3") from None
        config = Config(
            connect_timeout=self._patience.connect_seconds,
            read_timeout=self._patience.read_seconds,
            retries={"mode": "standard", "total_max_attempts": self._patience.tries},
            # Not every server that speaks S3 knows AWS' newer checksums, and checkpoints have their sha256.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return Session().client("s3", config=config)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _pages(self, **what: str) -> list[dict[str, Any]]:
        return list(self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, **what))

    def _object(self, entry: dict[str, Any]) -> Object:
        name = entry["Key"][len(self._key("")) :]
        return Object(name, entry["Size"], entry["LastModified"].timestamp(), entry["ETag"])

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """boto3's errors as the farm's own, in one line each."""
        self._client  # noqa: B018  # first: it may be the one that says that boto3 is missing
        from boto3.exceptions import Boto3Error
        from botocore import exceptions as aws

        without = (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError)
        try:
            yield
        except aws.ClientError as error:
            raise self._explain(error) from None
        except (*without, aws.ProfileNotFound, aws.TokenRetrievalError, aws.SSOError):
            raise self._unusable(
                "has no AWS credentials on this node.",
                "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role.",
            ) from None
        except (aws.BotoCoreError, Boto3Error) as error:
            raise self._unusable(
                f"cannot be reached at {self._endpoint} ({type(error).__name__}).",
                "Check the network, AWS_ENDPOINT_URL and AWS_REGION on this node.",
                is_away=True,
            ) from None

    @property
    def _endpoint(self) -> str:
        parts = urlsplit(self._client.meta.endpoint_url)
        host = bracket(parts.hostname or "")
        return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")

    def _explain(self, error: Any) -> FarmError:
        code, status = _code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code in FULL or status == 507:
            return StorageFull(f"cannot write {self.uri}: {code}.", remedy="Free some space there.")
        if code == "RequestTimeTooSkewed":
            return self._unusable(
                "rejected this node's requests because its clock is wrong.",
                "Set this node's clock, for example with NTP.",
            )
        if code in UNKNOWN:
            return self._unusable(
                f"does not know this node's AWS credentials ({code}).",
                "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, to valid ones.",
            )
        if status in (401, 403) or code == "AccessDenied":  # of one key among several it has no status
            return self._unusable(
                f"refused {error.operation_name} to this node's AWS credentials ({code}).",
                "They need s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject there.",
            )
        if code == "NoSuchBucket":
            return self._unusable("names a bucket that does not exist.", "Create it, or name another.")
        if code == "NotImplemented":
            return self._unusable(
                f"does not support {error.operation_name} the way farm needs it.", "Use another S3 server."
            )
        return self._unusable(
            f"answered {code} ({status}) to {error.operation_name}.", "Try again; see the server's own log."
        )

    def _unusable(self, what: str, remedy: str, is_away: bool = False) -> StorageUnusable:
        return StorageUnusable(f"{self.uri} {what}", remedy=remedy, is_away=is_away)


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
