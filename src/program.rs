//! A model as a whole: its components, which share weights, and the state that goes from one run to the next.
//!
//! | component | of |
//! |---|---|
//! | `model` | a model that is one graph |
//! | `encoder`, `decoder` | a model that reads one text and writes another |
//! | `text`, `image` | a model that compares the two |
//!
//! A component is a verified graph. What an input or an output is for follows from its name, by the table of
//! [`PortKind`]; an output whose kind has a [`PortKind::next`] is the state: it is that input of the component's next run.

use crate::error::{Error, Result};
use crate::ir::{Graph, TensorType, ValueId};
use crate::ports::PortKind;
use crate::verify::Verified;

/// One or more components.
#[derive(Clone)]
pub struct Program {
    first: Component,
    others: Vec<Component>,
}

/// A named graph of a program.
#[derive(Clone)]
pub struct Component {
    /// Its name, which no other component of the program has.
    pub name: String,
    /// Its graph.
    pub graph: Verified<Graph>,
}

/// An input or an output of a component.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name outside.
    pub name: String,
    /// Its kind; none for one that a checkpoint's family alone knows.
    pub kind: Option<PortKind>,
    /// The type of its elements, and its shape.
    pub ty: TensorType,
}

/// An output of one run of a component that is an input of its next run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The input.
    pub input: String,
    /// The output.
    pub output: String,
    /// The axis along which it grows by the tokens of a run, and where its size is 0 in the beginning. None where each
    /// run replaces it by another of its size; in the beginning it is zeros.
    pub grows: Option<usize>,
}

impl From<Verified<Graph>> for Program {
    /// The program of a model that is one graph.
    fn from(graph: Verified<Graph>) -> Program {
        Program { first: Component { name: Component::MODEL.to_owned(), graph }, others: Vec::new() }
    }
}

impl Program {
    /// A program of components, the first of which reads what a model is given.
    ///
    /// # Errors
    /// A bug: no component; two of one name; a state of which only the input or only the output is there.
    pub fn new(components: Vec<Component>) -> Result<Program> {
        let mut components = components.into_iter();
        let first = components.next().ok_or_else(|| Error::bug("a program has no component"))?;
        let program = Program { first, others: components.collect() };
        for (number, component) in program.components().enumerate() {
            if program.components().take(number).any(|other| other.name == component.name) {
                return Err(Error::bug(format!("two components are called {}", component.name)));
            }
            component.check_state().map_err(|e| e.at(format!("component {}", component.name)))?;
        }
        Ok(program)
    }

    /// Its components, in the order in which they run.
    pub fn components(&self) -> impl Iterator<Item = &Component> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The graph of the first component, which reads what the model is given.
    pub fn first(&self) -> &Verified<Graph> {
        &self.first.graph
    }

    /// The graph of a model that is one graph. Fails where there are several components: what looks at one graph would pass
    /// over the others.
    pub fn only(&self) -> Result<&Verified<Graph>> {
        match self.others.as_slice() {
            [] => Ok(&self.first.graph),
            others => {
                let what = format!("a model of {} components is neither calibrated nor compared", others.len() + 1);
                Err(Error::unsupported(what))
            }
        }
    }

    /// The program whose components have been changed, each by itself.
    pub fn map(&self, mut change: impl FnMut(&Component) -> Result<Verified<Graph>>) -> Result<Program> {
        let mut changed =
            |component: &Component| Ok(Component { name: component.name.clone(), graph: change(component)? });
        let first = changed(&self.first)?;
        Ok(Program { first, others: self.others.iter().map(changed).collect::<Result<_>>()? })
    }

    /// What all of its outputs depend on, as [`Graph::fingerprint`] has it for one graph.
    pub fn fingerprint(&self) -> Result<String> {
        match self.others.as_slice() {
            [] => self.first.graph.fingerprint(),
            _ => {
                let each = self.components().map(|it| Ok(format!("{} {}\n", it.name, it.graph.fingerprint()?)));
                Ok(crate::digest::of(each.collect::<Result<String>>()?.as_bytes()))
            }
        }
    }
}

impl Component {
    /// The name of the component that is a whole model.
    pub const MODEL: &'static str = "model";

    /// Its inputs, in the order of the graph.
    pub fn inputs(&self) -> impl Iterator<Item = Port> {
        self.graph.inputs().iter().map(|id| self.port(*id))
    }

