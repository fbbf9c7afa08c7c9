//! The messages of the native library while it works.
//!
//! TensorRT's calls return only yes or no; the reasons, the warnings and the list of
//! layers are log messages. This keeps those and drops the rest of a log that runs to
//! megabytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trtx::{LogHandler, Severity};

use super::names::NAME;
use crate::error::Error;

/// The messages that matter, shared between the logger that writes and the compiler that reads.
#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Messages>>);

/// The messages of one compilation or one run, in the order they came.
#[derive(Default)]
pub(crate) struct Messages {
    pub errors: Vec<String>,
    /// CUDA's errors.
    pub cuda: Vec<String>,
    pub warnings: Vec<String>,
    /// The verbose message that lists the layers of the engine.
    pub layers: Option<String>,
    /// Device memory in bytes for weights, and for activations of the largest profile.
    pub weights_bytes: Option<u64>,
    pub activation_bytes: Option<u64>,
}

impl Journal {
    pub fn read(&self) -> MutexGuard<'_, Messages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets earlier messages.
    pub fn clear(&self) {
        *self.read() = Messages::default();
    }
}

impl LogHandler for Journal {
    fn log(&self, severity: Severity, message: &str) {
        self.read().record(severity, message);
    }
}

impl Messages {
    fn record(&mut self, severity: Severity, message: &str) {
        match severity {
            Severity::InternalError | Severity::Error => {
                // With no driver every failure of a compilation drags one of CUDA's behind it.
                match message.contains("catchCudaError") {
                    true => self.cuda.push(message.to_owned()),
                    false => self.errors.push(message.to_owned()),
                }
            }
            Severity::Warning => {
                // Logged for every int64 input, and the caller binds int64.
                if !message.contains("has Int64 binding") {
                    self.warnings.push(tidy(message).to_owned());
                }
            }
            Severity::Info => {
                if let Some(bytes) = bytes_after(message, "Total Weights Memory: ") {
                    self.weights_bytes = self.weights_bytes.max(Some(bytes));
                }
                if let Some(bytes) = bytes_after(message, "Total Activation Memory: ") {
                    self.activation_bytes = self.activation_bytes.max(Some(bytes));
                }
            }
            Severity::Verbose => {
                if message.starts_with("Layers:") {
                    self.layers = Some(message.to_owned());
                }
            }
        }
    }

    /// The error for a model that the ONNX parser refused: names the node if the parser did.
    pub fn parse_error(&self) -> Error {
        let reason = self.reason();
        if reason.contains("MODEL_DESERIALIZE_FAILED") {
            return Error::bad_input("not an ONNX model: TensorRT's parser cannot decode it");
        }
        let Some(node) = self.refused_node() else {
            return Error::bad_input(format!("TensorRT's parser cannot read the model: {reason}"));
        };
        if reason.contains("Plugin not found") {
            return Error::unsupported(format!("TensorRT's parser does not know the operator of {node}"));
        }
        let error = Error::unsupported(format!("TensorRT's parser refuses {node}: {reason}"));
        if reason.contains("same input types") || reason.contains("must have same type") {
            error.hint("the network is strongly typed: a constant and its partner need one type")
        } else {
            error
        }
    }

    /// The error for a network that the builder refused.
    pub fn build_error(&self) -> Error {
        let reason = self.reason();
        let error = Error::unsupported(format!("TensorRT cannot build the engine: {reason}"));
        if reason.contains("FP32 GEMM is not supported") {
            error.hint("sm75 multiplies matrices in FP16 or INT8 only; compile an FP16 or INT8 model")
        } else {
            error
        }
    }

    /// The error for a library that does not start, as where it needs a GPU and there is none.
    pub fn start_error(&self) -> Error {
        Error::runtime_missing(format!("{NAME} does not start: {}", self.reason_with_cuda()))
    }

    /// The error for a plan that cannot be opened or run, with CUDA's message.
    pub fn run_error(&self, what: &str) -> Error {
        Error::unsupported(format!("{NAME} cannot {what}: {}", self.reason_with_cuda()))
    }

    fn reason_with_cuda(&self) -> String {
        let cuda = self.cuda.iter().filter_map(|error| {
            let (_, rest) = error.rsplit_once("(cudaError ")?;
            Some(format!("CUDA error {}", rest.trim_end_matches(')')))
        });
        let mut reasons: Vec<String> = cuda.take(1).collect();
        if !self.errors.is_empty() || reasons.is_empty() {
            reasons.insert(0, self.reason());
        }
        reasons.join("; ")
    }

    /// The library's own account of the failure: the first error that gives a cause,
    /// else all that is not a dump of the node.
    fn reason(&self) -> String {
        let cause = self.errors.iter().find_map(|error| {
            let (_, rest) = error.split_once("Error Code ")?;
            let (_, cause) = rest.split_once(" (")?;
            Some(tidy(cause).to_owned())
        });
        cause.unwrap_or_else(|| {
            let said: Vec<_> = self
                .errors
                .iter()
                .filter(|error| !error.contains("While parsing node") && !error.contains("--- "))
                .map(|error| assertion(error).unwrap_or_else(|| tidy(error)))
                .collect();
            match said.is_empty() {
                true => "the library gave no reason".to_owned(),
                false => said.join("; "),
            }
        })
    }

