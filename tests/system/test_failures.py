"""Why a child failed, told from what real ones printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from platforms import full_disk

from wanwrap.run.run import SHARED
from wanwrap.system.failures import ERRORS, TABLE, failure

HEAD = 'Traceback (most recent call last):\n  File "/u/wan_train_network.py", line 700, in <module>\n    main()\n'
ASYNC = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call.\n"
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 270.00 MiB. GPU 0 has a total capacity of 23.64 GiB\n"
PINNED = '  File "/u/offloading.py", line 9, in pin\n    t = t.pin_memory()\nRuntimeError: CUDA error: out of memory'
HOST = "RuntimeError: [enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory"
SERIALIZING = "safetensors_rust.SafetensorError: Error while serializing:"
HEADERS = "safetensors_rust.SafetensorError: Error while deserializing header:"
WRITER = (
    "RuntimeError: [enforce fail at inline_container.cc:778] . PytorchStreamWriter failed writing file data/271\n"
    "During handling of the above exception, another exception occurred:\n"
    f"{HEAD}RuntimeError: [enforce fail at inline_container.cc:603] . unexpected pos 190007680 vs 190007572"
)

PRINTED = [  # the kind, a noun of the way out, what came last
    ("gpu memory", "--blocks_to_swap", OOM),
    ("gpu memory", "", "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"),
    ("gpu memory", "", "torch.OutOfMemoryError: Allocation on device 0 would exceed allowed memory."),
    ("gpu memory", "--blocks_to_swap", f"RuntimeError: CUDA error: out of memory{ASYNC}"),
    ("gpu memory", "", "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ("gpu memory", "", "RuntimeError: Triton Error [CUDA]: out of memory"),
    ("gpu memory", "", "Error out of memory at line 380 in file /src/csrc/pythonInterface.cpp"),
    # the host's memory, of which CUDA says the same words: swapping more blocks would make it worse
    ("memory", "fewer", f"{PINNED}{ASYNC}"),
    ("memory", "RAM", "MemoryError"),
    ("memory", "RAM", "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1.20 GiB for an array"),
    ("memory", "RAM", HOST),
    ("memory", "RAM", "RuntimeError: unable to mmap 28577000000 bytes from file </w>: Cannot allocate memory (12)"),
    ("memory", "RAM", "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc"),
    ("memory", "paging", "OSError: [WinError 1455] La memoria virtual es insuficiente. Error loading cublas64_12.dll"),
    ("memory", "paging", "RuntimeError: Couldn't open shared file mapping: <torch_1_2_3>, error code: <1455>"),
    ("memory", "RAM", "RuntimeError: DataLoader worker (pid 81) is killed by signal: Killed. "),
    ("memory", "RAM", "RuntimeError: DataLoader worker (pid(s) 3216) exited unexpectedly"),
    ("memory", "--shm-size", "RuntimeError: DataLoader worker (pid 3002) is killed by signal: Bus error."),
    ("memory", "--shm-size", "RuntimeError: unable to write to file </torch_31911_9>: No space left on device (28)"),
    ("package", "bitsandbytes", "ModuleNotFoundError: No module named 'bitsandbytes'"),
    ("package", "musubi_tuner", "/usr/bin/python3: No module named musubi_tuner.wan_train_network"),
    ("package", "--attention", "NameError: name 'xops' is not defined"),
    ("package", "bitsandbytes", "ImportError: No bitsandbytes / bitsandbytesがインストールされていないようです"),
    ("package", "libGL", "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"),
    ("package", "GPU", f"RuntimeError: CUDA error: no kernel image is available for execution on the device{ASYNC}"),
    ("package", "torch", "NotImplementedError: No operator found for `memory_efficient_attention_forward`"),
    ("package", "CUDA", "AssertionError: Torch not compiled with CUDA enabled"),
    ("disk", "full", "OSError: [Errno 28] No space left on device: '/out/x.safetensors'"),
    ("disk", "full", f"{SERIALIZING} IoError(Os {{ code: 28, kind: StorageFull }})"),
    ("disk", "full", f"{SERIALIZING} I/O error: No space left on device (os error 28)"),
    ("disk", "quota", "OSError: [Errno 122] Disk quota exceeded"),
    ("disk", "full", WRITER),
    ("disk", "full", "OSError: [WinError 112] There is not enough space on the disk"),
    ("output", "/out/a b.safetensors", "PermissionError: [Errno 13] Permission denied: '/out/a b.safetensors'"),
    ("output", "permission", f"{SERIALIZING} I/O error: Permission denied (os error 13)"),
    ("output", "drive", "OSError: [Errno 30] Read-only file system: '/out/x'"),
    ("output", "drive", "OSError: [Errno 5] Input/output error"),
    ("gpu", "nvidia-smi", f"RuntimeError: CUDA error: unspecified launch failure{ASYNC}"),
    ("gpu", "option", f"RuntimeError: CUDA error: device-side assert triggered{ASYNC}"),
    ("gpu", "nvidia-smi", f"RuntimeError: CUDA error: uncorrectable ECC error encountered{ASYNC}"),
    ("gpu", "CUDA_VISIBLE_DEVICES", "RuntimeError: No CUDA GPUs are available"),
    ("gpu", "restart", "Unable to determine the device handle for GPU0000:03:00.0: GPU is lost.  Reboot the system"),
    ("gpu", "driver", "RuntimeError: The NVIDIA driver on your system is too old (found version 11040)."),
    (
        "gpu",
        "GPUs",
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1970, unhandled system error",
    ),
    (
        "gpu",
        "",
        "terminate called after throwing an instance\n  what():  CUDA error: unspecified launch failure\nframe #0",
    ),
    ("download", "setup", "OSError: We couldn't connect to 'https://huggingface.co' to load this file"),
    ("download", "", "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files"),
    ("download", "", "OSError: Can't load tokenizer for 'Wan-AI/Wan2.1-T2V-14B'. If you were trying to load it from"),
    ("file", "damaged", f"{HEADERS} MetadataIncompleteBuffer"),
    (
        "file",
        "damaged",
        "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory",
    ),
    (
        "file",
        "inspect",
        "RuntimeError: Error(s) in loading state_dict for WanModel:\n\tsize mismatch for head: copying",
    ),
    ("unknown", "1", "ValueError: Unknown attention mode: x"),
]


@pytest.mark.parametrize(("kind", "noun", "tail"), PRINTED)
def test_what_real_ones_printed(kind: str, noun: str, tail: str) -> None:
    for lines in (HEAD + tail, tail, (HEAD + tail).replace("\n", "\r\n"), f"{HEAD}{tail}\n\n"):
        found = failure(1, lines)
        assert found.kind == kind and noun in found.text, found
        assert found.text.endswith(".") and "\n" not in found.text


def test_every_kind_has_a_case() -> None:
    assert {*ERRORS} - {"signal"} == {kind for kind, *_ in PRINTED} >= {kind for _, kind, *_ in TABLE}


CHAIN = "During handling of the above exception, another exception occurred:\n"
LATE = "Exception ignored in: <function _MultiProcessingDataLoaderIter.__del__ at 0x7f>\n"


@pytest.mark.parametrize(
    ("tail", "kind"),
    [
        *(
            (f"{early}{HEAD}ValueError: x\n", "unknown")
            for early in ("OSError: [Errno 28] No space\n", OOM, HEAD + OOM)
        ),
        (f"{HEAD}{OOM}trying again with less\n{HEAD}MemoryError\n", "memory"),
        ("steps:  10%|# | 100/1000 [00:52<1:26:40] CUDA out of memory\n[W NNPACK.cpp] MemoryError\n", "unknown"),
        ("WARNING: No space left on device\n", "unknown"),
        (f'{HEAD}    raise RuntimeError("CUDA out of memory")\nValueError: x\n', "unknown"),
        (f"{HEAD}{OOM}{LATE}{HEAD}AttributeError: 'NoneType'\n", "gpu memory"),
        (f"{HEAD}{OOM}{CHAIN}{HEAD}RuntimeError: cleaning up\n", "gpu memory"),
        (f"{HEAD}{OOM}{HEAD}KeyError: 1\n{CHAIN}{HEAD}RuntimeError: cleaning up\n", "unknown"),
        ("CUDA out of memory\n" * 9 + f"{HEAD}KeyError: 'x'\n", "unknown"),
        ("".join(f"[rank0]: {line}\n" for line in (HEAD + OOM).splitlines()), "gpu memory"),
    ],
)
def test_the_last_traceback_tells_and_what_led_to_it(tail: str, kind: str) -> None:
    """Not what came before, progress, warnings and lines of source; nor what fails while it ends."""
    assert failure(1, tail).kind == kind


@pytest.mark.parametrize(
    ("status", "tail", "kind", "noun"),
    [
        (-9, "", "memory", "SIGKILL"),
        (137, "", "memory", "SIGKILL"),
        (1, "... died with <Signals.SIGKILL: 9>", "memory", "SIGKILL"),
        (-9, HEAD + OOM, "memory", "SIGKILL"),  # it had gone on since
        (-25, "", "signal", "SIGXFSZ."),
        (-15, "", "signal", "SIGTERM (somebody"),
        (-11, "", "signal", "SIGSEGV (a crash"),
        (-7, "", "memory", "SIGBUS"),
        (-6, "  what():  CUDA error: unspecified launch failure\n", "gpu", "GPU"),
        (-40, "", "signal", "signal 40."),
        (3221225477, "", "signal", "0xc0000005 (a crash"),
        (-1073741819, "", "signal", "0xc0000005 (a crash"),
        (1, "... returned non-zero exit status 3221225477", "signal", "Windows"),
        (0xC000012D, "", "memory", "Windows"),
        (2, "usage: wan_train_network.py [-h]\n", "unknown", "status 2."),
        (255, "", "unknown", "status 255."),
    ],
)
def test_by_its_status(status: int, tail: str, kind: str, noun: str) -> None:
    found = failure(status, tail)
    assert found.kind == kind and noun in found.text, found


def test_what_would_hit_the_other_expert_too() -> None:
    shared = {kind for kind, error in ERRORS.items() if error in SHARED}
    assert shared == {"package", "disk", "output", "gpu", "download"}


def test_other_steps_have_other_advice() -> None:
    advice = {"gpu memory": "take a smaller --max_size", "memory": "close it"}
    assert "--max_size" in failure(1, HEAD + OOM, advice).text and "close it" in failure(-9, "", advice).text


EACH = """
import sys, traceback
for code in sys.argv[1:]:
    try:
        exec(code)
    except Exception:
        traceback.print_exc()
    print("=" * 9, file=sys.stderr, flush=True)
