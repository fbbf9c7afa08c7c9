//! Published figures of the measured shapes, to be put beside them.

use serde::{Deserialize, Serialize};

use super::Machine;
use crate::runtime::Device;

/// A grid of shapes with published latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// NVIDIA's BERT on a T4.
    T4,
}

/// A publication.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Who, and where.
    pub source: String,
    /// The GPU that it was measured on.
    pub device: String,
    /// What the measurement includes and leaves out.
    pub measured: String,
    /// The note for a report of another device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign: Option<String>,
    /// The latencies of the shapes in the report.
    pub latencies: Vec<PublishedLatency>,
}

/// A latency that was published.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PublishedLatency {
    /// The model.
    pub model: String,
    /// How it computes.
    pub precision: String,
    /// Texts in a batch.
    pub batch: usize,
    /// Tokens of each.
    pub length: usize,
    /// Milliseconds: the mean and percentiles.
    pub mean_ms: f64,
    #[allow(missing_docs)]
    pub p95_ms: f64,
    #[allow(missing_docs)]
    pub p99_ms: f64,
}

/// Batch, length, and of INT8 and FP16 the 95th percentile, the 99th and the mean in milliseconds.
type Row = (usize, usize, [f64; 3], [f64; 3]);

/// `demo/BERT/README.md` of NVIDIA/TensorRT at 007c347, “Inference performance: NVIDIA T4 (16GB)”, BERT Base.
#[rustfmt::skip]
const T4_BASE: [Row; 20] = [
    (1, 128, [1.74, 1.87, 1.69], [1.97, 2.0, 1.95]),
    (2, 128, [1.88, 2.04, 1.82], [2.75, 2.8, 2.71]),
    (4, 128, [2.71, 2.71, 2.63], [4.59, 4.93, 4.53]),
    (8, 128, [4.78, 4.81, 4.66], [9.77, 10.29, 9.09]),
    (12, 128, [6.72, 6.85, 6.55], [12.95, 13.55, 12.53]),
    (16, 128, [9.54, 9.67, 9.37], [18.79, 19.47, 17.9]),
    (24, 128, [13.97, 14.46, 13.62], [27.56, 28.05, 26.86]),
    (32, 128, [19.49, 20.32, 18.93], [37.18, 37.92, 36.63]),
    (64, 128, [37.24, 37.61, 36.54], [72.91, 73.46, 72.04]),
    (128, 128, [74.01, 74.54, 73.15], [145.94, 146.59, 144.2]),
    (1, 384, [2.57, 2.63, 2.52], [4.12, 4.2, 4.04]),
    (2, 384, [4.11, 4.12, 3.98], [6.86, 7.27, 6.61]),
    (4, 384, [7.6, 7.64, 7.43], [13.49, 13.88, 13.02]),
    (8, 384, [14.8, 14.83, 14.56], [28.61, 29.99, 27.81]),
    (12, 384, [22.25, 22.36, 21.81], [42.66, 42.99, 41.82]),
    (16, 384, [29.8, 30.42, 28.79], [56.11, 56.71, 55.31]),
    (24, 384, [45.15, 45.5, 44.4], [85.48, 86.04, 84.11]),
    (32, 384, [59.97, 60.45, 58.41], [117.31, 118.06, 114.9]),
    (64, 384, [122.02, 122.61, 120.95], [233.78, 234.9, 227.73]),
    (128, 384, [243.04, 243.48, 242.14], [461.06, 462.01, 458.76]),
];

/// The same of BERT Large.
#[rustfmt::skip]
const T4_LARGE: [Row; 20] = [
    (1, 128, [3.71, 3.77, 3.65], [5.61, 5.74, 5.53]),
    (2, 128, [5.08, 5.13, 4.98], [8.4, 8.43, 8.22]),
    (4, 128, [8.7, 8.87, 8.57], [16.08, 16.6, 15.47]),
    (8, 128, [14.74, 14.83, 14.56], [28.75, 29.6, 28.14]),
    (12, 128, [23.0, 23.09, 22.64], [45.83, 46.1, 44.94]),
    (16, 128, [30.61, 30.85, 30.11], [59.91, 60.36, 57.73]),
    (24, 128, [47.91, 48.37, 47.33], [91.87, 92.11, 90.51]),
    (32, 128, [61.75, 62.47, 60.01], [122.96, 123.4, 121.09]),
    (64, 128, [120.95, 121.41, 119.67], [242.82, 243.78, 241.35]),
    (128, 128, [242.7, 243.27, 241.11], [484.03, 484.54, 482.84]),
    (1, 384, [7.41, 7.5, 7.29], [12.66, 12.72, 12.45]),
    (2, 384, [12.35, 12.55, 12.17], [23.28, 23.59, 22.8]),
    (4, 384, [24.8, 24.84, 24.23], [46.77, 47.35, 46.21]),
    (8, 384, [50.09, 50.45, 49.24], [94.18, 94.69, 92.92]),
    (12, 384, [70.45, 70.71, 69.52], [141.42, 141.94, 139.28]),
    (16, 384, [93.9, 94.3, 92.83], [187.71, 188.78, 185.85]),
    (24, 384, [142.22, 142.79, 140.97], [282.94, 284.07, 280.74]),
    (32, 384, [188.36, 188.81, 186.6], [374.13, 376.03, 370.87]),
    (64, 384, [379.4, 380.04, 376.93], [745.96, 746.77, 741.74]),
    (128, 384, [758.84, 759.99, 755.5], [1523.14, 1525.3, 1518.35]),
];

