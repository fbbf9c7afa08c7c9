//! The page of `kilnc bench` in a real browser: every plot is laid out and painted, nothing covers anything, and names
//! from outside stay text.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::place;
use kilnc::bench::{
    Batching, Measured, PointKey, PointMeasured, Profile, Ratio, Report, Scenario, ServerMeasured, html,
};
use kilnc::eval::Parity;
use kilnc::runtime::Device;
use serde::Deserialize;

/// A browser that runs without a screen. Where there is none what needs it is skipped, loudly; `scripts/test.sh`
/// installs one and sets `KILNC_TEST_STRICT`, under which a skip is a failure.
fn browser(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let found =
        std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name))).find(|program| program.is_file());
    if found.is_none() {
        let why = format!("none of {} is in PATH: run scripts/setup.sh", names.join(", "));
        assert!(std::env::var_os("KILNC_TEST_STRICT").is_none(), "{test}: {why}");
        eprintln!("SKIPPED: {test}: {why}");
    }
    found
}

/// Prints the layout of every plot, and how many pixels of each colour are painted when it is painted on a canvas.
const LOOK: &str = r##"<script>
(async () => {
  const plots = [];
  for (const svg of document.querySelectorAll("svg")) {
    const frame = svg.getBoundingClientRect();
    const box = (element) => {
      const { left, top, right, bottom } = element.getBoundingClientRect();
      return [left - frame.left, top - frame.top, right - frame.left, bottom - frame.top];
    };
    const all = (selector) => [...svg.querySelectorAll(selector)];
    const copy = svg.cloneNode(true);
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("width", frame.width);
    copy.setAttribute("height", frame.height);
    const image = new Image();
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(new XMLSerializer().serializeToString(copy));
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [frame.width, frame.height];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const painted = (colour) => {
      const wanted = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
      let count = 0;
      for (let i = 0; i < pixels.length; i += 4) {
        if (pixels[i + 3] > 100 && wanted.every((x, c) => Math.abs(x - pixels[i + c]) < 40)) count += 1;
      }
      return count;
    };
    plots.push({
      class: svg.getAttribute("class"),
      frame: [0, 0, frame.width, frame.height],
      marks: all("polyline, circle").map((mark) => {
        const colour = mark.getAttribute(mark.tagName === "circle" ? "fill" : "stroke");
        return { tag: mark.tagName, box: box(mark), painted: painted(colour) };
      }),
      texts: all("text").map((text) => ({ text: text.textContent, box: box(text) })),
    });
  }
  const page = document.documentElement;
  const found = {
    plots,
    overflow: page.scrollWidth - page.clientWidth,
    scripts: document.scripts.length,
    images: document.images.length,
    legend: [...document.querySelectorAll(".legend span")].map((name) => name.textContent),
  };
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
})();
</script>"##;

#[derive(Debug, Deserialize)]
struct Found {
    plots: Vec<Plot>,
    overflow: f64,
    scripts: usize,
    images: usize,
    legend: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Plot {
    class: String,
    frame: [f64; 4],
    marks: Vec<Mark>,
    texts: Vec<Text>,
}

#[derive(Debug, Deserialize)]
struct Mark {
    tag: String,
    #[serde(rename = "box")]
    place: [f64; 4],
    painted: usize,
}

#[derive(Debug, Deserialize)]
struct Text {
    text: String,
    #[serde(rename = "box")]
    place: [f64; 4],
}

/// A page's content in a browser of that width.
fn look(browser: &Path, page: &str, width: usize) -> Found {
    let dir = place();
    let file = dir.path().join("page.html");
    fs::write(&file, page.replace("</body>", &format!("{LOOK}</body>"))).unwrap();
    let ran = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--virtual-time-budget=10000"])
        .arg(format!("--window-size={width},1200"))
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .args(["--dump-dom".to_owned(), format!("file://{}", file.display())])
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&ran.stdout);
    let found = dom.split_once("<pre id=\"found\">").and_then(|(_, rest)| Some(rest.split_once("</pre>")?.0));
    let found = found.unwrap_or_else(|| panic!("the page prints nothing: {}", String::from_utf8_lossy(&ran.stderr)));
    let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&found).unwrap_or_else(|e| panic!("{e} in {found}"))
}

const HOSTILE: &str = "</title><script>document.title = 1</script><img src=x onerror=alert(1)> \"a\" & 'b'.onnx";

