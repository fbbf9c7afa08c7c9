//! A merge under way.

use std::collections::{BTreeMap, BTreeSet};

use super::file::Adapter;
use super::{Merged, options, promised};
use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::{StateDict, Tensor};
use crate::ir::Weight;

/// The tensors as they become. They are the model's once all adapters are merged, and not before.
pub(super) struct Work {
    base: StateDict,
    /// The base with the adapters' whole tensors: changes that depend on the base depend on this.
    origin: StateDict,
    state: StateDict,
    /// The report of the current adapter.
    pub merged: Merged,
    /// How many adapters were begun.
    begun: usize,
    /// The weights that adapters change, from the one that has begun on.
    touched: BTreeSet<String>,
    /// The adapter of each replaced tensor and of each replaced row: no second adapter may replace them.
    saved_whole: BTreeMap<String, usize>,
    rows: BTreeMap<String, BTreeSet<usize>>,
}

impl Work {
    /// A merge into these tensors.
    pub fn new(base: &StateDict) -> Work {
        Work {
            base: base.clone(),
            origin: base.clone(),
            state: base.clone(),
            merged: Merged::default(),
            begun: 0,
            touched: BTreeSet::new(),
            saved_whole: BTreeMap::new(),
            rows: BTreeMap::new(),
        }
    }

    /// The tensors as they have become.
    pub fn into_state(self) -> StateDict {
        self.state
    }

    /// Begins with an adapter: checks that it and the model belong together. Modules that `follow` others need not be named.
    pub fn admit(&mut self, adapter: &Adapter, follow: &[String]) -> Result<()> {
        self.begun += 1;
        self.merged = Merged {
            kind: adapter.kind.peft_type,
            files: adapter.files.clone(),
            task: adapter.common.task_type.clone(),
            ..Merged::default()
        };
        let changed: Vec<&str> = adapter.modules.keys().map(String::as_str).collect();
        adapter.check_names(&self.state).map_err(|e| e.at(adapter.file.clone()))?;
        self.check_layers(adapter)?;
        self.merged.untouched = adapter.targets.check(&self.state, &changed, follow, adapter.kind)?;
        self.merged.lost = promised::lost(adapter, &self.state).map_err(|e| e.at(adapter.file.clone()))?;
        self.merged.unknown = options::unknown(&adapter.config, adapter.kind)?;
        Ok(())
    }

    /// Replaces the tensors that an adapter saved whole, and the rows of its tokens.
    pub fn replace(&mut self, adapter: &Adapter) -> Result<()> {
        for (name, weight) in &adapter.saved {
            self.save(adapter, name, weight).map_err(|e| e.at(adapter.file.clone()))?;
        }
        for (module, rows) in &adapter.tokens {
            if !self.follows_another(adapter, module, rows)? {
                self.replace_rows(adapter, module, rows).map_err(|e| e.at(adapter.location(module)))?;
            }
        }
        Ok(())
    }

    /// Enters the weights that an adapter changes.
    pub fn touch(&mut self, adapter: &Adapter) {
        let touched: Vec<String> = adapter.modules.keys().map(|module| self.name(module, "weight")).collect();
        self.touched.extend(touched);
    }

    /// Fails where a kind changes a `Conv1D` layer that PEFT does not train in such layers.
    fn check_layers(&self, adapter: &Adapter) -> Result<()> {
        let turned = |module: &&String| self.state.is_conv1d(&self.name(module, "weight"));
        match adapter.modules.keys().find(turned).filter(|_| !adapter.kind.conv1d) {
            None => Ok(()),
            Some(module) => Err(Error::unsupported(format!(
                "PEFT has no {} for layers of the class Conv1D, which `{}` is",
                adapter.kind.peft_type,
                printable(module)
            ))
            .at(adapter.location(module))),
        }
    }

    /// A tensor as the model has it, of one as a file has it.
    pub fn turned(&self, name: &str, weight: &Weight) -> Result<Weight> {
        self.state.turned(name, weight)
    }

