//! The bundled runtimes, in the bundle's bill of materials.

use serde_json::{Value, json};

use super::LibraryEntry;
use crate::bundle::cyclonedx::{hashes, spdx};
use crate::bundle::{FileEntry, Manifest};
use crate::runtime::Runtime;

/// A component for each wheel, with those of its files that the bundle has.
pub fn components(manifest: &Manifest) -> Vec<Value> {
    manifest.runtimes.libraries.iter().map(|entry| component(entry, &manifest.files)).collect()
}

/// The components of a bundled runtime.
pub fn references(manifest: &Manifest, runtime: Runtime) -> Vec<String> {
    manifest.runtimes.libraries.iter().filter(|entry| entry.runtime == runtime).map(reference).collect()
}

fn reference(entry: &LibraryEntry) -> String {
    format!("runtime:{}/{}@{}", entry.platform, entry.package, entry.version)
}

fn component(entry: &LibraryEntry, files: &[FileEntry]) -> Value {
    let listed = |path: &String| files.iter().find(|file| file.path == *path);
    let file = |file: &FileEntry| json!({ "type": "file", "name": file.path, "hashes": hashes(file) });
    let mut made = json!({
        "type": "library",
        "bom-ref": reference(entry),
        "name": entry.package,
        "version": entry.version,
        "purl": format!("pkg:pypi/{}@{}", entry.package, entry.version),
        "hashes": hashes(&entry.wheel),
        "properties": [
            { "name": "kilnc:platform", "value": entry.platform.name() },
            { "name": "kilnc:wheel", "value": entry.wheel.path },
        ],
        "components": entry.files.iter().chain(&entry.notices).filter_map(listed).map(file).collect::<Vec<_>>(),
    });
    if let (Some(fields), Some(licence)) = (made.as_object_mut(), &entry.licence) {
        // Metadata has “MIT License” where SPDX has “MIT”.
        let licence = match spdx(licence.trim_end_matches(" License")) {
            Some(id) => json!({ "license": { "id": id } }),
            None => json!({ "license": { "name": licence } }),
        };
        fields.insert("licenses".to_owned(), json!([licence]));
    }
    made
}
