//! Which engine of a bundle is used on a machine, and why.

use super::{Bundle, EngineEntry};
use crate::error::{Error, Result, nearest, printable};
use crate::precision::Precision;
use crate::runtime::Runtime;

impl Bundle {
    /// The engine of that name, or without a name the best one that can run here, with the reason for the choice.
    pub fn choose(&self, name: Option<&str>) -> Result<(&EngineEntry, String)> {
        match name {
            Some(name) => Ok((self.named(name)?, "as asked".to_owned())),
            None => self.best(bf16_here(), |engine| self.available(engine)),
        }
    }

    fn named(&self, name: &str) -> Result<&EngineEntry> {
        let engines = &self.manifest.engines;
        let names = || engines.iter().map(|engine| engine.name.as_str());
        engines.iter().find(|engine| engine.name == name).ok_or_else(|| {
            let known = names().collect::<Vec<_>>().join(", ");
            let error = Error::bad_input(format!("the bundle has no engine `{}`; it has {known}", printable(name)));
            match nearest(name, names()) {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error,
            }
        })
    }

    /// The first engine in the order of preference whose runtime is there. The reason names those before it.
    fn best(&self, bf16: bool, available: impl Fn(&EngineEntry) -> Result<String>) -> Result<(&EngineEntry, String)> {
        let mut order: Vec<&EngineEntry> = self.manifest.engines.iter().collect();
        order.sort_by_key(|engine| preference_with(engine.runtime, engine.precision, bf16));
        let mut why_not = Vec::new();
        for engine in order {
            match available(engine) {
                Ok(_) => return Ok((engine, self.reason(&why_not, bf16))),
                Err(e) => why_not.push(format!("{}: {}", engine.name, e.message())),
            }
        }
        Err(Error::runtime_missing("none of the bundle's engines can run here").at(why_not.join("; ")))
    }

    fn reason(&self, why_not: &[String], bf16: bool) -> String {
        let told = match why_not {
            [] => "the fastest of the bundle".to_owned(),
            others => format!("the fastest that runs here; not {}", others.join("; ")),
        };
        let last = |engine: &&EngineEntry| !bf16 && engine.precision == Precision::Bf16;
        match self.manifest.engines.iter().find(last) {
            Some(engine) => format!("{told}; {} goes last: this processor has no products in bf16", engine.name),
            None => told,
        }
    }
}

/// The order in which engines are tried where nothing is known of the processor.
pub(super) fn preference(runtime: Runtime, precision: Precision) -> (u8, u8, u8) {
    preference_with(runtime, precision, true)
}

/// The order in which engines are tried: fastest first. A GPU goes before all else and tract after it; between the
/// runtimes for CPUs, the number format decides. Without instructions for it, BF16 is computed in 32 bits and costs its
/// conversions.
fn preference_with(runtime: Runtime, precision: Precision, bf16: bool) -> (u8, u8, u8) {
    let (machine, library) = match runtime {
        Runtime::TensorRtRtx => (0, 0),
        Runtime::OpenVino => (1, 0),
        Runtime::Ort => (1, 1),
        Runtime::Tract => (2, 0),
        Runtime::Web => (3, 0),
    };
    let format = match precision {
        Precision::Int8 => 0,
        Precision::Int8Fast => 1,
        Precision::Int8Static => 2,
        Precision::Bf16 if bf16 => 3,
        Precision::Int8Weights => 4,
        Precision::Int4 => 5,
        Precision::Fp16 => 6,
        Precision::Fp32 => 7,
        Precision::Bf16 => 8,
    };
    (machine, format, library)
}

/// Whether the processor multiplies in BF16.
#[cfg(target_arch = "x86_64")]
fn bf16_here() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "aarch64")]
fn bf16_here() -> bool {
    std::arch::is_aarch64_feature_detected!("bf16")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn bf16_here() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Manifest, SCHEMA};

    fn bundle(engines: &[(&str, &str, &str)]) -> Bundle {
        let engine = |(name, runtime, precision): &(&str, &str, &str)| {
            serde_json::json!({
                "name": name, "target": "ort-cpu", "runtime": runtime, "precision": precision, "file": "x",
                "inputs": [], "outputs": [], "passes": [], "gates": [],
            })
        };
        let manifest = serde_json::json!({
            "schema": SCHEMA, "kilnc": "0", "name": "b", "model_type": "bert", "task": "text-classification",
            "labels": [], "max_length": 8, "sources": [], "adapters": [], "skipped": [], "files": [],
            "engines": engines.iter().map(engine).collect::<Vec<_>>(),
        });
        Bundle { dir: "b".into(), manifest: Manifest::parse(&manifest.to_string()).unwrap() }
    }

    fn told(bundle: &Bundle, bf16: bool, there: &[Runtime]) -> Result<String> {
        let available = |engine: &EngineEntry| match there.contains(&engine.runtime) {
            true => Ok("1".to_owned()),
            false => Err(Error::runtime_missing(format!("{} is not found", engine.runtime))),
        };
        bundle.best(bf16, available).map(|(engine, why)| format!("{}: {why}", engine.name))
    }

    #[test]
    fn an_engine_in_8_bits_goes_before_one_in_32_whatever_runs_it() {
        let order = |of: [(Runtime, Precision); 5]| {
            let mut sorted = of;
            sorted.sort_by_key(|(runtime, precision)| preference(*runtime, *precision));
            assert_eq!(sorted, of);
        };
        order([
            (Runtime::TensorRtRtx, Precision::Fp16),
            (Runtime::OpenVino, Precision::Int8),
            (Runtime::Ort, Precision::Int8),
            (Runtime::OpenVino, Precision::Fp32),
            (Runtime::Tract, Precision::Int8),
        ]);
    }

    #[test]
    fn the_choice_says_why_it_is_no_other() {
        let all = bundle(&[
            ("plan", "tensor-rt-rtx", "fp16"),
            ("ov", "openvino", "int8"),
            ("ort", "ort", "int8"),
            ("tract", "tract", "fp32"),
        ]);
        let cpu = [Runtime::Ort, Runtime::OpenVino, Runtime::Tract];
        assert_eq!(
            told(&all, true, &cpu).unwrap(),
            "ov: the fastest that runs here; not plan: TensorRT for RTX is not found"
        );
        assert_eq!(
            told(&all, true, &cpu[2..]).unwrap(),
            "tract: the fastest that runs here; not plan: TensorRT for RTX is not found; ov: OpenVINO is not found; ort: \
             ONNX Runtime is not found"
        );
        let none = told(&bundle(&[("ort", "ort", "int8")]), true, &[]).unwrap_err();
        assert_eq!((none.message(), none.exit_code()), ("none of the bundle's engines can run here", 4));
    }

    #[test]
    fn bf16_goes_last_where_the_processor_has_no_products_in_it() {
        let both = bundle(&[("ov-fp32", "openvino", "fp32"), ("ov-bf16", "openvino", "bf16")]);
        assert_eq!(told(&both, true, &[Runtime::OpenVino]).unwrap(), "ov-bf16: the fastest of the bundle");
        assert_eq!(
            told(&both, false, &[Runtime::OpenVino]).unwrap(),
            "ov-fp32: the fastest of the bundle; ov-bf16 goes last: this processor has no products in bf16"
        );
    }
}
