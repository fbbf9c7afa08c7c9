//! One engine for many adapters: the base's graph with the tensors that adapters change as inputs, and for each adapter its tensors
//! for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::bundle;
use crate::error::{Error, Result, printable};
use crate::front::folder::Folder;
use crate::front::hub::adapter::{AdapterSource, hub};
use crate::front::hub::arch;
use crate::front::hub::checkpoint::{StateDict, Tensor};
use crate::front::hub::load::{Adapted, adapt, tokenizer};
use crate::front::hub::load::{Extended, Model, Source};
use crate::front::source;
use crate::ir::weight::Expr;
use crate::ir::{DType, Graph, Origin, ValueId, Weight};
use crate::json;
use crate::passes::{AdapterInputs, Manager, Whole, factor_names};
use crate::ports::PortKind;
use crate::task::Task;
use crate::verify::{Verified, verify};

/// The size that adapters with other labels than the base's decide.
const LABELS: &str = "num_labels";

/// A base whose graph takes adapters as inputs, and each adapter's tensors.
pub struct RuntimeAdapters {
    /// The base.
    pub model: Model,
    /// The adapters, in the order of the command line.
    pub adapters: Vec<RuntimeAdapter>,
}

/// The tensors of one adapter.
pub struct RuntimeAdapter {
    /// The adapter's name: that of its folder.
    pub name: String,
    /// Tensors by the names of the inputs they are for.
    pub tensors: Vec<(String, Weight)>,
}

/// Reads a base and its adapters, and makes inputs of the tensors that they change.
///
/// Fails where an adapter changes more than linear layers by low-rank products and tensors as a whole, where adapters
/// are for different tasks, and where one has a tensor that the base lacks and another does not.
pub fn load_runtime_adapters(source: &Source, manager: &mut Manager) -> Result<RuntimeAdapters> {
    if source.combine.is_some() {
        return Err(Error::bad_input(
            "--combine makes one change of several, and --adapter-as-input keeps them separate",
        ));
    }
    let mut checkpoint = source::open(&source.checkpoint)?;
    checkpoint.check_unquantized()?;
    arch::complete(&mut checkpoint)?;
    let folder = checkpoint.encoder.clone();
    tokenizer::count_prompt(&mut checkpoint, &folder)?;
    let base = arch::canonical_state(&checkpoint)?;
    let named = names(&source.adapters)?;
    let mut changes = Vec::with_capacity(named.len());
    for (name, adapter) in &named {
        changes.push(
            Change::read(source, adapter, checkpoint.common.vocab_size).map_err(|e| e.at(format!("adapter {name}")))?,
        );
    }
    let first = changes.first().ok_or_else(|| Error::bad_input("--adapter-as-input needs an --adapter"))?;
    let state = completed(&base, first, &changes);
    let built = arch::build(&checkpoint, &state, source.task.or(Some(first.task)))?;
    let graph = verify(built.graph)?;
    let pass = inputs(&graph, &base, &named, &changes)?;
    let adapters = named.iter().zip(&changes).map(|((name, _), change)| change.given(name, &graph, &pass));
    let adapters = adapters.collect::<Result<_>>()?;
    let tokenizer = tokenizer::open(&checkpoint, &folder, &graph, built.task)?;
    let extended = Extended::of(&checkpoint, &tokenizer, &graph)?;
    let graph = manager.run(&graph, &pass)?;
    let (task, unused, remarks) = (built.task, built.unused, built.warnings);
    let model = Model {
        program: graph.into(),
        trained: None,
        renumbered: None,
        prompt: tokenizer::prompt(&checkpoint, task)?,
        prompts: tokenizer::prompts(&checkpoint, task),
        pipeline: tokenizer::settings(&checkpoint, task)?,
        merged: Vec::new(),
        tokenizer,
        task,
        unused,
        remarks,
        extended,
        warnings: warnings(&changes),
        checkpoint,
    };
    Ok(RuntimeAdapters { model, adapters })
}

