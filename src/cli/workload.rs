//! The workload of `kilnc bench`: the engines of its arguments, and their inputs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use super::tokenizer::MAX_LENGTH;
use super::{LoneTokenizer, Screen, TrustArgs};
use kilnc::bench::{self, Batching, Candidate, Profile, TextStats, TokenBatch, Tokenizer, Workload};
use kilnc::build::Observer;
use kilnc::bundle::{self, Bundle};
use kilnc::error::{self, Error, Result};
use kilnc::eval::{PROBES, read_examples};
use kilnc::json::file_name;
use kilnc::presence;
use kilnc::runtime::library;
use kilnc::runtime::{Classes, Device, Elements, ProblemType, Runtime, TextEncoder};

/// The default of tokens in a text, where engines read as many.
const USUAL_LENGTH: usize = 128;

/// The default of tokens that are generated.
const USUAL_STEPS: usize = 32;

/// The inputs of engines.
#[derive(Args)]
pub struct WorkloadArgs {
    /// Texts in a query; several separated by commas, each with every length; 1 by default.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Vec<u32>,
    /// Tokens in a text; several separated by commas; 128 by default, or what all engines read where that is less.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=65536))]
    length: Vec<u32>,
    /// Tokens of a prompt, for models that generate; several separated by commas. 128 by default, or half of what the model
    /// reads where that is less.
    #[arg(long, value_name = "N", value_delimiter = ',', conflicts_with_all = ["length", "batch", "texts", "multi_stream", "profile"],
          value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    prompt: Vec<u32>,
    /// Tokens that are generated after each prompt, each of which is timed; 32 by default, or what the model has room for.
    #[arg(long, value_name = "N", conflicts_with_all = ["length", "batch", "texts", "multi_stream", "profile"],
          value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    generate: Option<u32>,
    /// Also runs queries of so many texts, the next when the one before is done: MLPerf's multi-stream, which is what
    /// --batch N is too.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=4096))]
    multi_stream: Option<u32>,
    /// The shapes that NVIDIA publishes latencies of BERT on a T4 for, with its figures beside; --batch and --length take
    /// some of them.
    #[arg(long, conflicts_with = "texts", value_parser = ["t4"])]
    profile: Option<String>,
    /// Runs the texts of a file (.jsonl, .csv, .tsv, .txt), in their own lengths, instead of tokens of one length.
    #[arg(long, value_name = "FILE", conflicts_with = "length")]
    texts: Option<PathBuf>,
    /// Also runs all the texts once in batches (MLPerf's offline): padded, in the order of the file; bucketed, texts of
    /// similar length together; both separated by a comma.
    #[arg(long, value_delimiter = ',', requires = "texts")]
    batching: Vec<Batching>,
    /// Counts the tokenization of the texts in each latency; they are tokenized before by default.
    #[arg(long, requires = "texts")]
    tokenize: bool,
    /// A tokenizer.json for the texts, or the folder that holds it, where the first bundle's is not meant or there is no
    /// bundle. The files beside it count: a default prompt, lower case, the longest text.
    #[arg(long, value_name = "PATH", requires = "texts")]
    tokenizer: Option<PathBuf>,
    /// Longest text in tokens, longer ones are cut; the first bundle's, or 512.
    #[arg(long, value_name = "N", requires = "texts", value_parser = clap::value_parser!(u32).range(8..=65536))]
    max_length: Option<u32>,
}

/// The engines, and their bundles' settings of texts.
#[derive(Default)]
pub struct Engines {
    pub candidates: Vec<Candidate>,
    /// For each of them, the name of the bundle that it is of.
    bundles: Vec<Option<String>>,
    /// The bundles, whose files are used as long as it is measured.
    held: Vec<Bundle>,
    device: Device,
    /// Which predictions count as the same.
    pub problem_type: Option<ProblemType>,
    tokenizer: Option<Tokenizer>,
}

/// The inputs.
pub struct Work {
    pub workloads: Vec<Workload>,
    /// The file that it is of.
    pub texts: Option<TextStats>,
    /// The tokenizer of each run.
    pub tokenizer: Option<Tokenizer>,
}

impl WorkloadArgs {
    /// Published figures beside the measured ones.
    pub fn profile(&self) -> Option<Profile> {
        self.profile.is_some().then_some(Profile::T4)
    }

