//! Which engine of a bundle is used on a machine, and why.

use std::collections::BTreeMap;

use super::{BenchEntry, BenchedEngine, Bundle, EngineEntry};
use crate::error::{Error, Kind, Result, printable};
use crate::precision::Precision;
use crate::runtime::{Available, Processor, Runtime};
use crate::target::Target;

impl Bundle {
    /// The difference of this processor's arithmetic from that which an engine was checked with; none, where there is none.
    pub fn other_arithmetic(engine: &EngineEntry) -> Option<&'static str> {
        last_because(&Processor::here(), engine).filter(|_| engine.precision.is_calibrated()).map(|(_, why)| why)
    }

    /// The engine of that name, or without a name the best one that can run here, with the reason for the choice.
    pub fn choose(&self, name: Option<&str>) -> Result<(&EngineEntry, String)> {
        match name {
            Some(name) => Ok((self.named(name)?, "as requested".to_owned())),
            None => self.best(&Processor::here(), |engine| self.available(engine)),
        }
    }

    fn named(&self, name: &str) -> Result<&EngineEntry> {
        let engines = &self.manifest.engines;
        let names = || engines.iter().map(|engine| engine.name.as_str());
        engines.iter().find(|engine| engine.name == name).ok_or_else(|| {
            let known = names().collect::<Vec<_>>().join(", ");
            let error = Error::bad_input(format!("the bundle has no engine `{}`; it has {known}", printable(name)));
            error.hint_nearest(name, names())
        })
    }

    /// The first engine in the order of preference whose runtime is there. The reason names those before it. Timings
    /// override the order of preference, where the fastest engine runs here as it did there.
    fn best(
        &self,
        processor: &Processor,
        available: impl Fn(&EngineEntry) -> Result<Available>,
    ) -> Result<(&EngineEntry, String)> {
        let mut order: Vec<&EngineEntry> = self.manifest.engines.iter().collect();
        order.sort_by_key(|engine| preference_on(processor, engine));
        if let Some(timings) = self.timings(processor) {
            let (engine, version, why_not) = first(&by_time(&order, &timings), &available)?;
            let timed = timings.get(engine.name.as_str());
            let Some(other) = timed.and_then(|timed| timed.version).filter(|known| *known != version) else {
                let milliseconds = timed.map(|timed| timed.mean_ms);
                return Ok((engine, self.reason(engine, &why_not, processor, &version, milliseconds)));
            };
            let why = format!("; {} was timed with {} {other}, and {version} is here", engine.name, engine.runtime);
            let (engine, version, why_not) = first(&order, &available)?;
            return Ok((engine, self.reason(engine, &why_not, processor, &version, None) + &why));
        }
        let (engine, version, why_not) = first(&order, &available)?;
        Ok((engine, self.reason(engine, &why_not, processor, &version, None)))
    }

    /// How long engines took when the bundle was built on such a processor, at the first point.
    fn timings(&self, processor: &Processor) -> Option<BTreeMap<&str, Timed<'_>>> {
        let such = |bench: &&BenchEntry| bench.processor == processor.name && bench.features == processor.features;
        Some(self.manifest.bench.as_ref().filter(such)?.engines.iter().filter_map(Timed::of).collect())
    }

    fn reason(
        &self,
        engine: &EngineEntry,
        why_not: &[String],
        processor: &Processor,
        version: &str,
        milliseconds: Option<f64>,
    ) -> String {
        let mut engine_list = match (why_not, milliseconds) {
            ([], None) => "the fastest of the bundle".to_owned(),
            ([], Some(ms)) => format!("the fastest of the bundle: {ms:.1} ms on such a processor when it was built"),
            (others, _) => format!("the fastest that runs here; not {}", others.join("; ")),
        };
        if let Some(checked) = engine.checked_with().filter(|checked| *checked != version) {
            engine_list += &format!("; it was checked with {} {checked}, and {version} is here", engine.runtime);
        }
        if milliseconds.is_some() {
            return engine_list;
        }
        let mut last: BTreeMap<u8, (&str, Vec<&str>)> = BTreeMap::new();
        for engine in &self.manifest.engines {
            if let Some((place, why)) = last_because(processor, engine) {
                last.entry(place).or_insert((why, Vec::new())).1.push(&engine.name);
            }
        }
        for (why, names) in last.into_values() {
            let go = if names.len() == 1 { "goes" } else { "go" };
            engine_list += &format!("; {} {go} last: this processor {why}", names.join(", "));
        }
        engine_list
    }
}

/// How long an engine took, by which version of its runtime.
#[derive(Clone, Copy)]
struct Timed<'a> {
    mean_ms: f64,
    version: Option<&'a str>,
}

