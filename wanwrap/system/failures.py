"""Why a child failed, in words: from its exit status and the last lines that it printed."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from wanwrap import errors
from wanwrap.errors import StepError, WanwrapError

DIED = re.compile(r"died with <Signals\.\w+: (\d+)>|returned non-zero exit status (\d{9,})")  # below accelerate

ERRORS: dict[str, type[WanwrapError]] = {
    "gpu memory": StepError,
    "memory": StepError,
    "package": errors.PackageError,
    "disk": errors.RoomError,
    "output": errors.OutputError,
    "gpu": errors.GpuError,
    "download": errors.DownloadError,
    "file": errors.WeightsError,
    "signal": StepError,
    "unknown": StepError,
}

TRAINING = {
    "gpu memory": "raise --blocks_to_swap, or take fewer frames or smaller pictures",
    "memory": "close other programs, or swap fewer blocks",
}
ROOM = "make room; what is saved so far stays"
AGAIN = "the file is damaged or cut off: get it anew, or delete it if it is a cache or a state"
PLACE = "see to the permissions and to the drive, or give another place"
DRIVER = "update the NVIDIA driver, or see `wanwrap setup` for a build of torch that fits it"
TORCH = (
    "install a build for this torch and this GPU (`wanwrap setup` does), or choose another --attention or --optimizer"
)
REBOOT = "look at nvidia-smi, restart the machine if it shows an error, and mind heat, power supply and overclocking"
NETWORK = (
    "try again with a network and without HF_HUB_OFFLINE (for training `wanwrap setup` gets all); it works offline then"
)

# What upstream and all below it print: the kind, what happened, what to do ("" is up to who asks: TRAINING). The
# first that matches a line wins: shared memory speaks of a disk, torch's host memory of CUDA.
RULES = [
    # what torch tells of shared memory: on Windows it counts as paging file, elsewhere it is a drive of its own
    (r"DataLoader worker.* signal: Killed|DataLoader worker.*exited unexpectedly", "memory", "a data loader was ended, usually since RAM ran out", ""),
    (r"/torch_\w+>|[Bb]us error|shared memory\(shm\)|/dev/shm", "memory", "shared memory ran out", "give the container more (docker: --shm-size 8g)"),
    (r"error 1455|WinError 1455|code: <1455>|paging file is too small", "memory", "memory and paging file ran out", "let Windows manage the paging file's size, on a drive with room; close other programs"),
    (r"pin_memory|cudaHostAlloc|cudaMallocHost|CachingHostAllocator", "memory", "the RAM that can be pinned ran out", "swap fewer blocks, or leave pinned memory out"),
    (r"(?<!OutOf)MemoryError\b|bad_?alloc|DefaultCPUAllocator|not enough memory: you tried|unable to mmap|Cannot allocate memory|os error 12\)|Errno 12\b|WinError 8\b", "memory", "RAM ran out", ""),
    (r"OutOfMemoryError|(CUDA|HIP)( error:)? out of memory|CUDA error: out of memory|Triton Error.*out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|_STATUS_ALLOC_FAILED|exceed allowed memory|cuda memory allocation|[Ee]rror out of memory at line|CUBLAS_STATUS_NOT_INITIALIZED|unable to find an engine|valid cuDNN algorithm", "gpu memory", "the GPU ran out of memory", ""),
    # packages
    (r"No module named '?([\w.-]+)|ImportError: No (\w+)|No package metadata was found for ([\w-]+)", "package", "the package {0} is missing", "install it into the Python that trains; `wanwrap doctor` tells how"),
    (r"NameError: name '(xops|xformers|flash_attn\w*|sageattention)'", "package", "a package for attention ({0}) is missing", "install it, or choose another --attention"),
    (r"not compiled with CUDA", "package", "torch is a build without CUDA", "`wanwrap setup` installs the one that fits"),
    (r"no kernel image is available|not compatible with the current PyTorch|No operator found for|undefined symbol|libbitsandbytes|CUDA Setup failed|FlashAttention only supports", "package", "a package or torch itself was built for another GPU or another torch", TORCH),
    (r"ImportError: (.{1,200})", "package", "a package can't be imported ({0})", "`wanwrap doctor` tells what is missing"),
    # disks
    (r"No space left on device|Errno 28\b|os error 28\b|StorageFull|not enough space on the disk|(WinError|os error) 112\b", "disk", "the disk is full", ROOM),
    (r"[Qq]uota ?[Ee]xceeded|Disk quota|(Errno|os error) 122\b", "disk", "your quota of disk space is used up", ROOM),
    (r"PytorchStreamWriter failed writing|unexpected pos \d+ vs \d+", "disk", "a file could not be written to its end, usually since the disk is full", ROOM),
    (r"File too large|FileTooLarge|(Errno|os error) 27\b", "disk", "a file grew larger than this drive or a limit allows", "use another drive"),
    (r"Read-only file system|ReadOnlyFilesystem|(Errno|os error) 30\b", "output", "the drive can't be written to any more", "look at it (dmesg tells), and mount it anew"),
    (r"(?:Permission denied|Access is denied)[^:]*: '([^']+)'", "output", "{0} may not be read or written", PLACE),
    (r"PermissionError|Permission denied|Access is denied|(Errno|os error) 13\b|WinError (5|32)\b", "output", "permission was denied", PLACE),
    (r"Input/output error|(Errno|os error) 5\b|Stale file handle|Transport endpoint is not connected|PytorchStreamWriter failed opening|Parent directory .* does not exist", "output", "the drive failed or is gone", PLACE),
    # GPUs
    (r"driver on your system is too old|driver version is insufficient|forward compatibility was attempted|driver is too old", "gpu", "the NVIDIA driver is too old for this torch", DRIVER),
    (r"Found no NVIDIA driver|[Nn]o CUDA-capable device|No CUDA GPUs are available|invalid device ordinal", "gpu", "no GPU is seen any more", "look at nvidia-smi and CUDA_VISIBLE_DEVICES, and restart the machine if it shows an error"),
    (r"launch timed out", "gpu", "the system ended a GPU job that took too long, since the GPU draws the screen too", "raise Windows' TdrDelay, or swap more blocks"),
    (r"device-side assert triggered", "gpu", "a check on the GPU failed", "if it fails there again the data or an option is wrong, else the GPU"),
    (r"busy or unavailable", "gpu", "another program keeps the GPU for itself", "end it (nvidia-smi lists them)"),
    (r"unspecified launch failure|illegal memory access|illegal instruction|misaligned address|hardware stack error|uncorrectable ECC|GPU is lost|fallen off the bus|CUDA(?: error:)? unknown error|CUDA error: initialization|driver shutting down|device handle for GPU|CUDA driver error|_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)|CUDA error: .*(?:ECC|NVLink)", "gpu", "the GPU failed", REBOOT),
    (r"NCCL.*(?:unhandled|error|timeout)|Watchdog caught collective", "gpu", "the GPUs lost each other", REBOOT),
    # the Hub
    (r"LocalEntryNotFound|couldn't connect to|OfflineModeIsEnabled|offline mode is enabled|Can't load (?:tokenizer|the configuration|the model)|cannot find the requested files|NameResolution|name resolution|getaddrinfo failed|MaxRetryError|Network is unreachable|ConnectionError|ReadTimeout|ConnectTimeout|SSLError|ProxyError|HfHubHTTPError|RepositoryNotFound|GatedRepo|does not appear to have a file named", "download", "a file of the Hub's is not in the cache and could not be downloaded", NETWORK),
    # weights, caches, states
    (r"deserializing header|MetadataIncompleteBuffer|Header(?:TooLarge|TooSmall)|InvalidHeader|InvalidOffset|header too (?:large|small)|file not fully covered", "file", "a safetensors file can't be read", AGAIN),
    (r"PytorchStreamReader failed|UnpicklingError|Ran out of input|unexpected EOF|BadZipFile|invalid magic number", "file", "a file of torch's can't be read", AGAIN),
    (r"loading state_dict", "file", "weights do not fit the model", "`wanwrap inspect` tells what a file is"),
]  # fmt: skip
TABLE = [(re.compile(pattern), kind, what, todo) for pattern, kind, what, todo in RULES]

CHAIN = re.compile(r"During handling of the above|direct cause of the following|^Exception (?:ignored )?in")
FRAME = re.compile(r'^\s*File "|^    |^[\s│┃╭╰]+$|^[│┃╭╰]')  # source lines may tell of any error
ASIDE = re.compile(r"WARN|Warning|^\W*INFO|\bDEBUG\b|^\[W|\d+%\||\bsteps:\s")

# What has ended a child that printed no reason: the kind, and what it means. Those of Windows are as it counts them.
ENDINGS = {
    "SIGTERM": ("signal", "somebody or the system asked it to end: a scheduler, a shutdown"),
    "SIGHUP": ("signal", "its terminal was closed; tmux or nohup keep it"),
    "SIGINT": ("signal", "Ctrl-C"),
    "SIGSEGV": ("signal", "a crash inside a package or the driver; try again, then update it"),
    "SIGABRT": ("signal", "a package gave up; the lines above tell why"),
    "SIGBUS": ("memory", "shared memory ran out, or a drive with a file in use vanished"),
    "SIGILL": ("signal", "a package was built for another processor"),
    "Windows with status 0xc0000005": (
        "signal",
        "a crash inside a package or the driver, or memory ran out; enlarge the paging file, then update the driver",
    ),
    "Windows with status 0xc0000017": ("memory", "memory ran out"),
    "Windows with status 0xc000012d": ("memory", "memory and paging file ran out"),
    "Windows with status 0xc0000409": ("signal", "a package gave up; the lines above tell why"),
    "Windows with status 0xc000013a": ("signal", "its window was closed, or Ctrl-C"),
}


@dataclass(frozen=True)
class Failure:
    """`text` goes on after the step's name: what happened and what to change. `error` is the class to raise."""

    kind: str
    text: str

    @property
    def error(self) -> type[WanwrapError]:
        """The class of errors.py, and so the exit code."""
        return ERRORS[self.kind]


