"""Measure the import of a large real conference, from the upload to the last converted picture.

Goal: FOSSASIASummit2016 (491 sessions, 187 speakers, 197 images) in at most 60 seconds on 2 cores. The baseline
is only decoding the same pictures, in one process.
"""

import io
import sys
import time
import zipfile
from pathlib import Path

from PIL import Image

from benchmarks.clusters import fresh_cluster
from deploy.local.running import ROOT

LIMIT = 60.0
SAMPLE = ROOT.parent / "shared" / "samples" / "FOSSASIASummit2016.zip"
OWN = ROOT / "deploy" / "local" / "demo-archive.zip"


def decode_all(archive: Path) -> tuple[int, float]:
    """Return the number of pictures, and the seconds to decode them all."""
    count, started = 0, time.perf_counter()
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            try:
                with Image.open(io.BytesIO(opened.read(name)), formats=("PNG", "JPEG", "GIF", "WEBP")) as image:
                    image.load()
            except (OSError, SyntaxError):
                continue
            count += 1
    return count, time.perf_counter() - started


def main() -> int:
    archive = SAMPLE if SAMPLE.exists() else OWN
    with fresh_cluster() as (cluster, _), cluster.client() as client:
        pictures, baseline = decode_all(archive)
        started = time.perf_counter()
        with archive.open("rb") as file:
            answer = client.post("/v1/imports", files={"file": (archive.name, file)}, timeout=60)
        answer.raise_for_status()
        accepted = time.perf_counter() - started
        while (job := client.get(answer.headers["location"]).json())["state"] not in ("done", "failed"):
            time.sleep(0.2)
        seconds = time.perf_counter() - started
    print(f"{archive.name}: {job['state']}, {job['counts']}, {len(job['repairs'])} repairs")
    print(f"baseline: decoding its {pictures} pictures in one process   {baseline:6.1f} s")
    print(f"upload validated and accepted                         {accepted:6.1f} s")
    print(f"whole job, pictures converted                         {seconds:6.1f} s  (at most {LIMIT:.0f})")
    return 0 if job["state"] == "done" and seconds <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
