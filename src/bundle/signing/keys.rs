//! Keys on the curves that model signing knows: P-256, P-384 and P-521, in PEM.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use p256::elliptic_curve::Generate;
use p256::elliptic_curve::zeroize::Zeroizing;
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding};

use crate::digest;
use crate::error::{Error, Result};
use crate::json;

/// How a private key begins in the older of the two forms that OpenSSL writes; its parameters may come before it.
const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----";

/// A curve, by the user's name of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Curve {
    /// NIST's curve of 256 bits, with SHA-256.
    #[default]
    P256,
    /// NIST's curve of 384 bits, with SHA-384.
    P384,
    /// NIST's curve of 521 bits, with SHA-512.
    P521,
}

/// A key that signs.
pub enum PrivateKey {
    /// On P-256.
    P256(p256::ecdsa::SigningKey),
    /// On P-384.
    P384(p384::ecdsa::SigningKey),
    /// On P-521.
    P521(p521::ecdsa::SigningKey),
}

/// A key that verifies.
#[derive(Clone, Debug)]
pub enum PublicKey {
    /// On P-256.
    P256(p256::ecdsa::VerifyingKey),
    /// On P-384.
    P384(p384::ecdsa::VerifyingKey),
    /// On P-521.
    P521(p521::ecdsa::VerifyingKey),
}

/// Does the same on whichever curve a key is.
macro_rules! on_its_curve {
    ($kind:ident, $key:expr, $bound:ident => $body:expr) => {
        match $key {
            $kind::P256($bound) => $body,
            $kind::P384($bound) => $body,
            $kind::P521($bound) => $body,
        }
    };
}

impl PrivateKey {
    /// A new key, from the system's random numbers.
    pub fn generate(curve: Curve) -> Result<PrivateKey> {
        let made = match curve {
            Curve::P256 => Generate::try_generate().map(PrivateKey::P256),
            Curve::P384 => Generate::try_generate().map(PrivateKey::P384),
            Curve::P521 => Generate::try_generate().map(PrivateKey::P521),
        };
        made.map_err(|e| Error::machine_failed(format!("the system gives no random numbers: {e}")))
    }

    /// Reads a key from a file in PEM, as PKCS#8 or SEC 1.
    pub fn read(path: &Path) -> Result<PrivateKey> {
        let text = Zeroizing::new(json::read_text(path)?);
        PrivateKey::parse(&text).map_err(|e| e.at(path.display().to_string()))
    }

    fn parse(text: &str) -> Result<PrivateKey> {
        if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(Error::unsupported("the private key is encrypted")
                .hint("openssl pkcs8 -topk8 -nocrypt writes it in plain"));
        }
        if let Some(key) = text.find(SEC1).and_then(|at| text.get(at..)) {
            return first([
                p256::SecretKey::from_sec1_pem(key).ok().map(|key| PrivateKey::P256(key.into())),
                p384::SecretKey::from_sec1_pem(key).ok().map(|key| PrivateKey::P384(key.into())),
                p521::SecretKey::from_sec1_pem(key).ok().map(|key| PrivateKey::P521(key.into())),
            ]);
        }
        if text.contains("-----BEGIN PUBLIC KEY-----") {
            return Err(Error::bad_input("this is a public key, and only the private one signs"));
        }
        if !text.contains("-----BEGIN PRIVATE KEY-----") {
            return Err(Error::bad_input("this is no private key in PEM").hint("kilnc bundle keygen makes one"));
        }
        first([
            DecodePrivateKey::from_pkcs8_pem(text).ok().map(PrivateKey::P256),
            DecodePrivateKey::from_pkcs8_pem(text).ok().map(PrivateKey::P384),
            DecodePrivateKey::from_pkcs8_pem(text).ok().map(PrivateKey::P521),
        ])
    }

    /// The key that verifies this one's signatures.
    pub fn public(&self) -> PublicKey {
        match self {
            PrivateKey::P256(key) => PublicKey::P256(*key.verifying_key()),
            PrivateKey::P384(key) => PublicKey::P384(*key.verifying_key()),
            PrivateKey::P521(key) => PublicKey::P521(*key.verifying_key()),
        }
    }

    /// A signature of a message, in DER. The same message always gets the same one (RFC 6979).
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        use p256::ecdsa::signature::Signer;
        match self {
            PrivateKey::P256(key) => Signer::<p256::ecdsa::DerSignature>::sign(key, message).as_bytes().to_vec(),
            PrivateKey::P384(key) => Signer::<p384::ecdsa::DerSignature>::sign(key, message).as_bytes().to_vec(),
            PrivateKey::P521(key) => Signer::<p521::ecdsa::DerSignature>::sign(key, message).as_bytes().to_vec(),
        }
    }

    /// Writes the key to `path`, which only its owner may read, and the public one beside it; returns the path of that.
    /// An existing file is never replaced: a lost key cannot be recovered.
    pub fn write(&self, path: &Path) -> Result<PathBuf> {
        let failed = |e| Error::bug(format!("a key cannot be written: {e}"));
        let private = on_its_curve!(PrivateKey, self, key => key.to_pkcs8_pem(LineEnding::LF).map_err(failed))?;
        let public = self.public().pem()?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".pub");
        let beside = PathBuf::from(beside);
        // The public one first: if the private one cannot be written, no secret is left behind.
        create(&beside, public.as_bytes(), 0o644)?;
        create(path, private.as_bytes(), 0o600).inspect_err(|_| drop(std::fs::remove_file(&beside)))?;
        Ok(beside)
    }
}

