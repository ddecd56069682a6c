"""Lists the parts of each service as CycloneDX: `make sbom` writes to `.state/sbom`.

`<service>.cdx.json` is what uv.lock gives a service; `<service>-image.cdx.json` is what Syft finds in its image,
Debian's packages among it, when Docker has that image (SBOM_TAG, default `dev`).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".state" / "sbom"
SERVICES = ("events", "tickets", "media", "exports")


def parts_of(path: Path) -> int:
    return len(json.loads(path.read_text())["components"])


def list_locked(uv: str, service: str, path: Path) -> None:
    command = [uv, "export", "--frozen", "--package", f"rostrum-{service}", "--no-default-groups", "--quiet",
               "--preview-features=sbom-export", "--format=cyclonedx1.5", "--output-file", str(path)]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def list_image(syft: str, image: str, path: Path) -> None:
    command = [syft, "scan", f"docker:{image}", "--quiet", "--output", f"cyclonedx-json={path}"]
    subprocess.run(command, check=True, env={**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false"})


def why_not(image: str) -> str | None:
    """Why an image can't be looked at."""
    if shutil.which("docker") is None:
        return "there is no Docker here"
    looked = subprocess.run(["docker", "image", "inspect", image], capture_output=True, text=True)
    return (looked.stderr.strip().splitlines() or ["Docker does not know it"])[-1] if looked.returncode else None


def main(arguments: Sequence[str]) -> int:
    uv, syft = arguments
    FOLDER.mkdir(parents=True, exist_ok=True)
    for service in SERVICES:
        path = FOLDER / f"{service}.cdx.json"
        list_locked(uv, service, path)
        print(f"{path.relative_to(ROOT)}: {parts_of(path)} locked parts")
        image, path = (
            f"rostrum-{service}:{os.environ.get('SBOM_TAG') or 'dev'}",
            FOLDER / f"{service}-image.cdx.json",
        )
        if reason := why_not(image):
            path.unlink(missing_ok=True)
            print(f"{path.relative_to(ROOT)}: not written, {image}: {reason}")
        else:
            list_image(syft, image, path)
            print(f"{path.relative_to(ROOT)}: {parts_of(path)} parts of {image}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
