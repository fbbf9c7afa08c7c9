"""Lets ONNX Runtime GenAI generate with a folder that kilnc exported, and compares its tokens with kilnc's.

    python genai.py KILNC BUNDLE... [-- PROMPT...]

KILNC is the binary, BUNDLE are bundles of text-generation with an engine for ort-cpu. Of each, 20 tokens are generated greedily and
by four beams, by `kilnc run` and by GenAI, after each prompt (token ids by kilnc, so tokenizers do not matter; the text of
a prompt is tokenized by both, too). Needs `pip install onnxruntime-genai==0.18.0`.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import onnxruntime_genai as genai

NEW = 20
PROMPTS = ["the kiln", "clay was", "a"]


def ours(kilnc, bundle, prompt, *flags):
    run = [kilnc, "run", bundle, "--prompt", prompt, "--max-new-tokens", str(NEW), "--engine", "ort-cpu-fp32", "--json", *flags]
    return json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)[0]["tokens"]


def theirs(model, ids, **options):
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + NEW, do_sample=False, **options)
    generator = genai.Generator(model, params)
    generator.append_tokens([list(ids)])
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(ids) :]


def main(kilnc, *arguments):
    split = arguments.index("--") if "--" in arguments else len(arguments)
    prompts = list(arguments[split + 1 :]) or PROMPTS
    for bundle in arguments[:split]:
        with tempfile.TemporaryDirectory() as place:
            folder = pathlib.Path(place, "genai")
            subprocess.run([kilnc, "bundle", "export", bundle, "--layout", "genai", "-o", folder, "--quiet"], check=True, capture_output=True)
            config = json.loads(pathlib.Path(folder, "genai_config.json").read_text())
            ends = config["model"]["eos_token_id"]
            ends = ends if isinstance(ends, list) else [ends]
            model = genai.Model(str(folder))
            tokenizer = genai.Tokenizer(model)
            for prompt in prompts:
                ids = [int(token) for token in tokenizer.encode(prompt)]
                for flags, options in (((), {}), (("--num-beams", "4"), {"num_beams": 4, "length_penalty": 1.0})):
                    expected, found = ours(kilnc, bundle, prompt, *flags), theirs(model, ids, **options)
                    # GenAI leaves the token out that ends a text, or fills a beam up with padding.
                    cut = lambda tokens: tokens[: next((i for i, t in enumerate(tokens) if t in ends), len(tokens))]
                    assert cut(found) == cut(expected), (bundle, prompt, flags, expected, found)
            print(f"{pathlib.Path(bundle).name}: {len(prompts)} prompts, {NEW} tokens, greedily and by 4 beams: kilnc's ({config['model']['type']})")


main(*sys.argv[1:])