/// Warnings about the base and the adapters, each once.
fn warnings(changes: &[Change]) -> Vec<String> {
    let mut warnings: Vec<String> = Vec::new();
    for line in changes.iter().flat_map(|change| &change.warnings) {
        if !warnings.contains(line) {
            warnings.push(line.clone());
        }
    }
    warnings
}

/// The adapters by the names of their folders, which have to differ: their files are called so.
fn names(adapters: &[AdapterSource]) -> Result<Vec<(String, &AdapterSource)>> {
    let mut seen = BTreeSet::new();
    adapters
        .iter()
        .map(|adapter| {
            let name = json::file_name(&adapter.dir);
            match seen.insert(name.clone()) {
                true => Ok((name, adapter)),
                false => Err(Error::bad_input(format!("two adapters are called {}", printable(&name)))
                    .hint("their files would have one name: rename one of the folders")),
            }
        })
        .collect()
}

/// The changes of one adapter.
struct Change {
    /// The base with the adapter merged.
    state: StateDict,
    /// Its graph.
    graph: Verified<Graph>,
    task: Task,
    /// Low-rank products by the weight they are added to: A `[r, k]`, B `[n, r]` and the factor of their product.
    low_rank: BTreeMap<String, (Weight, Weight, f32)>,
    /// Those of them that the base has no tensor for, since it shares that of others; with what they are added to.
    parted: BTreeMap<String, Tensor>,
    /// Tensors that replace the base's, or that it lacks.
    whole: BTreeSet<String>,
    /// Warnings.
    warnings: Vec<String>,
}

impl Adapted {
    /// Fails where an adapter has its own tokenizer or modules: all adapters share those of the base.
    fn same_surroundings(&self, adapter: &Path) -> Result<()> {
        let refused = |what: &str| {
            Err(Error::unsupported(format!(
                "the adapter has its own {what}, and all inputs of one engine share the base's"
            ))
            .hint("leave --adapter-as-input out, or remove what is not needed from the adapter's folder"))
        };
        if self.checkpoint.sentence.as_ref().is_some_and(|modules| modules.dir == adapter) {
            let base = source::open(&self.checkpoint.dir)?.sentence.unwrap_or_default();
            if self.checkpoint.sentence.as_ref().is_some_and(|modules| modules.modules != base.modules) {
                return refused("modules");
            }
        }
        let (own, base) = (&Folder::from(adapter), &self.checkpoint.encoder);
        if own.has(bundle::TOKENIZER)? && base.has(bundle::TOKENIZER)? && tokenizer(own)? != tokenizer(base)? {
            return refused("tokenizer");
        }
        Ok(())
    }
}

/// A tokenizer without the fields that only its training used.
fn tokenizer(folder: &Folder) -> Result<serde_json::Map<String, serde_json::Value>> {
    let mut fields: serde_json::Map<String, serde_json::Value> = folder.read(bundle::TOKENIZER)?;
    fields.retain(|field, _| !["truncation", "padding"].contains(&field.as_str()));
    Ok(fields)
}

