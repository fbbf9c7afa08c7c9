//! The capabilities of each back-end, as data. Lowerings read it; nothing else knows a target's preferences.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result, printable};
use crate::precision::Precision;

/// Where an engine is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// ONNX Runtime on a CPU, with its own fast kernels.
    OrtCpu,
    /// ONNX Runtime with the OpenVINO provider, on an x86 CPU.
    OpenVino,
    /// tract, which is compiled in: plain ONNX.
    Tract,
    /// ONNX Runtime Web, in a browser: on its processor by WebAssembly, or on its GPU by WebGPU.
    Web,
    /// TensorRT, for the GPU of the machine that compiles.
    TensorRt,
    /// TensorRT for RTX, for GPUs of one compute capability.
    TensorRtRtx(ComputeCapability),
}

/// The compute capability of NVIDIA's GPUs, as in `sm75` (T4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ComputeCapability(u32);

impl ComputeCapability {
    /// Those that TensorRT for RTX builds for, with a card that has it.
    pub const KNOWN: [(u32, &'static str); 6] = [
        (75, "T4, RTX 20"),
        (80, "A100, A30"),
        (86, "A10, RTX 30"),
        (89, "L4, L40S, RTX 40"),
        (120, "RTX 50"),
        (121, "GB10"),
    ];

    /// The number, e.g. 75.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm{}", self.0)
    }
}

impl FromStr for ComputeCapability {
    type Err = Error;

    fn from_str(text: &str) -> Result<ComputeCapability> {
        let number = text.strip_prefix("sm").and_then(|n| n.parse::<u32>().ok());
        match number.filter(|n| ComputeCapability::KNOWN.iter().any(|(known, _)| known == n)) {
            Some(n) => Ok(ComputeCapability(n)),
            None => {
                let known: Vec<_> =
                    ComputeCapability::KNOWN.iter().map(|(n, cards)| format!("sm{n} ({cards})")).collect();
                Err(Error::bad_input(format!("unknown compute capability `{}`", printable(text)))
                    .hint(format!("known: {}", known.join(", "))))
            }
        }
    }
}

/// How a target wants a root-mean-square norm lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RmsNormForm {
    /// `RMSNormalization` of ONNX, which exists since opset 23.
    Operator,
    /// A mean of squares, a root and a division, in 32 bits.
    Plain,
}

/// The operators that a target runs attention with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionForm {
    /// `Attention` of ONNX, which exists since opset 23, where there is a mask and no bias, and where heads share keys, or
    /// positions or a past count; else `MultiHeadAttention` of `com.microsoft`. The first is faster in ONNX Runtime: by a
    /// fifth to a half in attention, when tried. With a soft cap, keys by head, or a bias for
    /// each head where heads share keys, it is plain.
    Operator,
    /// Products, softmax and transpositions.
    Plain,
}

/// The operators that a target runs the exact GELU with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeluForm {
    /// `Gelu` of `com.microsoft`.
    Fused,
    /// `0.5 x (1 + erf(x / √2))`.
    Erf,
}

/// The operators of a linear layer with dynamic 8-bit activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DynamicQuantForm {
    /// `DynamicQuantizeMatMul` of `com.microsoft`.
    Fused,
    /// `DynamicQuantizeLinear`, `MatMulInteger` and the scales.
    Plain,
    /// Not at all, or slower than without.
    None,
}

/// The operators of a linear layer with static 8-bit activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaticQuantForm {
    /// `QuantizeLinear` and `MatMulIntegerToFloat` of `com.microsoft`.
    Fused,
    /// `QuantizeLinear` and `DequantizeLinear` around a product in floating point, which the runtime makes one of
    /// integers.
    Annotated,
    /// The same with one step for all channels, in 32 bits, and the channels' shares of it after the product: where a
    /// runtime holds sums of integers in half precision until they are scaled, they overflow.
    Rescaled,
    /// `QuantizeLinear`, `MatMulInteger` and the scales.
    Plain,
}

/// The form of linear layers with only quantized weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightForm {
    /// `MatMulNBits` of `com.microsoft`.
    Blocks {
        /// Elements of a block.
        size: usize,
        /// Whether blocks have zero points: closer in few bits, and no faster.
        zero_points: bool,
        /// Groups in which OpenVINO quantizes the activations; others do it by the blocks.
        group: usize,
    },
    /// One step for each output channel, by `DequantizeLinear`: a smaller file, and no faster.
    Channels,
    /// None.
    None,
}

/// A target's support of 16-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfForm {
    /// It computes in them.
    Computed,
    /// Its runtime computes 32-bit graphs in them, by an option.
    Hinted,
    /// It has no kernels for them, or slow ones: weights are stored in them and widened to be used.
    Stored,
    /// Nothing.
    None,
}

