//! `kilnc merge`: a checkpoint and adapters become one checkpoint.

use std::path::PathBuf;

use clap::Args;

use super::units::size;
use super::{Screen, SourceArgs};
use kilnc::build::{self, MergeRequest};
use kilnc::bundle::Provenance;
use kilnc::error::{Error, Result, printable};
use kilnc::front::hub::checkpoint::labels;
use kilnc::ir::DType;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc merge checkpoint/ --adapter lora/ -o merged/
  kilnc merge checkpoint/ --adapter lora/ --labels labels.json --dtype bf16 -o merged/
  kilnc merge checkpoint/ --adapter a@0.7 --adapter b@0.3 -o merged/                   one after another: the sum
  kilnc merge checkpoint/ --adapter a@0.7 --adapter b@0.3 --combine ties --density 0.5 -o merged/

The output is a folder that transformers loads: config.json, model.safetensors (in shards, if it is longer than \
--max-shard-size), the tokenizer's files, and kilnc.json, which lists the merged adapters. Merging is done in 32 bits.")]
pub struct MergeArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The element type of the weights: fp32, fp16, bf16; that of the base by default.
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    dtype: Option<DType>,
    /// The labels of the classifier: a JSON list, an object as id2label or label2id, a config.json, or a text file with a
    /// label on each line.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Longest file of weights, e.g. 500MB.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    max_shard_size: u64,
    /// The merged checkpoint, a folder.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

pub fn run(args: MergeArgs, screen: &Screen) -> Result<()> {
    let start = std::time::Instant::now();
    let request = MergeRequest {
        source: args.source.source(None)?,
        dtype: args.dtype,
        labels: args.labels.as_deref().map(labels::read).transpose()?,
        largest: args.max_shard_size,
        output: args.output,
    };
    let provenance = build::merge(&request, screen)?;
    screen.result(&provenance, |provenance| {
        format!("{} ({}) in {:.2} s\n", request.output.display(), summary(provenance), start.elapsed().as_secs_f64())
    })
}

fn summary(provenance: &Provenance) -> String {
    let architecture = provenance.architecture.as_deref().map(printable);
    let mut summary = architecture.unwrap_or_else(|| provenance.base.clone());
    match provenance.dropped.as_slice() {
        [] => {}
        [one] => summary += &format!("; it does not have `{}`", printable(one)),
        [one, rest @ ..] => summary += &format!("; it does not have `{}` and {} more", printable(one), rest.len()),
    }
    summary
}

fn dtype(text: &str) -> Result<DType> {
    match text {
        "fp32" => Ok(DType::F32),
        "fp16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err(Error::bad_input(format!("unknown element type `{}`; known: fp32, fp16, bf16", printable(text)))),
    }
}