    /// Its outputs, in the order of the graph.
    pub fn outputs(&self) -> impl Iterator<Item = Port> {
        self.graph.outputs().iter().map(|id| self.port(*id))
    }

    fn port(&self, id: ValueId) -> Port {
        let value = self.graph.value(id);
        Port { name: value.name.clone(), kind: self.graph.kind(id), ty: value.ty.clone() }
    }

    /// What goes from one of its runs to the next, in the order of its outputs.
    pub fn state(&self) -> Vec<State> {
        let state = |output: Port| {
            let kind = output.kind?;
            let input = self.input_of(kind.next()?)?;
            Some(State { input: input.name, output: output.name, grows: kind.grows() })
        };
        self.outputs().filter_map(state).collect()
    }

    fn input_of(&self, kind: PortKind) -> Option<Port> {
        self.inputs().find(|port| port.kind == Some(kind))
    }

    /// Fails where a state is half there: a run would begin with nothing, or what it leaves would be lost.
    fn check_state(&self) -> Result<()> {
        let state = self.state();
        for output in self.outputs().filter(|port| port.kind.and_then(PortKind::next).is_some()) {
            if state.iter().all(|state| state.output != output.name) {
                return Err(Error::bug(format!("the output `{}` is a state that no input reads", output.name)));
            }
        }
        for input in self.inputs().filter(|port| port.kind.is_some_and(PortKind::is_past)) {
            if state.iter().all(|state| state.input != input.name) {
                return Err(Error::bug(format!("the input `{}` is a state that no output continues", input.name)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;
    use crate::verify::verify;

    fn component(name: &str, text: &str) -> Component {
        Component { name: name.to_owned(), graph: verify(parse(text).unwrap()).unwrap() }
    }

    const DECODER: &str = r#"graph "decoder" {
  input %x: f32[b, s, 4]
  input %past_key_values.0.key: f32[b, 2, p, 4]
  input %past_key_values.0.value: f32[b, 2, p, 4]
  %present.0.key: f32[b, 2, p, 4] = Add(%past_key_values.0.key, %past_key_values.0.key)
  %present.0.value: f32[b, 2, p, 4] = Add(%past_key_values.0.value, %past_key_values.0.value)
  output %present.0.key
  output %present.0.value
}
"#;

    #[test]
    fn a_state_is_an_output_and_the_input_that_it_becomes() {
        let decoder = component("decoder", DECODER);
        let state = |what: &str| State {
            input: format!("past_key_values.0.{what}"),
            output: format!("present.0.{what}"),
            grows: Some(2),
        };
        assert_eq!(decoder.state(), [state("key"), state("value")]);
        assert!(Program::new(vec![decoder]).is_ok());
        let half = DECODER.replace("  output %present.0.value\n", "");
        let error = Program::new(vec![component("decoder", &half)]).err().unwrap();
        assert!(error.message().contains("`past_key_values.0.value` is a state that no output continues"), "{error}");
    }

    #[test]
    fn components_have_names_of_their_own_and_change_one_by_one() {
        let pair = || vec![component("encoder", DECODER), component("decoder", DECODER)];
        let program = Program::new(pair()).unwrap();
        let names: Vec<&str> = program.components().map(|component| component.name.as_str()).collect();
        assert_eq!(names, ["encoder", "decoder"]);
        let mut seen = 0;
        let same = program.map(|component| {
            seen += 1;
            Ok(component.graph.clone())
        });
        assert_eq!((same.unwrap().components().count(), seen), (2, 2));
        let mut twice = pair();
        twice[1].name = "encoder".to_owned();
        assert!(Program::new(twice).is_err());
        assert!(Program::new(Vec::new()).is_err());
    }

    #[test]
    fn the_fingerprint_of_one_graph_is_that_of_its_program() {
        let one = component("model", DECODER).graph;
        let program = Program::from(one.clone());
        assert_eq!(program.fingerprint().unwrap(), one.fingerprint().unwrap());
        assert!(program.only().is_ok());
        let two = Program::new(vec![component("encoder", DECODER), component("decoder", DECODER)]).unwrap();
        assert_ne!(two.fingerprint().unwrap(), one.fingerprint().unwrap());
        let said = two.only().err().unwrap();
        assert_eq!(said.message(), "a model of 2 components is neither calibrated nor compared");
    }
}
