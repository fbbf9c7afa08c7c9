//! A bundle in the layouts of other programs, which need no kilnc to read it.

mod folder;
mod genai;
mod hub;
mod oci;
mod triton;

pub use folder::Exported;
pub use genai::export as genai;
pub use hub::export as hub;
pub use oci::{Image, export as oci};
pub use triton::{Repository, export as triton};

/// The layout that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Optimum's and Transformers.js' folder.
    Hub,
    /// The folder of ONNX Runtime GenAI.
    Genai,
    /// A model repository of Triton Inference Server.
    Triton,
    /// An OCI image layout after CNCF's ModelPack.
    Oci,
}
