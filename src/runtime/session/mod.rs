//! Sessions: a component of a program that runs again and again, with a state that the runtime keeps.
//!
//! An [`Executor`] is a model that a runtime has opened. It gives and takes [`Value`]s, which stay where the runtime has
//! them. A [`Session`] binds outputs to inputs by [`PortKind::next`]: what `present.0.key` was in one run is
//! `past_key_values.0.key` in the next, without a copy. [`Whole`] is one as an [`Engine`], which copies all outputs.
//! [`prefill`] makes what texts are run with: positions and an empty state.

mod state;
mod value;

use super::engine::Engine;
use super::{Named, Port, Tensor, View};
use crate::error::{Error, Result, printable};
use crate::ports::PortKind;
use state::initial;

pub use state::{LastStep, positions, prefill};
pub use value::{Input, Value};
pub(super) use value::{of_ort, of_tract};

/// A model that a runtime has opened.
pub trait Executor {
    /// The runtime and its version, for reports.
    fn describe(&self) -> String;

    /// The inputs that have to be given, in the model's order.
    fn inputs(&self) -> &[Port];

    /// The outputs, in the model's order.
    fn outputs(&self) -> &[Port];

    /// Runs the model once, on an input for each of [`Executor::inputs`], in their order; gives an output for each of
    /// [`Executor::outputs`].
    fn execute(&mut self, inputs: &[Input<'_>]) -> Result<Vec<Value>>;
}

/// A component that is run again and again; the state goes from one run to the next.
pub struct Session {
    executor: Box<dyn Executor>,
    state: Vec<Bound>,
    rows: usize,
    length: usize,
}

/// An output that is an input of the next run.
struct Bound {
    input: usize,
    output: usize,
    value: Option<Value>,
}

/// What one run gave beside the state.
pub struct Outputs {
    named: Vec<(Port, Value)>,
}

impl Session {
    /// Binds the state of a model. Fails where an input is of a state that no output continues, or the other way round.
    pub fn new(executor: Box<dyn Executor>) -> Result<Session> {
        let state = bind(&*executor)?;
        Ok(Session { executor, state, rows: 0, length: 0 })
    }

    /// The runtime and its version, for reports.
    pub fn describe(&self) -> String {
        self.executor.describe()
    }

    /// All inputs, those of the state among them.
    pub fn inputs(&self) -> &[Port] {
        self.executor.inputs()
    }

    /// All outputs, those of the state among them.
    pub fn outputs(&self) -> &[Port] {
        self.executor.outputs()
    }

    /// Whether anything goes from one run to the next.
    pub fn has_state(&self) -> bool {
        !self.state.is_empty()
    }

    /// How many tokens the state holds for each row, those of padding among them.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Begins the state anew, for a batch of that many rows. Fails where a size of an input of the state is not known,
    /// naming the input.
    pub fn begin(&mut self, rows: usize) -> Result<()> {
        for bound in &mut self.state {
            let port = self.executor.inputs().get(bound.input).ok_or_else(lost)?;
            bound.value = Some(Value::Host(initial(port, rows)?));
        }
        (self.rows, self.length) = (rows, 0);
        Ok(())
    }

    /// Runs the component once and keeps the state for the next run. Of its inputs all that are not of the state must be
    /// given. After a failure the state has to begin anew.
    pub fn run(&mut self, inputs: &Named) -> Result<Outputs> {
        match self.state.iter().all(|bound| bound.value.is_some()) {
            true => Ok(Outputs { named: self.pass(inputs)? }),
            false => Err(Error::bug("the state has not begun")),
        }
    }

    /// Lets the state go: the next run is given all of it.
    fn forget(&mut self) {
        self.state.iter_mut().for_each(|bound| bound.value = None);
    }

    /// What an output was, where it is of the state.
    fn held(&self, output: usize) -> Option<&Value> {
        self.state.iter().find(|bound| bound.output == output)?.value.as_ref()
    }

    /// Runs the component once: on the state, or on what is given for it where there is none. Gives the other outputs.
    fn pass(&mut self, inputs: &Named) -> Result<Vec<(Port, Value)>> {
        let held = |number| self.state.iter().find(|bound| bound.input == number)?.value.as_ref();
        let given = |(number, port): (usize, &Port)| match held(number) {
            Some(value) => Ok(Input::Held(value)),
            None => input(inputs, &port.name).map(Input::Given),
        };
        let given = self.executor.inputs().iter().enumerate().map(given).collect::<Result<Vec<_>>>()?;
        let outputs = self.executor.execute(&given)?;
        self.forget();
        let mut others = Vec::new();
        for ((number, port), value) in self.executor.outputs().iter().enumerate().zip(outputs) {
            match self.state.iter_mut().find(|bound| bound.output == number) {
                Some(bound) => {
                    if let Some(axis) = port.kind().and_then(PortKind::grows) {
                        self.length = value.view()?.shape.get(axis).copied().unwrap_or_default();
                    }
                    bound.value = Some(value);
                }
                None => others.push((port.clone(), value)),
            }
        }
        Ok(others)
    }

    /// Keeps those rows of the state, in that order; a row may be there more than once.
    pub fn select(&mut self, rows: &[usize]) -> Result<()> {
        if rows.iter().copied().eq(0..self.rows) {
            return Ok(());
        }
        for bound in &mut self.state {
            let value = bound.value.as_ref().ok_or_else(|| Error::bug("the state has not begun"))?;
            bound.value = Some(value.select(rows)?);
        }
        self.rows = rows.len();
        Ok(())
    }
}

/// A session as an [`Engine`]: all inputs are given and all outputs are copied, those of the state too. The state stays for
/// [`Engine::resume`].
pub struct Whole(Session);

impl Whole {
    /// Of any model: one whose state is not bound on both sides has to be given all of it in every run.
    pub fn new(executor: Box<dyn Executor>) -> Whole {
        let state = bind(&*executor).unwrap_or_default();
        Whole(Session { executor, state, rows: 0, length: 0 })
    }
}

impl Engine for Whole {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn inputs(&self) -> &[Port] {
        self.0.inputs()
    }

    fn run(&mut self, inputs: &Named) -> Result<Named> {
        self.0.forget();
        self.resume(inputs)
    }

    fn resume(&mut self, inputs: &Named) -> Result<Named> {
        let mut others = self.0.pass(inputs)?.into_iter();
        let missing = || Error::bug("a model has not given all of its outputs");
        let mut outputs = Vec::with_capacity(self.0.outputs().len());
        for (number, port) in self.0.outputs().iter().enumerate() {
            let tensor = match self.0.held(number) {
                Some(value) => value.view()?.to_tensor(),
                None => others.next().ok_or_else(missing)?.1.into_tensor()?,
            };
            outputs.push((port.name.clone(), tensor));
        }
        Ok(outputs)
    }
}

/// The outputs that are inputs of the next run.
fn bind(executor: &dyn Executor) -> Result<Vec<Bound>> {
    let at = |ports: &[Port], kind: PortKind| ports.iter().position(|port| port.kind() == Some(kind));
    let mut state = Vec::new();
    for (output, port) in executor.outputs().iter().enumerate() {
        let Some(next) = port.kind().and_then(PortKind::next) else { continue };
        let input = at(executor.inputs(), next).ok_or_else(|| {
            let name = printable(&port.name);
            Error::unsupported(format!("the graph has an output `{name}`, but no input `{}`", next.name()))
        })?;
        state.push(Bound { input, output, value: None });
    }
    let past = |port: &Port| port.kind().is_some_and(PortKind::is_past);
    let unbound = |(input, port): &(usize, &Port)| past(port) && state.iter().all(|bound| bound.input != *input);
    match executor.inputs().iter().enumerate().find(unbound) {
        None => Ok(state),
        Some((_, port)) => {
            let name = printable(&port.name);
            Err(Error::unsupported(format!("the graph has an input `{name}`, but no output that continues it")))
        }
    }
}

/// Takes an input by name out of the caller's.
fn input<'a>(inputs: &'a Named, name: &str) -> Result<&'a Tensor> {
    inputs
        .iter()
        .find(|(given, _)| given == name)
        .map(|(_, tensor)| tensor)
        .ok_or_else(|| Error::bad_input(format!("the engine needs an input `{}`, which is missing", printable(name))))
}

fn lost() -> Error {
    Error::bug("a port of a session is gone")
}

impl Outputs {
    /// The output of that kind, where the runtime has it.
    pub fn view(&self, kind: PortKind) -> Result<View<'_>> {
        let found = self.named.iter().find(|(port, _)| port.kind() == Some(kind));
        let (_, value) =
            found.ok_or_else(|| Error::unsupported(format!("the graph has no output `{}`", kind.name())))?;
        value.view()
    }

    /// All of them, copied.
    pub fn into_tensors(self) -> Result<Named> {
        self.named.into_iter().map(|(port, value)| Ok((port.name, value.into_tensor()?))).collect()
    }
}