def failure(status: int, tail: str, advice: Mapping[str, str] = TRAINING) -> Failure:
    """Why a child failed; `advice` by kind is what helps in this step.

    A kill tells more than what was printed before it; all else tells less.
    """
    ending = _ending(status, tail)
    if ending == "SIGKILL":
        return Failure("memory", f"was ended by SIGKILL (usually: out of RAM; {advice['memory']}).")
    if found := _printed(tail, advice):
        return found
    if ending in ENDINGS:
        kind, why = ENDINGS[ending]
        return Failure(kind, f"was ended by {ending} ({why}).")
    if not ending.startswith("Windows"):
        return Failure("signal", f"was ended by {ending}.")
    return Failure("unknown", f"failed with exit status {status}.")


def lacking(tail: str) -> int:
    """Bytes of GPU memory that torch was asked for and had not; 0 where it doesn't say."""
    tried = re.findall(r"Tried to allocate ([\d.]+) ([MG])iB", tail)
    return max((int(float(size) * {"M": 2**20, "G": 2**30}[unit]) for size, unit in tried), default=0)


def _ending(status: int, tail: str) -> str:
    """What ended it, or the child of a launcher or a shell: a signal, or Windows with a status."""
    if died := DIED.search(tail):
        status = -int(died[1]) if died[1] else int(died[2])
    number = -status if status < 0 else status - 128
    if number and number in [*signal.Signals]:  # Windows has one with the number 0
        return signal.Signals(number).name
    return f"signal {number}" if -64 <= status < 0 else f"Windows with status {status % 2**32:#x}"


