//! How much to cut: the least that is fast enough, or the most that loses little enough.

use serde::Serialize;

use crate::error::{Error, Result};

/// Shares that are tried, in steps of this.
const STEP: f64 = 0.05;

/// The largest share that is tried, in steps.
const MOST: usize = 16;

/// A cut that was built and measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CutPoint {
    /// The share of products that is gone.
    pub products: f64,
    /// How many times as fast as the trained model in the same format: the mean over rounds.
    pub speed: f64,
    /// Loss of accuracy, or the share of changed predictions where texts have no labels.
    pub drop: f64,
}

/// The aim of the search.
#[derive(Clone, Copy, Debug, Default)]
pub struct Aim {
    /// At least so fast.
    pub speed: Option<f64>,
    /// At most so much lost.
    pub drop: Option<f64>,
}

/// Searches by halves, which assumes that more cut is faster and loses more. Returns all measured points, the last
/// of them the one that is chosen. Fails where no point meets the aim, naming what was reached.
pub fn search(aim: Aim, mut measure: impl FnMut(f64) -> Result<CutPoint>) -> Result<Vec<CutPoint>> {
    // The least that is fast enough, or one less than the least that loses too much.
    let far = |point: &CutPoint| match aim {
        Aim { speed: Some(speed), .. } => point.speed >= speed,
        Aim { drop: Some(drop), .. } => point.drop > drop,
        _ => true,
    };
    let (mut below, mut above) = (0, MOST + 1);
    let mut points: Vec<CutPoint> = Vec::new();
    while above - below > 1 {
        let middle = (below + above) / 2;
        let point = measure(middle as f64 * STEP)?;
        points.push(point);
        if far(&point) { above = middle } else { below = middle }
    }
    let chosen = if aim.speed.is_some() { above } else { below };
    let at = points.iter().position(|point| (point.products - chosen as f64 * STEP).abs() < STEP / 2.0);
    let described = |point: &CutPoint| {
        format!(
            "{:.0} % of products gone: {:.2} × as fast, {:.4} lost",
            point.products * 100.0,
            point.speed,
            point.drop
        )
    };
    let reached: Vec<String> = points.iter().map(described).collect();
    let missed = |what: String| {
        let error = Error::gate_failed(what);
        Err(reached.iter().fold(error, |error, line| error.at(line.clone())).hint("nothing was written"))
    };
    let Some(at) = at else {
        return match aim.speed {
            Some(speed) => missed(format!("no cut is {speed} × as fast")),
            None => missed("every cut loses more than the bound".to_owned()),
        };
    };
    let point = points.remove(at);
    if let Some(drop) = aim.drop.filter(|drop| point.drop > *drop) {
        return missed(format!("the points that are fast enough lose {:.4} or more, over {drop}", point.drop));
    }
    points.push(point);
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twice as fast when everything is cut; a hundredth is lost for every tenth.
    fn measure(products: f64) -> Result<CutPoint> {
        Ok(CutPoint { products, speed: 1.0 + products, drop: products / 10.0 })
    }

    fn chosen(aim: Aim) -> f64 {
        search(aim, measure).unwrap().last().unwrap().products
    }

    #[test]
    fn the_least_that_is_fast_enough_or_the_most_that_loses_little_enough() {
        assert!((chosen(Aim { speed: Some(1.32), drop: None }) - 0.35).abs() < 1e-9);
        assert!((chosen(Aim { speed: None, drop: Some(0.0401) }) - 0.4).abs() < 1e-9);
        assert!((chosen(Aim { speed: Some(1.3), drop: Some(0.05) }) - 0.3).abs() < 1e-9);
    }

    #[test]
    fn an_aim_out_of_reach_names_what_was_reached() {
        let error = search(Aim { speed: Some(1.5), drop: Some(0.01) }, measure).unwrap_err();
        assert_eq!(error.message(), "the points that are fast enough lose 0.0500 or more, over 0.01");
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("50 % of products gone: 1.50 × as fast, 0.0500 lost"), "{error}");
        let error = search(Aim { speed: Some(9.0), drop: None }, measure).unwrap_err();
        assert_eq!(error.message(), "no cut is 9 × as fast");
        let error = search(Aim { speed: None, drop: Some(0.0) }, measure).unwrap_err();
        assert_eq!(error.message(), "every cut loses more than the bound");
    }
}
