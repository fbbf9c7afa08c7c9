//! An OCI image layout after CNCF's ModelPack (model-spec): every file of the bundle is a layer, as it is.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::folder::{Exported, Folder};
use crate::bundle::cyclonedx::spdx;
use crate::bundle::{Bundle, FileEntry, MANIFEST, TOKENIZER};
use crate::digest;
use crate::error::{Error, Result, printable};
use crate::json::sorted;
use crate::precision::Precision;

const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const ARTIFACT: &str = "application/vnd.cncf.model.manifest.v1+json";
const CONFIG: &str = "application/vnd.cncf.model.config.v1+json";
const WEIGHT: &str = "application/vnd.cncf.model.weight.v1.raw";
const WEIGHT_CONFIG: &str = "application/vnd.cncf.model.weight.config.v1.raw";
const CODE: &str = "application/vnd.cncf.model.code.v1.raw";
const DOC: &str = "application/vnd.cncf.model.doc.v1.raw";

/// How an image is called.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Its tag; `latest`, if not set.
    pub tag: Option<String>,
}

/// Writes an image layout into an empty folder. The blob of a file has the manifest's digest of the file.
pub fn export(bundle: &Bundle, image: &Image, dir: &Path) -> Result<Exported> {
    let tag = image.tag.as_deref().unwrap_or("latest");
    check_tag(tag)?;
    let files = bundle.digests()?;
    bundle.check(&files)?;
    let mut folder = Folder::new(dir);
    for file in &files {
        // The same bytes at two paths are one blob.
        if !folder.exported.files.contains(&blob(&file.sha256)) {
            let (to, mut copy) = folder.create(&blob(&file.sha256))?;
            bundle.again(file, |piece| copy.write_all(piece).map_err(|e| Error::io("writing", &to, &e)))?;
        }
    }
    let layers: Vec<Value> = files.iter().map(|file| layer(bundle, file)).collect();
    let config = add(&mut folder, &model_config(bundle, &files), CONFIG)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "artifactType": ARTIFACT,
        "config": config,
        "layers": layers,
        "annotations": { "org.opencontainers.image.title": bundle.manifest.name },
    });
    let mut manifest = add(&mut folder, &manifest, IMAGE_MANIFEST)?;
    if let Some(fields) = manifest.as_object_mut() {
        fields.insert("artifactType".to_owned(), ARTIFACT.into());
        fields.insert("annotations".to_owned(), json!({ "org.opencontainers.image.ref.name": tag }));
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    folder.write("index.json", &bytes(&index)?)?;
    folder.write("oci-layout", &bytes(&json!({ "imageLayoutVersion": "1.0.0" }))?)?;
    folder.exported.engines = bundle.manifest.engines.iter().map(|engine| engine.name.clone()).collect();
    Ok(folder.done())
}

/// By the grammar of the distribution specification.
fn check_tag(tag: &str) -> Result<()> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let first = tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    match first && tag.len() <= 128 && tag.chars().all(inner) {
        true => Ok(()),
        false => Err(Error::bad_input(format!("`{}` is no tag of an image", printable(tag)))
            .hint("a tag has letters, digits, _ . - and 128 characters at most")),
    }
}

/// Adds a blob, and returns its descriptor.
fn add(folder: &mut Folder, value: &Value, media_type: &str) -> Result<Value> {
    let bytes = bytes(value)?;
    let digest = digest::of(&bytes);
    folder.write(&blob(&digest), &bytes)?;
    Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() }))
}

fn bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(&sorted(value.clone()))
        .map_err(|e| Error::bug(format!("an image's description cannot be written: {e}")))
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

/// The path has two annotations: for ModelPack's tools, and for those that pull any artifact's files.
fn layer(bundle: &Bundle, file: &FileEntry) -> Value {
    json!({
        "mediaType": media_type(bundle, &file.path),
        "digest": format!("sha256:{}", file.sha256),
        "size": file.bytes,
        "annotations": {
            "org.cncf.model.filepath": file.path,
            "org.opencontainers.image.title": file.path,
        },
    })
}

fn media_type(bundle: &Bundle, path: &str) -> &'static str {
    let engine = path.strip_suffix("_data").unwrap_or(path);
    if bundle.manifest.engines.iter().flat_map(|entry| entry.files()).any(|file| file == engine) {
        WEIGHT
    } else if [MANIFEST, TOKENIZER].contains(&path) || path.starts_with("hub/") {
        WEIGHT_CONFIG
    } else if bundle.manifest.runtimes.libraries.iter().any(|bundled| bundled.files.iter().any(|file| file == path)) {
        CODE
    } else {
        DOC
    }
}

/// ModelPack's own configuration. Layers are not packed, so that their contents' digests are their own.
fn model_config(bundle: &Bundle, files: &[FileEntry]) -> Value {
    let manifest = &bundle.manifest;
    let licences = manifest.licences.iter().filter_map(|entry| entry.licence.as_deref());
    let mut spdx: Vec<&str> = licences.flat_map(|names| names.split(", ")).filter_map(spdx).collect();
    spdx.dedup();
    let mut descriptor = json!({
        "family": manifest.model_type,
        "name": manifest.name,
        "title": format!("{} for {}", manifest.name, manifest.task),
    });
    if let (false, Some(fields)) = (spdx.is_empty(), descriptor.as_object_mut()) {
        fields.insert("licenses".to_owned(), json!(spdx));
    }
    let mut precisions: Vec<&str> = manifest.engines.iter().map(|engine| precision(engine.precision)).collect();
    precisions.sort_unstable();
    precisions.dedup();
    json!({
        "descriptor": descriptor,
        "config": {
            "architecture": "transformer",
            "format": "onnx",
            "precision": precisions.join(","),
            "capabilities": { "inputTypes": ["text"], "outputTypes": ["other"] },
        },
        "modelfs": {
            "type": "layers",
            "diffIds": files.iter().map(|file| format!("sha256:{}", file.sha256)).collect::<Vec<_>>(),
        },
    })
}

/// The specification's name of a number format: that of the weights.
fn precision(precision: Precision) -> &'static str {
    match precision {
        Precision::Fp32 => "float32",
        Precision::Fp16 => "float16",
        Precision::Bf16 => "bfloat16",
        Precision::Int4 => "int4",
        Precision::Int8 | Precision::Int8Fast | Precision::Int8Static | Precision::Int8Weights => "int8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_one_of_the_distribution_specification() {
        assert!(check_tag("v1.2-rc_3").is_ok());
        for wrong in ["", "-a", "a b", "a/b", &"a".repeat(129)] {
            assert!(check_tag(wrong).unwrap_err().message().ends_with("is no tag of an image"));
        }
    }
}