impl<'a> Timed<'a> {
    fn of(engine: &'a BenchedEngine) -> Option<(&'a str, Timed<'a>)> {
        let mean_ms = engine.points.first()?.mean_ms;
        Some((&engine.engine, Timed { mean_ms, version: engine.version.as_deref() }))
    }
}

/// The fastest first. Engines that were not timed, such as plans, keep their positions before and after those that were.
fn by_time<'a>(order: &[&'a EngineEntry], timings: &BTreeMap<&str, Timed>) -> Vec<&'a EngineEntry> {
    let time = |engine: &EngineEntry| timings.get(engine.name.as_str()).map(|timed| timed.mean_ms);
    let mut measured: Vec<(f64, &EngineEntry)> =
        order.iter().filter_map(|engine| Some((time(engine)?, *engine))).collect();
    measured.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut order = order.to_vec();
    let places = order.iter_mut().filter(|engine| time(engine).is_some());
    places.zip(measured).for_each(|(place, (_, engine))| *place = engine);
    order
}

/// The first engine that can run here, the version of its runtime, and why those before it cannot. Fails where that
/// cannot be found out, because the machine fails.
fn first<'a>(
    order: &[&'a EngineEntry],
    available: &impl Fn(&EngineEntry) -> Result<Available>,
) -> Result<(&'a EngineEntry, String, Vec<String>)> {
    let mut why_not = Vec::new();
    for engine in order {
        match available(engine) {
            Ok(found) => return Ok((engine, found.version, why_not)),
            Err(e) if e.kind() == Kind::MachineFailed => return Err(e.at(format!("engine {}", engine.name))),
            Err(e) => why_not.push(format!("{}: {}", engine.name, e.message())),
        }
    }
    Err(Error::runtime_missing("none of the bundle's engines can run here").at(why_not.join("; ")))
}

/// Why an engine goes last among those of its kind of machine, and its rank there; none, where it does not. Sums of 8 bits
/// that are not those that an engine was checked with may give other predictions, in either direction.
fn last_because(processor: &Processor, engine: &EngineEntry) -> Option<(u8, &'static str)> {
    let saturating = || engine.target.parse::<Target>().is_ok_and(|target| target.saturates(engine.precision));
    let saturates = !engine.reduced_range && saturating();
    match engine.precision {
        Precision::Bf16 if !processor.bf16() => Some((8, "has no products in bf16")),
        _ if saturates && engine.checked_exactly() && !processor.exact_8_bits() => {
            Some((9, "adds products of 8 bits in 16, where they saturate"))
        }
        _ if saturates && !engine.checked_exactly() && processor.exact_8_bits() => {
            Some((9, "adds products of 8 bits exactly, and the engine was checked where they saturate"))
        }
        _ => None,
    }
}

/// The order in which engines are tried where nothing is known of the processor.
pub(super) fn preference(engine: &EngineEntry) -> (bool, u8, u8, bool, u8) {
    let any = Processor { name: String::new(), features: vec!["avx512_vnni", "avx512_bf16"] };
    preference_on(&any, engine)
}

