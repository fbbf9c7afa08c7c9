//! The tensors of a model by the checkpoint's names, and the scopes that families read them through.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use super::names;
use crate::error::{Error, Result, printable};
use crate::ir::{DType, Weight};

/// A tensor and the file it came from.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its elements.
    pub weight: Weight,
    /// The file, as messages call it.
    pub file: Arc<str>,
}

/// The tensors of a model, by name.
#[derive(Clone, Debug, Default)]
pub struct StateDict {
    tensors: BTreeMap<String, Tensor>,
    /// The names that the file has for tensors that have another here.
    stored: BTreeMap<String, String>,
    /// The wrapper's prefix that was taken out of the names.
    removed: Option<String>,
    /// The prefix of the encoder's names.
    prefix: Option<String>,
    /// The prefixes of the heads' names.
    heads: Vec<String>,
    /// The ends of names of weights that files have transposed.
    conv1d: Vec<String>,
    /// Names of projections to the vocabulary, each with that of the word embeddings that it shares.
    tied: Vec<[String; 2]>,
}

impl StateDict {
    /// Adds a tensor, in place of one of that name.
    pub fn insert(&mut self, name: String, tensor: Tensor) -> Option<Tensor> {
        self.tensors.insert(name, tensor)
    }

    /// Takes the tensor of that name out.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.remove(name)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The name that a tensor has in its file.
    pub fn in_file<'a>(&'a self, name: &'a str) -> &'a str {
        self.stored.get(name).map_or(name, String::as_str)
    }

    /// The wrapper's prefix that was taken out of the file's names, such as `_orig_mod.`.
    pub fn removed(&self) -> Option<&str> {
        self.removed.as_deref()
    }

    /// The tensors with norms called `weight` and `bias`; TensorFlow's converters called them `gamma` and `beta`. Fails
    /// where a tensor has both names.
    pub fn with_current_names(self) -> Result<StateDict> {
        let renamed = |name: &str, old: &str, new: &str| name.strip_suffix(old).map(|stem| format!("{stem}{new}"));
        let current = |name: &str| {
            renamed(name, "LayerNorm.gamma", "LayerNorm.weight")
                .or_else(|| renamed(name, "LayerNorm.beta", "LayerNorm.bias"))
                .unwrap_or_else(|| name.to_owned())
        };
        self.renamed(current, ", also under its old name")
    }

    /// The tensors without the prefixes that a wrapper of the model put into their names: `_orig_mod.` of
    /// `torch.compile`, `module.` of data parallelism, and the like. Fails where that makes one name of two.
    pub fn without_wrappers(mut self) -> Result<StateDict> {
        let found = self.tensors.keys().flat_map(|name| names::wrappers(name)).next();
        self.removed = found.map(|word| format!("{word}."));
        self = self.renamed(names::unwrapped, ", also under the name that a wrapper gave it")?;
        while self.tensors.len() > 1 && self.tensors.keys().all(|name| below(names::PARALLEL, name).is_some()) {
            self.take_out(&format!("{}.", names::PARALLEL))?;
        }
        Ok(self)
    }

    /// Removes the common prefix of all names, and remembers it.
    fn take_out(&mut self, prefix: &str) -> Result<()> {
        let before = self.removed.take().unwrap_or_default();
        let state = std::mem::take(self);
        let short = |name: &str| name.strip_prefix(prefix).unwrap_or(name).to_owned();
        *self = state.renamed(short, "")?;
        self.removed = Some(format!("{before}{prefix}"));
        Ok(())
    }

    /// The tensors by other names. Fails where two get one name; `more` ends the message.
    fn renamed(mut self, name: impl Fn(&str) -> String, more: &str) -> Result<StateDict> {
        let mut before = std::mem::take(&mut self.stored);
        for (old, tensor) in std::mem::take(&mut self.tensors) {
            let (file, new) = (tensor.file.clone(), name(&old));
            if self.tensors.insert(new.clone(), tensor).is_some() {
                return Err(
                    Error::bad_input(format!("duplicate tensor `{}`{more}", printable(&new))).at(file.to_string())
                );
            }
            let stored = before.remove(&old).unwrap_or_else(|| old.clone());
            if stored != new {
                self.stored.insert(new, stored);
            }
        }
        Ok(self)
    }