    /// The inputs of engines; `seed` decides which texts are sampled.
    pub fn work(&self, engines: &Engines, seed: u64, screen: &Screen) -> Result<Work> {
        let generates = |bundle: &Bundle| bundle.manifest.task.generates();
        let asked = !self.prompt.is_empty() || self.generate.is_some();
        let others = engines.bundles.iter().any(Option::is_none) || !engines.held.iter().all(generates);
        if asked && others {
            return Err(Error::bad_input("--prompt and --generate are for bundles of text-generation"));
        }
        if engines.held.iter().any(generates) {
            return match others {
                true => Err(Error::bad_input("engines that generate are not measured beside others")),
                false => self.of_prompts(engines),
            };
        }
        match &self.texts {
            Some(file) => self.of_texts(file, engines, seed, screen),
            None => self.of_lengths(engines),
        }
    }

    fn batches(&self) -> Vec<usize> {
        let grid = self.profile().map_or_else(|| vec![1], Profile::batches);
        let mut batches = if self.batch.is_empty() { grid } else { self.batch.clone() };
        batches.extend(self.multi_stream.filter(|batch| !batches.contains(batch)));
        batches.into_iter().map(|batch| batch as usize).collect()
    }

    fn of_lengths(&self, engines: &Engines) -> Result<Work> {
        let tokenizer = engines.tokenizer.as_ref();
        let lengths = match (self.length.as_slice(), self.profile()) {
            ([], None) => vec![engines.usual_length()],
            ([], Some(profile)) => profile.lengths(),
            (given, _) => given.to_vec(),
        };
        engines.check_lengths(&lengths)?;
        let mut workloads = Vec::new();
        for (rows, length) in self.batches().into_iter().flat_map(|rows| lengths.iter().map(move |it| (rows, *it))) {
            let ids = tokens(rows, length as usize, tokenizer)?;
            workloads.push(Workload::full(TokenBatch::full(rows, length as usize, ids)));
        }
        Ok(Work { workloads, texts: None, tokenizer: None })
    }

    /// Prompts and what is generated after them.
    fn of_prompts(&self, engines: &Engines) -> Result<Work> {
        let given = [
            ("--texts", self.texts.is_some()),
            ("--batch", !self.batch.is_empty()),
            ("--length", !self.length.is_empty()),
            ("--multi-stream", self.multi_stream.is_some()),
            ("--profile", self.profile.is_some()),
        ];
        if let Some((flag, _)) = given.into_iter().find(|(_, given)| *given) {
            return Err(Error::bad_input(format!("{flag} is not for models of text-generation"))
                .hint("--prompt N says how long prompts are, --generate N how much is generated"));
        }
        let positions = engines.held.iter().filter_map(|bundle| bundle.manifest.positions).min();
        let room = positions.unwrap_or(usize::MAX);
        let prompts: Vec<usize> = match self.prompt.as_slice() {
            [] => vec![USUAL_LENGTH.min(room / 2).max(1)],
            given => given.iter().map(|prompt| *prompt as usize).collect(),
        };
        let longest = prompts.iter().copied().max().unwrap_or_default();
        let steps = match self.generate {
            Some(steps) => steps as usize,
            None => USUAL_STEPS.min(room.saturating_sub(longest)),
        };
        if steps == 0 || longest.saturating_add(steps) > room {
            return Err(Error::bad_input(format!(
                "a prompt of {longest} tokens and {} after it: the model has {room} positions",
                steps.max(1)
            ))
            .hint("shorter ones with --prompt and --generate"));
        }
        let workloads = prompts.into_iter().flat_map(|prompt| Workload::generated(prompt, steps)).collect();
        Ok(Work { workloads, texts: None, tokenizer: None })
    }

    fn of_texts(&self, file: &Path, engines: &Engines, seed: u64, screen: &Screen) -> Result<Work> {
        // Labels do not matter to speed: they are not read.
        let examples = read_examples(file, &Classes::default())?;
        let (tokenizer, encoder) = self.tokenizer(engines, screen)?;
        encoder.check_longest()?;
        let mut workloads = Vec::new();
        for batch in self.batches() {
            workloads.push(Workload::sampled(&examples, batch, seed, &encoder)?);
            let all = |batching: &Batching| Workload::all(&examples, batch, *batching, &encoder);
            workloads.extend(self.batching.iter().map(all).collect::<Result<Vec<_>>>()?);
        }
        let texts = TextStats::of(file_name(file), &examples, &encoder, self.tokenize)?;
        Ok(Work { workloads, texts: Some(texts), tokenizer: self.tokenize.then_some(tokenizer) })
    }

