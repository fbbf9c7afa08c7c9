//! The tensors of a model by the names that the checkpoint gives them, and the scopes that families read them through.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use crate::error::{Error, Result, nearest, printable};
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
    /// What the names of the encoder begin with.
    prefix: Option<String>,
    /// What those of the heads begin with.
    heads: Vec<String>,
}

impl StateDict {
    /// Adds a tensor, in place of one of that name.
    pub fn insert(&mut self, name: String, tensor: Tensor) -> Option<Tensor> {
        self.tensors.insert(name, tensor)
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

    /// The tensors with norms called `weight` and `bias`; TensorFlow's converters called them `gamma` and `beta`. Fails
    /// where a tensor has both names.
    pub fn with_current_names(mut self) -> Result<StateDict> {
        let renamed = |name: &str, old: &str, new: &str| name.strip_suffix(old).map(|stem| format!("{stem}{new}"));
        let current = |name: String| {
            renamed(&name, "LayerNorm.gamma", "LayerNorm.weight")
                .or_else(|| renamed(&name, "LayerNorm.beta", "LayerNorm.bias"))
                .unwrap_or(name)
        };
        for (name, tensor) in std::mem::take(&mut self.tensors) {
            let (file, name) = (tensor.file.clone(), current(name));
            if self.tensors.insert(name.clone(), tensor).is_some() {
                return Err(Error::bad_input(format!(
                    "tensor `{}` stands twice, also under its old name",
                    printable(&name)
                ))
                .at(file.to_string()));
            }
        }
        Ok(self)
    }

    /// The tensors with names as a task's model has them: those of the encoder begin with `prefix`, those of the
    /// `heads` do not. A checkpoint of the bare encoder gets the prefix, any other is left as it is.
    pub fn with_prefix(mut self, prefix: &str, heads: &[&str]) -> StateDict {
        self.prefix = Some(prefix.to_owned());
        self.heads = heads.iter().map(|head| (*head).to_owned()).collect();
        if self.tensors.keys().any(|name| below(prefix, name).is_some()) {
            return self;
        }
        let tensors = std::mem::take(&mut self.tensors);
        self.tensors = tensors.into_iter().map(|(name, tensor)| (self.resolve(&name), tensor)).collect();
        self
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

    /// What follows the encoder's prefix in a name, if it begins with that.
    pub fn within_encoder<'a>(&self, name: &'a str) -> Option<&'a str> {
        below(self.prefix.as_deref()?, name)
    }

    /// Whether a name is that of a head.
    pub fn is_head(&self, name: &str) -> bool {
        self.heads.iter().any(|head| below(head, name).is_some())
    }
}

/// What follows `path` and a point in a name.
fn below<'a>(path: &str, name: &'a str) -> Option<&'a str> {
    name.strip_prefix(path)?.strip_prefix('.')
}

/// A size that a configuration demands, and the field that demands it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// How many.
    pub n: usize,
    /// The field of `config.json`, or another file, `: ` and its field.
    pub field: &'static str,
}

/// Where fields stand, in words.
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

    /// The scope of that path, wherever this one is.
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

    /// The tensor `name` of this scope, which must have that shape. It comes in 32 bits, whatever the file keeps:
    /// families draw in one precision, and passes choose another.
    pub fn tensor(&self, name: &str, shape: &[Size]) -> Result<Weight> {
        if let Some(size) = shape.iter().find(|size| size.n == 0) {
            return Err(Error::bad_input(format!("`{}` is 0, expected 1 or more", size.field)).at("config.json"));
        }
        let full = self.full(name);
        let tensor = self.state.get(&full).ok_or_else(|| self.missing(&full))?;
        let found = tensor.weight.shape();
        let expected: Vec<usize> = shape.iter().map(|size| size.n).collect();
        if found != expected {
            let mut fields: Vec<&str> = Vec::new();
            for (i, size) in shape.iter().enumerate() {
                if found.get(i) != Some(&size.n) && !fields.contains(&size.field) {
                    fields.push(size.field);
                }
            }
            return Err(Error::bad_input(format!(
                "tensor `{}` has shape {found:?}, expected {expected:?}",
                printable(&full)
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

    /// How many rows the table `name` has, whatever the configuration says: a vocabulary that was extended after
    /// config.json was written has more, and the file is what the model was trained with. A size of 0 stays, to be refused.
    pub fn rows(&self, name: &str, said: Size) -> Size {
        let tensor = self.state.get(&self.full(name)).filter(|_| said.n > 0);
        Size { n: tensor.and_then(|tensor| tensor.weight.shape().first().copied()).unwrap_or(said.n), ..said }
    }

    /// The tensors that nobody has read.
    pub fn unread(&self) -> Vec<&'a str> {
        let read = self.read.borrow();
        self.state.iter().map(|(name, _)| name).filter(|name| !read.contains(*name)).collect()
    }

    fn missing(&self, full: &str) -> Error {
        let error = Error::bad_input(format!("tensor `{}` is missing", printable(full)));
        let files: BTreeSet<&str> = self.state.iter().map(|(_, tensor)| &*tensor.file).collect();
        let error = error.at(files.into_iter().collect::<Vec<_>>().join(", "));
        match nearest(full, self.state.iter().map(|(name, _)| name)) {
            Some(name) => error.hint(format!("the nearest name there is `{}`", printable(name))),
            None => error.hint("the weights are of another model than config.json says"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_in_one_precision_whatever_the_file_keeps() {
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
            "tensor `a.LayerNorm.weight` stands twice, also under its old name\n  in model.safetensors"
        );
    }
}
