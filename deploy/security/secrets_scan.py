"""Looks for secrets in the files that git knows: `make secrets-scan`.

First it plants secrets of each kind in a file of its own, to show that the scanner finds them. Then all it finds
must be in `.secrets.baseline`, which holds what somebody has looked at and found harmless, as digests;
`make secrets-scan ARGS=--accept` writes it anew. Nothing is sent anywhere to be verified. The history is not read.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / ".secrets.baseline"

OPTIONS = (
    "--no-verify",
    # Digests of packages and of what is accepted; the identifiers of migrations; the names of secrets, which is all
    # that manifests hold.
    *("--exclude-files", r"^(uv\.lock|\.secrets\.baseline)$"),
    *("--exclude-lines", r"^(down_)?revision\b.* = |^Revis|secretName: |secretKeyRef"),
)

# In parts, so that this file holds none.
PLANTED: Mapping[str, str] = {
    "AWS Access Key": "aws = '" + "AKIA" + "IOSFODNN7RQX4WLK'",
    "Private Key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "GitHub Token": "token = '" + "ghp_" + "x7Kq2mZ9vLr4Tn8Ws1Yd6Bf3Hj5Pc0Ga2EuM'",
    "JSON Web Token": "jwt = '" + "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiJyb290In0" + ".c2lnbmF0dXJlb2Zub2JvZHk'",
    "Basic Auth Credentials": "url = 'postgresql://tickets:" + "hr5Tq9vX@db/rostrum'",
    "Secret Keyword": "password = " + "'correct-Horse-7-battery'",
    "Base64 High Entropy String": "key = '"
    + "".join(("c3VyZWx5", "IG5vdCBh", "IHJlYWwg", "a2V5ODc2", "NTQzMjEw"))
    + "'",
    "Hex High Entropy String": "salt = '" + "".join(("9f86d081", "884c7d65", "9a2feaa0", "c55ad015")) + "'",
}

Found = dict[tuple[str, str, str], int]


def found_in(report: Mapping[str, Any]) -> Found:
    """Kind, file and digest of each secret, with its line."""
    return {
        (secret["type"], name, secret["hashed_secret"]): secret["line_number"]
        for name, secrets in report["results"].items()
        for secret in secrets
    }


def scan(scanner: str, folder: Path, *what: str) -> dict[str, Any]:
    command = [scanner, "scan", *OPTIONS, *what]
    answer = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(answer.stdout)
    return report


def missed(scanner: str) -> set[str]:
    """Kinds of planted secrets that the scanner does not find."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "planted.py").write_text("\n".join(PLANTED.values()) + "\n")
        report = scan(scanner, Path(folder), "--all-files", ".")
    return set(PLANTED) - {kind for kind, _, _ in found_in(report)}


def unaccepted(scanner: str, root: Path, baseline: Path) -> list[str]:
    """Where in the files that git knows at ``root`` something is found that ``baseline`` does not have."""
    accepted = found_in(json.loads(baseline.read_text()))
    new = [(name, line, kind) for (kind, name, digest), line in found_in(scan(scanner, root)).items()
           if (kind, name, digest) not in accepted]  # fmt: skip
    return [f"{name}:{line}: {kind}" for name, line, kind in sorted(new)]


def main(arguments: Sequence[str]) -> int:
    scanner = str(Path(arguments[0]).resolve())
    if blind := missed(scanner):
        print(f"secrets-scan: the scanner does not find what was planted: {', '.join(sorted(blind))}")
        return 2
    if "--accept" in arguments:
        report = scan(scanner, ROOT)
        BASELINE.write_text(json.dumps(report, indent=2) + "\n")
        print(f"secrets-scan: {len(found_in(report))} accepted in {BASELINE.name}; look at what has changed in it")
        return 0
    new = unaccepted(scanner, ROOT, BASELINE)
    print("\n".join(new), end="\n" if new else "")
    print(f"secrets-scan: {len(PLANTED)} planted kinds all found; in the files {len(new)} that nobody has accepted")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
