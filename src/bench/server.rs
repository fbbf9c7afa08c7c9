//! The server scenario, after MLPerf: texts arrive one by one at random times, and the rate counts at which results are
//! still quick enough.
//!
//! Arrivals are a Poisson process that is sampled before the clock starts. A text waits for those before it, and its
//! latency counts from its arrival, not from its turn: a slow run delays all that come after (no coordinated omission).

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::stats::quantile;
use super::worker::{Opened, Request, pass_ms};
use crate::error::Result;
use crate::random::Random;

/// The name of the child's job.
pub const SERVER_JOB: &str = "bench-server";

/// Texts of a trial, at least: the 99th percentile is of some use from there on.
const FEWEST: usize = 300;

/// How often the range of rates is halved.
const HALVINGS: usize = 6;

/// The request to a child.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServerRequest {
    /// The engine, and the texts, each alone, as the first point.
    pub engine: Request,
    /// The bound of the 99th percentile, in milliseconds.
    pub p99_ms: f64,
    /// Decides when texts arrive.
    pub seed: u64,
}

/// The highest rate that was found to keep the bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerMeasured {
    /// The bound on the 99th percentile, in milliseconds.
    pub bound_ms: f64,
    /// Texts per second; 0 where not even a text alone is quick enough.
    pub texts_per_second: f64,
    /// The latency at that rate, from arrival to result.
    pub p50_ms: f64,
    #[allow(missing_docs)]
    pub p99_ms: f64,
    /// How many texts that was found from.
    pub texts: usize,
}

/// The child's side.
pub fn serve(request: ServerRequest) -> Result<ServerMeasured> {
    let ServerRequest { engine, p99_ms: bound_ms, seed } = request;
    let mut opened = Opened::new(&engine)?;
    let texts = opened.prepare(engine.points.first().map_or(&[], Vec::as_slice))?;
    opened.warm_up(&texts, engine.seconds, Instant::now())?;
    let pass = pass_ms(&opened.time(&texts, engine.seconds, &mut None)?, texts.len());
    let alone = pass.unwrap_or_default() / 1e3 / texts.len().max(1) as f64;
    let mut answer = |i: usize| match texts.get(i % texts.len().max(1)) {
        Some(text) => opened.run_query(text).map(drop),
        None => Ok(()),
    };
    let mut best = ServerMeasured { bound_ms, ..ServerMeasured::default() };
    // As shares of the engine's rate without a pause.
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let share = (low + high) / 2.0;
        let rate = share / alone.max(1e-9);
        let arriving = FEWEST.max((rate * engine.seconds) as usize);
        // Other work of the machine may have spoilt the first.
        let mut once = |seed| trial(&arrivals(rate, arriving, seed), bound_ms / 1e3, &mut answer);
        let found = match once(seed)? {
            None => once(seed.wrapping_add(1))?,
            kept => kept,
        };
        match found {
            Some(latencies) => {
                low = share;
                let of = |q| quantile(&latencies, q).unwrap_or_default() * 1e3;
                best = ServerMeasured {
                    texts_per_second: rate,
                    p50_ms: of(0.5),
                    p99_ms: of(0.99),
                    texts: arriving,
                    ..best
                };
            }
            None => high = share,
        }
    }
    Ok(best)
}

/// When texts arrive, in seconds from the start: the gaps of a Poisson process of so many a second.
fn arrivals(rate: f64, texts: usize, seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed);
    let mut now = 0.0;
    let gap = move |_| {
        now -= random.unit().ln() / rate;
        now
    };
    (0..texts).map(gap).collect()
}

/// Sorted seconds from each arrival to its result; none as soon as more than one text of a hundred is over the bound.
fn trial(arrivals: &[f64], bound: f64, mut answer: impl FnMut(usize) -> Result<()>) -> Result<Option<Vec<f64>>> {
    let mut late = 0;
    let start = Instant::now();
    let mut latencies = Vec::with_capacity(arrivals.len());
    for (i, arrival) in arrivals.iter().enumerate() {
        if let Ok(early) = Duration::try_from_secs_f64(arrival - start.elapsed().as_secs_f64()) {
            std::thread::sleep(early);
        }
        answer(i)?;
        let latency = start.elapsed().as_secs_f64() - arrival;
        late += usize::from(latency > bound);
        if late > arrivals.len() / 100 {
            return Ok(None);
        }
        latencies.push(latency);
    }
    latencies.sort_by(f64::total_cmp);
    Ok(Some(latencies))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_come_at_their_rate_and_at_random() {
        let arrivals = arrivals(100.0, 10_000, 3);
        assert!(arrivals.is_sorted());
        let (last, gaps): (f64, Vec<f64>) =
            (arrivals[9_999], arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect());
        assert!((95.0..105.0).contains(&last), "{last}");
        // Of exponential gaps, 1/e are longer than their mean.
        let long = gaps.iter().filter(|gap| **gap > 0.01).count();
        assert!((3400..3950).contains(&long), "{long}");
    }

    #[test]
    fn one_slow_query_delays_those_that_wait() {
        let slow_first = |i: usize| {
            std::thread::sleep(Duration::from_millis(if i == 0 { 60 } else { 0 }));
            Ok(())
        };
        let latencies = trial(&[0.0, 0.001, 0.002, 0.003], 1.0, slow_first).unwrap().unwrap();
        // All four were there when the first was done.
        assert!(latencies.iter().all(|latency| *latency >= 0.05), "{latencies:?}");
        // One text of four over the bound is enough to end it.
        assert_eq!(trial(&[0.0, 100.0, 200.0, 300.0], 0.05, slow_first).unwrap(), None);
    }
}