/// The capabilities of a target, and its fastest forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Attention.
    pub attention: AttentionForm,
    /// Root-mean-square norms.
    pub rms_norm: RmsNormForm,
    /// GELU.
    pub gelu: GeluForm,
    /// Dynamic 8-bit layers.
    pub dynamic_quant: DynamicQuantForm,
    /// Static 8-bit layers.
    pub static_quant: StaticQuantForm,
    /// Whether static activations have to be symmetric around 0; else they are unsigned with a zero point.
    pub symmetric_activations: bool,
    /// Layers with weights of 8 bits.
    pub weights_of_8_bits: WeightForm,
    /// Layers with weights of 4 bits.
    pub weights_of_4_bits: WeightForm,
    /// Half precision.
    pub fp16: HalfForm,
    /// BF16.
    pub bf16: HalfForm,
    /// Whether query, key and value are one product: fewer and larger ones, which are split again.
    pub merged_projections: bool,
    /// Whether a residual before a norm is written as `Sum`: ONNX Runtime fuses `Add` and norm into
    /// `SkipLayerNormalization`, whose CPU kernel is slower than the two alone.
    pub residual_as_sum: bool,
    /// Whether attention with fewer queries than keys is as good as any. TensorRT's fused attention wants a square.
    pub unequal_attention: bool,
    /// Whether some processors add two products of 8 bits in 16, where they saturate.
    pub sums_of_16_bits: bool,
    /// Splits into pieces whose sizes follow from values.
    pub computed_splits: SplitForm,
    /// Whether 32-bit matrix products are possible; SM75 under TensorRT for RTX has none.
    pub fp32_gemm: bool,
}

/// Splits into pieces whose sizes follow from values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitForm {
    /// By one operator.
    Operator,
    /// By the indices of each piece.
    Indices,
    /// Not at all.
    None,
}

impl Capabilities {
    /// Whether 8-bit activations get the range of the whole batch as an engine runs: a prediction then depends on the
    /// other texts of its batch.
    pub fn ranges_at_run(&self) -> bool {
        self.dynamic_quant != DynamicQuantForm::None
    }

    /// The form of layers with weights of 8 or 4 bits.
    pub fn weights_of(&self, bits: usize) -> WeightForm {
        match bits {
            8 => self.weights_of_8_bits,
            4 => self.weights_of_4_bits,
            _ => WeightForm::None,
        }
    }
}

impl Target {
    /// Whether the sums of an engine's 8-bit products saturate on some processors, where its weights are of the full range.
    pub fn saturates(&self, precision: Precision) -> bool {
        precision.is_calibrated() && self.capabilities().sums_of_16_bits
    }

    /// The capabilities of the target.
    pub fn capabilities(&self) -> Capabilities {
        match self {
            Target::OrtCpu => Capabilities {
                attention: AttentionForm::Operator,
                rms_norm: RmsNormForm::Operator,
                gelu: GeluForm::Fused,
                dynamic_quant: DynamicQuantForm::Fused,
                static_quant: StaticQuantForm::Fused,
                symmetric_activations: false,
                weights_of_8_bits: WeightForm::Blocks { size: 32, zero_points: false, group: 32 },
                weights_of_4_bits: WeightForm::Blocks { size: 32, zero_points: true, group: 32 },
                fp16: HalfForm::Stored,
                bf16: HalfForm::None,
                merged_projections: false,
                residual_as_sum: true,
                unequal_attention: true,
                sums_of_16_bits: true,
                computed_splits: SplitForm::Operator,
                fp32_gemm: true,
            },
            // Plain operators, because the provider takes few others, and a node that it does not take ends its graph.
            Target::OpenVino => Capabilities {
                attention: AttentionForm::Plain,
                rms_norm: RmsNormForm::Plain,
                gelu: GeluForm::Erf,
                // It runs, but multiplies in 32 bits: slower than FP32.
                dynamic_quant: DynamicQuantForm::None,
                static_quant: StaticQuantForm::Annotated,
                symmetric_activations: false,
                weights_of_8_bits: WeightForm::Blocks { size: 128, zero_points: false, group: 64 },
                weights_of_4_bits: WeightForm::Blocks { size: 32, zero_points: true, group: 32 },
                fp16: HalfForm::Stored,
                bf16: HalfForm::Hinted,
                merged_projections: false,
                residual_as_sum: false,
                unequal_attention: true,
                sums_of_16_bits: true,
                computed_splits: SplitForm::Operator,
                fp32_gemm: true,
            },
            Target::Tract => Capabilities {
                attention: AttentionForm::Plain,
                rms_norm: RmsNormForm::Plain,
                gelu: GeluForm::Erf,
                dynamic_quant: DynamicQuantForm::Plain,
                static_quant: StaticQuantForm::Plain,
                symmetric_activations: false,
                weights_of_8_bits: WeightForm::Channels,
                weights_of_4_bits: WeightForm::Blocks { size: 32, zero_points: true, group: 32 },
                fp16: HalfForm::Stored,
                bf16: HalfForm::None,
                merged_projections: true,
                residual_as_sum: false,
                unequal_attention: true,
                sums_of_16_bits: false,
                computed_splits: SplitForm::Indices,
                fp32_gemm: true,
            },
            // WebAssembly has the kernels of ONNX Runtime's processor for 8 bits and for blocks, and widens 8 bits to
            // 16 before it multiplies, or first tries whether the processor's own sums are exact. Attention is plain
            // because WebGPU's operator takes no mask of tokens and, with one as its bias, gives other outputs from 128
            // tokens on (1.30.0); by WebAssembly all forms are equally fast.
            Target::Web => Capabilities {
                attention: AttentionForm::Plain,
                rms_norm: RmsNormForm::Plain,
                gelu: GeluForm::Erf,
                dynamic_quant: DynamicQuantForm::Fused,
                static_quant: StaticQuantForm::Fused,
                symmetric_activations: false,
                weights_of_8_bits: WeightForm::Blocks { size: 32, zero_points: false, group: 32 },
                weights_of_4_bits: WeightForm::Blocks { size: 32, zero_points: true, group: 32 },
                fp16: HalfForm::Stored,
                bf16: HalfForm::None,
                merged_projections: false,
                residual_as_sum: false,
                unequal_attention: true,
                sums_of_16_bits: false,
                computed_splits: SplitForm::Operator,
                fp32_gemm: true,
            },
            // The two products share the compiler that fuses; these figures were measured with TensorRT for RTX.
            Target::TensorRt | Target::TensorRtRtx(_) => Capabilities {
                attention: AttentionForm::Plain,
                rms_norm: RmsNormForm::Plain,
                gelu: GeluForm::Erf,
                dynamic_quant: DynamicQuantForm::None,
                static_quant: StaticQuantForm::Rescaled,
                symmetric_activations: true,
                weights_of_8_bits: WeightForm::None,
                weights_of_4_bits: WeightForm::None,
                fp16: HalfForm::Computed,
                bf16: HalfForm::None,
                merged_projections: true,
                residual_as_sum: false,
                unequal_attention: false,
                sums_of_16_bits: false,
                computed_splits: SplitForm::None,
                fp32_gemm: !matches!(self, Target::TensorRtRtx(ComputeCapability(75))),
            },
        }
    }