impl Profile {
    /// Batches of the grid.
    pub fn batches(self) -> Vec<u32> {
        vec![1, 2, 4, 8, 12, 16, 24, 32, 64, 128]
    }

    /// Lengths of the grid.
    pub fn lengths(self) -> Vec<u32> {
        vec![128, 384]
    }

    /// The published figures of these batches and lengths, to print beside the measured ones.
    pub fn beside(self, shapes: &[(usize, usize)], machine: &Machine, device: Device) -> Published {
        let latencies = shapes.iter().flat_map(|shape| {
            let models = [("BERT-base", &T4_BASE), ("BERT-large", &T4_LARGE)];
            models.into_iter().flat_map(move |(model, rows)| of_shape(model, rows, *shape))
        });
        Published {
            source: "NVIDIA, demo/BERT/README.md of github.com/NVIDIA/TensorRT at 007c347".to_owned(),
            device: "NVIDIA T4 (16 GB)".to_owned(),
            measured:
                "TensorRT 8.4.3 and CUDA 11.6, SQuAD head, after 100 runs to warm up; copies of inputs to the GPU and \
                       of outputs back are not in these times"
                    .to_owned(),
            foreign: foreign(machine, device),
            latencies: latencies.collect(),
        }
    }
}

fn of_shape(model: &str, rows: &[Row], shape: (usize, usize)) -> Vec<PublishedLatency> {
    let one = |precision: &str, [p95_ms, p99_ms, mean_ms]: [f64; 3]| PublishedLatency {
        model: model.to_owned(),
        precision: precision.to_owned(),
        batch: shape.0,
        length: shape.1,
        mean_ms,
        p95_ms,
        p99_ms,
    };
    let row = rows.iter().find(|(batch, length, ..)| (*batch, *length) == shape);
    row.map_or(Vec::new(), |(_, _, int8, fp16)| vec![one("INT8", *int8), one("FP16", *fp16)])
}

/// The note, unless every GPU that the device can be is a T4.
fn foreign(machine: &Machine, device: Device) -> Option<String> {
    let is_t4 = |name: &String| name.split_whitespace().any(|word| word == "T4");
    let ours = match device {
        Device::Cuda(_) if !machine.gpus.is_empty() && machine.gpus.iter().all(is_t4) => return None,
        Device::Cuda(_) if machine.gpus.is_empty() => "a GPU that does not say its name".to_owned(),
        Device::Cuda(_) => machine.gpus.join(" or "),
        Device::Cpu => format!("a processor, {}", machine.cpu),
    };
    Some(format!("THIS IS NO T4: NVIDIA's figures are of a T4, and these engines ran on {ours}; do not compare them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_the_grid_has_four_latencies_that_rise_with_their_percentile() {
        let profile = Profile::T4;
        let mut shapes = Vec::new();
        for length in profile.lengths() {
            shapes.extend(profile.batches().into_iter().map(|batch| (batch as usize, length as usize)));
        }
        let found = profile.beside(&shapes, &Machine::default(), Device::Cpu);
        assert_eq!(found.latencies.len(), 80);
        for latency in &found.latencies {
            assert!(latency.mean_ms <= latency.p95_ms && latency.p95_ms <= latency.p99_ms, "{latency:?}");
            let larger = |other: &&PublishedLatency| {
                (&other.model, &other.precision, other.length) == (&latency.model, &latency.precision, latency.length)
                    && other.batch > latency.batch
            };
            assert!(found.latencies.iter().filter(larger).all(|other| other.mean_ms > latency.mean_ms), "{latency:?}");
        }
        assert!(profile.beside(&[(3, 128)], &Machine::default(), Device::Cpu).latencies.is_empty());
    }

    #[test]
    fn another_device_than_a_t4_is_warned_of() {
        let machine = |gpus: &[&str]| Machine {
            cpu: "some CPU".to_owned(),
            gpus: gpus.iter().map(|name| (*name).to_owned()).collect(),
            ..Machine::default()
        };
        let gpu = Device::Cuda(0);
        assert_eq!(foreign(&machine(&["Tesla T4", "NVIDIA T4"]), gpu), None);
        let said = |gpus: &[&str], device| foreign(&machine(gpus), device).unwrap();
        assert!(said(&["Tesla T4"], Device::Cpu).starts_with("THIS IS NO T4: "));
        assert!(said(&["Tesla T4"], Device::Cpu).contains("ran on a processor, some CPU;"));
        assert!(said(&["Tesla T4", "NVIDIA T400 4GB"], gpu).contains("ran on Tesla T4 or NVIDIA T400 4GB;"));
        assert!(said(&[], gpu).contains("ran on a GPU that does not say its name;"));
    }
}