    fn tokenizer(&self, engines: &Engines, screen: &Screen) -> Result<(Tokenizer, TextEncoder)> {
        let longest = self.max_length.map(|longest| longest as usize);
        if let Some(path) = &self.tokenizer {
            let given = LoneTokenizer::read(path, None, screen)?;
            let max_length = longest.unwrap_or(given.max_length());
            let encoder = given.encoder(max_length, None)?;
            let (text, prompt) = (given.changed()?.map(str::to_owned), given.prompt().map(str::to_owned));
            return Ok((Tokenizer { file: given.file.into(), text, max_length, prompt, pair_prompt: None }, encoder));
        }
        let mut tokenizer = engines.tokenizer.clone().ok_or_else(|| {
            Error::bad_input("--texts needs a tokenizer, and no engine is a bundle that has one")
                .hint("name it: --tokenizer tokenizer.json")
        })?;
        tokenizer.max_length = longest.unwrap_or(tokenizer.max_length);
        let encoder = tokenizer.encoder()?;
        Ok((tokenizer, encoder))
    }
}

impl Engines {
    /// The engines of bundles that run on the device, and ONNX files, alone and with each of the adapters.
    pub fn of(
        paths: &[PathBuf],
        adapters: &[PathBuf],
        device: Device,
        trust: &TrustArgs,
        screen: &Screen,
    ) -> Result<Engines> {
        let files = paths.iter().map(|path| presence::is_file(path)).collect::<Result<Vec<_>>>()?;
        if files.iter().all(|is_file| *is_file) {
            trust.refuse()?;
        }
        let mut engines = Engines { device, ..Engines::default() };
        for (path, is_file) in paths.iter().zip(files) {
            bundle::archive::refuse(path)?;
            kilnc::front::source::refuse(path)?;
            match is_file {
                true => {
                    refuse_plan(path)?;
                    device.check_for(Runtime::Ort)?;
                    engines.file(path, adapters);
                }
                false => {
                    let bundle = Bundle::open(path)?;
                    trust.check(&bundle, screen)?;
                    engines.bundle(&bundle, device, screen)?;
                    engines.held.push(bundle);
                }
            }
        }
        if engines.candidates.is_empty() {
            return Err(Error::runtime_missing(format!("there is no engine that runs on {device} here"))
                .hint("the warnings say why each is left out"));
        }
        if let [first, _, ..] = library::bundled().as_slice() {
            screen.warn(&format!("several bundles have runtimes; those in {} are used for all", first.display()));
        }
        engines.disambiguate();
        Ok(engines)
    }

    /// Most tokens that every engine reads, up to the default. What a file alone
    /// takes is found out.
    fn usual_length(&self) -> u32 {
        let bundles = self.held.iter().map(|bundle| bundle.manifest.max_length);
        let mut most = bundles.fold(USUAL_LENGTH, usize::min);
        let alone = self.candidates.iter().zip(&self.bundles).filter(|(_, bundle)| bundle.is_none());
        for (candidate, _) in alone.filter(|_| self.device == Device::Cpu) {
            // An engine that does not run at all is reported where it is measured.
            most = bench::longest(candidate, most).unwrap_or(most);
        }
        u32::try_from(most).unwrap_or(u32::MAX)
    }

    /// Fails where a text is longer than an engine of a bundle takes.
    fn check_lengths(&self, lengths: &[u32]) -> Result<()> {
        let bound = |bundle: &Bundle| Some((bundle.manifest.positions?, bundle.dir.display().to_string()));
        let Some((most, bundle)) = self.held.iter().filter_map(bound).min() else { return Ok(()) };
        match lengths.iter().find(|length| **length as usize > most) {
            None => Ok(()),
            Some(length) => Err(Error::bad_input(format!("texts of {length} tokens: the model reads 1 to {most}"))
                .at(bundle)
                .hint("--length says how long texts are")),
        }
    }

    /// Fails where a file of a bundle has changed since it was checked.
    pub fn check_unchanged(&self) -> Result<()> {
        self.held.iter().try_for_each(Bundle::check_unchanged)
    }

    /// An error with the names of bundles that the user knows, and not those of their descriptors.
    pub fn named(&self, error: Error) -> Error {
        self.held.iter().fold(error, |error, bundle| bundle.named_error(error))
    }

