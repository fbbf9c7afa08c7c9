"""Holds bills of materials that `kilnc build` writes against CycloneDX's own schema.

    pip install 'cyclonedx-python-lib[json-validation]==11.12.0'
    python bill.py BUNDLE...

Each bundle's bom.cdx.json must be valid by the strict schema of version 1.6, hold the digest of every engine, and name
only what it describes in its dependencies.
"""

import hashlib
import json
import pathlib
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def references(component):
    yield component["bom-ref"]
    for part in component.get("components", []):
        if "bom-ref" in part:
            yield from references(part)


def check(bundle):
    text = (bundle / "bom.cdx.json").read_text()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, error
    bill = json.loads(text)
    known = set(references(bill["metadata"]["component"]))
    for component in bill["components"]:
        known |= set(references(component))
    for dependency in bill["dependencies"]:
        assert {dependency["ref"], *dependency["dependsOn"]} <= known, dependency
    engines = 0
    for component in bill["components"]:
        file = {p["name"]: p["value"] for p in component.get("properties", [])}.get("kilnc:file")
        if file:
            engines += 1
            found = hashlib.sha256((bundle / file).read_bytes()).hexdigest()
            assert component["hashes"] == [{"alg": "SHA-256", "content": found}], file
    assert engines == len(json.loads((bundle / "manifest.json").read_text())["engines"])
    print(f"{bundle}: a valid bill of {len(bill['components'])} components, {engines} of them engines")


for bundle in sys.argv[1:]:
    check(pathlib.Path(bundle))