impl PublicKey {
    /// Reads a key from a file in PEM.
    pub fn read(path: &Path) -> Result<PublicKey> {
        let text = json::read_text(path)?;
        PublicKey::parse(&text).map_err(|e| e.at(path.display().to_string()))
    }

    /// Reads a key from a text in PEM.
    pub fn parse(text: &str) -> Result<PublicKey> {
        if text.contains("PRIVATE KEY-----") {
            return Err(Error::bad_input("this is a private key, and signatures are verified with the public one")
                .hint("kilnc bundle keygen wrote it beside it, with .pub at the end"));
        }
        if !text.contains("-----BEGIN PUBLIC KEY-----") {
            return Err(Error::bad_input("this is no public key in PEM")
                .hint("openssl ec -in KEY.pem -pubout writes one of a private key"));
        }
        first([
            DecodePublicKey::from_public_key_pem(text).ok().map(PublicKey::P256),
            DecodePublicKey::from_public_key_pem(text).ok().map(PublicKey::P384),
            DecodePublicKey::from_public_key_pem(text).ok().map(PublicKey::P521),
        ])
    }

    /// The key as SubjectPublicKeyInfo in PEM.
    pub fn pem(&self) -> Result<String> {
        let failed = |e| Error::bug(format!("a key cannot be written: {e}"));
        on_its_curve!(PublicKey, self, key => key.to_public_key_pem(LineEnding::LF).map_err(failed))
    }

    /// The key's name in signatures: the SHA-256 of its PEM, in hexadecimal.
    pub fn hint(&self) -> Result<String> {
        Ok(digest::of(self.pem()?.as_bytes()))
    }

    /// Whether a signature in DER is this key's of that message.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        use p256::ecdsa::signature::Verifier;
        match self {
            PublicKey::P256(key) => p256::ecdsa::DerSignature::try_from(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            PublicKey::P384(key) => p384::ecdsa::DerSignature::try_from(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            PublicKey::P521(key) => p521::ecdsa::DerSignature::try_from(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        }
    }
}

/// The key on the one curve that fits.
fn first<K>(keys: [Option<K>; 3]) -> Result<K> {
    keys.into_iter().flatten().next().ok_or_else(|| {
        Error::unsupported("this is no key on P-256, P-384 or P-521").hint("kilnc bundle keygen makes a pair of keys")
    })
}

/// Writes a file that must not be there yet.
fn create(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    let mut file = options.open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::bad_input(format!("{} is there already", path.display())).hint("no key is ever replaced")
        }
        _ => Error::io("writing", path, &e),
    })?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.map_err(|e| Error::io("writing", path, &e)).inspect_err(|_| drop(std::fs::remove_file(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURVES: [Curve; 3] = [Curve::P256, Curve::P384, Curve::P521];

    #[test]
    fn keys_are_read_as_they_were_written_and_only_their_owner_may() {
        for curve in CURVES {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("key.pem");
            let key = PrivateKey::generate(curve).unwrap();
            let beside = key.write(&path).unwrap();
            assert_eq!(beside, dir.path().join("key.pem.pub"));
            let (private, public) = (PrivateKey::read(&path).unwrap(), PublicKey::read(&beside).unwrap());
            assert_eq!(private.public().hint().unwrap(), public.hint().unwrap());
            assert_eq!(private.sign(b"m"), key.sign(b"m"));
            assert!(public.verifies(b"m", &key.sign(b"m")));
            assert!(!public.verifies(b"n", &key.sign(b"m")));
            assert!(!public.verifies(b"m", b"no signature"));
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            }
        }
    }

    #[test]
    fn no_key_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let key = PrivateKey::generate(Curve::P256).unwrap();
        std::fs::write(&path, "a key of years ago").unwrap();
        assert!(key.write(&path).unwrap_err().message().ends_with("key.pem is there already"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a key of years ago");
        assert!(!dir.path().join("key.pem.pub").exists());
    }

    #[test]
    fn other_keys_are_refused_by_kind() {
        let key = PrivateKey::generate(Curve::P256).unwrap();
        let PrivateKey::P256(inner) = &key else { unreachable!() };
        let private = inner.to_pkcs8_pem(LineEnding::LF).unwrap();
        let said = |text: &str| PrivateKey::parse(text).err().unwrap().message().to_owned();
        assert_eq!(said(&key.public().pem().unwrap()), "this is a public key, and only the private one signs");
        assert_eq!(said("{}"), "this is no private key in PEM");
        assert_eq!(said("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "the private key is encrypted");
        let other = private.replace("BEGIN PRIVATE KEY-----\n", "BEGIN PRIVATE KEY-----\nAAAA");
        assert_eq!(said(&other), "this is no key on P-256, P-384 or P-521");
        let said = |text: &str| PublicKey::parse(text).unwrap_err().message().to_owned();
        assert_eq!(said(&private), "this is a private key, and signatures are verified with the public one");
        assert_eq!(said("ssh-ed25519 AAAA"), "this is no public key in PEM");
        let rsa = "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAL\n-----END PUBLIC KEY-----\n";
        assert_eq!(said(rsa), "this is no key on P-256, P-384 or P-521");
    }

    #[test]
    fn the_older_form_of_openssl_is_read() {
        let key = p384::SecretKey::try_generate().unwrap();
        let pem = key.to_sec1_pem(LineEnding::LF).unwrap();
        let with_parameters =
            format!("-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n{}", *pem);
        let read = PrivateKey::parse(&with_parameters).unwrap();
        assert!(matches!(read, PrivateKey::P384(read) if read == key.into()));
    }
}
