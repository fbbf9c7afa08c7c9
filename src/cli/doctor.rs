//! `kilnc doctor`: which runtimes are found, and how to get those that are not.

use std::path::Path;

use serde::Serialize;

use super::Screen;
use kilnc::bundle::runtimes;
use kilnc::error::{Error, Result};
use kilnc::runtime::library::{self, Library};
use kilnc::runtime::{self, Device, Platform, Processor, Runtime};

#[derive(Serialize)]
struct Finding {
    name: &'static str,
    purpose: &'static str,
    found: bool,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

pub fn run(screen: &Screen) -> Result<()> {
    let mut findings = vec![
        processor(&Processor::here()),
        Finding {
            name: "tract",
            purpose: "runs plain engines, without any native library",
            found: true,
            detail: "compiled in".to_owned(),
            command: None,
        },
    ];
    findings.extend(library::ALL.into_iter().map(find));
    findings.push(library::wheels().map_or_else(no_wheels, |folder| wheels(&folder)));
    screen.result(&findings, |findings| {
        findings
            .iter()
            .map(|f| {
                let command =
                    f.command.as_ref().map(|command| format!("\n              {command}")).unwrap_or_default();
                format!(
                    "{:7} {:27} {}\n        {}{command}\n",
                    if f.found { "found" } else { "MISSING" },
                    f.name,
                    f.purpose,
                    f.detail
                )
            })
            .collect()
    })
}

/// The properties of the processor that decide between engines.
fn processor(processor: &Processor) -> Finding {
    let sums = match processor.exact_8_bits() {
        true => "adds products of 8 bits in 32",
        false => "adds products of 8 bits in 16, where they saturate: engines of --reduce-range=false go last",
    };
    let bf16 = if processor.bf16() { "multiplies in bf16" } else { "has no products in bf16" };
    Finding {
        name: "processor",
        purpose: "decides which engine is taken",
        found: true,
        detail: format!("{}: {sums}; {bf16}", processor.name),
        command: None,
    }
}

/// There is no folder for wheels.
fn no_wheels(why: Error) -> Finding {
    let detail: Vec<&str> = std::iter::once(why.message()).chain(why.hints().iter().map(String::as_str)).collect();
    let detail = detail.join("; ");
    Finding { name: WHEELS, purpose: WHEELS_PURPOSE, found: false, detail, command: None }
}

const WHEELS: &str = "wheels";
const WHEELS_PURPOSE: &str = "hold the runtimes for bundles, by build --runtimes";

/// The platforms whose runtimes can be bundled, as far as the folder of wheels has them.
fn wheels(folder: &Path) -> Finding {
    let mut there = Vec::new();
    for (runtime, platform) in [Runtime::Ort, Runtime::OpenVino].into_iter().flat_map(|r| Platform::ALL.map(|p| (r, p)))
    {
        let found = runtimes::find(&runtimes::packages(runtime, platform), folder);
        there.extend(found.is_ok_and(|(found, _)| !found.is_empty()).then(|| format!("{runtime} for {platform}")));
    }
    let found = !there.is_empty();
    let detail = match found {
        true => format!("{} in {}", there.join(", "), folder.display()),
        false => format!("none in {}; get that of ONNX Runtime with:", folder.display()),
    };
    let platform = Platform::here().unwrap_or(Platform::LinuxX64);
    let package = runtimes::packages(Runtime::Ort, platform).into_iter().next().filter(|_| !found);
    Finding {
        name: WHEELS,
        purpose: WHEELS_PURPOSE,
        found,
        detail,
        command: package.map(|package| runtimes::command(&package, folder)),
    }
}

fn find(library: &'static Library) -> Finding {
    let is = |other: &Library| std::ptr::eq(library, other);
    let tensorrt = Runtime::PLANS.into_iter().find(|runtime| runtime.library().is_some_and(is));
    let file = || library.find().map(|path| path.display().to_string());
    let found = match library {
        _ if tensorrt.is_some() => file(),
        // Without a GPU it loads and cannot do a thing.
        _ if is(&library::ONNX_RUNTIME_GPU) => Device::Cuda(0).check().and_then(|()| file()),
        _ if is(&library::OPENVINO) => runtime::available(Runtime::OpenVino).map(|found| found.to_string()),
        _ => runtime::available(Runtime::Ort).map(|found| found.to_string()),
    };
    let (name, purpose) = (library.name, library.purpose);
    match found {
        Ok(_) if tensorrt.is_some_and(|runtime| runtime.check_built_in().is_err()) => Finding {
            name,
            purpose,
            found: false,
            detail: "the library is there, but this kilnc was built without the feature `tensorrt`; build it with:"
                .to_owned(),
            command: Some("cargo build --release --features tensorrt".to_owned()),
        },
        Ok(detail) => Finding { name, purpose, found: true, detail, command: None },
        Err(e) => {
            Finding { name, purpose, found: false, detail: e.message().to_owned(), command: Some(library.command()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_printed_with_its_consequences() {
        let old = Processor { name: "Xeon E5".to_owned(), features: vec!["avx2"] };
        let expected = "Xeon E5: adds products of 8 bits in 16, where they saturate: engines of --reduce-range=false go last; has no products in bf16";
        assert_eq!(processor(&old).detail, expected);
        let new = Processor { name: "EPYC".to_owned(), features: vec!["avx2", "avx512_vnni", "avx512_bf16"] };
        assert_eq!(processor(&new).detail, "EPYC: adds products of 8 bits in 32; multiplies in bf16");
    }
}
