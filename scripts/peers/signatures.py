"""Checks kilnc's signatures with PyPI's model-signing, in both directions.

    pip install model-signing==1.1.1 pyOpenSSL
    python signatures.py KILNC

KILNC is the binary. For every curve: a bundle that kilnc signs must be one that model-signing verifies, and the other way
round; keys of OpenSSL's two forms sign, too. A file that is changed must be refused by both.
"""

import pathlib
import subprocess
import sys
import tempfile

import model_signing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures"
CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


def run(*command):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True).returncode


def verified_by_peer(bundle, public, signature):
    config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public)
    try:
        config.verify(bundle, signature)
    except ValueError:
        return False
    return True


def check(kilnc, name, place):
    bundle, private, public = place / "tiny.kiln", place / "key", place / "key.pub"
    build = [kilnc, "build", FIXTURES / "tiny-bert", "--target", "ort-cpu", "-o", bundle, "--quiet"]
    assert run(*build) == 0
    assert run(kilnc, "bundle", "keygen", "--curve", name, "-o", private) == 0
    signature = bundle / "model.sig"
    assert run(kilnc, "bundle", "sign", bundle, "--key", private) == 0
    assert verified_by_peer(bundle, public, signature), f"{name}: model-signing refuses what kilnc signed"
    ours = signature.read_bytes()

    hashing = model_signing.hashing.Config().set_ignored_paths(paths=["model.sig"])
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=private)
    config.set_hashing_config(hashing).sign(bundle, signature)
    assert signature.read_bytes() != ours
    verify = [kilnc, "bundle", "verify", bundle, "--key", public]
    assert run(*verify) == 0, f"{name}: kilnc refuses what model-signing signed"

    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert run(*verify) == 2 and not verified_by_peer(bundle, public, signature)

    key = ec.generate_private_key(CURVES[name])
    old = place / "old"
    old.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert run(kilnc, "bundle", "sign", bundle, "--key", old) == 0
    assert verified_by_peer(bundle, public, signature) and run(*verify) == 0
    print(f"{name}: signatures are verified both ways, and changed files are refused")


for name in CURVES:
    with tempfile.TemporaryDirectory() as place:
        check(sys.argv[1], name, pathlib.Path(place))
