//! Signatures: ours and those of PyPI's model-signing.

use std::fs;
use std::path::{Path, PathBuf};

use kilnc::bundle::digest_tree;
use kilnc::bundle::signing::{self, PublicKey};

use super::{bundle, refusal};
use crate::common::{Ran, copied, fixture, kilnc, place};

/// A bundle and a pair of keys that signed it.
fn signed(dir: &Path) -> (PathBuf, PathBuf) {
    let (bundle, key) = (bundle(dir), dir.join("key.pem"));
    kilnc(arguments!["bundle", "keygen", "-o", key]).expect(0);
    kilnc(arguments!["bundle", "sign", bundle, "--key", key]).expect(0);
    (bundle, dir.join("key.pem.pub"))
}

fn verify(bundle: &Path, key: &Path) -> Ran {
    kilnc(arguments!["bundle", "verify", bundle, "--key", key])
}

#[test]
fn a_signature_shows_who_made_a_bundle() {
    let place = place();
    let bundle = bundle(place.path());
    let summary = kilnc(arguments!["verify", bundle]).expect(0).stdout;
    assert!(summary.ends_with("not signed: nothing proves who made it\n"), "{summary}");
    let key = place.path().join("key.pem");
    let made = kilnc(arguments!["bundle", "keygen", "-o", key, "--json"]).expect(0).json();
    let public = place.path().join("key.pem.pub");
    assert_eq!(made["public"], public.to_str().unwrap());
    let said = refusal(verify(&bundle, &public), place.path());
    assert!(said.starts_with("tiny.kiln is not signed: it has no model.sig"), "{said}");

    let signed = kilnc(arguments!["bundle", "sign", bundle, "--key", key, "--json"]).expect(0).json();
    let verified = kilnc(arguments!["bundle", "verify", bundle, "--key", public, "--json"]).expect(0).json();
    assert_eq!((&verified["signed"], &verified["key"]), (&"yes".into(), &made["key"]));
    assert_eq!(signed["files"].as_u64(), verified["files"].as_u64().map(|files| files + 1));
    let summary = kilnc(arguments!["bundle", "verify", bundle]).expect(0).stdout;
    assert!(summary.ends_with("without --key nothing proves who made it\n"), "{summary}");

    let first = fs::read(bundle.join("model.sig")).unwrap();
    kilnc(arguments!["bundle", "sign", bundle, "--key", key]).expect(0);
    assert_eq!(fs::read(bundle.join("model.sig")).unwrap(), first);
    kilnc(arguments!["run", bundle, "--text", "the movie"]).expect(0);
}

#[test]
fn a_signature_may_be_elsewhere() {
    let place = place();
    let (bundle, key) = signed(place.path());
    let elsewhere = place.path().join("tiny.sig");
    fs::rename(bundle.join("model.sig"), &elsewhere).unwrap();
    kilnc(arguments!["bundle", "verify", bundle, "--key", key, "--signature", elsewhere]).expect(0);
    kilnc(arguments!["bundle", "sign", bundle, "--key", place.path().join("key.pem"), "-o", elsewhere]).expect(0);
    let occupied = place.path().join("notes");
    fs::write(&occupied, "mine").unwrap();
    let sign = arguments!["bundle", "sign", bundle, "--key", place.path().join("key.pem"), "-o", occupied];
    assert!(refusal(kilnc(sign), place.path()).contains("notes is a file that kilnc did not make"));
}

