//! Texts for builds without any: short and long, plain and unusual.

/// A few texts that any tokenizer takes.
pub const PROBES: [&str; 8] = [
    "Hello.",
    "The quick brown fox jumps over the lazy dog.",
    "An editor for music scores that reads and writes MIDI files.",
    "It was not bad, but I would not buy it again.",
    "Grüße aus Köln, señor! 你好，世界。",
    "x = 3 * (y + 4) ; // 100 % of 1,000.50",
    "A library for reading and writing images. It supports many formats, is fast, and has bindings for several \
     languages; this package holds the files that are needed to compile programs against it.",
    "One two three four five six seven eight nine ten. One two three four five six seven eight nine ten. One two three \
     four five six seven eight nine ten. One two three four five six seven eight nine ten. One two three four five six \
     seven eight nine ten. One two three four five six seven eight nine ten.",
];
