//! What decoders have in common around their layers: sizes under Llama's names, word embeddings, heads, and the entry of a
//! family in the table.

use super::blocks::{Activation, Blocks, DecoderInputs, DecoderLayer, EncoderLayer, Memory};
use super::config::{Fields, epsilon_of};
use super::family::ClassifierOf;
use super::family::Shared;
use super::heads::decoder::{self, DecoderHeads, Logits};
use super::{Context, Decoder, Family, Restated};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Graph, Part, ValueId};
use crate::task::head::Head;

/// Most layers of a decoder.
const LAYERS: usize = 1 << 12;

/// Most channels of a head; what follows from their number is made before the weights confirm it.
const CHANNELS: usize = 1 << 16;

/// Most positions for which tables are made; no tensor bounds them.
pub(super) const LONGEST: usize = 1 << 18;

/// The classes of a family without heads for labels.
pub(super) const LANGUAGE: &[(&str, Head)] = &[("Model", Head::HiddenStates), ("ForCausalLM", Head::NextToken)];

/// Those with labels for texts and tokens.
pub(super) const LABELS: &[(&str, Head)] = &[
    ("Model", Head::HiddenStates),
    ("ForCausalLM", Head::NextToken),
    ("ForSequenceClassification", Head::TextLogits),
    ("ForTokenClassification", Head::TokenLogits),
];

/// Those with answers to questions, too.
pub(super) const ALL: &[(&str, Head)] = &[
    ("Model", Head::HiddenStates),
    ("ForCausalLM", Head::NextToken),
    ("ForSequenceClassification", Head::TextLogits),
    ("ForTokenClassification", Head::TokenLogits),
    ("ForQuestionAnswering", Head::SpanLogits),
];

/// What old files have for the frequencies of rotary positions.
pub(super) const FREQUENCIES: &[&str] = &[".rotary_emb.inv_freq"];

/// The names of the word embeddings and of the projection that may share them.
pub(super) const SHARED: &[Shared] = &[Shared::one("model.embed_tokens.weight", ["lm_head.weight", "lm_head.bias"])];

/// A family by Llama's names.
pub(super) const fn family(
    (model_type, class): (&'static str, &'static str),
    defaults: &'static str,
    classes: &'static [(&'static str, Head)],
    build: fn(&Context) -> Result<Graph>,
    restated: fn(&Fields) -> Result<Restated>,
) -> Family {
    Family {
        model_type,
        class,
        classes,
        prefix: "model",
        defaults,
        renamed: &[],
        classifier: ClassifierOf::Tokens,
        shared: SHARED,
        restated: Some(restated),
        unread: &[],
        decoder: Some(&DECODER),
        build,
    }
}

/// Weights are `[outputs, inputs]`.
const DECODER: Decoder = Decoder { buffers: FREQUENCIES, conv1d: &[] };

/// The sizes of a decoder, and the fields that they came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub vocabulary: Size,
    pub layers: usize,
    pub layer: DecoderLayer,
}

impl Sizes {
    /// Reads Llama's names of sizes, and the fields of the non-linearity and of the norms' epsilon. Fails where heads do not
    /// divide.
    pub fn read(fields: &Fields, activation: &'static str, epsilon: &'static str) -> Result<Sizes> {
        Sizes::with_activation(fields, fields.field::<Activation>(activation)?, epsilon)
    }

