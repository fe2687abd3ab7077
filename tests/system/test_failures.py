"""Why a child failed, told from what real ones printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanwrap.errors import (
    DownloadError,
    GpuError,
    OutputError,
    PackageError,
    RoomError,
    StepError,
    WanwrapError,
    WeightsError,
)
from wanwrap.run.run import SHARED
from wanwrap.system.failures import ERRORS, TABLE, failure

HEAD = 'Traceback (most recent call last):\n  File "/u/wan_train_network.py", line 700, in <module>\n    main()\n'
ASYNC = (
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\n"
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 270.00 MiB. GPU 0 has a total capacity of 23.64 GiB\n"

PRINTED = [  # what came last, the kind, the error, a part of the words
    (HEAD + OOM, "gpu memory", StepError, "raise --blocks_to_swap"),
    (HEAD + "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", "gpu memory", StepError, ""),
    (HEAD + "torch.OutOfMemoryError: Allocation on device 0 would exceed allowed memory. (out of memory)\n", "gpu memory", StepError, ""),
    (HEAD + "RuntimeError: CUDA error: out of memory\n" + ASYNC, "gpu memory", StepError, "ran out of memory"),
    (HEAD + "torch.AcceleratorError: CUDA error: out of memory\n" + ASYNC, "gpu memory", StepError, ""),
    (HEAD + "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "gpu memory", StepError, ""),
    (HEAD + "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED\n", "gpu memory", StepError, ""),
    (HEAD + "RuntimeError: Triton Error [CUDA]: out of memory\n", "gpu memory", StepError, ""),
    (HEAD + "Error out of memory at line 380 in file /src/csrc/pythonInterface.cpp\n", "gpu memory", StepError, ""),
    # the host's memory, of which CUDA says the same words: swapping more blocks would make it worse
    (HEAD + '  File "/u/offloading.py", line 9, in pin\n    t = t.pin_memory()\nRuntimeError: CUDA error: out of memory\n' + ASYNC, "memory", StepError, "fewer blocks"),
    (HEAD + "MemoryError\n", "memory", StepError, "RAM"),
    (HEAD + "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1.20 GiB for an array with shape (1,)\n", "memory", StepError, "RAM"),
    (HEAD + "RuntimeError: [enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 141557760 bytes. Error code 12 (Cannot allocate memory)\n", "memory", StepError, "RAM"),
    (HEAD + "RuntimeError: [enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 141557760 bytes.\n", "memory", StepError, "RAM"),
    (HEAD + "RuntimeError: unable to mmap 28577000000 bytes from file </models/wan.safetensors>: Cannot allocate memory (12)\n", "memory", StepError, "RAM"),
    ("terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n", "memory", StepError, "RAM"),
    (HEAD + "OSError: The paging file is too small for this operation to complete. (os error 1455)\n", "memory", StepError, "paging file"),
    (HEAD + "OSError: [WinError 1455] La memoria virtual es insuficiente. Error loading \"C:\\torch\\lib\\cublas64_12.dll\"\n", "memory", StepError, "paging file"),
    (HEAD + "RuntimeError: Couldn't open shared file mapping: <torch_1_2_3>, error code: <1455>\n", "memory", StepError, "paging file"),
    (HEAD + "RuntimeError: DataLoader worker (pid 81) is killed by signal: Killed. \n", "memory", StepError, "data loader"),
    (HEAD + "RuntimeError: DataLoader worker (pid(s) 3216) exited unexpectedly\n", "memory", StepError, "data loader"),
    ("ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).\n" + HEAD + "RuntimeError: DataLoader worker (pid 3002) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory.\n", "memory", StepError, "--shm-size"),
    (HEAD + "RuntimeError: unable to write to file </torch_31911_952036340_6686>: No space left on device (28)\n", "memory", StepError, "--shm-size"),
    (HEAD + "ModuleNotFoundError: No module named 'bitsandbytes'\n", "package", PackageError, "bitsandbytes"),
    ("/usr/bin/python3: No module named musubi_tuner.wan_train_network\n", "package", PackageError, "musubi_tuner"),
    (HEAD + "NameError: name 'xops' is not defined\n", "package", PackageError, "--attention"),
    (HEAD + "NameError: name 'flash_attn' is not defined\n", "package", PackageError, "flash_attn"),
    (HEAD + "ImportError: No bitsandbytes / bitsandbytesがインストールされていないようです\n", "package", PackageError, "bitsandbytes is missing"),
    (HEAD + "ImportError: libGL.so.1: cannot open shared object file: No such file or directory\n", "package", PackageError, "libGL"),
    (HEAD + "ImportError: DLL load failed while importing flash_attn_2_cuda: The specified procedure could not be found.\n", "package", PackageError, "DLL"),
    (HEAD + "RuntimeError: CUDA error: no kernel image is available for execution on the device\n" + ASYNC, "package", PackageError, "another GPU"),
    (HEAD + "NotImplementedError: No operator found for `memory_efficient_attention_forward` with inputs:\n     query : shape=(1, 8, 40, 128)\n", "package", PackageError, "another torch"),
    (HEAD + "AssertionError: Torch not compiled with CUDA enabled\n", "package", PackageError, "without CUDA"),
    (HEAD + "OSError: [Errno 28] No space left on device: '/out/x.safetensors'\n", "disk", RoomError, "full"),
    (HEAD + 'safetensors_rust.SafetensorError: Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })\n', "disk", RoomError, "full"),
    (HEAD + "safetensors_rust.SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)\n", "disk", RoomError, "full"),
    (HEAD + "OSError: [Errno 122] Disk quota exceeded\n", "disk", RoomError, "quota"),
    (
        HEAD + "RuntimeError: [enforce fail at inline_container.cc:778] . PytorchStreamWriter failed writing file data/271: file write failed\n"
        "During handling of the above exception, another exception occurred:\n"
        + HEAD + "RuntimeError: [enforce fail at inline_container.cc:603] . unexpected pos 190007680 vs 190007572\n",
        "disk", RoomError, "full",
    ),
    (HEAD + "OSError: [WinError 112] There is not enough space on the disk\n", "disk", RoomError, "full"),
    (HEAD + "PermissionError: [Errno 13] Permission denied: '/out/cats low.safetensors'\n", "output", OutputError, "/out/cats low.safetensors"),
    (HEAD + "safetensors_rust.SafetensorError: Error while serializing: I/O error: Permission denied (os error 13)\n", "output", OutputError, "permission"),
    (HEAD + "OSError: [Errno 30] Read-only file system: '/out/x'\n", "output", OutputError, "can't be written"),
    (HEAD + "OSError: [Errno 5] Input/output error\n", "output", OutputError, "drive"),
    (HEAD + "RuntimeError: CUDA error: unspecified launch failure\n" + ASYNC, "gpu", GpuError, "nvidia-smi"),
    (HEAD + "torch.AcceleratorError: CUDA error: an illegal memory access was encountered\n" + ASYNC, "gpu", GpuError, "nvidia-smi"),
    (HEAD + "RuntimeError: CUDA error: device-side assert triggered\n" + ASYNC, "gpu", GpuError, "check on the GPU"),
    (HEAD + "RuntimeError: CUDA error: uncorrectable ECC error encountered\n" + ASYNC, "gpu", GpuError, "GPU failed"),
    (HEAD + "RuntimeError: No CUDA GPUs are available\n", "gpu", GpuError, "no GPU is seen"),
    (HEAD + "RuntimeError: CUDA error: no CUDA-capable device is detected\n" + ASYNC, "gpu", GpuError, "no GPU is seen"),
    ("Unable to determine the device handle for GPU0000:03:00.0: GPU is lost.  Reboot the system to recover this GPU\n", "gpu", GpuError, "restart"),
    (HEAD + "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver\n", "gpu", GpuError, "driver is too old"),
    (HEAD + "RuntimeError: CUDA driver version is insufficient for CUDA runtime version\n", "gpu", GpuError, "driver is too old"),
    (HEAD + "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1970, unhandled system error, NCCL version 2.20.5\n", "gpu", GpuError, "lost each other"),
    ("terminate called after throwing an instance of 'c10::Error'\n  what():  CUDA error: unspecified launch failure\nframe #0: c10::Error + 0x57\n", "gpu", GpuError, "GPU failed"),
    (HEAD + "OSError: We couldn't connect to 'https://huggingface.co' to load this file, couldn't find it in the cached files\n", "download", DownloadError, "wanwrap setup"),
    (HEAD + "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files in the disk cache\n", "download", DownloadError, ""),
    (HEAD + "OSError: Can't load tokenizer for 'Wan-AI/Wan2.1-T2V-14B'. If you were trying to load it from\n", "download", DownloadError, ""),
    (HEAD + "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer\n", "file", WeightsError, "damaged"),
    (HEAD + "safetensors_rust.SafetensorError: Error while deserializing header: header too large\n", "file", WeightsError, "damaged"),
    (HEAD + "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory\n", "file", WeightsError, "damaged"),
    (HEAD + "RuntimeError: Error(s) in loading state_dict for WanModel:\n\tsize mismatch for head: copying\n", "file", WeightsError, "inspect"),
    (HEAD + "ValueError: Unknown attention mode: x\n", "unknown", StepError, "failed with exit status 1."),
]  # fmt: skip


@pytest.mark.parametrize(("tail", "kind", "error", "part"), PRINTED)
def test_what_real_ones_printed(tail: str, kind: str, error: type[WanwrapError], part: str) -> None:
    for lines in (tail, tail.removeprefix(HEAD), tail.replace("\n", "\r\n"), tail + "\n\n"):
        found = failure(1, lines)
        assert (found.kind, found.error) == (kind, error), lines
        assert part in found.text and found.text.endswith("."), found.text
        assert "\n" not in found.text


def test_every_kind_has_a_case() -> None:
    assert {*ERRORS} - {"signal"} == {kind for _, kind, *_ in PRINTED}
    assert {kind for _, kind, *_ in TABLE} <= {*ERRORS}


@pytest.mark.parametrize(
    "early",
    [
        "UserWarning: expandable_segments ran out of memory: CUDA out of memory, trying again\n",
        "CUDA out of memory. Tried to allocate 2 GiB\n",  # caught by upstream, which went on
        HEAD + OOM + "trying again with less\n",
        "OSError: [Errno 28] No space left on device\n",
    ],
)
def test_what_came_before_the_last_traceback_does_not_mislead(early: str) -> None:
    assert failure(1, early + HEAD + "ValueError: no such thing\n").kind == "unknown"
    assert failure(1, early + HEAD + "MemoryError\n").kind == "memory"


def test_progress_and_warnings_tell_nothing() -> None:
    tail = "steps:  10%|# | 100/1000 [00:52<1:26:40] CUDA out of memory\n[W NNPACK.cpp] MemoryError\nWARNING: No space left on device\n"
    assert failure(1, tail).kind == "unknown"


def test_source_lines_in_frames_tell_nothing() -> None:
    assert failure(1, HEAD + '    raise RuntimeError("CUDA out of memory")\nValueError: x\n').kind == "unknown"


def test_what_fails_while_it_ends_is_not_the_cause() -> None:
    late = "Exception ignored in: <function _MultiProcessingDataLoaderIter.__del__ at 0x7f>\n"
    assert failure(1, HEAD + OOM + late + HEAD + "AttributeError: 'NoneType'\n").kind == "gpu memory"
    chain = "During handling of the above exception, another exception occurred:\n"
    assert failure(1, HEAD + OOM + chain + HEAD + "RuntimeError: cleaning up\n").kind == "gpu memory"


def test_the_ranks_of_several_gpus() -> None:
    tail = "".join(f"[rank0]: {line}\n" for line in (HEAD + OOM).splitlines())
    assert failure(1, tail).kind == "gpu memory"


@pytest.mark.parametrize(
    ("status", "tail", "kind", "text"),
    [
        (-9, "", "memory", "was ended by SIGKILL (usually: out of RAM; close other programs, or swap fewer blocks)."),
        (137, "", "memory", "was ended by SIGKILL (usually: out of RAM; close other programs, or swap fewer blocks)."),
        (1, "... died with <Signals.SIGKILL: 9>", "memory", "was ended by SIGKILL"),
        (-9, HEAD + OOM, "memory", "was ended by SIGKILL"),  # it had gone on since
        (-25, "", "signal", "was ended by SIGXFSZ."),
        (-15, "", "signal", "was ended by SIGTERM (somebody or the system asked it to end"),
        (-11, "", "signal", "was ended by SIGSEGV (a crash"),
        (1, "... died with <Signals.SIGSEGV: 11>", "signal", "was ended by SIGSEGV"),
        (-7, "", "memory", "was ended by SIGBUS"),
        (-6, "  what():  CUDA error: unspecified launch failure\n", "gpu", "failed: the GPU failed"),
        (-6, "", "signal", "was ended by SIGABRT"),
        (-40, "", "signal", "was ended by signal 40."),
        (3221225477, "", "signal", "was ended by Windows with status 0xc0000005 (a crash"),
        (-1073741819, "", "signal", "was ended by Windows with status 0xc0000005 (a crash"),
        (1, "... returned non-zero exit status 3221225477", "signal", "was ended by Windows"),
        (0xC000012D, "", "memory", "was ended by Windows"),
        (3, "", "unknown", "failed with exit status 3."),
        (2, "usage: wan_train_network.py [-h]\n", "unknown", "failed with exit status 2."),
        (255, "", "unknown", "failed with exit status 255."),
    ],
)
def test_by_its_status(status: int, tail: str, kind: str, text: str) -> None:
    found = failure(status, tail)
    assert found.kind == kind and found.text.startswith(text), found


def test_what_would_hit_the_other_expert_too() -> None:
    assert [kind for kind, error in ERRORS.items() if error in SHARED] == [
        "package",
        "disk",
        "output",
        "gpu",
        "download",
    ]


def test_other_steps_have_other_advice() -> None:
    found = failure(1, HEAD + OOM, {"gpu memory": "take a smaller --max_size", "memory": "close other programs"})
    assert found.text == "failed: the GPU ran out of memory; take a smaller --max_size."
    assert failure(-9, "", {"memory": "close other programs"}).text.endswith(
        "(usually: out of RAM; close other programs)."
    )


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("import torch; torch.empty(10**15)", "memory"),
        ("import torch; torch.zeros(1).cuda()", "package gpu"),  # by the build, and the machine
        ("open('x', 'w').write('x' * 99); import torch; torch.load('x', weights_only=True)", "file"),
        ("open('x', 'w').write('x' * 99); import safetensors; safetensors.safe_open('x', 'pt')", "file"),
        ("import no_such_package", "package"),
        ("open('/dev/full', 'w', 1).write('x\\n')", "disk"),
        ("import torch; torch.save(torch.zeros(9**6), open('/dev/full', 'wb', 0))", "disk"),
        ("import os; os.mkdir('/proc/x')", "unknown output"),
        ("import os; os.kill(os.getpid(), 9)", "memory"),
        ("import os; os.abort()", "signal"),
        ("import os; os.write(2, b'CUDA out of memory\\n' * 9); {}['x']", "unknown"),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_what_torch_itself_prints_here(code: str, kind: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert failure(done.returncode, done.stderr).kind in kind.split(), done.stderr


@given(st.integers(-(2**31), 2**32), st.text(max_size=300))
def test_anything_can_be_put_into_words(status: int, tail: str) -> None:
    found = failure(status, tail)
    assert found.kind in ERRORS and found.text.endswith(".")
