//! Times the first token after a prompt, and each token after that.

use std::time::Instant;

use super::energy::Meter;
use super::worker::{PointRound, Request, Round, bind, milliseconds, peak_bytes};
use super::workload::Generation;
use crate::error::{Error, Result};
use crate::runtime::generate::{DecodeOptions, Decoder, DecoderLimits, Decoding};
use crate::runtime::{Device, Options, Session};

/// Least number of runs that are timed.
const TIMED_RUNS: usize = 3;

/// Opens a decoder and times it at each point.
pub(super) fn run(request: &Request) -> Result<Round> {
    if request.device != Device::Cpu || !request.adapters.is_empty() {
        return Err(Error::unsupported("generation is measured on the processor, without adapters beside the engine"));
    }
    bind(request.threads);
    let start = Instant::now();
    let session = Session::open(request.runtime, &request.file, Options { threads: request.threads })?;
    let mut decoder = Decoder::new(session, DecoderLimits { positions: None, long: None, pad: 0 })?;
    let load_ms = milliseconds(start);
    let mut meter = request.powercap.as_deref().and_then(|folder| Meter::open(folder).ok());
    let mut first_ms = None;
    let mut points = Vec::new();
    for generation in &request.generation {
        let start = Instant::now();
        begin(&mut decoder, generation)?;
        first_ms.get_or_insert(milliseconds(start));
        warm_up(&mut decoder, generation, request.seconds)?;
        meter.iter_mut().for_each(Meter::restart);
        let latencies_ms = time(&mut decoder, generation, request.seconds, &mut meter)?;
        let joules = meter.as_mut().map(Meter::joules);
        points.push(PointRound { latencies_ms, joules, outputs: Vec::new() });
    }
    let described = decoder.describe();
    let runtime = format!("{} {}", request.runtime, described.split(" (").next().unwrap_or_default());
    Ok(Round { runtime, load_ms, first_ms: first_ms.unwrap_or_default(), peak_bytes: peak_bytes(), points })
}

/// Runs the prompt: ids that any vocabulary has.
fn begin(decoder: &mut Decoder, generation: &Generation) -> Result<()> {
    let prompt: Vec<u32> = (1..=4).cycle().take(generation.prompt).collect();
    decoder.begin(&[&prompt], &DecodeOptions::greedy()).map(drop)
}

/// Runs until half of the time is over.
fn warm_up(decoder: &mut Decoder, generation: &Generation, seconds: f64) -> Result<()> {
    let clock = Instant::now();
    while clock.elapsed().as_secs_f64() < seconds / 2.0 {
        begin(decoder, generation)?;
        for _ in 0..generation.steps {
            decoder.step(&[0])?;
        }
    }
    Ok(())
}

/// Milliseconds of each prompt, or of each step after it, until the time is up.
fn time(decoder: &mut Decoder, generation: &Generation, seconds: f64, meter: &mut Option<Meter>) -> Result<Vec<f64>> {
    let mut latencies = Vec::new();
    let clock = Instant::now();
    while latencies.len() < TIMED_RUNS || clock.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        begin(decoder, generation)?;
        if generation.steps == 0 {
            latencies.push(milliseconds(start));
        }
        for _ in 0..generation.steps {
            let start = Instant::now();
            decoder.step(&[0])?;
            latencies.push(milliseconds(start));
        }
        meter.iter_mut().for_each(Meter::keep_up);
    }
    Ok(latencies)
}
