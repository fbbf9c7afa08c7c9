//! The parts of a bundle, as a bill of materials: CycloneDX 1.6 in JSON, with the model's card.
//!
//! There is no serial number and no time in it, which CycloneDX leaves to the writer: the same bundle has the same bytes.

use serde_json::{Map, Value, json};

use super::cyclonedx::{hashes, spdx};
use super::runtimes;
use super::{ComponentEntry, EngineEntry, FileEntry, LicenceEntry, Manifest};
use crate::runtime::Runtime;

/// The name of the bill in a bundle.
pub const BOM: &str = "bom.cdx.json";

/// The bill of a bundle. Its manifest lists every file but the bill itself.
pub fn bom(manifest: &Manifest) -> Value {
    let mut components = vec![checkpoint(manifest)];
    components.extend((0..manifest.adapters.len()).map(|i| adapter(manifest, i)));
    components.extend(manifest.engines.iter().map(|engine| component_of(engine, &manifest.files)));
    components.extend(
        opened_by(manifest)
            .into_iter()
            .map(|runtime| json!({ "type": "library", "bom-ref": runtime_ref(runtime), "name": runtime.to_string(), "scope": "required" })),
    );
    components.extend(runtimes::components(manifest));
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": { "components": [{ "type": "application", "name": "kilnc", "version": manifest.kilnc }] },
            "component": model(manifest),
        },
        "components": components,
        "dependencies": dependencies(manifest),
    })
}

fn model(manifest: &Manifest) -> Value {
    let components = || manifest.engines.first().into_iter().flat_map(|engine| &engine.components);
    let ports = |of: fn(&ComponentEntry) -> &Vec<String>| -> Vec<Value> {
        components().flat_map(of).map(|port| json!({ "format": port })).collect()
    };
    let mut card = json!({
        "modelParameters": {
            "task": manifest.task.name(),
            "architectureFamily": "transformer",
            "modelArchitecture": manifest.model_type,
            "inputs": ports(|component| &component.inputs),
            "outputs": ports(|component| &component.outputs),
        },
        "considerations": {
            "technicalLimitations": [format!("texts are cut to {} tokens", manifest.max_length)],
        },
    });
    let metrics: Vec<Value> = manifest.engines.iter().flat_map(metrics).collect();
    if let (Some(card), false) = (card.as_object_mut(), metrics.is_empty()) {
        card.insert("quantitativeAnalysis".to_owned(), json!({ "performanceMetrics": metrics }));
    }
    json!({
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": manifest.name,
        "modelCard": card,
    })
}

/// The gates of an engine, each measure with the engine as its slice.
fn metrics(engine: &EngineEntry) -> Vec<Value> {
    let of_gate = |gate: &super::GateEntry| {
        let slice = format!("against {} on {}", gate.against, gate.on);
        let metric = move |measure: &str, value: f64| json!({ "type": format!("{measure} {slice}"), "value": value.to_string(), "slice": engine.name });
        let checks = gate.checks.iter().map(|check| metric(&check.name(), check.found));
        let accuracy = gate.accuracy.map(|accuracy| metric("accuracy", accuracy.found));
        checks.chain(accuracy).collect::<Vec<_>>()
    };
    engine.gates.iter().flat_map(of_gate).collect()
}

fn checkpoint(manifest: &Manifest) -> Value {
    let licence = manifest.licences.first();
    let name = licence.map_or(manifest.model_type.as_str(), |licence| licence.of.as_str());
    let mut made = source("checkpoint", name, &manifest.sources);
    insert(&mut made, "licenses", licence.and_then(licences));
    made
}

fn adapter(manifest: &Manifest, i: usize) -> Value {
    let Some(entry) = manifest.adapters.get(i) else { return Value::Null };
    let mut made = source(&adapter_ref(i), &entry.name, &entry.files);
    insert(&mut made, "licenses", manifest.licences.get(i + 1).and_then(licences));
    let properties = json!([
        { "name": "kilnc:kind", "value": entry.kind },
        { "name": "kilnc:scale", "value": entry.scale.to_string() },
    ]);
    insert(&mut made, "properties", Some(properties));
    made
}

/// A folder of trained weights, with its files.
fn source(reference: &str, name: &str, files: &[FileEntry]) -> Value {
    let file = |file: &FileEntry| json!({ "type": "file", "name": file.path, "hashes": hashes(file) });
    json!({
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": name,
        "components": files.iter().map(file).collect::<Vec<_>>(),
    })
}

fn component_of(engine: &EngineEntry, files: &[FileEntry]) -> Value {
    let properties = engine
        .files()
        .map(|file| ("kilnc:file", file))
        .chain([("kilnc:target", engine.target.as_str()), ("kilnc:precision", engine.precision.name())]);
    let properties: Vec<Value> = properties.map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let mut made = json!({
        "type": "machine-learning-model",
        "bom-ref": engine_ref(engine),
        "name": engine.name,
        "properties": properties,
    });
    // A component has one digest; of several files the properties name each.
    let only = engine.model().ok().and_then(|component| files.iter().find(|file| file.path == component.file));
    insert(&mut made, "hashes", only.map(hashes));
    made
}

/// A licence by its SPDX name, or by the name that it has where SPDX has none.
fn licences(entry: &LicenceEntry) -> Option<Value> {
    let names = entry.licence.as_deref()?.split(", ");
    let licence = |name: &str| match spdx(name) {
        Some(id) => json!({ "license": { "id": id } }),
        None => json!({ "license": { "name": name } }),
    };
    Some(names.map(licence).collect())
}

/// The runtimes of the engines, each once.
fn opened_by(manifest: &Manifest) -> Vec<Runtime> {
    let mut runtimes: Vec<Runtime> = manifest.engines.iter().map(|engine| engine.runtime).collect();
    runtimes.sort_by_key(Runtime::to_string);
    runtimes.dedup();
    runtimes
}

/// The model is its engines; an engine comes of the checkpoint and the adapters, and is opened by a runtime, which is in
/// the bundled runtimes.
fn dependencies(manifest: &Manifest) -> Value {
    let sources = || std::iter::once("checkpoint".to_owned()).chain((0..manifest.adapters.len()).map(adapter_ref));
    let of = |engine: &EngineEntry| {
        let needed: Vec<String> = sources().chain([runtime_ref(engine.runtime)]).collect();
        json!({ "ref": engine_ref(engine), "dependsOn": needed })
    };
    let engines: Vec<String> = manifest.engines.iter().map(engine_ref).collect();
    let model = json!({ "ref": "model", "dependsOn": engines });
    let bundled = |runtime: Runtime| {
        let libraries = runtimes::references(manifest, runtime);
        (!libraries.is_empty()).then(|| json!({ "ref": runtime_ref(runtime), "dependsOn": libraries }))
    };
    let runtimes = opened_by(manifest).into_iter().filter_map(bundled);
    std::iter::once(model).chain(manifest.engines.iter().map(of)).chain(runtimes).collect()
}

fn adapter_ref(i: usize) -> String {
    format!("adapter:{i}")
}

fn engine_ref(engine: &EngineEntry) -> String {
    format!("engine:{}", engine.name)
}

fn runtime_ref(runtime: Runtime) -> String {
    format!("runtime:{runtime}")
}

fn insert(object: &mut Value, key: &str, value: Option<Value>) {
    if let (Some(fields), Some(value)) = (object.as_object_mut().map(|fields: &mut Map<String, Value>| fields), value) {
        fields.insert(key.to_owned(), value);
    }
}