/// The order in which engines are tried: those that were checked where they were built, and of them the fastest first.
/// A GPU comes before all else and tract after it; between the
/// runtimes for CPUs, the number format decides. Without instructions for it, BF16 is computed in 32 bits and costs its
/// conversions; where 8 bits saturate, checked engines come first, and else those of the full range before the same
/// in the reduced one.
fn preference_on(processor: &Processor, engine: &EngineEntry) -> (bool, u8, u8, bool, u8) {
    let (machine, library) = match engine.runtime {
        Runtime::TensorRt => (0, 0),
        Runtime::TensorRtRtx => (0, 1),
        Runtime::OpenVino => (1, 0),
        Runtime::Ort => (1, 1),
        Runtime::Tract => (2, 0),
        Runtime::Web => (3, 0),
    };
    let usual = match engine.precision {
        Precision::Int8 => 0,
        Precision::Int8Fast => 1,
        Precision::Int8Static => 2,
        Precision::Bf16 => 3,
        Precision::Int8Weights => 4,
        Precision::Int4 => 5,
        Precision::Fp16 => 6,
        Precision::Fp32 => 7,
    };
    let format = last_because(processor, engine).map_or(usual, |(place, _)| place);
    (!engine.is_checked(), machine, format, engine.reduced_range, library)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{BenchEntry, BenchedEngine, BenchedPoint, Manifest, SCHEMA};

    fn bundle(engines: &[(&str, &str, &str)]) -> Bundle {
        let engine = |(name, runtime, precision): &(&str, &str, &str)| {
            let target = match *runtime {
                "ort" => "ort-cpu",
                "tensor-rt-rtx" => "tensorrt-rtx:sm75",
                same => same,
            };
            serde_json::json!({
                "name": name, "target": target, "runtime": runtime, "precision": precision,
                "components": [{ "name": "model", "file": "x", "inputs": [], "outputs": [] }], "passes": [], "gates": [],
            })
        };
        let manifest = serde_json::json!({
            "schema": SCHEMA, "kilnc": "0", "name": "b", "model_type": "bert", "task": "text-classification",
            "labels": [], "max_length": 8, "sources": [], "adapters": [], "skipped": [], "files": [],
            "engines": engines.iter().map(engine).collect::<Vec<_>>(),
        });
        let manifest = Manifest::parse(&manifest.to_string()).unwrap();
        Bundle::of("b".into(), manifest)
    }

    /// Processors with and without products of 8 and 16 bits.
    fn new() -> Processor {
        Processor { name: String::new(), features: vec!["avx2", "avx512_vnni", "avx512_bf16"] }
    }
    fn old() -> Processor {
        Processor { name: String::new(), features: vec!["avx2"] }
    }

    fn engine_list(bundle: &Bundle, processor: &Processor, there: &[Runtime]) -> Result<String> {
        let available = |engine: &EngineEntry| match there.contains(&engine.runtime) {
            true => Ok(Available { version: "1".to_owned(), path: None }),
            false => Err(Error::runtime_missing(format!("{} is not found", engine.runtime))),
        };
        bundle.best(processor, available).map(|(engine, why)| format!("{}: {why}", engine.name))
    }

    #[test]
    fn an_engine_in_8_bits_is_preferred_to_one_in_32_on_any_runtime() {
        let engines = [
            ("plan", "tensor-rt-rtx", "fp16"),
            ("ov-int8", "openvino", "int8"),
            ("ort-int8", "ort", "int8"),
            ("ov-fp32", "openvino", "fp32"),
            ("tract-int8", "tract", "int8"),
        ];
        let mut sorted = bundle(&engines).manifest.engines;
        sorted.reverse();
        sorted.sort_by_key(preference);
        let names: Vec<&str> = sorted.iter().map(|engine| engine.name.as_str()).collect();
        assert_eq!(names, engines.map(|(name, ..)| name));
    }

    #[test]
    fn the_choice_has_reasons_against_the_others() {
        let all = bundle(&[
            ("plan", "tensor-rt-rtx", "fp16"),
            ("ov", "openvino", "int8"),
            ("ort", "ort", "int8"),
            ("tract", "tract", "fp32"),
        ]);
        let cpu = [Runtime::Ort, Runtime::OpenVino, Runtime::Tract];
        assert_eq!(
            engine_list(&all, &new(), &cpu).unwrap(),
            "ov: the fastest that runs here; not plan: TensorRT for RTX is not found"
        );
        assert_eq!(
            engine_list(&all, &new(), &cpu[2..]).unwrap(),
            "tract: the fastest that runs here; not plan: TensorRT for RTX is not found; ov: OpenVINO is not found; ort: \
             ONNX Runtime is not found"
        );
        let none = engine_list(&bundle(&[("ort", "ort", "int8")]), &new(), &[]).unwrap_err();
        assert_eq!((none.message(), none.exit_code()), ("none of the bundle's engines can run here", 4));
    }

    #[test]
    fn bf16_is_last_where_the_processor_has_no_products_in_it() {
        let both = bundle(&[("ov-fp32", "openvino", "fp32"), ("ov-bf16", "openvino", "bf16")]);
        assert_eq!(engine_list(&both, &new(), &[Runtime::OpenVino]).unwrap(), "ov-bf16: the fastest of the bundle");
        assert_eq!(
            engine_list(
                &both,
                &Processor { name: String::new(), features: vec!["avx2", "avx512_vnni"] },
                &[Runtime::OpenVino]
            )
            .unwrap(),
            "ov-fp32: the fastest of the bundle; ov-bf16 goes last: this processor has no products in bf16"
        );
    }

    #[test]
    fn engines_in_8_bits_go_last_where_their_sums_saturate() {
        let there = [Runtime::Ort, Runtime::OpenVino, Runtime::Tract];
        let both = bundle(&[("ov", "openvino", "int8"), ("ort", "ort", "int8-fast"), ("plain", "ort", "fp32")]);
        assert_eq!(
            engine_list(&both, &old(), &there).unwrap(),
            "plain: the fastest of the bundle; ov, ort go last: this processor adds products of 8 bits in 16, where they \
             saturate"
        );
        let tract = bundle(&[("exact", "tract", "int8"), ("plain", "tract", "fp32")]);
        assert_eq!(engine_list(&tract, &old(), &there).unwrap(), "exact: the fastest of the bundle");
    }

    #[test]
    fn engines_in_8_bits_go_first_where_sums_are_those_they_were_checked_with() {
        let mut both = bundle(&[("plain", "ort", "fp32"), ("int8", "ort", "int8")]);
        let gate = serde_json::json!({
            "against": "plain", "on": "texts", "rows": 1, "ran_by": "ONNX Runtime", "exact_8_bits": false, "checks": [],
        });
        both.manifest.engines[1].gates = vec![serde_json::from_value(gate).unwrap()];
        assert_eq!(engine_list(&both, &old(), &[Runtime::Ort]).unwrap(), "int8: the fastest of the bundle");
        assert_eq!(
            engine_list(&both, &new(), &[Runtime::Ort]).unwrap(),
            "plain: the fastest of the bundle; int8 goes last: this processor adds products of 8 bits exactly, and the \
             engine was checked where they saturate"
        );
    }

    #[test]
    fn engines_that_were_never_checked_are_last() {
        let mut both = bundle(&[("plain", "ort", "fp32"), ("int8", "ort", "int8")]);
        let gate = serde_json::json!({
            "against": "plain", "on": "texts", "rows": 0, "ran_by": "ONNX Runtime is not found", "checks": [],
        });
        both.manifest.engines[1].gates = vec![serde_json::from_value(gate).unwrap()];
        assert!(engine_list(&both, &new(), &[Runtime::Ort]).unwrap().starts_with("plain: "));
    }

    #[test]
    fn a_reduced_range_is_first_where_the_full_one_saturates_and_else_second() {
        let mut all = bundle(&[("plain", "ort", "fp32"), ("full", "ort", "int8"), ("reduced", "ort", "int8")]);
        all.manifest.engines[2].reduced_range = true;
        assert_eq!(engine_list(&all, &new(), &[Runtime::Ort]).unwrap(), "full: the fastest of the bundle");
        assert_eq!(
            engine_list(&all, &old(), &[Runtime::Ort]).unwrap(),
            "reduced: the fastest of the bundle; full goes last: this processor adds products of 8 bits in 16, where they \
             saturate"
        );
    }

    #[test]
    fn timings_on_such_a_processor_decide() {
        let engines = [("plan", "tensor-rt-rtx", "fp16"), ("ov", "openvino", "int8"), ("ort", "ort", "int8")];
        let mut timed = bundle(&engines);
        let engine = |name: &str, mean_ms| BenchedEngine {
            engine: name.to_owned(),
            version: Some("1".to_owned()),
            points: vec![BenchedPoint { batch: 1, length: 8, mean_ms, p99_ms: mean_ms }],
        };
        let engines = vec![engine("ov", 3.0), engine("ort", 2.0)];
        let processor = "this".to_owned();
        let features = new().features.into_iter().map(str::to_owned).collect();
        timed.manifest.bench = Some(BenchEntry { processor, features, threads: 2, rounds: 5, engines });
        let there = [Runtime::Ort, Runtime::OpenVino];
        let this = Processor { name: "this".to_owned(), ..new() };
        assert_eq!(
            engine_list(&timed, &this, &there).unwrap(),
            "ort: the fastest that runs here; not plan: TensorRT for RTX is not found"
        );
        timed.manifest.engines.remove(0);
        let such = "ort: the fastest of the bundle: 2.0 ms on such a processor when it was built";
        assert_eq!(engine_list(&timed, &this, &there).unwrap(), such);
        assert_eq!(engine_list(&timed, &new(), &there).unwrap(), "ov: the fastest of the bundle");
        // A processor of that name without the instructions is another, and so is another version of the runtime.
        let named = Processor { name: "this".to_owned(), ..old() };
        assert!(
            engine_list(&timed, &named, &there).unwrap().starts_with("ov: the fastest of the bundle; ov, ort go last")
        );
        timed.manifest.bench.as_mut().unwrap().engines[1].version = Some("0".to_owned());
        assert_eq!(
            engine_list(&timed, &this, &there).unwrap(),
            "ov: the fastest of the bundle; ort was timed with ONNX Runtime 0, and 1 is here"
        );
    }

    #[test]
    fn another_version_than_the_checked_one_is_named() {
        let mut one = bundle(&[("plain", "ort", "fp32")]);
        let gate = serde_json::json!({
            "against": "itself", "on": "texts", "rows": 1, "ran_by": "ONNX Runtime", "version": "0.9", "checks": [],
        });
        one.manifest.engines[0].gates = vec![serde_json::from_value(gate).unwrap()];
        assert_eq!(
            engine_list(&one, &new(), &[Runtime::Ort]).unwrap(),
            "plain: the fastest of the bundle; it was checked with ONNX Runtime 0.9, and 1 is here"
        );
    }
}
