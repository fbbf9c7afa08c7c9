//! What a model is given besides a text: positions, and a state, which is empty or zeros at first.
//!
//! Sessions, gates, golden outputs and calibration all take them from here.

use crate::error::{Error, Result, printable};
use crate::ports::PortKind;
use crate::runtime::{self, Elements, Named, Port, Tensor};

/// The inputs of a model with these ports for texts that are run whole: those of the texts, and of a decoder the positions
/// that the mask says and the state of no token. What is given stays as it is.
///
/// # Errors
/// Bad input: positions are needed, and there is no mask `[b, s]` of integers. Unsupported: a size of a cache is not known.
pub fn prefill(ports: &[Port], texts: &Named) -> Result<Named> {
    let mut inputs = texts.clone();
    let rows = texts.first().and_then(|(_, tensor)| tensor.shape.first()).copied().unwrap_or_default();
    for port in ports.iter().filter(|port| texts.iter().all(|(name, _)| *name != port.name)) {
        let added = match port.kind() {
            Some(PortKind::PositionIds) => of_mask(port, texts)?,
            Some(kind) if kind.is_past() => initial(port, rows)?,
            _ => continue,
        };
        inputs.push((port.name.clone(), added));
    }
    Ok(inputs)
}

/// How many tokens come before each of a row, of which the mask says what is a token. Padding before the first is at
/// position 0: it is masked, but a model looks its position up.
pub fn positions(mask: &[i64]) -> impl Iterator<Item = i64> {
    mask.iter().scan(0_i64, |count, real| {
        *count += i64::from(*real != 0);
        Some((*count - 1).max(0))
    })
}

fn of_mask(port: &Port, texts: &Named) -> Result<Tensor> {
    let no_mask = || {
        let (name, mask) = (printable(&port.name), PortKind::AttentionMask.name());
        Error::bad_input(format!(
            "`{name}` follows from a mask, and the inputs have no `{mask}` of integers for each token"
        ))
    };
    let mask = runtime::port(texts, PortKind::AttentionMask).ok_or_else(no_mask)?;
    let (Elements::I64(real), [_, length]) = (&mask.elements, mask.shape.as_slice()) else { return Err(no_mask()) };
    let counted = real.chunks((*length).max(1)).flat_map(positions).collect();
    Ok(Tensor { shape: mask.shape.clone(), elements: Elements::integers(counted, port)? })
}

/// The state before the first token: keys and values of none, and zeros in place of what a run replaces.
pub(super) fn initial(port: &Port, rows: usize) -> Result<Tensor> {
    let name = printable(&port.name);
    let element = port.element.ok_or_else(|| {
        Error::unsupported(format!("the graph's input `{name}` is of {}", printable(&port.type_name)))
    })?;
    let grows = port.kind().and_then(PortKind::grows);
    if let Some(axis) = grows.filter(|axis| port.shape.len() <= *axis) {
        return Err(Error::unsupported(format!(
            "the graph's input `{name}` has {} sizes; a cache has a batch, heads, tokens and a size of heads, and grows along \
             axis {axis}",
            port.shape.len()
        )));
    }
    let size = |(axis, size): (usize, &Option<usize>)| match (axis, size) {
        (0, _) => Ok(rows),
        (axis, _) if grows == Some(axis) => Ok(0),
        (_, Some(size)) => Ok(*size),
        (axis, None) => Err(Error::unsupported(format!(
            "the graph's input `{name}` does not say its size on axis {axis}, so that no empty cache can be made for it"
        ))
        .hint("export the model with the number of heads and their size as numbers")),
    };
    let shape: Vec<usize> = port.shape.iter().enumerate().map(size).collect::<Result<_>>()?;
    Ok(Tensor { elements: Elements::zeros(element, &shape)?, shape })
}

/// One text in two runs: all of its tokens but the last; and the last, which continues the state of the others.
pub struct LastStep {
    /// The inputs of the first run, an empty state among them.
    pub before: Named,
    /// Those of the second, without the state: see [`crate::runtime::Engine::resume`].
    pub last: Named,
}

