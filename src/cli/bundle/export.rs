//! `kilnc bundle export`: a bundle in the layouts of others.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::{Choice, Screen, one_of};
use kilnc::bundle::Bundle;
use kilnc::bundle::export::{self, Exported, Image, Layout, Repository};
use kilnc::error::{Error, Result};
use kilnc::output::{self, Stage};
use kilnc::presence;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc bundle export sections.kiln --layout hub -o sections-onnx
  kilnc bundle export lm.kiln --layout genai -o lm-genai
  kilnc bundle export sections.kiln --layout triton --name sections --max-batch 16 -o models
  kilnc bundle export sections.kiln --layout oci --tag 1.0 -o sections-oci

hub is read by Optimum and Transformers.js, genai by ONNX Runtime GenAI, triton by Triton Inference Server, oci by what copies images and artifacts
(skopeo, oras, modctl). The folder is new or empty: an export never replaces anything.")]
pub struct ExportArgs {
    /// The bundle.
    bundle: PathBuf,
    /// The layout: the program that reads it.
    #[arg(long, value_parser = one_of(&LAYOUTS))]
    layout: Layout,
    /// triton: the model's name; the bundle's by default.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// genai, triton: the engine; the fastest on ONNX Runtime by default.
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// triton: the model's version; 1 by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    version: Option<u32>,
    /// triton: most texts in a batch; 32 by default. 0 puts none together.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=65536))]
    max_batch: Option<u32>,
    /// triton: how long a text waits for others, in microseconds; 1000 by default.
    #[arg(long, value_name = "MICROSECONDS")]
    max_delay: Option<u32>,
    /// oci: the image's tag; latest by default.
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// The folder.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

const LAYOUTS: [Choice<Layout>; 4] = [
    (Layout::Hub, "hub", "Optimum's and Transformers.js' folder"),
    (Layout::Genai, "genai", "ONNX Runtime GenAI's folder"),
    (Layout::Triton, "triton", "A model repository of Triton Inference Server"),
    (Layout::Oci, "oci", "An OCI image layout after CNCF's ModelPack"),
];

impl ExportArgs {
    /// Fails where an argument is for another layout.
    fn check(&self) -> Result<()> {
        let of_triton: [_; 4] = [
            ("--name", self.name.is_some()),
            ("--version", self.version.is_some()),
            ("--max-batch", self.max_batch.is_some()),
            ("--max-delay", self.max_delay.is_some()),
        ];
        let triton = of_triton.map(|(flag, given)| (flag, Layout::Triton, given));
        let all = triton.into_iter().chain([("--tag", Layout::Oci, self.tag.is_some())]);
        if self.engine.is_some() && ![Layout::Triton, Layout::Genai].contains(&self.layout) {
            return Err(Error::bad_input("--engine is for --layout genai or triton"));
        }
        match all.into_iter().find(|(_, layout, given)| *given && *layout != self.layout) {
            None => Ok(()),
            Some((flag, layout, _)) => {
                let layout = if layout == Layout::Oci { "oci" } else { "triton" };
                Err(Error::bad_input(format!("{flag} is for --layout {layout}")))
            }
        }
    }

    fn repository(&self) -> Repository {
        let usual = Repository::default();
        Repository {
            name: self.name.clone(),
            engine: self.engine.clone(),
            version: self.version.unwrap_or(usual.version),
            max_batch: self.max_batch.unwrap_or(usual.max_batch),
            max_delay: self.max_delay.unwrap_or(usual.max_delay),
        }
    }
}

#[derive(Serialize)]
struct Done {
    output: PathBuf,
    #[serde(flatten)]
    exported: Exported,
}

pub fn run(args: ExportArgs, screen: &Screen) -> Result<()> {
    args.check()?;
    output::check_disjoint(&args.output, [args.bundle.as_path()])?;
    let bundle = Bundle::open(&args.bundle)?;
    let stage = Stage::new(&args.output, is_empty)?;
    let exported = match args.layout {
        Layout::Hub => export::hub(&bundle, stage.dir())?,
        Layout::Genai => export::genai(&bundle, args.engine.as_deref(), stage.dir())?,
        Layout::Triton => export::triton(&bundle, &args.repository(), stage.dir())?,
        Layout::Oci => export::oci(&bundle, &Image { tag: args.tag.clone() }, stage.dir())?,
    };
    stage.commit_dir()?;
    exported.notes.iter().for_each(|note| screen.note(format!("  {note}")));
    screen.result(&Done { output: args.output, exported }, |done| {
        let engines = done.exported.engines.join(", ");
        format!("{}: {} files, with {engines}\n", done.output.display(), done.exported.files.len())
    })
}

/// Whether a folder has nothing in it that would be lost. An export has no mark of its own.
fn is_empty(dir: &Path) -> Result<bool> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if presence::is_missing(&e) => Ok(false),
        Err(e) => Err(Error::io("reading", dir, &e)),
    }
}