"""
CODES = {  # the kind is up to the build and the machine for some
    "import torch; torch.empty(10**15)": "memory",
    "import torch; torch.zeros(1).cuda()": "package gpu",
    "open('x', 'w').write('x' * 99); import torch; torch.load('x', weights_only=True)": "file",
    "open('x', 'w').write('x' * 99); import safetensors; safetensors.safe_open('x', 'pt')": "file",
    "import no_such_package": "package",
    "open('/dev/full', 'w', 1).write('x\\n')": "disk",
    "import torch; torch.save(torch.zeros(9**6), open('/dev/full', 'wb', 0))": "disk",
    "import os; os.mkdir('/proc/x')": "unknown output",
}


@full_disk
def test_what_torch_itself_prints_here(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", EACH, *CODES], cwd=tmp_path, capture_output=True, text=True)
    printed = done.stderr.split("=" * 9)[: len(CODES)]
    for text, (code, kinds) in zip(printed, CODES.items(), strict=True):
        assert failure(1, text).kind in kinds.split(), (code, text)


@given(st.integers(-(2**31), 2**32), st.text(max_size=300))
def test_anything_can_be_put_into_words(status: int, tail: str) -> None:
    found = failure(status, tail)
    assert found.kind in ERRORS and found.text.endswith(".")
