"""Times conversions of large checkpoints beside copying what they write, and measures their private memory.

    python3 scripts/scale.py KILNC FOLDER [ROUNDS]

Makes BF16 checkpoints of random weights in FOLDER (needs 12 GB): Qwen2.5-0.5B's shape, in one file and in 50 shards, and
Llama-3.2-1B's in two; and a LoRA for each. Then `kilnc export` to FP32, FP16 and weights of 8 bits, and `kilnc merge` into BF16, each in
turn with `cat` and sync of the files that it wrote: medians, and the largest private memory (RssAnon). Needs `pip install numpy`.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import threading
import time

import numpy as np

HALF = dict(model_type="qwen2", hidden_size=896, num_hidden_layers=24, intermediate_size=4864, num_attention_heads=14, num_key_value_heads=2,
            head_dim=64, vocab_size=151936)
ONE = dict(model_type="llama", hidden_size=2048, num_hidden_layers=16, intermediate_size=8192, num_attention_heads=32, num_key_value_heads=8,
           head_dim=64, vocab_size=128256)
MORE = dict(tie_word_embeddings=True, dtype="bfloat16", max_position_embeddings=32768, rms_norm_eps=1e-6, hidden_act="silu", bos_token_id=1, eos_token_id=2)
CLASSES = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}
RANK = 16

RANDOM = np.random.default_rng(1)
NUMBERS = (RANDOM.standard_normal(1 << 20).astype(np.float32) * 0.02).view(np.uint32)


def bf16(count, one=False):
    """Elements of BF16: of a norm, or random ones."""
    if one:
        return np.full(count, 0x3F80, np.uint16)
    return np.resize(np.roll((NUMBERS >> 16).astype(np.uint16), RANDOM.integers(1 << 20)), count)


def write(path, tensors):
    """A file of safetensors, of names and shapes."""
    header, at = {}, 0
    for name, shape in tensors:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors:
            file.write(bf16(int(np.prod(shape)), "norm" in name).tobytes())


def layer_shapes(c):
    h, q, kv, inner = c["hidden_size"], c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"], c["intermediate_size"]
    return {"self_attn.q_proj": (q, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h), "self_attn.o_proj": (h, q),
            "mlp.gate_proj": (inner, h), "mlp.up_proj": (inner, h), "mlp.down_proj": (h, inner)}


def checkpoint(folder, c, shards):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = [("model.embed_tokens.weight", (c["vocab_size"], c["hidden_size"])), ("model.norm.weight", (c["hidden_size"],))]
    for i in range(c["num_hidden_layers"]):
        for name, shape in layer_shapes(c).items():
            tensors.append((f"model.layers.{i}.{name}.weight", shape))
            if c["model_type"] == "qwen2" and name[10:] in ("q_proj", "k_proj", "v_proj"):
                tensors.append((f"model.layers.{i}.{name}.bias", shape[:1]))
        tensors += [(f"model.layers.{i}.{norm}_layernorm.weight", (c["hidden_size"],)) for norm in ("input", "post_attention")]
    each, index = -(-len(tensors) // shards), {}
    for s in range(shards):
        name = "model.safetensors" if shards == 1 else f"model-{s + 1:05}-of-{shards:05}.safetensors"
        write(folder / name, tensors[s * each : (s + 1) * each])
        index |= {tensor: name for tensor, _ in tensors[s * each : (s + 1) * each]}
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(c | MORE | {"architectures": [CLASSES[c["model_type"]]]}))
    return len(tensors)


def lora(folder, c):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = []
    for i in range(c["num_hidden_layers"]):
        for name, (outputs, inputs) in layer_shapes(c).items():
            stem = f"base_model.model.model.layers.{i}.{name}"
            tensors += [(f"{stem}.lora_A.weight", (RANK, inputs)), (f"{stem}.lora_B.weight", (outputs, RANK))]
    write(folder / "adapter_model.safetensors", tensors)
    config = dict(peft_type="LORA", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM", bias="none", fan_in_fan_out=False)
    config["target_modules"] = [name.split(".")[1] for name in layer_shapes(c)]
    (folder / "adapter_config.json").write_text(json.dumps(config))


def measured(command):
    """Seconds, and the most private memory in MB."""
    start, most = time.monotonic(), 0
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = []
    threading.Thread(target=lambda: errors.append(process.stderr.read()), daemon=True).start()
    while process.poll() is None:
        try:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            most = max([most] + [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")])
        except FileNotFoundError:
            pass
        time.sleep(0.01)
    assert process.returncode == 0, (command, errors)
    return time.monotonic() - start, most / 1024


def copied(files, to):
    start = time.monotonic()
    subprocess.run(f"cat {' '.join(map(str, files))} > {to}; sync {to}", shell=True, check=True)
    return time.monotonic() - start


def main(kilnc, place, rounds="3"):
    place = pathlib.Path(place)
    models = {"0.5 B": ("half", HALF, 1), "0.5 B, 50 shards": ("half50", HALF, 50), "1.2 B": ("one", ONE, 2)}
    print(f"{'':18} {'':14} {'GB':>6} {'wall':>7} {'copy':>7} {'ratio':>6} {'MB':>5}")
    for title, (name, config, shards) in models.items():
        folder, adapter = place / name, place / f"{name}-lora"
        count = checkpoint(folder, config, shards)
        lora(adapter, config)
        out, merged = place / "model.onnx", place / "merged"
        works = {f"export {form}": ["export", folder, "--precision", form, "-o", out] for form in ("fp32", "fp16", "int8-weights")}
        works["merge"] = ["merge", folder, "--adapter", adapter, "-o", merged]
        for work, command in works.items():
            walls, copies, memory = [], [], 0
            for _ in range(int(rounds)):
                subprocess.run(["rm", "-rf", merged, place / "copy", *place.glob("model.onnx*")], check=True)
                subprocess.run(["sync"], check=True)
                wall, most = measured([kilnc, *command, "--quiet"])
                files = sorted(merged.glob("*.safetensors")) or sorted(place.glob("model.onnx*"))
                walls.append(wall)
                copies.append(copied(files, place / "copy"))
                memory = max(memory, most)
            wall, copy = statistics.median(walls), statistics.median(copies)
            written = sum(file.stat().st_size for file in files) / 1e9
            print(f"{title:18} {work:14} {written:6.2f} {wall:6.2f}s {copy:6.2f}s {wall / copy:6.2f} {memory:5.0f}", flush=True)
        print(f"{title:18} {count} tensors", flush=True)


main(*sys.argv[1:])