    /// The tensors with names as a task's model has them: those of the encoder begin with `prefix`, those of the
    /// `heads` do not. A checkpoint of the bare encoder gets the prefix, any other is left as it is.
    ///
    /// The common prefix before that, of a model that was saved as a part of another, is removed where the
    /// encoder's prefix follows it.
    pub fn with_prefix(mut self, prefix: &str, heads: &[&str]) -> Result<StateDict> {
        self.prefix = Some(prefix.to_owned());
        self.heads = heads.iter().map(|head| (*head).to_owned()).collect();
        if let Some(outer) = names::outer(self.tensors.keys().map(String::as_str), prefix) {
            self.take_out(&outer)?;
        }
        if self.tensors.keys().any(|name| below(prefix, name).is_some()) {
            return Ok(self);
        }
        let names = StateDict { prefix: self.prefix.clone(), heads: self.heads.clone(), ..StateDict::default() };
        self.renamed(|name| names.resolve(name), "")
    }

    /// The tensors below `old` as those below `new`, where none is below that.
    pub fn moved(self, old: &str, new: &str) -> Result<StateDict> {
        match self.tensors.keys().any(|name| below(new, name).is_some()) {
            true => Ok(self),
            false => self
                .renamed(|name| below(old, name).map_or_else(|| name.to_owned(), |rest| format!("{new}.{rest}")), ""),
        }
    }

    /// The tensors with weights of `Conv1D` layers, whose names have these ends, as linear layers have them: `[outputs,
    /// inputs]` and not `[inputs, outputs]`. Quantizers save them as linear layers, so packed ones are so already.
    pub fn with_conv1d(mut self, ends: &[&str]) -> Result<StateDict> {
        self.conv1d = ends.iter().map(|end| (*end).to_owned()).collect();
        let names: Vec<String> = self.tensors.keys().filter(|name| self.is_conv1d(name)).cloned().collect();
        for name in names {
            if let Some(tensor) = self.tensors.get(&name).filter(|tensor| !tensor.weight.is_quantized()).cloned() {
                let weight = self.turned(&name, &tensor.weight)?;
                self.tensors.insert(name, Tensor { weight, ..tensor });
            }
        }
        Ok(self)
    }

    /// Enters that a projection to the vocabulary shares the word embeddings, where it has no tensor of its own.
    pub fn tie(&mut self, projection: &str, embeddings: &str) {
        self.tied.push([projection.to_owned(), embeddings.to_owned()]);
    }

    /// The word embeddings that a projection shares, if that is the name of one without a tensor of its own.
    pub fn shared_by(&self, projection: &str) -> Option<&str> {
        let [_, embeddings] =
            self.tied.iter().find(|[name, embeddings]| name == projection && self.contains(embeddings))?;
        if self.contains(projection) { None } else { Some(embeddings) }
    }

    /// The projections that share the word embeddings, each with the name of these.
    pub fn ties(&self) -> &[[String; 2]] {
        &self.tied
    }

    /// Whether files have the tensor of that name transposed.
    pub fn is_conv1d(&self, name: &str) -> bool {
        self.conv1d.iter().any(|end| name.ends_with(end.as_str()))
    }

    /// A tensor as this state has it, of one as files have it, and the other way round.
    pub fn turned(&self, name: &str, weight: &Weight) -> Result<Weight> {
        match self.is_conv1d(name) && weight.shape().len() == 2 {
            true => weight.transpose(),
            false => Ok(weight.clone()),
        }
    }

    /// A name below the encoder, with the prefix that names of the encoder have here.
    pub fn within(&self, name: &str) -> String {
        match &self.prefix {
            Some(prefix) if name.strip_prefix(prefix.as_str()).is_none_or(|rest| !rest.starts_with('.')) => {
                format!("{prefix}.{name}")
            }
            _ => name.to_owned(),
        }
    }

    /// The name that a tensor has here, for a name from a file that may leave the encoder's prefix out.
    pub fn resolve(&self, name: &str) -> String {
        match &self.prefix {
            Some(prefix) if !self.contains(name) && self.within_encoder(name).is_none() && !self.is_head(name) => {
                format!("{prefix}.{name}")
            }
            _ => name.to_owned(),
        }
    }