    fn file(&mut self, path: &Path, adapters: &[PathBuf]) {
        let alone = file_name(path);
        let file = |name, adapters| Candidate { name, file: path.to_owned(), runtime: Runtime::Ort, adapters };
        self.candidates.push(file(alone.clone(), Vec::new()));
        self.bundles.resize(self.candidates.len() + adapters.len(), None);
        for adapter in adapters {
            self.candidates.push(file(format!("{alone} + {}", file_name(adapter)), vec![adapter.clone()]));
        }
    }

    fn bundle(&mut self, bundle: &Bundle, device: Device, screen: &Screen) -> Result<()> {
        for engine in &bundle.manifest.engines {
            match bundle.available_on(engine, device) {
                Ok(()) => {
                    let file = bundle.engine(engine)?;
                    self.candidates.push(Candidate::new(&engine.name, file, engine.runtime));
                }
                Err(e) if e.kind() == error::Kind::MachineFailed => {
                    return Err(e.at(format!("engine {}", engine.name)));
                }
                Err(e) => screen.warn(&format!("{} is left out: {}", engine.name, e.message())),
            }
        }
        self.bundles.resize(self.candidates.len(), Some(bundle.manifest.name.clone()));
        let tokenizer = bundle.file(bundle::TOKENIZER)?;
        let (max_length, prompt) = (bundle.manifest.max_length, bundle.prompt().map(str::to_owned));
        let pair_prompt = bundle.manifest.pair_prompt.clone();
        self.tokenizer.get_or_insert(Tokenizer { file: tokenizer.into(), text: None, max_length, prompt, pair_prompt });
        self.problem_type.get_or_insert(bundle.manifest.problem_type.unwrap_or_default());
        Ok(())
    }

    /// Names engines of one name by their bundle or folder, and a number where that is the same too: reports are
    /// read by name, and name no other path.
    fn disambiguate(&mut self) {
        let all: Vec<(String, PathBuf)> =
            self.candidates.iter().map(|candidate| (candidate.name.clone(), candidate.file.clone())).collect();
        for (candidate, bundle) in self.candidates.iter_mut().zip(&self.bundles) {
            let named = all.iter().filter(|(name, _)| *name == candidate.name);
            let folder = match bundle {
                Some(bundle) => Some(bundle.clone()).filter(|_| named.count() > 1),
                None => {
                    let others = named.filter(|(_, file)| *file != candidate.file).count();
                    candidate
                        .file
                        .parent()
                        .and_then(Path::file_name)
                        .filter(|_| others > 0)
                        .map(|folder| folder.to_string_lossy().into_owned())
                }
            };
            if let Some(folder) = folder {
                candidate.name = format!("{folder}/{}", candidate.name);
            }
        }
        let names: Vec<String> = self.candidates.iter().map(|candidate| candidate.name.clone()).collect();
        for (i, candidate) in self.candidates.iter_mut().enumerate() {
            let before = names.iter().take(i).filter(|name| **name == candidate.name).count();
            if before > 0 {
                candidate.name = format!("{} ({})", candidate.name, before + 1);
            }
        }
    }
}

/// Fails for a plan alone: it is native code, and no manifest has its digest.
fn refuse_plan(path: &Path) -> Result<()> {
    let mut start = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    // `vtrt` in plans of TensorRT for RTX; TensorRT's have another letter before the same three.
    match read.is_ok() && start.ends_with(b"trt") {
        true => Err(Error::unsupported("a plan is native code, and is run out of a bundle that lists its digest")
            .at(path.display().to_string())
            .hint("build a bundle with it: kilnc build CHECKPOINT --target tensorrt-rtx:smNN -o BUNDLE")),
        false => Ok(()),
    }
}

/// Real tokens, repeated until every text has its length; small numbers, where there is no tokenizer.
fn tokens(rows: usize, length: usize, tokenizer: Option<&Tokenizer>) -> Result<Vec<i64>> {
    let mut pool: Vec<i64> = (5..100).collect();
    if let Some(tokenizer) = tokenizer {
        let encoder = TextEncoder::open(&tokenizer.file, MAX_LENGTH)?;
        let named = encoder.encode(&[&PROBES.join(" ")])?;
        if let Some((_, tensor)) = named.first()
            && let Elements::I64(ids) = &tensor.elements
        {
            pool = ids.clone();
        }
    }
    let total = rows.checked_mul(length).ok_or_else(|| Error::bad_input("the batch is too large"))?;
    Ok(pool.iter().copied().cycle().take(total).collect())
}