impl LastStep {
    /// Of the inputs of one text, as [`prefill`] makes them. None where there is no state, or only one token.
    pub fn of(inputs: &Named) -> Result<Option<LastStep>> {
        let past = |name: &str| PortKind::of(name).is_some_and(PortKind::is_past);
        let tokens = runtime::port(inputs, PortKind::TokenIds).and_then(|ids| ids.shape.get(1)).copied();
        let tokens = tokens.unwrap_or_default();
        if tokens < 2 || !inputs.iter().any(|(name, _)| past(name)) {
            return Ok(None);
        }
        let (mut before, mut last) = (Vec::new(), Vec::new());
        for (name, tensor) in inputs {
            if past(name) {
                before.push((name.clone(), tensor.clone()));
                continue;
            }
            let parts = split(tensor, tokens - 1)
                .ok_or_else(|| Error::bug(format!("`{}` has no value for each token of a text", printable(name))))?;
            before.push((name.clone(), parts[0].clone()));
            // The mask is over the state, too.
            let whole = PortKind::AttentionMask.is(name);
            last.push((name.clone(), if whole { tensor.clone() } else { parts[1].clone() }));
        }
        Ok(Some(LastStep { before, last }))
    }
}

/// The integers `[1, s]` of one text up to a token, and from there on.
fn split(tensor: &Tensor, at: usize) -> Option<[Tensor; 2]> {
    let part = |elements: Elements, length| Tensor { shape: vec![1, length], elements };
    match &tensor.elements {
        Elements::I64(values) => {
            let (head, tail) = values.split_at_checked(at)?;
            Some([head, tail].map(|values| part(Elements::I64(values.to_vec()), values.len())))
        }
        Elements::I32(values) => {
            let (head, tail) = values.split_at_checked(at)?;
            Some([head, tail].map(|values| part(Elements::I32(values.to_vec()), values.len())))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ElementType;

    fn port(name: &str, element: ElementType, shape: &[Option<usize>]) -> Port {
        Port { name: name.to_owned(), element: Some(element), type_name: element.to_string(), shape: shape.to_vec() }
    }

    fn decoder() -> [Port; 4] {
        let tokens = |name| port(name, ElementType::I64, &[None, None]);
        let cache = port("past_key_values.0.key", ElementType::F32, &[None, Some(2), None, Some(4)]);
        [tokens("input_ids"), tokens("attention_mask"), tokens("position_ids"), cache]
    }

    fn integers(name: &str, rows: usize, values: &[i64]) -> (String, Tensor) {
        let shape = vec![rows, values.len() / rows];
        (name.to_owned(), Tensor { shape, elements: Elements::I64(values.to_vec()) })
    }

    #[test]
    fn a_decoder_begins_without_a_cache_and_counts_its_tokens() {
        let mask = integers("attention_mask", 2, &[1, 1, 0, 0, 1, 1]);
        let texts = vec![integers("input_ids", 2, &[1, 2, 3, 4, 5, 6]), mask];
        let given = prefill(&decoder(), &texts).unwrap();
        assert_eq!(given[2], integers("position_ids", 2, &[0, 1, 1, 0, 0, 1]));
        let empty = Tensor { shape: vec![2, 2, 0, 4], elements: Elements::F32(Vec::new()) };
        assert_eq!(given[3..], [("past_key_values.0.key".to_owned(), empty)]);
        assert_eq!(prefill(&decoder(), &given).unwrap(), given);
        assert_eq!(prefill(&decoder()[..2], &texts).unwrap(), texts);
        let error = prefill(&decoder(), &texts[..1].to_vec()).unwrap_err();
        assert!(error.message().contains("the inputs have no `attention_mask`"), "{error}");
    }

    #[test]
    fn the_last_token_continues_the_state_of_the_others() {
        let texts = vec![integers("input_ids", 1, &[7, 8, 9]), integers("attention_mask", 1, &[1, 1, 1])];
        let step = LastStep::of(&prefill(&decoder(), &texts).unwrap()).unwrap().unwrap();
        assert_eq!(step.before[..2], [integers("input_ids", 1, &[7, 8]), integers("attention_mask", 1, &[1, 1])]);
        assert_eq!(step.before.len(), 4);
        let last = [("input_ids", &[9][..]), ("attention_mask", &[1, 1, 1]), ("position_ids", &[2])];
        assert_eq!(step.last, last.map(|(name, values)| integers(name, 1, values)));
        assert!(LastStep::of(&texts).unwrap().is_none());
    }
}
