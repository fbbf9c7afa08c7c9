//! Plots as SVG: the pieces that reports share.

/// Colours that stay distinct with any colour vision (Okabe and Ito).
pub const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a8a00"];

/// Text escaped for use between tags and in attributes: names come from files.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The plotted area on its page, and its grid.
pub struct Area {
    /// Where the horizontal axis begins.
    pub left: f64,
    /// Where it ends.
    pub right: f64,
    /// The upper end of the vertical axis.
    pub top: f64,
    /// Its lower end.
    pub bottom: f64,
    /// The colour of the grid.
    pub grid: &'static str,
    /// The space between the vertical axis and its labels.
    pub gap: f64,
}

impl Area {
    /// A line of the grid from top to bottom, with its label below.
    pub fn column(&self, x: f64, label: &str) -> String {
        let Area { top, bottom, grid, .. } = self;
        format!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"{grid}\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>\n",
            bottom + 20.0
        )
    }

    /// A line of the grid from left to right, with its label before it.
    pub fn row(&self, y: f64, label: &str) -> String {
        let Area { left, right, grid, gap, .. } = self;
        format!(
            "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{grid}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n",
            left - gap,
            y + 4.0
        )
    }
}

/// The names of the axes: of the horizontal one at a place, of the vertical one turned around a place.
pub fn names([across, up]: [&str; 2], [x, y]: [f64; 2], [turned_x, turned_y]: [f64; 2]) -> String {
    format!(
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{across}</text>\n\
         <text x=\"{turned_x}\" y=\"{turned_y}\" transform=\"rotate(-90 {turned_x} {turned_y})\" \
         text-anchor=\"middle\">{up}</text>\n"
    )
}
