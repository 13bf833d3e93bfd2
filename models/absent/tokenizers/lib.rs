//! A stub of the text tokenizer crate `tokenizers`: `[patch.crates-io]` in the workspace's Cargo.toml substitutes it for the real crate.
//!
//! candle-core 0.11 always depends on `tokenizers`, which brings in 36 crates. It uses the crate in one function only,
//! `TokenizerFromGguf::from_gguf`, which builds a text tokenizer from the GGUF file of a language model. Tessera never reads such files.
//! This crate defines only the names in that function. [`BPE`] and [`Tokenizer`] have no values: `from_gguf` returns the error [`Absent`].
//!
//! When candle-core makes the dependency optional, delete this folder and the patches in Cargo.toml and `tests/outside.rs`.

pub use names::*;

/// Stands for every module of the real crate.
pub mod names {
    pub use super::{
        names as bpe, names as byte_level, names as decoders, names as models,
        names as normalizers, names as pre_tokenizers, names as processors, names as sequence,
        names as split, names as template, names as tokenizer, names as unicode,
    };

    pub use super::{
        AddedToken, BPE, BPE as TemplateProcessing, Part as ByteLevel, Part as DecoderWrapper,
        Part as NormalizerWrapper, Part as PostProcessorWrapper, Part as PreTokenizerWrapper,
        Sequence, Split, SplitDelimiterBehavior, SplitPattern, Tokenizer,
    };

    pub type Vocab = std::collections::HashMap<String, u32>;
    pub const NFC: super::Part = super::Part::Absent;
}

/// This build has no text tokenizers.
#[derive(Debug)]
pub struct Absent;

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this build has no text tokenizers (see models/absent/tokenizers)")
    }
}

/// A type without values, so a [`Builder`] always fails.
#[derive(Clone)]
pub enum BPE {}

impl BPE {
    pub fn builder() -> Builder {
        Builder
    }
}

pub struct Builder;

impl Builder {
    pub fn vocab_and_merges(self, _: names::Vocab, _: Vec<(String, String)>) -> Self {
        self
    }

    pub fn unk_token(self, _: String) -> Self {
        self
    }

    pub fn byte_fallback(self, _: bool) -> Self {
        self
    }

    pub fn ignore_merges(self, _: bool) -> Self {
        self
    }

    pub fn try_single(self, _: Vec<String>) -> Result<Self, Absent> {
        Err(Absent)
    }

    pub fn try_pair(self, _: Vec<String>) -> Result<Self, Absent> {
        Err(Absent)
    }

    pub fn special_tokens(self, _: Vec<(String, u32)>) -> Self {
        self
    }

    pub fn build(self) -> Result<BPE, Absent> {
        Err(Absent)
    }
}

pub enum Tokenizer {}

impl Tokenizer {
    pub fn new(model: BPE) -> Self {
        match model {}
    }

    pub fn with_normalizer(&mut self, _: Option<Part>) -> Result<(), Absent> {
        Err(Absent)
    }

    pub fn with_pre_tokenizer(&mut self, _: Option<Part>) {}

    pub fn with_decoder(&mut self, _: Option<Part>) {}

    pub fn with_post_processor(&mut self, _: Option<Part>) {}

    pub fn add_special_tokens(&mut self, _: Vec<AddedToken>) -> Result<(), Absent> {
        Err(Absent)
    }
}

pub struct AddedToken;

impl AddedToken {
    pub fn from(_: String, _: bool) -> Self {
        Self
    }
}

/// A processing step of a [`Tokenizer`].
#[derive(Clone, Default)]
pub enum Part {
    #[default]
    Absent,
    Template(BPE),
}

impl Part {
    pub fn new(_: bool, _: bool, _: bool) -> Self {
        Self::Absent
    }
}

pub struct Sequence;

impl Sequence {
    pub fn new(_: Vec<Part>) -> Part {
        Part::Absent
    }
}

pub enum SplitPattern {
    Regex(String),
}

pub enum SplitDelimiterBehavior {
    Isolated,
}

pub struct Split;

impl Split {
    pub fn new(_: SplitPattern, _: SplitDelimiterBehavior, _: bool) -> Result<Part, Absent> {
        Err(Absent)
    }
}
