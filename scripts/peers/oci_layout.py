"""Holds images that `kilnc bundle export --layout oci` writes against the specifications and against skopeo.

    apt-get install skopeo && pip install jsonschema==4.26.0
    python oci_layout.py CONFIG_SCHEMA LAYOUT...

CONFIG_SCHEMA is schema/config-schema.json of github.com/modelpack/model-spec. Every descriptor must have the digest and
the size of its blob, and no blob may be left over; the configuration must be valid by ModelPack's schema; skopeo must read
the manifest, and copy the image with all its blobs.
"""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import jsonschema


def blob(layout, descriptor):
    path = layout / "blobs" / descriptor["digest"].replace(":", "/")
    content = path.read_bytes()
    assert len(content) == descriptor["size"], descriptor
    assert "sha256:" + hashlib.sha256(content).hexdigest() == descriptor["digest"], descriptor
    return path, content


def check(schema, layout):
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    (descriptor,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(layout, descriptor)[1])
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    config = json.loads(blob(layout, manifest["config"])[1])
    jsonschema.validate(config, schema)
    layers = manifest["layers"]
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in layers]
    known = {blob(layout, part)[0] for part in [descriptor, manifest["config"], *layers]}
    assert known == {path for path in layout.glob("blobs/*/*")}
    tag = descriptor["annotations"]["org.opencontainers.image.ref.name"]
    shown = subprocess.run(["skopeo", "inspect", "--raw", f"oci:{layout}:{tag}"], check=True, capture_output=True).stdout
    assert json.loads(shown) == manifest
    with tempfile.TemporaryDirectory() as place:
        copy = ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout}:{tag}", f"oci:{place}/copy:{tag}"]
        subprocess.run(copy, check=True, capture_output=True)
        copied = {path.name for path in pathlib.Path(place).glob("copy/blobs/*/*")}
        assert copied == {path.name for path in known}
    print(f"{layout}: {len(layers)} layers, read and copied by skopeo")


schema = json.loads(pathlib.Path(sys.argv[1]).read_text())
for layout in sys.argv[2:]:
    check(schema, pathlib.Path(layout).resolve())
