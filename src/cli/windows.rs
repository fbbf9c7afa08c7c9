//! Flags that say how long texts are read.

use clap::Args;

use kilnc::settings::{Join, Settings};

/// How texts that are longer than a window are read; where nothing is given, as the bundle says.
#[derive(Args)]
pub struct WindowArgs {
    /// Longest window of a text, in tokens; what the model reads at once, if not given.
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// How many tokens a window shares with the one before it; a quarter of a window, if not given.
    #[arg(long, value_name = "N", conflicts_with = "truncate")]
    stride: Option<usize>,
    /// Cut texts that are longer than a window, instead of reading them in several; --truncate=false where they are cut
    /// unless it is told otherwise.
    #[arg(long, visible_alias = "no-window", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    truncate: Option<bool>,
    /// How the scores of windows become those of a text: mean, max; mean, if not given.
    #[arg(long, value_name = "HOW")]
    join: Option<Join>,
}

impl WindowArgs {
    /// These as settings.
    pub fn settings(&self) -> Settings {
        let WindowArgs { window, stride, truncate, join } = *self;
        Settings { window, stride, truncate, join, ..Settings::default() }
    }
}
