"""Compiles gpu.cu to gpu.ptx with NVIDIA's runtime compiler (PyPI nvidia-cuda-nvrtc-cu12), which needs no GPU.

    ptx.py gpu.cu gpu.ptx

Run it by `make ptx`. The first line of the result is the checksum of the source, which TestPTX compares.
"""

import ctypes
import hashlib
import importlib.util
import pathlib
import sys

source, target = map(pathlib.Path, sys.argv[1:])
folder = pathlib.Path(next(iter(importlib.util.find_spec("nvidia.cuda_nvrtc").submodule_search_locations)))
nvrtc = ctypes.CDLL(str(next((folder / "lib").glob("libnvrtc.so.*"))))
code = source.read_bytes()


def text(size, get):
    """What the compiler gives as a text: its size by one function, its bytes by another."""
    n = ctypes.c_size_t()
    size(program, ctypes.byref(n))
    buffer = ctypes.create_string_buffer(n.value)
    get(program, buffer)
    return buffer.raw.rstrip(b"\0")


program = ctypes.c_void_p()
if nvrtc.nvrtcCreateProgram(ctypes.byref(program), code, source.name.encode(), 0, None, None):
    sys.exit("no program")
flags = [b"--gpu-architecture=compute_80", b"--std=c++17"]  # Ampere: the oldest generation that the graphs run on
failed = nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
print(text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).decode(), end="")
if failed:
    sys.exit(1)
ptx = text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
target.write_bytes(f"// {source.name} {hashlib.sha256(code).hexdigest()}\n".encode() + ptx + b"\n")
