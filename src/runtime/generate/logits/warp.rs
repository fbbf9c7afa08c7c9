//! What a draw leaves out: tokens that are too unlikely get −∞.

use crate::runtime::classify::softmax;
use crate::settings::Strategy;

/// The default of `top_k`, which is that of `transformers`.
const TOP_K: usize = 50;

/// Divides by the temperature, and leaves out all but the tokens that are drawn from; at least one stays. A temperature of
/// 0 is not one to divide by: the likeliest token alone stays.
pub fn warp(strategy: &Strategy, scores: &mut [f32]) {
    match strategy.temperature {
        Some(0.0) => return top_k(scores, 1),
        Some(temperature) if temperature != 1.0 => scores.iter_mut().for_each(|score| *score /= temperature),
        _ => {}
    }
    match strategy.top_k.unwrap_or(TOP_K) {
        0 => {}
        k => top_k(scores, k),
    }
    if let Some(p) = strategy.top_p.filter(|p| *p < 1.0) {
        top_p(scores, p);
    }
    if let Some(p) = strategy.min_p {
        min_p(scores, p);
    }
    if let Some(p) = strategy.typical_p.filter(|p| *p < 1.0) {
        typical(scores, p);
    }
}

/// The `k` largest, and what equals the least of them.
fn top_k(scores: &mut [f32], k: usize) {
    let mut sorted = scores.to_vec();
    let at = k.clamp(1, sorted.len().max(1)) - 1;
    if at >= sorted.len() {
        return;
    }
    let (_, least, _) = sorted.select_nth_unstable_by(at, |a, b| b.total_cmp(a));
    let least = *least;
    scores.iter_mut().filter(|score| **score < least).for_each(|score| *score = f32::NEG_INFINITY);
}

/// The places of scores that can come, from the smallest score to the largest, and their probabilities.
fn ascending(scores: &[f32]) -> Vec<(usize, f32)> {
    let probabilities = softmax(scores);
    let mut order: Vec<(usize, f32)> =
        probabilities.into_iter().enumerate().filter(|(place, _)| is_there(scores, *place)).collect();
    let score = |place: usize| scores.get(place).copied().unwrap_or(f32::NEG_INFINITY);
    order.sort_by(|a, b| score(a.0).total_cmp(&score(b.0)));
    order
}

fn is_there(scores: &[f32], place: usize) -> bool {
    scores.get(place).is_some_and(|score| *score > f32::NEG_INFINITY)
}

fn leave_out(scores: &mut [f32], places: impl IntoIterator<Item = usize>) {
    for place in places {
        if let Some(score) = scores.get_mut(place) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// The least likely tokens that have no more than `1 − p` together go.
fn top_p(scores: &mut [f32], p: f32) {
    let order = ascending(scores);
    let most = order.len().saturating_sub(1);
    let mut sum = 0.0;
    let goes = |(_, probability): &&(usize, f32)| {
        sum += probability;
        sum <= 1.0 - p
    };
    let gone: Vec<usize> = order.iter().take(most).take_while(goes).map(|(place, _)| *place).collect();
    leave_out(scores, gone);
}

/// Tokens of less than `p` of the likeliest one's probability go.
fn min_p(scores: &mut [f32], p: f32) {
    let order = ascending(scores);
    let Some((_, largest)) = order.last().copied() else { return };
    let unlikely = order.iter().take(order.len() - 1).filter(|(_, probability)| *probability < p * largest);
    leave_out(scores, unlikely.map(|(place, _)| *place).collect::<Vec<_>>());
}

/// Of the tokens in the order of how near their information is to the expected one, those after the probability `p`.
fn typical(scores: &mut [f32], p: f32) {
    let order = ascending(scores);
    let entropy: f32 = order.iter().filter(|(_, p)| *p > 0.0).map(|(_, p)| -p.ln() * p).sum();
    let mut by_distance: Vec<(f32, usize, f32)> =
        order.iter().map(|(place, p)| ((-p.ln() - entropy).abs(), *place, *p)).collect();
    by_distance.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut sum = 0.0;
    let within = |(_, _, p_of): &&(f32, usize, f32)| {
        sum += p_of;
        sum < p
    };
    let last = by_distance.iter().take_while(within).count().min(by_distance.len().saturating_sub(1));
    let Some((farthest, ..)) = by_distance.get(last).copied() else { return };
    let gone = by_distance.iter().skip(1).filter(|(distance, ..)| *distance > farthest);
    leave_out(scores, gone.map(|(_, place, _)| *place).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(strategy: Strategy, probabilities: &[f32]) -> Vec<usize> {
        let mut scores: Vec<f32> = probabilities.iter().map(|p| p.ln()).collect();
        warp(&strategy, &mut scores);
        (0..scores.len()).filter(|place| is_there(&scores, *place)).collect()
    }

    #[test]
    fn unlikely_tokens_go_and_one_always_stays() {
        let all = [0.1, 0.4, 0.05, 0.25, 0.2];
        let none = Strategy::default;
        assert_eq!(left(Strategy { top_k: Some(2), ..none() }, &all), [1, 3]);
        assert_eq!(left(Strategy { top_p: Some(0.7), ..none() }, &all), [1, 3, 4]);
        assert_eq!(left(Strategy { top_p: Some(1e-6), ..none() }, &all), [1]);
        assert_eq!(left(Strategy { min_p: Some(0.45), ..none() }, &all), [1, 3, 4]);
        assert_eq!(left(Strategy { min_p: Some(1.0), ..none() }, &all), [1]);
        assert_eq!(left(Strategy { temperature: Some(0.0), ..none() }, &all), [1]);
        assert_eq!(left(Strategy { typical_p: Some(0.3), ..none() }, &all), [3, 4]);
        assert_eq!(left(Strategy { top_k: Some(0), ..none() }, &[0.5; 60]).len(), 60);
        assert_eq!(left(none(), &(1..=60).map(|i| i as f32 / 2000.0).collect::<Vec<_>>()).len(), 50);
    }
}
