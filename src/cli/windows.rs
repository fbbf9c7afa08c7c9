//! Flags for reading long texts.

use clap::Args;

use kilnc::settings::{Join, Settings};

/// How texts that are longer than a window are read; the bundle's by default.
#[derive(Args)]
pub struct WindowArgs {
    /// Longest window of a text, in tokens; the model's own by default.
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// How many tokens a window shares with the one before it; a quarter of a window by default.
    #[arg(long, value_name = "N", conflicts_with = "truncate")]
    stride: Option<usize>,
    /// Cut texts that are longer than a window, instead of reading them in several; --truncate=false where they are cut
    /// unless it is set otherwise.
    #[arg(long, visible_alias = "no-window", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    truncate: Option<bool>,
    /// How the scores of windows become those of a text: mean, max; mean by default.
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
