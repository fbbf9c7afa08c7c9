"""Writes a BERT checkpoint of random weights in the Hub's layout, for benchmarks: BERT-base by default.

    python make-bert-base.py OUT [--layers 12] [--hidden 768] … [--shard-bytes N] [--lora R] [--tokenizer DIR]
    python make-bert-base.py OUT --layers 24 --hidden 1024 --heads 16 --intermediate 4096        1.3 GB, as BERT-large
    python make-bert-base.py OUT --layers 25 --hidden 1536 --heads 24 --intermediate 6144        3.0 GB

Needs numpy only; one tensor is in memory at a time. The same arguments write the same bytes.
`--shard-bytes N` writes shards of at most so many bytes (or one tensor) and their index, as `transformers` does.
`--lora R` also writes OUT-lora, a rank-R PEFT LoRA over every Linear of the encoder and the pooler; `--lora-only` no
more than that.
"""

import argparse
import json
import pathlib
import shutil
import struct

import numpy as np

STD = 0.02
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]


def linears(args):
    """(name, outputs, inputs) of every Linear, in the order of the forward pass."""
    h, i = args.hidden, args.intermediate
    for n in range(args.layers):
        layer = f"encoder.layer.{n}"
        for part in ["query", "key", "value"]:
            yield f"{layer}.attention.self.{part}", h, h
        yield f"{layer}.attention.output.dense", h, h
        yield f"{layer}.intermediate.dense", i, h
        yield f"{layer}.output.dense", h, i
    yield "pooler.dense", h, h


def model_shapes(args):
    """Every tensor of a bare `BertModel`, by name."""
    h = args.hidden
    shapes = {
        "embeddings.word_embeddings.weight": (args.vocab, h),
        "embeddings.position_embeddings.weight": (512, h),
        "embeddings.token_type_embeddings.weight": (2, h),
    }
    for name, outputs, inputs in linears(args):
        shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    norms = ["embeddings.LayerNorm"]
    for n in range(args.layers):
        norms += [f"encoder.layer.{n}.attention.output.LayerNorm", f"encoder.layer.{n}.output.LayerNorm"]
    for norm in norms:
        shapes |= {f"{norm}.weight": (h,), f"{norm}.bias": (h,)}
    return shapes


def lora_shapes(args):
    """The A and B of every Linear, named as PEFT saves them over a `BertModel`."""
    shapes = {}
    for name, outputs, inputs in linears(args):
        at = f"base_model.model.{name}"
        shapes |= {f"{at}.lora_A.weight": (args.lora, inputs), f"{at}.lora_B.weight": (outputs, args.lora)}
    return shapes


def tensor_bytes(shape):
    return 4 * int(np.prod(shape))


def write_safetensors(path, shapes, source):
    """Samples and writes one F32 tensor after another: normal(0, 0.02), and 1 plus that for a norm's scale."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        start, end = end, end + tensor_bytes(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            drawn = source.standard_normal(shape, dtype="<f4")
            drawn *= STD
            drawn += "LayerNorm.weight" in name
            file.write(drawn.data)


def shards(shapes, largest):
    """The tensors in their order, in groups of at most `largest` bytes."""
    groups, room = [{}], largest
    for name, shape in shapes.items():
        if groups[-1] and tensor_bytes(shape) > room:
            groups.append({})
            room = largest
        groups[-1][name] = shape
        room -= tensor_bytes(shape)
    return groups


def write_model(folder, shapes, args):
    """The weights in one file, or in shards with the index of which tensor is where."""
    source = np.random.default_rng(args.seed)
    if args.shard_bytes is None:
        write_safetensors(folder / "model.safetensors", shapes, source)
        return
    groups = shards(shapes, args.shard_bytes)
    places = {}
    for i, group in enumerate(groups):
        file = f"model-{i + 1:05}-of-{len(groups):05}.safetensors"
        write_safetensors(folder / file, group, source)
        places |= dict.fromkeys(group, file)
    total = sum(map(tensor_bytes, shapes.values()))
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def config(args):
    return {
        "architectures": ["BertModel"], "model_type": "bert",
        "hidden_size": args.hidden, "num_hidden_layers": args.layers, "num_attention_heads": args.heads,
        "intermediate_size": args.intermediate, "vocab_size": args.vocab,
        "max_position_embeddings": 512, "type_vocab_size": 2, "position_embedding_type": "absolute",
        "hidden_act": "gelu", "layer_norm_eps": 1e-12, "initializer_range": STD, "pad_token_id": 0,
        "attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1,
    }


def lora_config(args):
    return {
        "peft_type": "LORA", "task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": args.out.name,
        "r": args.lora, "lora_alpha": 2 * args.lora, "target_modules": ["dense", "key", "query", "value"],
        "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "lora_dropout": 0.0,
        "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "use_dora": False, "use_rslora": False,
    }


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="OUT", type=pathlib.Path)
    for name, value in dict(layers=12, hidden=768, heads=12, intermediate=3072, vocab=30522, seed=0).items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--shard-bytes", type=int, metavar="N", help="write shards of at most N bytes")
    parser.add_argument("--lora", type=int, metavar="R", help="also write a LoRA of this rank to OUT-lora")
    parser.add_argument("--lora-only", action="store_true", help="do not write the checkpoint")
    parser.add_argument("--tokenizer", type=pathlib.Path, metavar="DIR", help="copy the tokenizer's files from here")
    args = parser.parse_args()
    if args.hidden % args.heads:
        parser.error(f"--hidden {args.hidden} does not divide by --heads {args.heads}")
    if args.lora is not None and args.lora < 1:
        parser.error(f"--lora {args.lora}: the rank must be at least 1")
    if args.lora_only and args.lora is None:
        parser.error("--lora-only needs --lora")
    return args


def main():
    args = arguments()
    if not args.lora_only:
        write_checkpoint(args)
    if args.lora:
        folder = args.out.with_name(args.out.name + "-lora")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "adapter_config.json", lora_config(args))
        write_safetensors(folder / "adapter_model.safetensors", lora_shapes(args), np.random.default_rng(args.seed + 1))


def write_checkpoint(args):
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "config.json", config(args))
    write_model(args.out, model_shapes(args), args)
    if args.tokenizer:
        for name in TOKENIZER_FILES:
            if (args.tokenizer / name).exists():
                shutil.copyfile(args.tokenizer / name, args.out / name)


if __name__ == "__main__":
    main()