#[test]
fn the_signed_files_are_complete_and_unchanged() {
    let place = place();
    let (bundle, key) = signed(place.path());
    let said = || refusal(verify(&bundle, &key), place.path());
    let manifest = bundle.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"max_length\": ", "\"max_length\":  ")).unwrap();
    assert!(said().starts_with("`manifest.json` is not the file that was signed\n  in tiny.kiln/model.sig"));
    fs::write(&manifest, text).unwrap();

    fs::write(bundle.join("extra"), "").unwrap();
    assert!(said().starts_with("`extra` was not signed\n"));
    let sign = arguments!["bundle", "sign", bundle, "--key", place.path().join("key.pem")];
    assert!(refusal(kilnc(sign), place.path()).starts_with("the manifest does not list `extra`\n"));
    fs::remove_file(bundle.join("extra")).unwrap();

    fs::rename(bundle.join("tokenizer.json"), place.path().join("moved")).unwrap();
    assert!(said().starts_with("`tokenizer.json` was signed and is missing\n"));
    let summary = refusal(kilnc(arguments!["bundle", "verify", bundle]), place.path());
    assert!(summary.starts_with("`tokenizer.json` is missing, and the manifest lists it\n"), "{summary}");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(place.path().join("moved"), bundle.join("tokenizer.json")).unwrap();
        assert!(said().starts_with("tiny.kiln/tokenizer.json is no plain file\n"));
        fs::remove_file(bundle.join("tokenizer.json")).unwrap();
    }
    fs::rename(place.path().join("moved"), bundle.join("tokenizer.json")).unwrap();
    verify(&bundle, &key).expect(0);
}

#[test]
fn a_signature_that_is_none_is_refused() {
    let place = place();
    let (bundle, key) = signed(place.path());
    let signature = bundle.join("model.sig");
    let text = fs::read_to_string(&signature).unwrap();
    let said = |text: &str| {
        fs::write(&signature, text).unwrap();
        refusal(verify(&bundle, &key), place.path())
    };
    let other = text.replace("application/vnd.in-toto+json", "application/json");
    assert!(said(&other).starts_with("the signature is of a payload of the type `application/json`"));
    assert!(said("signed, me").starts_with("model.sig: expected value at line 1 column 1\n  in tiny.kiln/model.sig"));
    assert!(said(&" ".repeat((16 << 20) + 1)).starts_with("the signature is longer than 16777216 bytes\n"));
    let at = text.find("\"payload\":\"").unwrap() + 20;
    let changed = format!("{}{}{}", &text[..at], if &text[at..=at] == "A" { "B" } else { "A" }, &text[at + 1..]);
    assert!(said(&changed).starts_with("the signature is not this key's of this payload\n"));
    fs::write(&signature, text).unwrap();
    kilnc(arguments!["bundle", "keygen", "--curve", "p521", "-o", place.path().join("other")]).expect(0);
    let said = refusal(verify(&bundle, &place.path().join("other.pub")), place.path());
    assert!(said.starts_with("the signature was made with another key: it names "), "{said}");
    let said = refusal(verify(&bundle, &place.path().join("key.pem")), place.path());
    assert!(said.starts_with("this is a private key, and signatures are verified with the public one\n"), "{said}");
}

#[test]
fn signatures_by_model_signing_are_verified_on_every_curve() {
    let fixture = fixture("signing");
    let files = digest_tree(&fixture.join("model")).unwrap();
    for curve in ["p256", "p384", "p521"] {
        let key = PublicKey::read(&fixture.join(format!("{curve}.pub"))).unwrap();
        signing::verify(&fixture.join(format!("{curve}.sig")), &key, &files).unwrap();
    }
}

#[test]
fn files_that_model_signing_left_out_are_not_signed() {
    let copy = copied("signing");
    let key = PublicKey::read(&copy.path().join("p256.pub")).unwrap();
    let said = |signature: &str| {
        let files = digest_tree(&copy.path().join("model")).unwrap();
        signing::verify(&copy.path().join(signature), &key, &files).map_err(|e| e.message().to_owned())
    };
    assert_eq!(said("ignoring.sig").unwrap_err(), "`Z` was not signed");
    fs::write(copy.path().join("model/a/b"), "2\n").unwrap();
    assert_eq!(said("p256.sig").unwrap_err(), "`a/b` is not the file that was signed");
    assert!(said("p384.sig").unwrap_err().starts_with("the signature was made with another key"));
}
