"""Files in a bucket of Amazon S3, of any server that speaks its protocol, or of Google Cloud Storage."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import aioboto3
import aiohttp
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.settings import StorageSettings
from shared.storage.interface import (
    READ_SIZE,
    FileNotStored,
    Storage,
    StorageUnavailable,
    StoredFile,
    check_content_type,
    check_expiry,
    check_key,
    in_parts,
    in_thread,
)
from shared.storage.links import content_disposition
from shared.telemetry.logs import get_logger

log = get_logger(__name__)

PART_SIZE = 8 << 20  # S3 wants at least 5 MiB and at most 10,000 parts: files up to 78 GiB
GOOGLE = "https://storage.googleapis.com"
CHECK_TIMEOUT = 5.0
PRIVATE = "private, no-store"  # stored with the file: Google's links can't set it
_FAILURES = (BotoCoreError, aiohttp.ClientError, OSError)  # TimeoutError is an OSError


@asynccontextmanager
async def open_s3(settings: StorageSettings) -> AsyncIterator["S3Storage"]:
    """One client for the life of the process. Without a key in the settings, boto's own sources of credentials
    are used (environment, role of the pod)."""
    secret = settings.s3_secret_access_key
    session = aioboto3.Session(
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        region_name=settings.s3_region,
    )
    google = settings.storage_place == "gs"
    endpoint = settings.s3_endpoint or (GOOGLE if google else None)
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint else "auto"},
        connect_timeout=3,
        read_timeout=20,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=20,
        # boto's default is a CRC in a trailer, which Google and older servers refuse. The body is covered anyway:
        # by the SHA-256 in the request's signature.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(session.client("s3", endpoint_url=endpoint, config=config))
        signer = client
        if settings.s3_public_endpoint:  # the host is part of what a link's signature covers
            signer = await stack.enter_async_context(
                session.client("s3", endpoint_url=settings.s3_public_endpoint, config=config)
            )
        storage = S3Storage(client, signer, settings.s3_bucket, has_lifecycle=not google)
        stack.push_async_callback(storage.finish_aborts)
        yield storage


class S3Storage(Storage):
    def __init__(self, client: Any, signer: Any, bucket: str, *, has_lifecycle: bool) -> None:
        self._client = client
        self._signer = signer
        self._bucket = bucket
        self._has_lifecycle = has_lifecycle
        self._aborts: set[asyncio.Task[None]] = set()

    async def put(
        self, key: str, chunks: AsyncIterable[bytes] | bytes, *, content_type: str, max_size: int | None = None
    ) -> StoredFile:
        check_key(key)
        check_content_type(content_type)
        digest = hashlib.sha256()
        async with aclosing(in_parts(chunks, PART_SIZE, max_size=max_size)) as parts:
            first = await anext(parts, b"")
            await in_thread(partial(digest.update, first))
            if len(first) < PART_SIZE:
                with _faults("put", key):
                    await self._client.put_object(
                        Bucket=self._bucket, Key=key, Body=first, ContentType=content_type, CacheControl=PRIVATE
                    )
                size = len(first)
            else:
                size = await self._put_in_parts(key, first, parts, digest, content_type)
        return StoredFile(key=key, size=size, sha256=digest.hexdigest(), content_type=content_type)

    async def _put_in_parts(
        self,
        key: str,
        first: bytes,
        others: AsyncGenerator[bytes, None],
        digest: "hashlib._Hash",
        content_type: str,
    ) -> int:
        size = 0
        uploaded: list[dict[str, Any]] = []

        async def upload(part: bytes) -> None:
            nonlocal size
            number = len(uploaded) + 1
            with _faults("put", key):
                answer = await self._client.upload_part(
                    Bucket=self._bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=part
                )
            uploaded.append({"PartNumber": number, "ETag": answer["ETag"]})
            size += len(part)

        # Shielded, because an upload that was begun without us knowing its id could not be aborted.
        beginning = asyncio.ensure_future(
            self._client.create_multipart_upload(
                Bucket=self._bucket, Key=key, ContentType=content_type, CacheControl=PRIVATE
            )
        )
        try:
            with _faults("put", key):
                upload_id = (await asyncio.shield(beginning))["UploadId"]
            await upload(first)
            del first
            async for part in others:
                await in_thread(partial(digest.update, part))
                await upload(part)
            with _faults("put", key):
                await self._client.complete_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": uploaded}
                )
        except BaseException:
            abort = asyncio.create_task(self._abort(key, beginning))
            self._aborts.add(abort)
            abort.add_done_callback(self._aborts.discard)
            await asyncio.shield(abort)  # if we are cancelled here again, it goes on; closing waits for it
            raise
        return size

    async def _abort(self, key: str, beginning: "asyncio.Future[Any]") -> None:
        try:
            upload_id = (await beginning)["UploadId"]
        except (ClientError, *_FAILURES):
            return  # it never began, or is of the kind that only the sweep can find
        try:
            await self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
        except (ClientError, *_FAILURES) as error:
            log.warning("storage.abort_failed", key=key, error=str(error))  # the sweep tries again

    async def finish_aborts(self) -> None:
        await asyncio.gather(*self._aborts, return_exceptions=True)

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        if length is not None and length <= 0:
            await self.size(key)
            return
        check_key(key)
        ranged = {}
        if start or length is not None:
            ranged["Range"] = f"bytes={start}-" if length is None else f"bytes={start}-{start + length - 1}"
        try:
            with _faults("read", key):
                answer = await self._client.get_object(Bucket=self._bucket, Key=key, **ranged)
        except _NothingThere:
            return
        body = answer["Body"]
        async with body:
            with _faults("read", key):  # aiohttp hands on what arrived, often a few bytes: gather them
                async with aclosing(in_parts(body.iter_chunks(READ_SIZE), READ_SIZE)) as chunks:
                    async for chunk in chunks:
                        yield chunk

    async def size(self, key: str) -> int:
        check_key(key)
        with _faults("size", key):
            answer = await self._client.head_object(Bucket=self._bucket, Key=key)
        return int(answer["ContentLength"])

    async def delete(self, key: str) -> None:
        check_key(key)
        try:
            with _faults("delete", key):
                await self._client.delete_object(Bucket=self._bucket, Key=key)
        except FileNotStored:  # Google says so, Amazon does not
            return

    async def download_url(
        self, key: str, *, expires_in: int, filename: str, content_type: str, files_url: str
    ) -> str:
        check_key(key)
        check_content_type(content_type)
        check_expiry(expires_in)
        with _faults("sign", key):
            url = await self._signer.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": key,
                    "ResponseContentDisposition": content_disposition(filename),
                    "ResponseContentType": content_type,
                },
                ExpiresIn=expires_in,
            )
        return str(url)

    async def check(self) -> None:
        with _faults("check"):
            async with asyncio.timeout(CHECK_TIMEOUT):
                await self._client.head_bucket(Bucket=self._bucket)

    async def prepare(self) -> None:
        """Makes the bucket, private, with the rule that gives up uploads which were killed a day ago."""
        with _faults("prepare"):
            try:
                await self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if _code(error) not in {"404", "NoSuchBucket"}:
                    raise
            else:
                return
            region = self._client.meta.region_name
            elsewhere = {} if region == "us-east-1" else {"LocationConstraint": region}
            try:
                await self._client.create_bucket(
                    Bucket=self._bucket, **({"CreateBucketConfiguration": elsewhere} if elsewhere else {})
                )
            except ClientError as error:
                if _code(error) != "BucketAlreadyOwnedByYou":  # another set-up was quicker
                    raise
            if self._has_lifecycle:
                rule = {
                    "ID": "abandoned-uploads",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                }
                await self._client.put_bucket_lifecycle_configuration(
                    Bucket=self._bucket, LifecycleConfiguration={"Rules": [rule]}
                )

    async def sweep_partial(self, older_than: timedelta = timedelta(days=1)) -> int:
        swept, before = 0, datetime.now(UTC) - older_than
        with _faults("sweep"):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket)
            async for page in pages:
                for upload in page.get("Uploads", []):
                    if upload["Initiated"] < before:
                        await self._client.abort_multipart_upload(
                            Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        swept += 1
        return swept


class _NothingThere(Exception):
    """The range begins beyond the file's end."""


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _faults(action: str, key: str = "") -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = _code(error)
        if key and code in {"404", "NoSuchKey"}:
            raise FileNotStored(
                f"There is no stored file {key!r}. It may have been deleted after its time was over."
            ) from error
        if code in {"416", "InvalidRange"}:
            raise _NothingThere from error
        log.error("storage.failed", place="s3", action=action, key=key, code=code, error=str(error))
        raise _unavailable() from error
    except _FAILURES as error:
        log.error("storage.failed", place="s3", action=action, key=key, error=str(error) or type(error).__name__)
        raise _unavailable() from error


def _unavailable() -> StorageUnavailable:
    return StorageUnavailable(
        "The file storage did not do its work; nothing was stored. Try again later.", headers={"Retry-After": "10"}
    )