    /// Whether its engines are plans: native code for GPUs that a library compiles from an ONNX file.
    pub fn wants_plan(&self) -> bool {
        matches!(self, Target::TensorRt | Target::TensorRtRtx(_))
    }

    /// A name that can be part of a file name.
    pub fn slug(&self) -> String {
        self.to_string().replace(':', "-")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::OrtCpu => f.write_str("ort-cpu"),
            Target::OpenVino => f.write_str("openvino"),
            Target::Tract => f.write_str("tract"),
            Target::Web => f.write_str("web"),
            Target::TensorRt => f.write_str("tensorrt"),
            Target::TensorRtRtx(capability) => write!(f, "tensorrt-rtx:{capability}"),
        }
    }
}

impl Target {
    /// The targets that a text names: one, or GPUs separated by commas as in `tensorrt-rtx:sm75,sm86`.
    pub fn several(text: &str) -> Result<Vec<Target>> {
        match text.split_once(':') {
            Some((runtime, capabilities)) if capabilities.contains(',') => {
                capabilities.split(',').map(|capability| format!("{runtime}:{}", capability.trim()).parse()).collect()
            }
            _ => Ok(vec![text.parse()?]),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Target> {
        const KNOWN: [&str; 6] = ["ort-cpu", "openvino", "tract", "web", "tensorrt-rtx:smNN", "tensorrt"];
        match text.split_once(':') {
            None if text == "ort-cpu" => Ok(Target::OrtCpu),
            None if text == "openvino" => Ok(Target::OpenVino),
            None if text == "tract" => Ok(Target::Tract),
            None if text == "web" => Ok(Target::Web),
            None if text == "tensorrt" => Ok(Target::TensorRt),
            Some(("tensorrt-rtx", capability)) => Ok(Target::TensorRtRtx(capability.parse()?)),
            _ => {
                let error =
                    Error::bad_input(format!("unknown target `{}`; known: {}", printable(text), KNOWN.join(", ")));
                Err(error.hint_nearest(text, KNOWN))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print_back() {
        for name in ["ort-cpu", "openvino", "tract", "web", "tensorrt", "tensorrt-rtx:sm75"] {
            assert_eq!(name.parse::<Target>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn the_two_products_of_nvidia_get_the_same_networks_but_for_turing() {
        let rtx = |capability: &str| format!("tensorrt-rtx:{capability}").parse::<Target>().unwrap().capabilities();
        let all = Target::TensorRt.capabilities();
        assert!(all.fp32_gemm && all == rtx("sm80"));
        assert_eq!(Capabilities { fp32_gemm: false, ..all }, rtx("sm75"));
    }

    #[test]
    fn unknown_ones_are_refused_with_the_known() {
        let error = "tensorrt-rtx:sm70".parse::<Target>().unwrap_err();
        assert_eq!(error.message(), "unknown compute capability `sm70`");
        assert!(error.hints()[0].starts_with("known: sm75 (T4, RTX 20), sm80"));
        assert_eq!("ort-cpuu".parse::<Target>().unwrap_err().hints(), ["did you mean ort-cpu?"]);
    }
}
