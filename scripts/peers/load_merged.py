"""Loads checkpoints that `kilnc merge` wrote with transformers, and compares their outputs with the fixtures'.

    python load_merged.py KILNC [adapter ...]

KILNC is the binary. Every adapter of tests/fixtures/adapters is merged into its base, as it is and with the configuration
that transformers 5 writes of it; transformers must find every weight that the class has and no other, and the class must
give the adapter's own outputs. To be run with transformers 4 and with 5. Needs what requirements.txt names.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers as tf
from safetensors.torch import load_file

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures"


def bases(base, place):
    """The base, and the same with a configuration of version 5, where that was saved."""
    yield FIXTURES / "families" / base
    config = json.loads((FIXTURES / "families/configs-5.json").read_text()).get(base)
    if config is not None:
        shutil.copytree(FIXTURES / "families" / base, place / "five")
        # Of version 4 alone.
        config.pop("global_attn_every_n_layers", None)
        (place / "five/config.json").write_text(json.dumps(config))
        yield place / "five"


def check(kilnc, name, base, place):
    adapter = FIXTURES / "adapters" / name
    merge = [kilnc, "merge", base, "--adapter", adapter, "-o", place, "--quiet"]
    subprocess.run(merge, check=True, stdout=subprocess.DEVNULL)
    config = tf.AutoConfig.from_pretrained(place)
    model, report = getattr(tf, config.architectures[0]).from_pretrained(
        place, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), (name, report)
    golden = load_file(adapter / "golden.safetensors")
    given = {key[3:]: value for key, value in golden.items() if key.startswith("in.")}
    with torch.no_grad():
        out = model.eval()(**given)
    apart = max((out[key[4:]] - value).abs().max().item() for key, value in golden.items() if key.startswith("out."))
    assert apart < 1e-4, (name, apart)
    print(f"{name} over {base.name}: {config.architectures[0]}, {apart:.1e}")


def main():
    tf.logging.set_verbosity_error()
    kilnc, *names = sys.argv[1:]
    names = names or sorted(path.parent.name for path in FIXTURES.glob("adapters/*/golden.safetensors"))
    for name in names:
        base = json.loads((FIXTURES / "adapters" / name / "adapter_config.json").read_text())["base_model_name_or_path"]
        with tempfile.TemporaryDirectory() as place:
            for i, folder in enumerate(bases(base, pathlib.Path(place))):
                check(kilnc, name, folder, pathlib.Path(place) / f"merged-{i}")


if __name__ == "__main__":
    main()