    /// The same with a non-linearity that the configuration does not name.
    pub fn with_activation(fields: &Fields, activation: Activation, epsilon: &'static str) -> Result<Sizes> {
        let size = |field: &'static str| -> Result<Size> { Ok(Size { n: fields.field(field)?, field }) };
        let (hidden, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        let kv_heads = fields.field::<Option<usize>>("num_key_value_heads")?;
        let kv_heads = Size { n: kv_heads.unwrap_or(heads.n), field: "num_key_value_heads" };
        if heads.n == 0 || kv_heads.n == 0 || !heads.n.is_multiple_of(kv_heads.n) {
            return Err(Error::bad_input(format!(
                "{} heads of queries cannot share {} heads of keys and values",
                heads.n, kv_heads.n
            ))
            .at("config.json: num_attention_heads, num_key_value_heads"));
        }
        let head_size = match fields.field::<Option<usize>>("head_dim")? {
            Some(0) => return Err(Error::bad_input("expected 1 or more, found 0").at("config.json: head_dim")),
            Some(n) => n,
            None => super::blocks::heads(heads.n, hidden.n).map(|_| hidden.n.checked_div(heads.n).unwrap_or(1))?,
        };
        if head_size > CHANNELS {
            return Err(Error::bad_input(format!("expected at most {CHANNELS} channels of a head, found {head_size}"))
                .at("config.json: head_dim"));
        }
        let count = |size: Size| {
            i64::try_from(size.n)
                .map_err(|_| Error::bad_input(format!("{} heads are too many", size.n)).at("config.json"))
        };
        let sizes = EncoderLayer {
            hidden,
            inner: size("intermediate_size")?,
            heads: count(heads)?,
            activation,
            epsilon: epsilon_of(epsilon, fields.field(epsilon)?)?,
        };
        let layer = DecoderLayer { sizes, kv_heads: count(kv_heads)?, head_size, positions: positions(fields)? };
        Ok(Sizes { vocabulary: size("vocab_size")?, layers: layers(fields.field("num_hidden_layers")?)?, layer })
    }

    /// Width of the residual stream.
    pub fn hidden(&self) -> Size {
        self.layer.sizes.hidden
    }
}

/// A number of layers that a graph may have.
pub(super) fn layers(said: usize) -> Result<usize> {
    match said <= LAYERS {
        true => Ok(said),
        false => Err(Error::bad_input(format!("expected at most {LAYERS} layers, found {said}"))
            .at("config.json: num_hidden_layers")),
    }
}

/// The most positions of a graph: those of the configuration, times the factor of angles that grow with a text's
/// length, as far as tables are made.
fn positions(fields: &Fields) -> Result<usize> {
    let said: usize = fields.field("max_position_embeddings")?;
    if said == 0 {
        return Err(Error::bad_input("expected 1 or more, found 0").at("config.json: max_position_embeddings"));
    }
    let said = (said as f64 * super::rope::growth(fields)?) as usize;
    if said > LONGEST {
        fields.warn(format!(
            "config.json: the model has {said} positions; the engine is for up to {LONGEST} tokens, past ones included"
        ));
    }
    Ok(said.min(LONGEST))
}

/// A decoder under construction, between its word embeddings and its head.
pub(super) struct Stack<'c, 'a> {
    context: &'c Context<'a>,
    /// The graph.
    pub blocks: Blocks,
    /// What all layers read.
    pub inputs: DecoderInputs,
    /// The weights of the bare model.
    pub model: Scope<'a>,
    tokens: Scope<'a>,
    projection: Scope<'a>,
    vocabulary: Size,
}

/// The paths of a decoder's parts, below the bare model or beside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// The list of layers.
    pub layers: &'static str,
    /// The word embeddings.
    pub words: &'static str,
    /// The projection to the vocabulary, beside the model.
    pub projection: &'static str,
}

/// Llama's.
const NAMES: Names = Names { layers: "layers", words: "embed_tokens", projection: "lm_head" };

/// What makes the inputs of a decoder.
type Inputs = fn(&mut Blocks, Head, &[Memory], &DecoderLayer) -> Result<DecoderInputs>;

impl<'c, 'a> Stack<'c, 'a> {
    /// A graph with the inputs of the task, positions among them.
    pub fn open(context: &'c Context<'a>, sizes: &Sizes) -> Result<Stack<'c, 'a>> {
        Stack::named(context, sizes, NAMES, Blocks::decoder_inputs)
    }

    /// The same where positions are no input, but counted.
    pub fn counting(context: &'c Context<'a>, sizes: &Sizes) -> Result<Stack<'c, 'a>> {
        Stack::named(context, sizes, NAMES, Blocks::counting_decoder_inputs)
    }

    /// The same whose layers keep other things than keys and values: one for each layer.
    pub fn keeping(context: &'c Context<'a>, sizes: &Sizes, layers: &[Memory]) -> Result<Stack<'c, 'a>> {
        Stack::of(context, sizes, NAMES, layers, Blocks::decoder_inputs)
    }

    /// The same by other names.
    pub fn named(context: &'c Context<'a>, sizes: &Sizes, names: Names, inputs: Inputs) -> Result<Stack<'c, 'a>> {
        Stack::of(context, sizes, names, &vec![Memory::Attention; sizes.layers], inputs)
    }

    fn of(
        context: &'c Context<'a>,
        sizes: &Sizes,
        names: Names,
        layers: &[Memory],
        inputs: Inputs,
    ) -> Result<Stack<'c, 'a>> {
        let mut blocks = Blocks::new(context.family.model_type);
        let model = context.weights.sub(context.family.prefix);
        // A cache is made for no other layers than those in the file.
        let there = (0..sizes.layers).take_while(|i| model.item(names.layers, *i).is_there()).count();
        let layers = layers.get(..there).unwrap_or(layers);
        let inputs = inputs(&mut blocks, context.head, layers, &sizes.layer)?;
        let (tokens, projection) = (model.sub(names.words), context.weights.sub(names.projection));
        Ok(Stack { context, blocks, inputs, model, tokens, projection, vocabulary: sizes.vocabulary })
    }

    /// Rows for tokens.
    pub fn words(&mut self, width: Size) -> Result<ValueId> {
        self.blocks.role(Part::Embedding);
        self.blocks.words(&self.tokens, [self.vocabulary, width], self.inputs.ids)
    }

    /// The graph, with the head of the task over hidden states of that width. What becomes of the logits of tokens is up to
    /// the family.
    pub fn finish(mut self, width: Size, logits: Logits, x: ValueId) -> Result<Graph> {
        let Stack { vocabulary, projection, tokens: tied, .. } = self;
        let heads = DecoderHeads { hidden: width, vocabulary, projection, tied };
        decoder::build_with(&mut self.blocks, self.context, &heads, logits, x, &self.inputs)?;
        Ok(self.blocks.finish())
    }
}
