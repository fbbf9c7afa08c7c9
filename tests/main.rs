//! All integration tests but those on a GPU, in one program: it is linked once, and loads shared data once.
//!
//! A file here is a module of this program, so its tests are `FILE::TEST`.

#[macro_use]
mod common;
mod comparison;

mod adapters;
mod answers;
mod architecture;
mod attention;
mod bad_input;
mod bench;
mod bench_page;
mod bench_workloads;
mod bottleneck;
mod build;
mod bundle;
mod cache;
mod calibrated;
mod chat;
mod compile;
mod components;
mod configurations;
mod corpus;
mod decoder_adapters;
mod decoder_passes;
mod decoders;
mod eval;
mod evaluate;
mod families;
mod files;
mod gates;
mod generate;
mod gguf;
mod graphs;
mod isolated;
mod json_schema;
mod main_job;
mod merge;
mod padding;
mod pipelines;
mod processes;
mod processors;
mod promises;
mod properties;
mod prune;
mod quantize;
mod quantized;
mod refusals;
mod replaced;
mod robustness;
mod run;
mod runtime_adapters;
mod runtimes;
mod schemes;
mod sentence;
mod settings;
mod shipped;
mod strategies;
mod streams;
mod tensorrt;
mod tensors;
mod tokenizers;
mod tune;
mod unreadable;
mod values;
mod vocabulary;

/// The readers as the fuzzer calls them.
#[allow(dead_code)]
#[path = "../fuzz/src/lib.rs"]
mod entries;
