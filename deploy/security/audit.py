"""Asks for known faults of all packages in uv.lock: `make audit`.

pip-audit asks the advisories of PyPI for each locked version (AUDIT_SERVICE=osv asks OSV.dev instead). It says "no
known vulnerabilities" also when it could look up nothing, as behind a mirror of PyPI that has no advisories: so
what was skipped is counted here. Exit code: 0 nothing known, 1 faults are known, 2 not (all) looked up.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOUND, UNKNOWN = 1, 2
DATABASES = {"pypi": "PyPI's advisories at pypi.org", "osv": "OSV.dev"}


def verdict(report: Mapping[str, Any], database: str) -> tuple[int, list[str]]:
    """Exit code, and lines to print, for a report of pip-audit in JSON."""
    packages: list[dict[str, Any]] = report["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    faults = [(package, fault) for package in packages for fault in package.get("vulns", ())]
    lines = [
        f"{package['name']} {package['version']}: {', '.join((fault['id'], *fault.get('aliases', ())))}; "
        f"mended in {', '.join(fault['fix_versions']) or 'no version yet'}"
        for package, fault in faults
    ]
    looked_up = len(packages) - len(skipped)
    if not looked_up:
        return UNKNOWN, [f"audit: {database} can't be reached from here, so nothing is known of any package"]
    lines.append(
        f"audit: {looked_up} of {len(packages)} packages looked up in {database}, {len(faults)} known faults"
    )
    if skipped:
        lines.append(f"audit: not looked up: {', '.join(sorted(skipped))}")
    return (FOUND if faults else UNKNOWN if skipped else 0), lines


def main(arguments: Sequence[str]) -> int:
    uv, pip_audit = arguments[:2]
    service = os.environ.get("AUDIT_SERVICE") or "pypi"
    if service not in DATABASES:
        print(f"audit: AUDIT_SERVICE={service} is none of {', '.join(DATABASES)}")
        return UNKNOWN
    with tempfile.TemporaryDirectory() as folder:
        locked = Path(folder) / "locked.txt"
        everything = ("--frozen", "--all-packages", "--all-groups", "--no-emit-workspace", "--no-hashes", "--quiet")
        subprocess.run(
            [uv, "export", *everything, "--output-file", str(locked)], check=True, stdout=subprocess.DEVNULL
        )
        asked = subprocess.run(
            [pip_audit, "--requirement", str(locked), "--no-deps", "--disable-pip", "--progress-spinner=off",
             "--format=json", f"--vulnerability-service={service}", *arguments[2:]],
            capture_output=True,
            text=True,
        )  # fmt: skip
    if not asked.stdout.strip():
        reason = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"audit: {DATABASES[service]} can't be reached from here ({reason[:200]})")
        return UNKNOWN
    code, lines = verdict(json.loads(asked.stdout), DATABASES[service])
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