def _printed(tail: str, advice: Mapping[str, str]) -> Failure | None:
    """By the last line that tells of a failure that is known."""
    for line in reversed(_last_error(tail)):
        for pattern, kind, what, todo in TABLE:
            if found := pattern.search(line):
                if kind == "gpu memory" and _pinned(tail):
                    kind, what, todo = "memory", "the RAM that can be pinned ran out", "swap fewer blocks"
                happened = what.format(next(filter(None, found.groups()), "")).rstrip()
                return Failure(kind, f"failed: {happened}; {todo or advice[kind]}.")
    return None


def _pinned(tail: str) -> bool:
    """Whether RAM was to be pinned, by the last frames of tracebacks: CUDA says the same of it as of its own memory."""
    return any("pin_memory" in line for line in [line for line in tail.splitlines() if FRAME.search(line)][-3:])


def _last_error(tail: str) -> list[str]:
    """The lines of the last traceback and of those that led to it: no frames, no progress, no warnings.

    Without a traceback, as where C++ gave up, all of them.
    """
    lines = [re.sub(r"^\[rank\d+\]:\s?", "", line) for line in re.split(r"[\r\n]+", tail) if line.strip()]
    heads = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    while len(heads) > 1 and heads[-1] and CHAIN.search(lines[heads[-1] - 1]):
        heads.pop()
    begin = heads[-1] if heads and not (heads[-1] and CHAIN.search(lines[heads[-1] - 1])) else 0
    return [line for line in lines[begin:] if not FRAME.search(line) and not ASIDE.search(line)]