impl Change {
    fn read(source: &Source, adapter: &AdapterSource, vocabulary: Option<usize>) -> Result<Change> {
        if hub::is_hub(&adapter.dir)? {
            return Err(Error::unsupported("adapters of AdapterHub's library cannot be inputs")
                .hint("leave --adapter-as-input out: they are merged or built into the graph"));
        }
        let adapted = adapt(&Source { adapters: vec![adapter.clone()], ..source.clone() })?;
        if let Some(embeddings) = adapted.untied {
            return Err(Error::unsupported(format!(
                "the adapter changes `{embeddings}`, which the projection to the vocabulary shares and which cannot be an \
                 input"
            ))
            .hint("leave --adapter-as-input out: the two become two tensors"));
        }
        adapted.same_surroundings(&adapter.dir)?;
        if let (Some(grown), Some(base)) = (adapted.checkpoint.common.vocab_size, vocabulary)
            && grown != base
        {
            return Err(Error::unsupported(format!(
                "`vocab_size` is {grown} with the adapter and {base} without, and all inputs of one engine share the base's"
            ))
            .hint("leave --adapter-as-input out: the vocabulary is then the adapter's"));
        }
        let Adapted { base, state, built, warnings, .. } = adapted;
        let (mut low_rank, mut parted, mut whole) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for (name, tensor) in state.iter() {
            let before = base.get(name).map(|tensor| &tensor.weight);
            match tensor.weight.expr() {
                _ if before.is_some_and(|before| before.is(&tensor.weight)) => {}
                Expr::Lora { base: of, a, b, scale } if is_bases(of, before.or(shared(&base, name)))? => {
                    if before.is_none() {
                        parted.insert(name.to_owned(), Tensor { weight: of.clone(), ..tensor.clone() });
                    }
                    low_rank.insert(name.to_owned(), (a.clone(), b.clone(), *scale));
                }
                _ if is_stored(&tensor.weight) => {
                    whole.insert(name.to_owned());
                }
                _ => {
                    return Err(Error::unsupported(format!(
                        "`{}` is changed by more than a low-rank product, which cannot be an input",
                        printable(name)
                    ))
                    .hint("leave --adapter-as-input out, or train the adapter as plain LoRA"));
                }
            }
        }
        Ok(Change { graph: verify(built.graph)?, task: built.task, state, low_rank, parted, whole, warnings })
    }

    /// The tensor that the merged model's graph has under that name.
    fn constant(&self, name: &str) -> Option<&Weight> {
        self.graph.find(name).and_then(|id| self.graph.weight(id))
    }

    /// The tensors for the inputs that `pass` makes of the graph.
    fn given(&self, name: &str, graph: &Graph, pass: &AdapterInputs) -> Result<RuntimeAdapter> {
        let mut tensors = Vec::new();
        for (weight, (a, b, scale)) in &self.low_rank {
            if pass.low_rank.contains(weight) {
                let scaled: Vec<f32> = b.to_f32s()?.iter().map(|value| value * scale).collect();
                let scaled = Weight::f32s(b.shape().to_vec(), &scaled)?;
                let [name_a, name_b] = factor_names(weight);
                tensors.push((name_a, a.cast(DType::F32).transpose()?));
                tensors.push((name_b, scaled.transpose()?));
            }
        }
        // In the order of the graph's constants, so that related inputs are neighbours.
        for (_, value, _) in graph.weights().filter(|(_, value, _)| pass.whole.contains_key(&value.name)) {
            if self.whole.contains(&value.name)
                && let Some(weight) = self.constant(&value.name)
            {
                tensors.push((value.name.clone(), weight.clone()));
            }
        }
        Ok(RuntimeAdapter { name: name.to_owned(), tensors })
    }
}

/// The word embeddings of the base, for a projection that shares them.
fn shared<'a>(base: &'a StateDict, name: &str) -> Option<&'a Weight> {
    base.get(base.shared_by(name)?).map(|tensor| &tensor.weight)
}

/// Whether a weight is the base's own: an adapter may hold a copy, or another in its place.
fn is_bases(weight: &Weight, base: Option<&Weight>) -> Result<bool> {
    match base {
        Some(base) => Ok(weight.is(base) || is_stored(weight) && arch::same(weight, base)?),
        None => Ok(false),
    }
}

/// Whether a weight is one of its file, in any element type or packing, and be it transposed there.
fn is_stored(weight: &Weight) -> bool {
    match weight.expr() {
        Expr::Source { .. } | Expr::Packed { .. } => true,
        Expr::Cast(inner) | Expr::Transpose(inner) => is_stored(inner),
        _ => false,
    }
}

