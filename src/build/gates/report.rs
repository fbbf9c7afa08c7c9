//! What gates say: a line for each comparison, and the errors of those that were missed or not checked.

use crate::build::engines::Made;
use crate::error::{Error, Result};
use crate::eval::Greedy;
use crate::observer::Observer;

/// Reports the results of every engine.
pub(super) fn report(made: &[Made], observer: &dyn Observer) {
    for engine in made {
        let name = &engine.entry.name;
        for gate in &engine.entry.gates {
            let checks: Vec<_> = gate.checks.iter().map(ToString::to_string).collect();
            if gate.rows > 0 {
                let at_once = gate.batch.filter(|batch| *batch > 1);
                let at_once = at_once.map_or_else(String::new, |batch| format!(", {batch} texts at once"));
                let (ran_by, against) = (&gate.ran_by, &gate.against);
                let generated = gate.greedy.map_or_else(String::new, generated);
                observer
                    .done(&format!("{name} against {against}: {} ({ran_by}{at_once}{generated})", checks.join(", ")));
            }
        }
    }
}

/// What was generated, for the line of an engine.
fn generated(greedy: Greedy) -> String {
    let Greedy { texts, tokens, ties, .. } = greedy;
    let ties = if ties > 0 { format!(", {ties} of them up to a tie of the reference's") } else { String::new() };
    format!("; {tokens} tokens generated after {texts} texts{ties}")
}

/// All bounds that were missed, in one error.
pub(super) fn missed(made: &[Made]) -> Result<()> {
    let gates = made.iter().flat_map(|engine| engine.entry.gates.iter().map(move |gate| (&engine.entry.name, gate)));
    let mut missed = gates.flat_map(|(name, gate)| {
        let failed = gate.checks.iter().filter(|check| !check.passed);
        failed.map(move |check| format!("{name}: {check} against {} on {}", gate.against, gate.on))
    });
    match missed.next() {
        None => Ok(()),
        Some(first) => {
            let error = Error::gate_failed(format!("a gate was missed: {first}"));
            Err(missed.fold(error, |error, other| error.at(format!("also {other}"))).hint(
                "nothing was written; loosen the bound in the recipe or with --gate, or choose a finer precision",
            ))
        }
    }
}

/// All gates that were requested and cannot be checked here, in one error.
pub(super) fn unmade(unmade: &[(String, Error)]) -> Result<()> {
    let Some(((name, why), more)) = unmade.split_first() else { return Ok(()) };
    let error = Error::runtime_missing(format!("{name}: its gate cannot be checked here: {}", why.message()));
    let error = more.iter().fold(error, |error, (name, why)| error.at(format!("also {name}: {}", why.message())));
    let mut hints: Vec<&String> = Vec::new();
    for hint in unmade.iter().flat_map(|(_, why)| why.hints()) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    let error = hints.into_iter().fold(error, |error, hint| error.hint(hint.as_str()));
    Err(error.hint("or leave the engine out, or build it without a gate; nothing was written"))
}
