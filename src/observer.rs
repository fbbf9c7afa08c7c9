//! Who hears of progress.

/// Gets the progress of a build.
pub trait Observer: Sync {
    /// A stage begins; `total` steps are ahead, if they can be counted.
    fn begin(&self, _stage: &str, _total: Option<u64>) {}
    /// A stage begins whose steps are texts.
    fn begin_texts(&self, stage: &str, texts: u64) {
        self.begin(stage, Some(texts));
    }
    /// So many steps of the stage are done.
    fn advance(&self, _steps: u64) {}
    /// A stage is over, with a line of the result.
    fn done(&self, _line: &str) {}
    /// Something the user must not miss.
    fn warn(&self, _line: &str) {}
}

/// Leaves progress unheard.
impl Observer for () {}
