"""Check every overlay against schemas, strictly: ``python -m deploy.k8s.validation``.

Kubernetes' own kinds are checked with the schemas of one of its releases, the operators' with those in
``schemas/``. A kind without a schema is an error.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache

import kubernetes_validate
from jsonschema import Draft7Validator

from deploy.k8s.manifests import FOLDER, OVERLAYS, Manifest, NotRendered, manifests
from deploy.local.process import MissingPart

KUBERNETES = "1.37"
BY_HAND = "By hand"


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def schema_name(manifest: Manifest) -> str:
    group, _, version = manifest["apiVersion"].rpartition("/")
    return f"{manifest['kind'].lower()}.{version}.{group}"


@cache
def validator_of(schema: str) -> Draft7Validator | None:
    path = FOLDER / "schemas" / f"{schema}.json"
    return Draft7Validator(json.loads(path.read_text())) if path.exists() else None


def errors(manifest: Manifest) -> Iterator[str]:
    validator = validator_of(schema_name(manifest))
    if validator is not None:
        for error in validator.iter_errors(manifest.get("spec", {})):
            yield f"{name_of(manifest)}: spec{error.json_path[1:]}: {error.message[:300]}"
        return
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{name_of(manifest)}: {error.json_path[2:]}: {error.message[:300]}"
    except kubernetes_validate.SchemaNotFoundError:
        yield f"{name_of(manifest)}: no schema for {manifest['apiVersion']} {manifest['kind']}"


def main() -> int:
    found: list[str] = []
    by_hand: Counter[str] = Counter()
    try:
        for overlay in OVERLAYS:
            rendered = manifests(overlay)
            of_overlay = [error for manifest in rendered for error in errors(manifest)]
            found += [f"{overlay}: {error}" for error in of_overlay]
            print(f"{overlay}: {len(rendered)} manifests, {len(of_overlay)} errors")
            for manifest in rendered:
                validator = validator_of(schema_name(manifest))
                if validator and BY_HAND in json.dumps(validator.schema):
                    by_hand[manifest["kind"]] += 1
    except (NotRendered, MissingPart) as failure:
        found.append(str(failure))
    print(f"Kubernetes {KUBERNETES}, strict. Checked for the fields in use only: {', '.join(by_hand)}.")
    for error in found:
        print(error, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