    /// "node `layer.0.add` (Add -> "y")" of the node in the parser's hands when it failed.
    fn refused_node(&self) -> Option<String> {
        let signature = self.errors.iter().find_map(|error| {
            let (_, rest) = error.split_once("While parsing node number ")?;
            let (_, rest) = rest.split_once('[')?;
            Some(rest.rsplit_once(']')?.0)
        })?;
        let name = self
            .errors
            .iter()
            .find_map(|error| error.split_once("Node name: "))
            .map(|(_, rest)| rest.lines().next().unwrap_or_default().trim())
            .filter(|name| !name.is_empty());
        Some(match name {
            Some(name) => format!("node `{name}` ({signature})"),
            None => format!("the unnamed node ({signature})"),
        })
    }
}

/// The text of a parser assertion, `ERROR: file:line In function f:\n[6] text`.
fn assertion(error: &str) -> Option<&str> {
    let (_, rest) = error.split_once("In function ")?;
    let (_, text) = rest.split_once(']')?;
    Some(text.trim())
}

/// Without the location in the library's own sources, ` In f at /_src/…`.
fn tidy(message: &str) -> &str {
    let end =
        message.rfind(" at /_src/").and_then(|place| message.get(..place)?.rfind(" In ")).unwrap_or(message.len());
    message.get(..end).unwrap_or(message).trim()
}

fn bytes_after(message: &str, label: &str) -> Option<u64> {
    let (_, rest) = message.split_once(label)?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(errors: &[&str]) -> Messages {
        let mut messages = Messages::default();
        for error in errors {
            messages.record(Severity::Error, error);
        }
        messages
    }

    #[test]
    fn a_type_mismatch_names_the_node_and_both_types() {
        let error = messages(&[
            "ITensor::getDimensions: Error Code 4: API Usage Error (stray.add: ElementWiseOperation SUM must have same input types. But they are of types Half and Float. In validateTypes at /_src/optimizer/common/nodes/elementWiseNode.cpp:40)",
            "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime version))",
            "ModelImporter.cpp:140: While parsing node number 1 [Add -> \"y\"]:",
            "ModelImporter.cpp:142: --- Begin node ---\nNode name: stray.add",
            "ModelImporter.cpp:143: --- End node ---",
            "ModelImporter.cpp:151: ERROR: ModelImporter.cpp:489 In function parseNode:\n[6] Invalid Node - stray.add",
        ])
        .parse_error();
        assert_eq!(
            error.to_string(),
            "TensorRT's parser refuses node `stray.add` (Add -> \"y\"): stray.add: ElementWiseOperation SUM must have same input types. But they are of types Half and Float.\n\nhint: the network is strongly typed: a constant and its partner need one type"
        );
    }

    #[test]
    fn an_unknown_operator_is_named() {
        let error = messages(&[
            "ModelImporter.cpp:140: While parsing node number 0 [FastGelu -> \"y\"]:",
            "ModelImporter.cpp:142: --- Begin node ---\nNode name: ",
            "ModelImporter.cpp:151: ERROR: onnxOpCheckers.cpp:998 In function checkFallbackPluginImporter:\n[6] creator && \"Plugin not found, are the plugin name, version, and namespace correct?\"",
        ])
        .parse_error();
        assert_eq!(
            error.to_string(),
            "TensorRT's parser does not know the operator of the unnamed node (FastGelu -> \"y\")"
        );
    }

    #[test]
    fn a_missing_weights_file_keeps_the_librarys_words() {
        let error = messages(&[
            "WeightsContext.cpp:203: Failed to open file: onnx/gone.bin",
            "ModelImporter.cpp:151: ERROR: ModelImporter.cpp:899 In function importInitializers:\n[5] Failed to import initializer: fc0.weight",
        ])
        .parse_error();
        assert_eq!(
            error.to_string(),
            "TensorRT's parser cannot read the model: WeightsContext.cpp:203: Failed to open file: onnx/gone.bin; Failed to import initializer: fc0.weight"
        );
    }

    #[test]
    fn turings_missing_fp32_gemm_has_a_hint() {
        let error = messages(&["IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check_turing_op_compatibility] Cannot compile operation 'fc0.mm' for Turing (SM75): FP32 GEMM is not supported. In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)"])
            .build_error();
        assert_eq!(
            error.to_string(),
            "TensorRT cannot build the engine: [pass.cpp:337: check_turing_op_compatibility] Cannot compile operation 'fc0.mm' for Turing (SM75): FP32 GEMM is not supported.\n\nhint: sm75 multiplies matrices in FP16 or INT8 only; compile an FP16 or INT8 model"
        );
    }

    #[test]
    fn a_failed_run_has_cudas_message() {
        let cuda = "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime version))";
        let alone = messages(&[cuda]).run_error("open the plan");
        assert_eq!(
            alone.to_string(),
            format!(
                "{NAME} cannot open the plan: CUDA error 35: CUDA driver version is insufficient for CUDA runtime version"
            )
        );
        let both = messages(&[
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Magic tag does not match. In f at /_src/a.cpp:1)",
            cuda,
        ]);
        let said = both.run_error("open the plan").to_string();
        assert!(said.contains("plan: Magic tag does not match.; CUDA error 35: "), "{said}");
        assert_eq!(messages(&[]).run_error("run").message(), format!("{NAME} cannot run: the library gave no reason"));
    }

    #[test]
    fn silence_is_still_an_error() {
        assert_eq!(
            messages(&[]).build_error().to_string(),
            "TensorRT cannot build the engine: the library gave no reason"
        );
    }
}
