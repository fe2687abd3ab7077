"""accelerate 1.6's launch as far as wanwrap uses it: options, then the script, in a process of its own."""

import argparse
import os
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("num_processes", "num_machines", "num_cpu_threads_per_process"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--multi_gpu", action="store_true")
    parser.add_argument("--config_file", required=True)
    parser.add_argument("--gpu_ids", required=True)
    parser.add_argument("--mixed_precision", choices=["no", "fp16", "bf16"], required=True)
    parser.add_argument("--dynamo_backend", required=True)
    parser.add_argument("-m", "--module", action="store_true")
    parser.add_argument("training_script")
    parser.add_argument("training_script_args", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    assert args.multi_gpu == (args.num_processes > 1), "as many processes as GPUs"
    assert "distributed_type: 'NO'" in Path(args.config_file).read_text(), "the user's own config would be read"
    command = [sys.executable, *(["-m"] if args.module else []), args.training_script, *args.training_script_args]
    process = subprocess.Popen(command, env={**os.environ, "WORLD_SIZE": str(args.num_processes)})
    process.wait()
    if process.returncode != 0:
        raise subprocess.CalledProcessError(returncode=process.returncode, cmd=command)


if __name__ == "__main__":
    main()
