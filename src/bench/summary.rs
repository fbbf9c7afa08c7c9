//! From rounds to a report's figures of an engine.

use super::{Candidate, Measured, PointMeasured, PointRound, Ratio, Round, Settings, Workload, median, quantile};
use crate::eval::{Comparison, Parity, TextOutput};

/// The rounds of one engine, and of the first one beside it.
pub(super) fn engine(
    candidate: &Candidate,
    rounds: &[Round],
    first: &[Round],
    (workloads, settings): (&[Workload], &Settings),
    failed: Option<String>,
) -> Measured {
    let of = |read: fn(&Round) -> f64| median(&rounds.iter().map(read).collect::<Vec<_>>()).unwrap_or_default();
    let points = workloads.iter().enumerate().filter(|_| !rounds.is_empty());
    Measured {
        name: candidate.name.clone(),
        runtime: rounds.first().map_or_else(|| candidate.runtime.to_string(), |round| round.runtime.clone()),
        file_bytes: std::fs::metadata(&candidate.file).map_or(0, |meta| meta.len()),
        load_ms: of(|round| round.load_ms),
        first_ms: of(|round| round.first_ms),
        peak_bytes: rounds.iter().map(|round| round.peak_bytes).max().unwrap_or(0),
        points: points.map(|(i, workload)| point(workload, &at(i, rounds), &at(i, first), settings)).collect(),
        server: None,
        failed,
    }
}

fn at(i: usize, rounds: &[Round]) -> Vec<&PointRound> {
    rounds.iter().filter_map(|round| round.points.get(i)).collect()
}

fn point(workload: &Workload, own: &[&PointRound], base: &[&PointRound], settings: &Settings) -> PointMeasured {
    let mut latencies: Vec<f64> = own.iter().flat_map(|round| round.latencies_ms.iter().copied()).collect();
    latencies.sort_by(f64::total_cmp);
    let of = |q| quantile(&latencies, q).unwrap_or_default();
    let queries = workload.queries.len();
    let passes = latencies.len() as f64 / queries.max(1) as f64;
    let (sum_ms, texts) = (latencies.iter().sum::<f64>().max(1e-9), passes * workload.texts() as f64);
    let per_second = |of_a_pass: usize| passes * of_a_pass as f64 * 1e3 / sum_ms;
    let texts_per_second = per_second(workload.texts());
    let pass_ms: Vec<f64> = own.iter().filter_map(|round| round.pass_ms(queries)).collect();
    let pairs = own.iter().zip(base);
    let ratios: Vec<f64> =
        pairs.filter_map(|(own, base)| Some(base.pass_ms(queries)? / own.pass_ms(queries)?)).collect();
    let joules: Option<f64> = own.iter().map(|round| round.joules).sum();
    let parity = base.first().zip(own.first()).and_then(|(base, own)| {
        let mut comparison = Comparison::new(settings.problem_type);
        let mut texts = base.outputs.iter().zip(&own.outputs).map(|(base, own)| comparable(base, own));
        texts.try_for_each(|(base, own)| comparison.add(&base, &own)).ok()?;
        Some(Parity::worst(&comparison.finish().ok()?))
    });
    PointMeasured {
        key: workload.key,
        runs: latencies.len(),
        mean_ms: sum_ms / latencies.len().max(1) as f64,
        p50_ms: of(0.5),
        p90_ms: of(0.9),
        p95_ms: of(0.95),
        p99_ms: of(0.99),
        p999_ms: of(0.999),
        max_ms: of(1.0),
        distribution_ms: (0..=100).map(|percent| of(f64::from(percent) / 100.0)).collect(),
        texts_per_second,
        tokens_per_second: per_second(workload.real()),
        padded_tokens_per_second: per_second(workload.padded()),
        texts_per_second_per_core: texts_per_second / settings.threads.max(1) as f64,
        joules_per_text: joules.map(|joules| joules / texts.max(1.0)),
        speed: Ratio::of(&ratios, settings.seed),
        drift: pass_ms.iter().copied().fold(0.0, f64::max) / pass_ms.iter().copied().fold(f64::INFINITY, f64::min),
        parity,
    }
}

/// The outputs of a text that both engines have by one name. The first of each go together: exporters name it as they like.
fn comparable(base: &[TextOutput], own: &[TextOutput]) -> (Vec<TextOutput>, Vec<TextOutput>) {
    let first = base.first().zip(own.first());
    let first = first.map(|(base, own)| (base.clone(), TextOutput { name: base.name.clone(), ..own.clone() }));
    let others = base.iter().skip(1).filter_map(|base| {
        let own = own.iter().skip(1).find(|own| own.name == base.name)?;
        Some((base.clone(), own.clone()))
    });
    first.into_iter().chain(others).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::TokenBatch;

    #[test]
    fn padding_counts_separately_and_energy_is_per_text() {
        let queries = vec![TokenBatch::full(2, 3, vec![1; 6]), TokenBatch::full(1, 4, vec![1; 4])];
        let workload = Workload { queries, ..Workload::full(TokenBatch::full(2, 3, vec![1; 6])) };
        let output =
            |name: &str, values: [f32; 2]| TextOutput { name: name.to_owned(), width: 2, values: values.to_vec() };
        let outputs = vec![vec![output("logits", [1.0, 2.0]), output("end_logits", [1.0, 2.0])]];
        let round =
            |ms: [f64; 4]| PointRound { latencies_ms: ms.to_vec(), joules: Some(3.0), outputs: outputs.clone() };
        // Two passes of 250 ms over three texts and ten tokens, in each of two rounds.
        let (own, base) = (round([150.0, 100.0, 150.0, 100.0]), round([300.0, 200.0, 300.0, 200.0]));
        let settings = Settings { threads: 2, seed: 1, ..Settings::default() };
        let found = point(&workload, &[&own, &own], &[&base, &base], &settings);
        assert_eq!((found.runs, found.mean_ms, found.max_ms), (8, 125.0, 150.0));
        assert_eq!((found.texts_per_second, found.texts_per_second_per_core), (12.0, 6.0));
        assert_eq!((found.tokens_per_second, found.padded_tokens_per_second), (40.0, 40.0));
        assert_eq!((found.joules_per_text, found.drift), (Some(0.5), 1.0));
        assert_eq!(found.speed.map(|speed| speed.mean), Some(2.0));
        assert_eq!(found.parity.and_then(|parity| parity.agreement), Some(1.0));
        // By another name the first output is the first; of the others, those of one name are compared.
        let named = |first: &str, end: [f32; 2]| {
            let outputs = vec![vec![output(first, [1.0, 2.0]), output("end_logits", end), output("more", [0.0, 0.0])]];
            PointRound { outputs, ..own.clone() }
        };
        let parity = |own: &PointRound| point(&workload, &[own], &[&base], &settings).parity.unwrap();
        assert_eq!(parity(&named("output_0", [1.0, 2.0])).agreement, Some(1.0));
        let differs = parity(&named("logits", [5.0, 2.0]));
        assert_eq!((differs.agreement, differs.max_abs, differs.rows), (Some(0.0), 4.0, 1));
        let silent = PointRound { joules: None, ..own.clone() };
        assert_eq!(point(&workload, &[&own, &silent], &[], &settings).joules_per_text, None);
    }
}