    /// The rest of a name after the encoder's prefix, if it begins with that.
    pub fn within_encoder<'a>(&self, name: &'a str) -> Option<&'a str> {
        below(self.prefix.as_deref()?, name)
    }

    /// The common prefix of an adapter's names before the encoder's prefix, if there is one.
    pub fn outer<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
        names::outer(names, self.prefix.as_deref()?)
    }

    /// A similar tensor that is there in place of a missing one, as a hint. Names only tensors that are in a file.
    fn instead(&self, missing: &str) -> String {
        let stored: Vec<&str> = self.tensors.keys().map(|name| self.in_file(name)).collect();
        let bare = self.within_encoder(missing).unwrap_or(missing);
        let common = names::common(stored.iter().copied()).filter(|common| {
            self.removed.is_none() && ![missing, bare].iter().any(|name| name.starts_with(common.as_str()))
        });
        if let Some(common) = common {
            return format!("every name there begins with `{}`, and none of this model does", printable(&common));
        }
        let elsewhere = stored.iter().copied().filter(|name| below_any(name, bare)).min_by_key(|name| name.len());
        let near = || names::nearest(missing, &stored).or_else(|| names::nearest(bare, &stored));
        match elsewhere.or_else(near) {
            Some(name) => format!("the nearest name there is `{}`", printable(name)),
            None => "the weights are of another model than config.json says".to_owned(),
        }
    }

    /// Whether a name is that of a head.
    pub fn is_head(&self, name: &str) -> bool {
        self.heads.iter().any(|head| below(head, name).is_some())
    }
}

/// The rest of a name after `path` and a point.
fn below<'a>(path: &str, name: &'a str) -> Option<&'a str> {
    name.strip_prefix(path)?.strip_prefix('.')
}

/// Whether a name ends with `path`, after some other path.
fn below_any(name: &str, path: &str) -> bool {
    name.strip_suffix(path).is_some_and(|before| before.ends_with('.'))
}

/// A size that a configuration demands, and the field that demands it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// How many.
    pub n: usize,
    /// The field of `config.json`, or another file, `: ` and its field.
    pub field: &'static str,
}

/// The location of fields, as text.
fn places(fields: &[&str]) -> String {
    let (other, own): (Vec<&str>, Vec<&str>) = fields.iter().partition(|field| field.contains(": "));
    let own: Vec<String> = own.into_iter().map(|field| format!("`{field}`")).collect();
    let own = (!own.is_empty()).then(|| format!("{} in config.json", own.join(" and ")));
    let other = other.into_iter().filter_map(|field| field.split_once(": "));
    let other = other.map(|(file, field)| format!("`{field}` in {file}"));
    own.into_iter().chain(other).collect::<Vec<_>>().join(" and ")
}

/// The tensors below one path of the checkpoint, e.g. `bert.encoder.layer.0`. Remembers which were read.
#[derive(Clone)]
pub struct Scope<'a> {
    state: &'a StateDict,
    path: String,
    read: Rc<RefCell<BTreeSet<String>>>,
}

impl<'a> Scope<'a> {
    /// The scope of all tensors.
    pub fn root(state: &'a StateDict) -> Scope<'a> {
        Scope { state, path: String::new(), read: Rc::default() }
    }

    /// The scope below `name`.
    pub fn sub(&self, name: &str) -> Scope<'a> {
        Scope { path: self.full(name), ..self.clone() }
    }

