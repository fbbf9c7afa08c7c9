//! What the kinds of PEFT's adapters differ in, as data.

/// A kind of adapter.
pub(super) struct Kind {
    /// PEFT's name.
    pub peft_type: &'static str,
    /// The parts of all its tensors' names, so that an unknown one is not taken for a saved one.
    pub marker: &'static str,
    /// The ends of the names of the tensors that a change is made of.
    pub parts: &'static [&'static str],
    /// The parts of the names of tensors that only training needs.
    pub idle: &'static [&'static str],
    /// The options that PEFT has for the kind, besides those of every kind.
    pub options: &'static [&'static [&'static str]],
    /// Whether a factor has a meaning: twice the change.
    pub scales: bool,
    /// Whether PEFT trains it in `Conv1D` layers, whose weights are turned.
    pub conv1d: bool,
}

impl Kind {
    /// Whether PEFT has that option for the kind.
    pub fn has_option(&self, option: &str) -> bool {
        self.options.iter().any(|options| options.contains(&option))
    }
}

/// Kinds that PEFT knows and kilnc does not merge, to distinguish them from misspellings.
pub(super) const OTHER_KINDS: &[&str] = &[
    "ADAMSS",
    "ADAPTION_PROMPT",
    "BEFT",
    "BOFT",
    "BONE",
    "C3A",
    "CARTRIDGE",
    "CPT",
    "DEFT",
    "DELORA",
    "FOURIERFT",
    "FROD",
    "GLORA",
    "GRALORA",
    "HIRA",
    "HRA",
    "LILY",
    "MISS",
    "MULTITASK_PROMPT_TUNING",
    "OFT",
    "OSF",
    "PEANUT",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "PSOFT",
    "PVERA",
    "P_TUNING",
    "RANDLORA",
    "ROAD",
    "SHADOW",
    "SHIRA",
    "SUPERTUNING",
    "TINYLORA",
    "UNILORA",
    "VBLORA",
    "WAVEFT",
    "XLORA",
];
