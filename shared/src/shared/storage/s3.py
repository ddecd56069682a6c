"""Files in a bucket of Amazon S3, of any server that speaks its protocol, or of Google Cloud Storage."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import aioboto3
import aiohttp
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.settings import StorageSettings
from shared.storage.files import READ_SIZE, Digest, in_parts
from shared.storage.interface import (
    FileNotStored,
    Storage,
    StorageUnavailable,
    StoredFile,
    check_content_type,
    check_link,
    not_stored,
)
from shared.storage.keys import check_key
from shared.storage.links import content_disposition
from shared.telemetry.logs import get_logger

log = get_logger(__name__)

PART_SIZE = 8 << 20  # S3 allows 10,000 parts of at least 5 MiB: files up to 78 GiB
GOOGLE = "https://storage.googleapis.com"
CHECK_TIMEOUT = 5.0
_CACHING = "private, no-store"  # stored with the file: Google's links cannot set it
_FAILURES = (BotoCoreError, aiohttp.ClientError, OSError)  # TimeoutError is an OSError


@asynccontextmanager
async def open_s3(settings: StorageSettings) -> AsyncIterator["S3Storage"]:
    """Open one client for the life of the process.

    Without a key in the settings, boto finds credentials itself (environment, role of the pod).
    """
    secret = settings.s3_secret_access_key
    session = aioboto3.Session(
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        region_name=settings.s3_region,
    )
    endpoint = settings.s3_endpoint or (GOOGLE if settings.storage_place == "gs" else None)
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint else "auto"},
        connect_timeout=3,
        read_timeout=20,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=20,
        # boto's default, a CRC in a trailer, is refused by Google and older servers; the request's signature
        # already covers the body with its SHA-256.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(session.client("s3", endpoint_url=endpoint, config=config))
        signer = client
        if settings.s3_public_endpoint:  # a link's signature covers the host
            signer = await stack.enter_async_context(
                session.client("s3", endpoint_url=settings.s3_public_endpoint, config=config)
            )
        storage = S3Storage(client, signer, settings.s3_bucket)
        stack.push_async_callback(storage.finish_aborts)
        yield storage


class S3Storage(Storage):
    def __init__(self, client: Any, signer: Any, bucket: str) -> None:
        self._client = client
        self._signer = signer
        self._bucket = bucket
        self._aborts: set[asyncio.Task[None]] = set()

    async def put(self, key: str, chunks: AsyncIterable[bytes] | bytes, *, content_type: str) -> StoredFile:
        check_key(key)
        check_content_type(content_type)
        digest = Digest()
        async with aclosing(digest.parts(chunks, PART_SIZE)) as parts:
            first = await anext(parts, b"")
            if len(first) < PART_SIZE:
                with _problems("put", key):
                    await self._client.put_object(
                        Bucket=self._bucket, Key=key, Body=first, ContentType=content_type, CacheControl=_CACHING
                    )
            else:
                await self._put_in_parts(key, first, parts, content_type)
        return StoredFile(key, digest.size, digest.sha256, content_type)

    async def _put_in_parts(
        self, key: str, part: bytes, others: AsyncGenerator[bytes, None], content_type: str
    ) -> None:
        uploaded: list[dict[str, Any]] = []
        # Shielded, because an upload whose id we never learned could not be aborted.
        beginning = asyncio.ensure_future(
            self._client.create_multipart_upload(
                Bucket=self._bucket, Key=key, ContentType=content_type, CacheControl=_CACHING
            )
        )
        try:
            with _problems("put", key):
                upload_id = (await asyncio.shield(beginning))["UploadId"]
            while part:
                number = len(uploaded) + 1
                with _problems("put", key):
                    answer = await self._client.upload_part(
                        Bucket=self._bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=part
                    )
                uploaded.append({"PartNumber": number, "ETag": answer["ETag"]})
                part = await anext(others, b"")
            with _problems("put", key):
                await self._client.complete_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": uploaded}
                )
        except BaseException:
            abort = asyncio.create_task(self._abort(key, beginning))
            self._aborts.add(abort)
            abort.add_done_callback(self._aborts.discard)
            await asyncio.shield(abort)  # survives another cancellation; closing waits for it
            raise

    async def _abort(self, key: str, beginning: "asyncio.Future[Any]") -> None:
        try:
            upload_id = (await beginning)["UploadId"]
        except (ClientError, *_FAILURES):
            return  # never begun, or only ``remove_unfinished`` can find it
        try:
            await self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
        except (ClientError, *_FAILURES) as error:
            log.warning("storage.abort_failed", key=key, error=str(error))  # ``remove_unfinished`` retries

    async def finish_aborts(self) -> None:
        await asyncio.gather(*self._aborts, return_exceptions=True)

    async def read(self, key: str) -> AsyncGenerator[bytes, None]:
        check_key(key)
        with _problems("read", key):
            answer = await self._client.get_object(Bucket=self._bucket, Key=key)
        body = answer["Body"]
        async with body:
            with _problems("read", key):
                # aiohttp yields what arrived, often a few bytes.
                async with aclosing(in_parts(body.iter_chunks(READ_SIZE), READ_SIZE)) as chunks:
                    async for chunk in chunks:
                        yield chunk

    async def size(self, key: str) -> int:
        check_key(key)
        with _problems("size", key):
            answer = await self._client.head_object(Bucket=self._bucket, Key=key)
        return int(answer["ContentLength"])

    async def delete(self, key: str) -> None:
        check_key(key)
        with suppress(FileNotStored), _problems("delete", key):  # Google reports it, Amazon does not
            await self._client.delete_object(Bucket=self._bucket, Key=key)

    async def download_url(
        self, key: str, *, expires_in: int, filename: str, content_type: str, files_url: str
    ) -> str:
        check_link(key, expires_in=expires_in, content_type=content_type)
        with _problems("sign", key):
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
        with _problems("check"):
            async with asyncio.timeout(CHECK_TIMEOUT):
                await self._client.head_bucket(Bucket=self._bucket)

    async def prepare(self) -> None:
        with _problems("prepare"):
            try:
                await self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if _code(error) not in {"404", "NoSuchBucket"}:
                    raise
            else:
                return
            region = self._client.meta.region_name
            located = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            try:
                await self._client.create_bucket(Bucket=self._bucket, **located)
            except ClientError as error:
                if _code(error) != "BucketAlreadyOwnedByYou":  # a concurrent set-up won
                    raise

    async def remove_unfinished(self, older_than: timedelta = timedelta(days=1)) -> int:
        removed, before = 0, datetime.now(UTC) - older_than
        with _problems("remove unfinished"):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket)
            async for page in pages:
                for upload in page.get("Uploads", []):
                    if upload["Initiated"] < before:
                        await self._client.abort_multipart_upload(
                            Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        removed += 1
        return removed


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _problems(action: str, key: str = "") -> Iterator[None]:
    """Turn failures into ``StorageUnavailable``, and a missing ``key`` into ``FileNotStored``."""
    try:
        yield
    except (ClientError, *_FAILURES) as error:
        code = _code(error) if isinstance(error, ClientError) else type(error).__name__
        if key and code in {"404", "NoSuchKey"}:
            raise not_stored(key) from error
        log.error("storage.failed", place="s3", action=action, key=key, code=code, error=str(error))
        raise StorageUnavailable from error
