//! A decoder in a process of its own: what crashes or hangs there is an error message here.
//!
//! Tokens and measures cross the pipe, as JSON; caches and logits stay where they are. Every step is a request, so the
//! time limit is that of a step.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{BeamStep, Constraint, DecodeOptions, Decoder, DecoderLimits, Decoding, Nll, Step, Window};
use crate::error::{Error, Result};
use crate::json::file_name;
use crate::runtime::{Options, Runtime, Session, explained};
use crate::subprocess::{self, SentPath, Worker};

/// The name of the child's job.
pub const JOB: &str = "decoder";

/// Longest that opening a model, reading prompts or one step may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Opens a decoder; a native library does it in a process of its own, with a time limit for each step, where children can
/// be started ([`subprocess::set_program`]). Fails as [`Decoder::new`] does.
pub fn open_isolated(
    runtime: Runtime,
    path: &Path,
    options: Options,
    limits: DecoderLimits,
) -> Result<Box<dyn Decoding>> {
    open_isolated_with(runtime, path, &[], options, limits)
}

/// Like [`open_isolated`], with adapters in files of ONNX Runtime's own (`.onnx_adapter`), which only it takes.
pub fn open_isolated_with(
    runtime: Runtime,
    path: &Path,
    adapters: &[PathBuf],
    options: Options,
    limits: DecoderLimits,
) -> Result<Box<dyn Decoding>> {
    match runtime.library().is_some() && subprocess::can_start() {
        true => {
            let opened = IsolatedDecoder::open(runtime, path, adapters, options, limits);
            Ok(Box::new(opened.map_err(|e| explained(runtime, e))?))
        }
        false => Ok(Box::new(open(runtime, path, adapters, options, limits)?)),
    }
}

fn open(
    runtime: Runtime,
    path: &Path,
    adapters: &[PathBuf],
    options: Options,
    limits: DecoderLimits,
) -> Result<Decoder> {
    Session::open_with(runtime, path, options, adapters).and_then(|session| Decoder::new(session, limits)).map_err(
        |e| {
            let file = file_name(path);
            if e.locations().is_empty() && !e.message().contains(&file) { e.at(file) } else { e }
        },
    )
}

/// The parent's side.
struct IsolatedDecoder {
    child: Worker,
    description: String,
    what: String,
}

/// What a child is asked.
#[derive(Serialize, Deserialize)]
enum Request {
    Open { runtime: Runtime, path: SentPath, adapters: Vec<SentPath>, options: Options, limits: DecoderLimits },
    Begin { prompts: Vec<Vec<u32>>, options: DecodeOptions },
    Step { going_on: Vec<usize> },
    Constrain { constraint: Option<Constraint> },
    BeginSearch { prompts: Vec<Vec<u32>>, options: DecodeOptions },
    Search,
    Score { windows: Vec<Window> },
}

impl IsolatedDecoder {
    fn open(
        runtime: Runtime,
        path: &Path,
        adapters: &[PathBuf],
        options: Options,
        limits: DecoderLimits,
    ) -> Result<IsolatedDecoder> {
        let what = format!("generating with {} by {runtime}", file_name(path));
        let child = Worker::start(JOB, &what)?;
        let mut decoder = IsolatedDecoder { child, description: String::new(), what };
        let adapters = adapters.iter().map(|path| path.as_path().into()).collect();
        decoder.description = decoder.ask(&Request::Open { runtime, path: path.into(), adapters, options, limits })?;
        Ok(decoder)
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T> {
        let malformed = |e: serde_json::Error| Error::bug(format!("{}: {e}", self.what));
        let request = serde_json::to_vec(request).map_err(malformed)?;
        let answer = self.child.call(&request, LIMIT)?;
        serde_json::from_slice(&answer).map_err(malformed)
    }
}

impl Decoding for IsolatedDecoder {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn begin(&mut self, prompts: &[&[u32]], options: &DecodeOptions) -> Result<Step> {
        let prompts = prompts.iter().map(|prompt| prompt.to_vec()).collect();
        self.ask(&Request::Begin { prompts, options: options.clone() })
    }

    fn begin_search(&mut self, prompts: &[&[u32]], options: &DecodeOptions) -> Result<BeamStep> {
        let prompts = prompts.iter().map(|prompt| prompt.to_vec()).collect();
        self.ask(&Request::BeginSearch { prompts, options: options.clone() })
    }

    fn constrain(&mut self, constraint: Option<&Constraint>) -> Result<()> {
        self.ask(&Request::Constrain { constraint: constraint.cloned() })
    }

    fn search(&mut self) -> Result<BeamStep> {
        self.ask(&Request::Search)
    }

    fn step(&mut self, going_on: &[usize]) -> Result<Step> {
        self.ask(&Request::Step { going_on: going_on.to_vec() })
    }

    fn score(&mut self, windows: &[Window]) -> Result<Vec<Nll>> {
        self.ask(&Request::Score { windows: windows.to_vec() })
    }
}

/// The child's side: the first request opens the decoder, the others use it.
pub fn serve() -> Result<()> {
    let mut decoder: Option<Decoder> = None;
    subprocess::attend(|request| {
        let malformed = |e: serde_json::Error| Error::bug(format!("a request is malformed: {e}"));
        let closed = || Error::bug("a decoder is asked that is not open");
        let request: Request = serde_json::from_slice(request).map_err(malformed)?;
        match (request, &mut decoder) {
            (Request::Open { runtime, path, adapters, options, limits }, decoder) => {
                let adapters: Vec<PathBuf> = adapters.into_iter().map(PathBuf::from).collect();
                let opened = decoder.insert(open(runtime, &path, &adapters, options, limits)?);
                serde_json::to_vec(&opened.describe())
            }
            (Request::Begin { prompts, options }, Some(decoder)) => {
                let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
                serde_json::to_vec(&decoder.begin(&prompts, &options)?)
            }
            (Request::BeginSearch { prompts, options }, Some(decoder)) => {
                let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
                serde_json::to_vec(&decoder.begin_search(&prompts, &options)?)
            }
            (Request::Constrain { constraint }, Some(decoder)) => {
                serde_json::to_vec(&decoder.constrain(constraint.as_ref())?)
            }
            (Request::Search, Some(decoder)) => serde_json::to_vec(&decoder.search()?),
            (Request::Step { going_on }, Some(decoder)) => serde_json::to_vec(&decoder.step(&going_on)?),
            (Request::Score { windows }, Some(decoder)) => serde_json::to_vec(&decoder.score(&windows)?),
            (_, None) => return Err(closed()),
        }
        .map_err(malformed)
    })
}