    /// Whether rows are those of a projection that has no weight of its own: it shares those of the embeddings.
    pub fn follows_another(&self, adapter: &Adapter, module: &str, rows: &Weight) -> Result<bool> {
        if self.state.contains(&self.name(module, "weight")) {
            return Ok(false);
        }
        let rows = rows.to_f32s()?;
        for (other, shared) in &adapter.tokens {
            if other != module && shared.to_f32s()? == rows {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Replaces a whole tensor. `name` is the file's.
    pub fn save(&mut self, adapter: &Adapter, name: &str, weight: &Weight) -> Result<()> {
        let name = self.state.resolve(name);
        let weight = self.state.turned(&name, weight)?;
        check_saved(&self.state, &name, &weight)?;
        if self.saved_whole.insert(name.clone(), self.begun).is_some_and(|before| before != self.begun) {
            return Err(Error::bad_input(format!("`{}` is saved whole by two adapters", printable(&name)))
                .hint("only one of them can be right"));
        }
        let tensor = Tensor { weight, file: adapter.file.as_str().into() };
        self.origin.insert(name.clone(), tensor.clone());
        self.state.insert(name.clone(), tensor);
        self.merged.saved.push(name);
        Ok(())
    }

    fn replace_rows(&mut self, adapter: &Adapter, module: &str, rows: &Weight) -> Result<()> {
        let at = adapter.common.tokens_of(module)?;
        let name = self.name(module, "weight");
        let replaced = self.rows.entry(name.clone()).or_default();
        if let Some(token) = at.iter().find(|token| replaced.contains(token)) {
            return Err(Error::bad_input(format!("token {token} was trained by two adapters")));
        }
        replaced.extend(&at);
        self.merged.tokens += at.len();
        let weight = self.base(&name)?.weight.replace_rows(at, rows).map_err(other_model)?;
        self.put(&name, weight);
        Ok(())
    }

    /// The full name of a module's parameter.
    pub fn name(&self, module: &str, parameter: &str) -> String {
        self.state.resolve(&format!("{module}.{parameter}"))
    }

    /// A tensor as it is by now.
    pub fn base(&self, name: &str) -> Result<&Tensor> {
        self.state.get(name).ok_or_else(|| no_tensor(name))
    }

    /// A tensor as it was before any adapter.
    pub fn origin(&self, name: &str) -> Result<&Tensor> {
        self.origin.get(name).ok_or_else(|| no_tensor(name))
    }

    /// Changes a module's weight.
    pub fn change(&mut self, module: &str, change: impl FnOnce(&Weight) -> Result<Weight>) -> Result<()> {
        let name = self.name(module, "weight");
        let weight = change(&self.base(&name)?.weight).map_err(other_model)?;
        self.put(&name, weight);
        self.merged.changed += 1;
        Ok(())
    }

    /// The tensors as they have become, to look at.
    pub fn state(&self) -> &StateDict {
        &self.state
    }

    /// Gives a projection that shares the word embeddings a tensor of its own: those of the base.
    pub fn part(&mut self, projection: &str, embeddings: &str) {
        if let Some(tensor) = self.base.get(embeddings).cloned() {
            self.origin.insert(projection.to_owned(), tensor.clone());
            self.state.insert(projection.to_owned(), tensor);
        }
    }

    /// Whether an adapter before the current one changes a tensor, or anything has replaced it.
    pub fn is_changed(&self, name: &str) -> bool {
        let is_other = match (self.base.get(name), self.state.get(name)) {
            (Some(before), Some(now)) => !before.weight.is(&now.weight),
            (before, now) => before.is_some() != now.is_some(),
        };
        is_other || self.touched.contains(name)
    }

    /// The tokens whose rows were replaced in a tensor.
    pub fn replaced_rows(&self, name: &str) -> Option<&BTreeSet<usize>> {
        self.rows.get(name)
    }

    /// Replaces a tensor by its changed one, which keeps the file.
    pub fn put(&mut self, name: &str, weight: Weight) {
        if let Some(tensor) = self.state.get(name) {
            let file = tensor.file.clone();
            self.state.insert(name.to_owned(), Tensor { weight, file });
        }
    }
}

fn no_tensor(name: &str) -> Error {
    other_model(Error::bad_input(format!("the base model has no tensor `{}`", printable(name))))
}

fn other_model(error: Error) -> Error {
    error.hint("the adapter was trained on another model")
}

/// A tensor that replaces one of the base has its shape, but for a head, whose rows are the task's labels, and for
/// embeddings, whose rows are tokens.
pub(super) fn check_saved(state: &StateDict, name: &str, weight: &Weight) -> Result<()> {
    let Some(base) = state.get(name) else { return Ok(()) };
    let columns = |w: &Weight| w.shape().get(1..).map(<[usize]>::to_vec);
    if columns(&base.weight) == columns(weight) {
        return Ok(());
    }
    Err(other_model(Error::bad_input(format!(
        "saved tensor `{}` has shape {:?}, the base model's {:?}",
        printable(name),
        weight.shape(),
        base.weight.shape()
    ))))
}
