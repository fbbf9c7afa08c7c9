//! The file of a signature: a Sigstore bundle 0.3 around a DSSE envelope that one key signed.

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};

use super::{PrivateKey, PublicKey};
use crate::error::{Error, Result, printable};
use crate::json;

/// The form of the file.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// The type of the payload.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SigstoreBundle {
    media_type: String,
    verification_material: Material,
    #[serde(default)]
    dsse_envelope: Option<Envelope>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    #[serde(default)]
    public_key: Option<KeyHint>,
    #[serde(default)]
    tlog_entries: Vec<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct KeyHint {
    #[serde(default)]
    hint: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Serialize, Deserialize)]
struct Signature {
    sig: String,
    #[serde(default)]
    keyid: String,
}

/// The text of a file in which a key signs a payload.
pub fn seal(payload: &[u8], key: &PrivateKey) -> Result<String> {
    let signature = key.sign(&signed(payload));
    let sealed = SigstoreBundle {
        media_type: MEDIA_TYPE.to_owned(),
        verification_material: Material {
            public_key: Some(KeyHint { hint: Some(key.public().hint()?) }),
            tlog_entries: Vec::new(),
        },
        dsse_envelope: Some(Envelope {
            payload: Base64::encode_string(payload),
            payload_type: PAYLOAD_TYPE.to_owned(),
            signatures: vec![Signature { sig: Base64::encode_string(&signature), keyid: String::new() }],
        }),
    };
    serde_json::to_string(&sealed).map_err(|e| Error::bug(format!("a signature cannot be written: {e}")))
}

/// The payload of a signature's file, once its signature is the key's. It is not read before.
pub fn open(text: &str, file: &str, key: &PublicKey) -> Result<Vec<u8>> {
    let SigstoreBundle { media_type, verification_material, dsse_envelope } = json::parse(text, file)?;
    if media_type != MEDIA_TYPE {
        return Err(Error::unsupported(format!(
            "the signature has the form `{}`, expected `{MEDIA_TYPE}`",
            printable(&media_type)
        )));
    }
    let Some(KeyHint { hint }) = verification_material.public_key else {
        return Err(Error::unsupported("the signature names no key; it was made with a certificate")
            .hint("kilnc verifies signatures of keys; model_signing verify knows the others"));
    };
    let known = key.hint()?;
    if let Some(hint) = hint.filter(|hint| *hint != known) {
        return Err(Error::bad_input(format!(
            "the signature was made with another key: it names {}, the key here is {known}",
            printable(&hint)
        )));
    }
    let envelope = dsse_envelope.ok_or_else(|| Error::bad_input(format!("{file}: there is no dsseEnvelope")))?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(Error::bad_input(format!(
            "the signature is of a payload of the type `{}`, expected `{PAYLOAD_TYPE}`",
            printable(&envelope.payload_type)
        )));
    }
    let [signature] = envelope.signatures.as_slice() else {
        return Err(Error::bad_input(format!("{} signatures, expected one", envelope.signatures.len())));
    };
    let payload = decode(&envelope.payload, file, "payload")?;
    match key.verifies(&signed(&payload), &decode(&signature.sig, file, "signatures[0].sig")?) {
        true => Ok(payload),
        false => Err(Error::bad_input("the signature is not this key's of this payload")
            .hint("the signature was changed or damaged, or was made with another key")),
    }
}

fn decode(text: &str, file: &str, field: &str) -> Result<Vec<u8>> {
    Base64::decode_vec(text).map_err(|_| Error::bad_input(format!("{file}: dsseEnvelope.{field}: no base64")))
}

/// The bytes that are signed: DSSE's pre-authentication encoding of a payload.
fn signed(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::super::Curve;
    use super::*;

    fn sealed() -> (PrivateKey, String) {
        let key = PrivateKey::generate(Curve::P256).unwrap();
        let text = seal(b"{}", &key).unwrap();
        (key, text)
    }

    #[test]
    fn the_signed_bytes_begin_as_in_dsse() {
        assert_eq!(signed(b"{}"), b"DSSEv1 28 application/vnd.in-toto+json 2 {}");
    }

    #[test]
    fn a_payload_comes_out_as_it_went_in() {
        let (key, text) = sealed();
        assert_eq!(open(&text, "model.sig", &key.public()).unwrap(), b"{}");
        assert_eq!(seal(b"{}", &key).unwrap(), text);
    }

    #[test]
    fn errors_of_a_signature_are_named() {
        let (key, text) = sealed();
        let public = key.public();
        let said = |text: &str| open(text, "model.sig", &public).unwrap_err().message().to_owned();
        let edited = |from: &str, to: &str| {
            assert!(text.contains(from), "{text}");
            said(&text.replace(from, to))
        };
        assert_eq!(
            edited("\"application/vnd.in-toto+json\"", "\"text/plain\""),
            "the signature is of a payload of the type `text/plain`, expected `application/vnd.in-toto+json`"
        );
        assert_eq!(
            edited("bundle.v0.3+json", "bundle.v0.2+json"),
            "the signature has the form `application/vnd.dev.sigstore.bundle.v0.2+json`, expected \
             `application/vnd.dev.sigstore.bundle.v0.3+json`"
        );
        assert_eq!(edited("\"e30=\"", "\"e31=\""), "model.sig: dsseEnvelope.payload: no base64");
        assert_eq!(edited("\"e30=\"", "\"W10=\""), "the signature is not this key's of this payload");
        assert_eq!(
            edited("\"publicKey\"", "\"certificate\""),
            "the signature names no key; it was made with a certificate"
        );
        assert_eq!(edited("\"dsseEnvelope\"", "\"messageSignature\""), "model.sig: there is no dsseEnvelope");
        assert!(said("no JSON").starts_with("model.sig: expected ident at line 1"));
        let doubled = text.replace("\"signatures\":[", "\"signatures\":[{\"sig\":\"\"},");
        assert_eq!(said(&doubled), "2 signatures, expected one");
        let (other, _) = sealed();
        let (own, given) = (public.hint().unwrap(), other.public().hint().unwrap());
        let said = open(&text, "model.sig", &other.public()).unwrap_err().message().to_owned();
        assert_eq!(said, format!("the signature was made with another key: it names {own}, the key here is {given}"));
        let renamed = text.replace(&own, &given);
        let said = open(&renamed, "model.sig", &other.public()).unwrap_err().message().to_owned();
        assert_eq!(said, "the signature is not this key's of this payload");
    }
}
