//! What the product is called, and where it comes from.

/// Whether it is TensorRT, in the place of TensorRT for RTX.
const ENTERPRISE: bool = cfg!(feature = "enterprise");

/// Its name for people.
pub(crate) const NAME: &str = if ENTERPRISE { "TensorRT" } else { "TensorRT for RTX" };

/// Major and minor of the interface that kilnc is bound to.
pub(crate) const VERSION: [i32; 2] = if ENTERPRISE { [11, 4] } else { [1, 7] };

/// The PyPI package that contains it.
pub(crate) const PACKAGE: &str =
    if ENTERPRISE { "tensorrt-cu12-libs 11.4.0.106" } else { "tensorrt-rtx-cu12-libs 1.7.1.116" };

/// Linux's name of its parser of ONNX files.
pub(crate) const PARSER: &str = if ENTERPRISE { "libnvonnxparser.so.11" } else { "libtensorrt_onnxparser_rtx.so.1" };
