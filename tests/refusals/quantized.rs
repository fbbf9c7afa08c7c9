//! Quantized checkpoints that are damaged, that contradict themselves, or whose method is not read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::{copied, write_json};
use kilnc::front::hub::checkpoint::Checkpoint;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let entry =
        |(name, view): (String, TensorView)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
    file.tensors().into_iter().map(entry).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The error for a fixture after its `quantization_config` and its tensors were changed.
fn refusal(name: &str, change: impl FnOnce(&mut Value, &mut Tensors)) -> String {
    let dir = copied(&format!("quantized/{name}"), &["config.json", "model.safetensors"]);
    let (config, model) = (dir.path().join("config.json"), dir.path().join("model.safetensors"));
    let mut fields: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    let mut tensors = read(&model);
    change(&mut fields["quantization_config"], &mut tensors);
    write_json(&config, &fields);
    write(&model, &tensors);
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

const Q: &str = "model.layers.0.self_attn.q_proj";

/// The first dimension of a tensor, cut by one.
fn shorten(tensors: &mut Tensors, name: &str) {
    let (_, shape, data) = tensors.get_mut(name).unwrap();
    data.truncate(data.len() / shape[0] * (shape[0] - 1));
    shape[0] -= 1;
}

#[track_caller]
fn starts(said: &str, expected: &str) {
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn methods_and_settings_that_are_not_read_are_named() {
    let set = |name: &str, field: &str, value: Value| refusal(name, |config, _| config[field] = value);
    let said = set("gptq", "quant_method", json!("hqq"));
    starts(
        &said,
        "weights that are quantized by `hqq` are not read\n  in config.json: quantization_config.quant_method\n",
    );
    assert!(
        said.contains("hint: known: gptq, awq, fp8, fbgemm_fp8, compressed-tensors, mxfp4, bitsandbytes; or give"),
        "{said}"
    );
    starts(
        &set("gptq", "quant_method", Value::Null),
        "`quant_method` is missing\n  in config.json: quantization_config",
    );
    starts(
        &set("gptq", "bits", json!(5)),
        "`bits` is 5, which is not read\n  in config.json: quantization_config.bits\n",
    );
    starts(&set("gptq", "bits", json!("4")), "expected an integer, found \"4\"\n");
    starts(&set("gptq", "group_size", json!(0)), "`group_size` is 0, expected -1 or 1 and more\n");
    starts(&set("gptq", "checkpoint_format", json!("marlin")), "`checkpoint_format` is `marlin`, which is not read\n");
    starts(
        &set("gptq", "is_marlin_format", json!(true)),
        "`is_marlin_format` is set: the layout of Marlin's kernels is not read\n",
    );
    starts(&set("awq", "bits", json!(8)), "`bits` is 8, which is not read\n");
    starts(&set("awq", "version", json!("gemv_fast")), "`version` is `gemv_fast`, which is not read\n");
    starts(&set("awq", "backend", json!("llm-awq")), "`backend` is `llm-awq`, which is not read\n");
    starts(&set("fp8-block", "weight_block_size", json!([128])), "expected two integers from 1, found [128]\n");
    starts(
        &set("compressed-pack", "format", json!("nvfp4-pack-quantized")),
        "`format` is `nvfp4-pack-quantized`, which is not read\n",
    );
    starts(
        &set("compressed-pack", "transform_config", json!({"a": 1})),
        "`transform_config` is set: rotations of weights and activations are not read\n",
    );
    starts(
        &set("compressed-pack", "sparsity_config", json!({"format": "sparse-24-bitmask"})),
        "`format` is `sparse-24-bitmask`, which is not read\n  in config.json: quantization_config.sparsity_config.format\n",
    );
}

#[test]
fn a_field_that_is_not_known_is_a_warning() {
    let dir = copied("quantized/gptq", &["config.json", "model.safetensors"]);
    super::edit(&dir.path().join("config.json"), "\"bits\": 4", "\"bits\": 4, \"hadamard\": true");
    let quantized = Checkpoint::open(dir.path()).unwrap().quantized.unwrap();
    assert_eq!(
        quantized.warnings,
        ["config.json: quantization_config.hadamard is not known to kilnc; it may change what the weights are"]
    );
}

#[test]
fn a_configuration_without_quantized_tensors_is_refused() {
    let said = refusal("gptq", |_, tensors| tensors.retain(|name, _| !name.contains("_proj")));
    starts(
        &said,
        "the model is quantized by gptq, and no tensor is packed so\n  in config.json: quantization_config.quant_method\n",
    );
    let dir = copied("quantized/gptq", &["config.json", "model.safetensors"]);
    super::edit(
        &dir.path().join("config.json"),
        "\"quantization_config\"",
        "\"compression_config\": {}, \"quantization_config\"",
    );
    let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
    starts(&error, "both quantization_config and compression_config are there, expected one\n  in config.json");
}

/// As the checkpoints of programs that keep their settings in a file of their own.
#[test]
fn floats_of_8_bits_beside_scales_are_not_read_as_they_are() {
    let dir = copied("quantized/fp8-block", &["config.json", "model.safetensors"]);
    super::edit(&dir.path().join("config.json"), "\"quantization_config\"", "\"other_config\"");
    let error = Checkpoint::open(dir.path()).unwrap().check_unquantized().unwrap_err().to_string();
    let down = "model.layers.0.mlp.down_proj";
    starts(
        &error,
        &format!("the model is already quantized: tensor `{down}.weight` holds 8-bit floats beside a scale\n"),
    );
    // Without scales they are floats.
    let model = dir.path().join("model.safetensors");
    let mut tensors = read(&model);
    tensors.retain(|name, _| !name.ends_with("weight_scale_inv"));
    write(&model, &tensors);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    checkpoint.check_unquantized().unwrap();
    assert!(checkpoint.state.get(&format!("{down}.weight")).unwrap().weight.dtype().is_float());
}

#[test]
fn parts_that_are_missing_or_do_not_fit_are_named() {
    let without = |name: &str, part: &str| {
        refusal(name, |_, tensors| {
            tensors.remove(&format!("{Q}{part}")).unwrap();
        })
    };
    starts(
        &without("gptq", ".qzeros"),
        &format!(
            "tensor `{Q}.qzeros` is missing\n  in model.safetensors\n\nhint: the other tensors of this weight are those of gptq"
        ),
    );
    starts(&without("awq", ".scales"), &format!("tensor `{Q}.scales` is missing\n"));
    starts(&without("bnb-nf4", ".weight.absmax"), &format!("tensor `{Q}.weight.absmax` is missing\n"));
    starts(&without("bnb-nf4", ".weight"), &format!("tensor `{Q}.weight` is missing\n"));
    let said = without("bnb-nf4", ".weight.quant_state.bitsandbytes__nf4");
    starts(&said, &format!("tensor `{Q}.weight.absmax` belongs to no weight that bitsandbytes has packed\n"));
    starts(
        &without("compressed-pack-zero", ".weight_zero_point"),
        &format!("tensor `{Q}.weight_zero_point` is missing\n"),
    );
    starts(&without("fp8-block", ".weight"), &format!("tensor `{Q}.weight` is missing\n"));
    let short = |name: &str, part: &str| refusal(name, |_, tensors| shorten(tensors, &format!("{Q}{part}")));
    starts(
        &short("gptq", ".scales"),
        &format!("tensor `{Q}.g_idx` puts column 32 into group 1, and there are 1\n  in model.safetensors"),
    );
    starts(
        &short("awq", ".scales"),
        &format!("tensor `{Q}.scales` has shape [1, 64], expected [2, 64]\n  in model.safetensors\n"),
    );
    starts(&short("awq", ".qzeros"), &format!("tensor `{Q}.qzeros` has shape [1, 8], expected [2, 8]\n"));
    starts(&short("bnb-nf4", ".weight.absmax"), &format!("tensor `{Q}.weight.absmax` has shape [63], expected [64]\n"));
    starts(&short("bnb-int8", ".SCB"), &format!("tensor `{Q}.SCB` has shape [63], expected [64, 1]\n"));
    starts(
        &short("fp8-block", ".weight_scale_inv"),
        &format!(
            "tensor `{Q}.weight_scale_inv` has shape [2, 2], expected one scale for each block of [24, 40] of [64, 64]\n"
        ),
    );
    starts(
        &short("compressed-float", ".weight_scale"),
        &format!("tensor `{Q}.weight_scale` has shape [63, 1], expected one"),
    );
}

#[test]
fn groups_that_contradict_the_configuration_are_named() {
    let grouped = |size: i64| refusal("gptq", |config, _| config["group_size"] = json!(size));
    let down = "model.layers.0.mlp.down_proj";
    starts(
        &grouped(16),
        &format!("tensor `{down}.g_idx` has groups of 32 columns, and `group_size` says 16\n  in model.safetensors"),
    );
    let said = refusal("awq", |config, _| config["group_size"] = json!(28));
    starts(&said, &format!("tensor `{down}.scales` has shape [3, 64], expected [4, 64]\n"));
    let group = |column: usize, to: i32| {
        refusal("gptq", |_, tensors| {
            let (_, _, data) = tensors.get_mut(&format!("{Q}.g_idx")).unwrap();
            data[4 * column..4 * column + 4].copy_from_slice(&to.to_le_bytes());
        })
    };
    starts(&group(3, 2), &format!("tensor `{Q}.g_idx` puts column 3 into group 2, and there are 2\n"));
    starts(&group(0, -1), &format!("tensor `{Q}.g_idx` puts column 0 into group -1, and there are 2\n"));
    let said = refusal("gptq", |config, _| config["bits"] = json!(8));
    starts(
        &said,
        &format!("tensor `{down}.qweight` has 12 rows of words for 96 columns, which are not values of 8 bits\n"),
    );
    let ordered = |group: i32| (Dtype::I32, vec![64], group.to_le_bytes().repeat(64));
    let said = refusal("compressed-pack", |_, tensors| {
        tensors.insert(format!("{Q}.weight_g_idx"), ordered(7));
    });
    starts(&said, &format!("tensor `{Q}.weight_g_idx` puts column 0 into group 7, and there are 2\n"));
    let said = refusal("compressed-pack", |_, tensors| {
        let (_, _, data) = tensors.get_mut(&format!("{Q}.weight_shape")).unwrap();
        data[8..16].copy_from_slice(&80i64.to_le_bytes());
    });
    starts(&said, &format!("tensor `{Q}.weight_packed` is i32[64, 8], expected [64, 80] of 4 bits in whole words\n"));
    let said =
        refusal("compressed-pack", |config, _| config["config_groups"]["group_0"]["targets"] = json!(["re:.*mlp.*"]));
    starts(&said, "`model.layers.0.self_attn.k_proj` is quantized, and no group of `config_groups` is for it\n");
    let said = refusal("compressed-pack", |config, _| config["config_groups"]["group_0"]["targets"] = json!(["re:("]));
    starts(&said, "the pattern `(` cannot be used: ");
}

#[test]
fn columns_of_compressed_tensors_may_be_in_another_order() {
    let parts = |group: &dyn Fn(i32) -> i32| {
        let dir = copied("quantized/compressed-pack", &["config.json", "model.safetensors"]);
        let model = dir.path().join("model.safetensors");
        let mut tensors = read(&model);
        let groups = (0..64).flat_map(|column| group(column).to_le_bytes()).collect();
        tensors.insert(format!("{Q}.weight_g_idx"), (Dtype::I32, vec![64], groups));
        write(&model, &tensors);
        let state = Checkpoint::open(dir.path()).unwrap().state;
        let weight = &state.get(&format!("{Q}.weight")).unwrap().weight;
        (weight.packing().unwrap().1.len(), weight.to_f32s().unwrap().into_owned())
    };
    let (ordered, plain) = parts(&|column| column / 32);
    assert_eq!((ordered, parts(&|_| -1)), (2, (2, plain.clone())));
    let (count, other) = parts(&|column| 1 - column / 32);
    assert!(count == 3 && other != plain);
}

#[test]
fn tensors_of_other_types_than_the_method_has_are_named() {
    let said = refusal("fp8-block", |_, tensors| {
        let (dtype, _, data) = tensors.get_mut(&format!("{Q}.weight")).unwrap();
        *dtype = Dtype::F32;
        *data = data.repeat(4);
    });
    starts(
        &said,
        &format!("tensor `{Q}.weight` is f32[64, 64], expected a matrix of 8-bit floats\n  in model.safetensors"),
    );
    let said = refusal("gptq", |_, tensors| {
        let float = tensors["lm_head.weight"].clone();
        tensors.insert(format!("{Q}.weight"), float);
    });
    starts(&said, &format!("tensor `{Q}.weight` is there, and tensors of the same weight in packed form\n"));
    let said = refusal("fp8-block", |_, tensors| {
        let scale = tensors[&format!("{Q}.weight_scale_inv")].clone();
        tensors.insert(format!("{Q}.weight_scale"), scale);
    });
    starts(&said, &format!("`{Q}` has two scales, expected one\n"));
    let said = refusal("fp8-block", |_, tensors| {
        tensors.remove(&format!("{Q}.weight_scale_inv")).unwrap();
    });
    starts(&said, &format!("tensor `{Q}.weight` holds 8-bit floats, and fp8 has no scales for them\n"));
    let said = refusal("bnb-int8", |_, tensors| tensors.get_mut(&format!("{Q}.weight_format")).unwrap().2 = vec![1]);
    starts(&said, &format!("tensor `{Q}.weight_format` says another order than by rows, which is not read\n"));
    let said = refusal("mxfp4", |_, tensors| {
        let (_, shape, _) = tensors.get_mut("model.layers.0.mlp.experts.down_proj_blocks").unwrap();
        *shape = vec![2, 20, 2, 8];
    });
    starts(&said, "tensor `model.layers.0.mlp.experts.down_proj_blocks` has groups of 8 bytes, expected 16\n");
}

#[test]
fn a_state_of_bitsandbytes_that_lies_is_named() {
    let state = format!("{Q}.weight.quant_state.bitsandbytes__nf4");
    let changed = |name: &str, change: &dyn Fn(&mut Value)| {
        refusal(name, |_, tensors| {
            let (_, shape, data) = tensors.get_mut(&state).unwrap();
            let mut fields: Value = serde_json::from_slice(data).unwrap();
            change(&mut fields);
            *data = fields.to_string().into_bytes();
            *shape = vec![data.len()];
        })
    };
    starts(
        &changed("bnb-nf4", &|state| state["shape"] = json!([64, 128])),
        &format!("tensor `{Q}.weight` holds 2048 bytes, but u8[64, 64] needs 4096\n  in model.safetensors"),
    );
    starts(
        &changed("bnb-nf4", &|state| state["shape"] = json!([64])),
        &format!("tensor `{state}`: shape [64], expected two dimensions\n"),
    );
    starts(
        &changed("bnb-nf4", &|state| state["blocksize"] = json!(0)),
        &format!("tensor `{state}`: rows of 64 in blocks of 0, expected an even number and blocks from 1\n"),
    );
    starts(
        &changed("bnb-nf4", &|state| state["blocksize"] = json!(128)),
        &format!("tensor `{Q}.weight.absmax` has shape [64], expected [32]\n"),
    );
    starts(
        &changed("bnb-nf4", &|state| state["quant_type"] = json!("int4")),
        &format!("tensor `{state}` contradicts itself or its name\n"),
    );
    starts(
        &changed("bnb-nf4", &|state| state["secret"] = json!(1)),
        &format!("tensor `{state}`: secret: unknown field `secret`"),
    );
    starts(
        &changed("bnb-nf4-nested", &|state| state["nested_blocksize"] = Value::Null),
        &format!("tensor `{state}` contradicts itself or its name\n"),
    );
    starts(
        &changed("bnb-nf4-nested", &|state| state["nested_blocksize"] = json!(16)),
        &format!("tensor `{Q}.weight.nested_absmax` has shape [1], expected [4]\n"),
    );
    let said = refusal("bnb-nf4", |_, tensors| {
        let (_, shape, data) = tensors.get_mut(&state).unwrap();
        *data = vec![0xff, 0xfe];
        *shape = vec![2];
    });
    starts(&said, &format!("tensor `{state}` is not UTF-8\n  in model.safetensors"));
}
