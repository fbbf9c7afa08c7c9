"""Compares the greedy replies of a GGUF file's chats by kilnc, llama.cpp and ONNX Runtime GenAI, on the same weights.

    python gguf_chat.py KILNC MODEL.gguf BUNDLE NODE_LLAMA_CPP [-- QUESTION...]

BUNDLE is what `kilnc build MODEL.gguf --target ort-cpu -o BUNDLE` wrote; NODE_LLAMA_CPP is the folder of npm's node-llama-cpp
(`npm install node-llama-cpp@3.22.1 --ignore-scripts`). All three tokenize the rendered chats, which must agree. llama.cpp is given
the numbers of the file's blocks as F32, by `gguf`, because it multiplies blocks by activations that are rounded to 8 bits; what it
replies to with the file as it is is printed beside, and decides nothing. GenAI runs the folder of `kilnc bundle export --layout
genai`. The position of a divergence is printed, and one fails unless kilnc's FP32 logits of the two tokens differ by less than
0.05. Needs `pip install onnxruntime==1.32.0 onnxruntime-genai==0.18.0 gguf==0.19.0 numpy`.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import onnxruntime as ort
import onnxruntime_genai as genai

NEW = 64
CLOSE = 0.05
QUESTIONS = [
    "What is the capital of France?",
    "What is a kiln?",
    "Write a haiku about clay.",
    "Name three colours of the rainbow.",
    "Why is the sky blue? Answer in one sentence.",
    "Translate 'good morning' into Spanish.",
]


def ours(kilnc, bundle, question, place):
    chat = pathlib.Path(place, "chat.json")
    chat.write_text(json.dumps([{"role": "user", "content": question}]))
    run = [kilnc, "run", bundle, "--chat", chat, "--max-new-tokens", str(NEW), "--engine", "ort-cpu-fp32", "--json"]
    return json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)[0]


def llama_cpp(home, model, prompts):
    run = ["node", pathlib.Path(__file__).with_suffix(".mjs"), home, model]
    given = json.dumps({"prompts": prompts, "new": NEW})
    return json.loads(subprocess.run(run, input=given, check=True, capture_output=True, text=True).stdout)


def in_floats(model, path):
    """The same file with F32 in place of blocks."""
    reader = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ["general.architecture", "general.file_type"]:
            element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_genai(model, ids):
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + NEW, do_sample=False)
    generator = genai.Generator(model, params)
    generator.append_tokens([list(ids)])
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(ids) :]


def logits(session, ids):
    """Those of the token after `ids`, in FP32."""
    ids = np.array([ids])
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None]}
    empty = lambda port: np.zeros((1, port.shape[1], 0, port.shape[3]), np.float32)
    given = {port.name: known[port.name] if port.name in known else empty(port) for port in session.get_inputs()}
    return session.run(["logits"], given)[0][0, -1]


def compared(session, ids, expected, found, ends):
    """What two replies have in common; fails where they part by more than rounding."""
    cut = lambda tokens: tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))]
    expected, found = cut(expected), cut(found)
    at = next((i for i, (a, b) in enumerate(zip(expected, found)) if a != b), min(len(expected), len(found)))
    if at == len(expected) == len(found):
        return f"the same {at} tokens", True
    row = logits(session, ids + expected[:at])
    # A reply that goes on where the other ended chose another token than one that ends.
    one, other = [reply[at] if at < len(reply) else max(ends, key=lambda end: row[end]) for reply in (expected, found)]
    gap = float(abs(row[one] - row[other]))
    return f"part at token {at}: FP32 logits {row[one]:.4f} and {row[other]:.4f}, {gap:.4f} apart", gap < CLOSE


def main(kilnc, model, bundle, home, *arguments):
    questions = list(arguments[1:]) or QUESTIONS
    session = ort.InferenceSession(str(pathlib.Path(bundle, "engines/ort-cpu-fp32.onnx")))
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        replies = [ours(kilnc, bundle, question, place) for question in questions]
        prompts, floats = [reply["prompt"] for reply in replies], pathlib.Path(place, "floats.gguf")
        in_floats(model, floats)
        theirs, of_blocks = llama_cpp(home, floats, prompts), llama_cpp(home, model, prompts)
        folder = pathlib.Path(place, "genai")
        subprocess.run([kilnc, "bundle", "export", bundle, "--layout", "genai", "-o", folder, "--quiet"], check=True, capture_output=True)
        ends = json.loads((folder / "genai_config.json").read_text())["model"]["eos_token_id"]
        ends = ends if isinstance(ends, list) else [ends]
        runtime = genai.Model(str(folder))
        tokenizer = genai.Tokenizer(runtime)
        for question, reply, other, blocks in zip(questions, replies, theirs, of_blocks):
            ids = [int(token) for token in tokenizer.encode(reply["prompt"])]
            assert ids == other["ids"] and len(ids) == reply["prompt_tokens"], (question, ids, other["ids"])
            print(f"{question}\n  {reply['content'].strip()!r}")
            for name, found in [("llama.cpp", other["tokens"]), ("GenAI", by_genai(runtime, ids))]:
                said, close = compared(session, ids, reply["tokens"], found, ends)
                wrong += not close
                print(f"  {name}: {said}{'' if close else '  FAILS'}")
            print(f"  llama.cpp, blocks times 8 bits: {compared(session, ids, reply['tokens'], blocks['tokens'], ends)[0]}")
    sys.exit(f"{wrong} replies differ by more than {CLOSE}" if wrong else 0)


main(*sys.argv[1:])
