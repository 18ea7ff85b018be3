"""Builds the null GPU for the PyTorch of this environment: needs g++ and the headers of CUDA's runtime."""

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LIBRARIES = ("libc10_cuda.so", "libtorch_cuda.so", "libtorch_cuda_linalg.so", "libtorch_python.so")
# Calls that a GPU would work on; all others only prepare something.
WORK = re.compile(
    r"cublas[SDCZ](gemm|gemv|trsm|dot|axpy|copy|scal|swap|ger)|cublas(Gemm|DotEx|SgemmEx|LtMatmul$)|cublas.*trsmBatched"
    r"|cublas.*get.*Batched|cusolverDn.*(getrf|getrs|potrf|syevd|gesvd)$|cudnn(BatchNormalization\w*(Inference|"
    r"TrainingEx|BackwardEx)$|BackendExecute|Convolution(Forward|Backward\w*)$|PoolingForward)"
)


def missing() -> str | None:
    """What the null GPU cannot be built without here, or None."""
    if sys.platform != "linux":
        return "the null GPU is for Linux"
    if not shutil.which("g++"):
        return "the null GPU needs g++"
    torch = _torch()
    if not (torch / "libtorch_cuda.so").is_file():
        return "the null GPU needs a CUDA build of torch"
    return None if headers() else "the null GPU needs the headers of CUDA's runtime (pip install nvidia-cuda-crt)"


def headers() -> Path | None:
    """The folder of headers that comes with torch, or of a toolkit."""
    packages = sorted((_torch().parent.parent / "nvidia").glob("cu*/include"))
    toolkits = sorted(Path("/usr/local").glob("cuda*/include"))
    return next((f for f in (*packages, *toolkits) if all((f / own).is_file() for own in NEEDED)), None)


NEEDED = ("driver_types.h", "crt/host_defines.h")


def build() -> Path:
    """The folder with the libraries, made once for each PyTorch and state of the sources; a minute the first time."""
    sources = [HERE / "runtime.cpp", HERE / "driver.c", Path(__file__)]
    torch = _torch()
    stamp = hashlib.sha256("".join(map(str, (torch, (torch.parent / "version.py").read_text()))).encode())
    for source in sources:
        stamp.update(source.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"dmlbench-nullgpu-{stamp.hexdigest()[:16]}"
    if not folder.is_dir():
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        wanted = _wanted(torch) - set(re.findall(r"\w+", (HERE / "runtime.cpp").read_text()))
        lines = [
            f'API int {name}() {{ return {"library_call" if WORK.search(name) else "other"}("{name}"); }}'
            for name in sorted(wanted)
        ]
        (partial / "generated.inc").write_text("\n".join(lines))
        _run("g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-w", f"-I{headers()}", f"-I{partial}",
             str(HERE / "runtime.cpp"), "-o", str(partial / "libnullgpu.so"), "-ldl", "-lpthread")  # fmt: skip
        _run("gcc", "-O1", "-fPIC", "-shared", "-w", str(HERE / "driver.c"), "-o", str(partial / "libcuda.so.1"))
        try:
            partial.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return folder


def _torch() -> Path:
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("torch")
    return Path(found.origin).parent / "lib"


def _wanted(torch: Path) -> set[str]:
    """Symbols of CUDA's libraries that PyTorch's own leave open."""
    names: set[str] = set()
    for library in LIBRARIES:
        done = subprocess.run(
            ["nm", "-D", "--undefined-only", str(torch / library)], capture_output=True, text=True, check=True
        )
        names |= {line.split()[-1].split("@")[0] for line in done.stdout.splitlines()}
    return {name for name in names if re.match(r"(cuda|__cuda|cublas|cudnn|cusolver|cusparse)", name)}


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