    /// The scope of element `i` of the list `name`.
    pub fn item(&self, name: &str, i: usize) -> Scope<'a> {
        self.sub(&format!("{name}.{i}"))
    }

    /// The scope of that path, from any scope.
    pub fn elsewhere(&self, path: &str) -> Scope<'a> {
        Scope { path: path.to_owned(), ..self.clone() }
    }

    /// Where this scope is in the checkpoint.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The full name of a tensor of this scope; without a name, of the tensor that has the scope's own.
    pub fn full(&self, name: &str) -> String {
        match (self.path.as_str(), name) {
            ("", name) => name.to_owned(),
            (path, "") => path.to_owned(),
            (path, name) => format!("{path}.{name}"),
        }
    }

    /// Whether this scope has a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.state.contains(&self.full(name))
    }

    /// Whether any tensor lies below this scope.
    pub fn is_there(&self) -> bool {
        let below = format!("{}.", self.path);
        self.state.tensors.range(below.clone()..).next().is_some_and(|(name, _)| name.starts_with(&below))
    }

    /// The tensor `name` of this scope, which must have that shape. It comes in 32 bits, whatever the file's type:
    /// families build in one precision, and passes choose another.
    pub fn tensor(&self, name: &str, shape: &[Size]) -> Result<Weight> {
        if let Some(size) = shape.iter().find(|size| size.n == 0) {
            return Err(Error::bad_input(format!("`{}` is 0, expected 1 or more", size.field)).at("config.json"));
        }
        let full = self.full(name);
        let tensor = self.state.get(&full).ok_or_else(|| self.missing(&full))?;
        let found = tensor.weight.shape();
        let expected: Vec<usize> = shape.iter().map(|size| size.n).collect();
        if found != expected {
            // As the file has them.
            let in_file = |shape: &[usize]| match self.state.is_conv1d(&full) && shape.len() == 2 {
                true => shape.iter().rev().copied().collect(),
                false => shape.to_vec(),
            };
            let mut fields: Vec<&str> = Vec::new();
            for (i, size) in shape.iter().enumerate() {
                if found.get(i) != Some(&size.n) && !fields.contains(&size.field) {
                    fields.push(size.field);
                }
            }
            return Err(Error::bad_input(format!(
                "tensor `{}` has shape {:?}, expected {:?}",
                printable(&full),
                in_file(found),
                in_file(&expected)
            ))
            .at(format!("{}; the expectation comes from {}", tensor.file, places(&fields)))
            .hint("the weights and config.json look like different models"));
        }
        if !tensor.weight.dtype().is_float() {
            return Err(Error::bad_input(format!(
                "tensor `{}` holds {}, expected floating-point numbers",
                printable(&full),
                tensor.weight.dtype()
            ))
            .at(tensor.file.to_string()));
        }
        self.read.borrow_mut().insert(full);
        Ok(tensor.weight.cast(DType::F32))
    }

    /// The shape of a tensor of this scope, where only the checkpoint knows it.
    pub fn shape(&self, name: &str) -> Result<&'a [usize]> {
        let full = self.full(name);
        self.state.get(&full).map(|tensor| tensor.weight.shape()).ok_or_else(|| self.missing(&full))
    }

    /// How many rows the table `name` has, whatever the configuration states: a vocabulary that was extended after
    /// config.json was written has more, and the file is what the model was trained with. A size of 0 stays, to be refused.
    pub fn rows(&self, name: &str, said: Size) -> Size {
        let tensor = self.state.get(&self.full(name)).filter(|_| said.n > 0);
        Size { n: tensor.and_then(|tensor| tensor.weight.shape().first().copied()).unwrap_or(said.n), ..said }
    }

    /// The tensors that were not read.
    pub fn unread(&self) -> Vec<&'a str> {
        let read = self.read.borrow();
        self.state.iter().map(|(name, _)| name).filter(|name| !read.contains(*name)).collect()
    }

    fn missing(&self, full: &str) -> Error {
        let error = Error::bad_input(format!("tensor `{}` is missing", printable(full)));
        let files: BTreeSet<&str> = self.state.iter().map(|(_, tensor)| &*tensor.file).collect();
        let error = error.at(files.into_iter().collect::<Vec<_>>().join(", "));
        error.hint(self.state.instead(full))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_in_one_precision_from_any_type() {
        let mut state = StateDict::default();
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16, DType::I64] {
            let weight = Weight::source(dtype.name(), dtype, vec![2], None).unwrap();
            state.insert(dtype.name().to_owned(), Tensor { weight, file: "model.safetensors".into() });
        }
        let (scope, size) = (Scope::root(&state), Size { n: 2, field: "hidden_size" });
        for name in ["f64", "f32", "f16", "bf16"] {
            assert_eq!(scope.tensor(name, &[size]).unwrap().ty().to_string(), "f32[2]");
        }
        let error = scope.tensor("i64", &[size]).unwrap_err();
        assert_eq!(error.message(), "tensor `i64` holds i64, expected floating-point numbers");
        assert_eq!(scope.unread(), ["i64"]);
        let error = scope.tensor("f32", &[Size { n: 0, field: "vocab_size" }]).unwrap_err();
        assert_eq!(error.to_string(), "`vocab_size` is 0, expected 1 or more\n  in config.json");
    }

    #[test]
    fn a_norm_has_one_name() {
        let named = |names: &[&str]| {
            let mut state = StateDict::default();
            for name in names {
                let weight = Weight::source(*name, DType::F32, vec![2], None).unwrap();
                state.insert((*name).to_owned(), Tensor { weight, file: "model.safetensors".into() });
            }
            state.with_current_names()
        };
        assert!(named(&["a.LayerNorm.gamma", "a.LayerNorm.beta"]).unwrap().contains("a.LayerNorm.weight"));
        assert_eq!(
            named(&["a.LayerNorm.gamma", "a.LayerNorm.weight"]).unwrap_err().to_string(),
            "duplicate tensor `a.LayerNorm.weight`, also under its old name\n  in model.safetensors"
        );
    }
}
