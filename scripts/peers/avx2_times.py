"""Times models side by side on ONNX Runtime, as on a processor that has AVX2 and neither AVX-512 nor VNNI.

    apt-get install gdb binutils
    python avx2_times.py FIRST.onnx [OTHER.onnx ...]
    python avx2_times.py --here FIRST.onnx [OTHER.onnx ...]      the same with nothing hidden

GDB changes what CPUID answers to ONNX Runtime, which then takes its kernels for AVX2; they run at full speed, as no
breakpoint is met once the library is loaded. One thread, rounds that take turns, one text of 128 tokens and eight of them:
the median time, and how many times as fast as the first model in the same rounds. Needs onnxruntime and numpy, and is for
x86-64 with AVX-512.
"""

import os
import subprocess
import sys

LIBRARY = "onnxruntime_pybind11_state"
# Bits of leaf 7: AVX-512 in all its parts, VNNI, AMX; by subleaf and register.
HIDDEN = {
    0: {"rbx": (16, 17, 21, 26, 27, 28, 30, 31), "rcx": (1, 6, 11, 12, 14), "rdx": (2, 3, 8, 22, 23, 24, 25)},
    1: {"rax": (4, 5), "rbx": (), "rdx": (4, 5, 10)},
}


def hide():
    """GDB's side: sets breakpoints around every CPUID of the library as soon as it is loaded."""
    import gdb

    asked = {}

    class Before(gdb.Breakpoint):
        def stop(self):
            frame = gdb.newest_frame()
            leaf, subleaf = (int(frame.read_register(name)) & 0xFFFFFFFF for name in ("rax", "rcx"))
            asked[gdb.selected_thread().num] = (leaf, subleaf)
            return False

    class After(gdb.Breakpoint):
        def stop(self):
            leaf, subleaf = asked.get(gdb.selected_thread().num, (0, 0))
            for register, bits in HIDDEN.get(subleaf, {}).items() if leaf == 7 else ():
                value = int(gdb.newest_frame().read_register(register)) & 0xFFFFFFFF
                for bit in bits:
                    value &= ~(1 << bit)
                gdb.execute(f"set ${register} = {value}", to_string=True)
            return False

    def loaded(event):
        path = event.new_objfile.filename or ""
        if LIBRARY not in path or getattr(hide, "done", False):
            return
        hide.done = True
        lines = gdb.execute("info proc mappings", to_string=True).splitlines()
        base = next(int(line.split()[0], 16) for line in lines if LIBRARY in line)
        listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True)
        for line in listing.stdout.splitlines():
            if line.split()[-1:] == ["cpuid"]:
                place = base + int(line.split(":")[0], 16)
                Before(f"*{place}", internal=True)
                After(f"*{place + 2}", internal=True)

    gdb.execute("set pagination off")
    gdb.events.new_objfile.connect(loaded)


def measure(files):
    import time

    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [ort.InferenceSession(file, options, providers=["CPUExecutionProvider"]) for file in files]
    random = np.random.default_rng(0)
    for rows, rounds in [(1, 40), (8, 12)]:
        shape = (rows, 128)
        known = {"input_ids": random.integers(1000, 20000, shape), "token_type_ids": np.zeros(shape, np.int64)}
        values = [
            {port.name: known.get(port.name, np.ones(shape, np.int64)) for port in session.get_inputs()}
            for session in sessions
        ]
        times = np.zeros((rounds, len(files)))
        for turn in range(rounds + 2):
            for i, session in enumerate(sessions):
                start = time.perf_counter()
                session.run(None, values[i])
                times[max(turn - 2, 0), i] = time.perf_counter() - start
        for file, own in zip(files, times.T):
            ratios = np.quantile(times[:, 0] / own, [0.5, 0.25, 0.75])
            print(f"{rows} x 128: {np.median(own) * 1e3:7.2f} ms  {ratios[0]:.2f} ({ratios[1]:.2f}-{ratios[2]:.2f})  {file}")


if "gdb" in sys.modules:
    hide()
elif sys.argv[1] == "--here":
    measure(sys.argv[2:])
else:
    hidden = ["gdb", "-q", "-batch", "-x", os.path.abspath(__file__), "-ex", "run", "--args"]
    child = [sys.executable, __file__, "--here", *sys.argv[1:]]
    ran = subprocess.run([*hidden, *child], capture_output=True, text=True)
    lines = [line for line in ran.stdout.splitlines() if " x 128: " in line]
    if not lines:
        sys.exit(ran.stdout + ran.stderr)
    print("\n".join(lines))