/// The base with the tensors that it lacks: from the first adapter, and those that any adapter parts.
fn completed(base: &StateDict, first: &Change, changes: &[Change]) -> StateDict {
    let mut state = base.clone();
    for (name, tensor) in changes.iter().flat_map(|change| &change.parted) {
        state.insert(name.clone(), tensor.clone());
    }
    for name in first.whole.iter().filter(|name| !base.contains(name)) {
        if let Some(tensor) = first.state.get(name) {
            state.insert(name.clone(), tensor.clone());
        }
    }
    state
}

/// The new inputs: every tensor that any of the adapters changes, as far as the graph reads it.
fn inputs(
    graph: &Graph,
    base: &StateDict,
    named: &[(String, &AdapterSource)],
    changes: &[Change],
) -> Result<AdapterInputs> {
    tasks_agree(named, changes)?;
    let labels = label_tensors(graph);
    let mut pass = AdapterInputs::default();
    for (_, value, weight) in graph.weights() {
        let name = &value.name;
        if changes.iter().any(|change| change.low_rank.contains_key(name)) {
            pass.low_rank.insert(name.clone());
        }
        if changes.iter().any(|change| change.parted.contains_key(name)) {
            pass.alone.insert(name.clone());
        }
        if !changes.iter().any(|change| change.whole.contains(name)) {
            continue;
        }
        let lacking = !base.contains(name);
        for ((adapter, _), change) in named.iter().zip(changes) {
            if lacking && !change.whole.contains(name) {
                return Err(Error::bad_input(format!(
                    "the base has no `{}`, and the adapter {adapter} lacks it, which others have",
                    printable(name)
                )));
            }
        }
        let shapes = changes.iter().filter_map(|change| change.constant(name)).map(Weight::shape);
        let agree = shapes.clone().all(|shape| shape == weight.shape());
        let axis = labels.get(name).copied();
        if !agree && axis.is_none() {
            let shapes: Vec<String> = shapes.map(|shape| format!("{shape:?}")).collect();
            return Err(Error::unsupported(format!(
                "adapters have `{}` in the shapes {}, and only heads may differ",
                printable(name),
                shapes.join(", ")
            )));
        }
        let open = axis.filter(|_| lacking || !agree).map(|axis| (axis, LABELS));
        let default = lacking.then(|| default_of(weight, axis)).transpose()?;
        pass.whole.insert(name.clone(), Whole { default, open });
    }
    Ok(pass)
}

/// The default of a tensor that the base lacks: a head of no labels, and zeros for the layers before it.
fn default_of(weight: &Weight, labels: Option<usize>) -> Result<Weight> {
    let mut shape = weight.shape().to_vec();
    if let Some(size) = labels.and_then(|axis| shape.get_mut(axis)) {
        *size = 0;
    }
    let zeros = vec![0.0; shape.iter().product()];
    Weight::f32s(shape, &zeros)
}

/// The weight and bias that the output `logits` comes from, with the dimension of the labels.
fn label_tensors(graph: &Graph) -> BTreeMap<String, usize> {
    let name = |id: &ValueId| {
        let value = graph.value(*id);
        matches!(value.origin, Origin::Weight(_)).then(|| value.name.clone())
    };
    let logits = graph.port(PortKind::Logits);
    let Some(head) = logits.and_then(|id| graph.producer(id)) else { return BTreeMap::new() };
    let operands = head.inputs.iter().skip(1).flatten().filter_map(name);
    operands.zip([1, 0]).collect()
}

fn tasks_agree(named: &[(String, &AdapterSource)], changes: &[Change]) -> Result<()> {
    let Some(first) = changes.first() else { return Ok(()) };
    match named.iter().zip(changes).find(|(_, change)| change.task != first.task) {
        None => Ok(()),
        Some(((name, _), change)) => Err(Error::unsupported(format!(
            "the adapter {name} is for {}, the first one for {}",
            change.task, first.task
        ))
        .hint("one engine does one task: export them separately, or choose --task")),
    }
}