fn engine(name: &str, ms: f64, speed: [f64; 3], agreement: f64) -> Measured {
    let point = |key: PointKey| {
        let scale = key.batch as f64;
        PointMeasured {
            key,
            runs: 900,
            mean_ms: ms * scale,
            distribution_ms: (0..=100).map(|i| scale * ms * (0.9 + f64::from(i * i) / 2e4)).collect(),
            texts_per_second: 1e3 / ms,
            tokens_per_second: 6e4 / ms,
            padded_tokens_per_second: if key.batching.is_some() { 9e4 } else { 6e4 } / ms,
            joules_per_text: Some(0.25 * ms),
            speed: Some(Ratio { low: speed[0], mean: speed[1], high: speed[2] }),
            parity: Some(Parity { rows: 500, agreement: Some(agreement), ..Parity::default() }),
            ..PointMeasured::default()
        }
    };
    let grid = PointKey { batch: 1, length: Some(128), ..PointKey::default() };
    let offline = PointKey { scenario: Scenario::Offline, batch: 8, length: None, batching: Some(Batching::Padded) };
    Measured {
        name: name.to_owned(),
        runtime: "ONNX Runtime 1.32.0".to_owned(),
        points: vec![point(grid), point(offline)],
        server: Some(ServerMeasured { bound_ms: 20.0, texts_per_second: 50.0, ..ServerMeasured::default() }),
        ..Measured::default()
    }
}

/// A report of three engines at two points, with all that a report can have, as it is read back from JSON.
fn report() -> Report {
    let mut report = Report {
        engines: vec![
            engine(
                "/a/long/path/that/goes/on/and/on/to/a/checkpoint/and/its/model-of-full-precision.onnx",
                19.0,
                [1.0; 3],
                1.0,
            ),
            engine(HOSTILE, 7.5, [2.4, 2.55, 2.7], 0.981),
            engine("int4", 9.0, [2.05, 2.1, 2.2], 0.94),
        ],
        rounds: 10,
        ..Report::default()
    };
    report.machine.cpu = "a processor".to_owned();
    report.settings.server_p99_ms = Some(20.0);
    report.published = Some(Profile::T4.beside(&[(1, 128)], &report.machine, Device::Cpu));
    let json = serde_json::to_string(&report).unwrap();
    let read: Report = serde_json::from_str(&json).unwrap();
    // Numbers come back within a last digit; the request comes back whole.
    let key = |report: &Report| report.engines[1].points.iter().map(|point| point.key).collect::<Vec<_>>();
    assert_eq!((key(&read), read.engines.len()), (key(&report), 3));
    assert_eq!(read.published.as_ref().map(|published| published.latencies.len()), Some(4));
    read
}

fn inside(place: [f64; 4], frame: [f64; 4]) -> bool {
    place[0] >= frame[0] - 1.0 && place[1] >= frame[1] - 1.0 && place[2] <= frame[2] + 1.0 && place[3] <= frame[3] + 1.0
}

fn overlap(a: [f64; 4], b: [f64; 4]) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

#[test]
fn every_plot_is_laid_out_and_painted() {
    let Some(browser) = browser("plots") else { return };
    let report = report();
    let found = look(&browser, &html(&report), 1280);
    let classes: Vec<&str> = found.plots.iter().map(|plot| plot.class.as_str()).collect();
    assert_eq!(classes, ["distribution", "speed-agreement", "distribution", "speed-agreement"]);
    for plot in &found.plots {
        let [_, _, width, height] = plot.frame;
        assert!(width > 400.0 && height > 200.0, "{plot:?}");
        assert_eq!(plot.marks.len(), 3, "{plot:?}");
        for mark in &plot.marks {
            assert!(inside(mark.place, plot.frame), "outside: {mark:?}");
            let (wide, high) = (mark.place[2] - mark.place[0], mark.place[3] - mark.place[1]);
            match mark.tag.as_str() {
                // From the fastest run to the 99th percentile, over nearly all of the plot's height.
                "polyline" => assert!(wide > 30.0 && high > 0.6 * height && mark.painted > 200, "{mark:?}"),
                _ => assert!(
                    (9.0..=11.0).contains(&wide) && (9.0..=11.0).contains(&high) && mark.painted > 40,
                    "{mark:?}"
                ),
            }
        }
        for (i, a) in plot.texts.iter().enumerate() {
            assert!(inside(a.place, plot.frame), "outside: {a:?} of {:?}", plot.frame);
            let covered = plot.texts.iter().skip(i + 1).find(|b| overlap(a.place, b.place));
            assert!(covered.is_none(), "{a:?} is covered by {covered:?}");
        }
        assert!(plot.texts.iter().any(|text| text.text == "1.0" || text.text == "1.00"), "{:?}", plot.texts);
    }
    // Faster engines lie to the left of the first, and to its right in the plot of speed.
    let left = |plot: &Plot, i: usize| plot.marks[i].place[0];
    assert!(left(&found.plots[0], 1) < left(&found.plots[0], 0) && left(&found.plots[1], 1) > left(&found.plots[1], 0));
}

#[test]
fn names_from_outside_stay_text_and_no_page_is_wider_than_its_window() {
    let Some(browser) = browser("pages") else { return };
    let report = report();
    for width in [1280, 600] {
        let found = look(&browser, &html(&report), width);
        assert_eq!(found.overflow, 0.0, "at {width}");
        // The child.
        assert_eq!((found.scripts, found.images), (1, 0));
        assert_eq!(found.legend.len(), 6);
        assert_eq!(found.legend[1], HOSTILE);
    }
}
