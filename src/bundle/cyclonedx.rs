//! What components of a bill of materials have in common: digests, and licences by their SPDX names.

use serde_json::{Value, json};

use super::files::FileEntry;

/// Names of licences on the Hub, and SPDX's where they differ by more than capitals of the same letters.
const SPDX: [(&str, &str); 16] = [
    ("apache-2.0", "Apache-2.0"),
    ("mit", "MIT"),
    ("bsd-2-clause", "BSD-2-Clause"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("cc0-1.0", "CC0-1.0"),
    ("cc-by-4.0", "CC-BY-4.0"),
    ("cc-by-sa-3.0", "CC-BY-SA-3.0"),
    ("cc-by-sa-4.0", "CC-BY-SA-4.0"),
    ("cc-by-nc-4.0", "CC-BY-NC-4.0"),
    ("cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0"),
    ("gpl-2.0", "GPL-2.0-only"),
    ("gpl-3.0", "GPL-3.0-only"),
    ("lgpl-3.0", "LGPL-3.0-only"),
    ("agpl-3.0", "AGPL-3.0-only"),
    ("mpl-2.0", "MPL-2.0"),
    ("isc", "ISC"),
];

/// The SPDX name of a licence, by the name that the Hub has for it.
pub(super) fn spdx(name: &str) -> Option<&'static str> {
    SPDX.into_iter().find(|(hub, _)| hub.eq_ignore_ascii_case(name)).map(|(_, spdx)| spdx)
}

pub(super) fn hashes(file: &FileEntry) -> Value {
    json!([{ "alg": "SHA-256", "content": file.sha256 }])
}
