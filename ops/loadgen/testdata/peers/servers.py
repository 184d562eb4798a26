"""The servers that peers.py measures: how each is started, what it answers on, and what it costs."""
import os, pathlib, shutil, socket, subprocess, tempfile, time, urllib.request

TICKS = os.sysconf("SC_CLK_TCK")
SLOTS, CONTEXT = 32, 2048  # streams at once, and tokens of each, that the peers are set up for
CORES = sorted(os.sched_getaffinity(0))[:2]  # the two cores that servers and load generator share


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def stat(pid):
    """The fields of /proc/PID/stat after the command's name."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root):
    """pids of root and all below it."""
    parents = {}
    for p in os.listdir("/proc"):
        if p.isdigit():
            try:
                parents.setdefault(int(stat(p)[1]), []).append(int(p))
            except OSError:
                pass  # gone
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def cpu_seconds(pids, reaped=False):
    """Processor time of processes, with that of their ended children if reaped."""
    total = 0
    for p in pids:
        try:
            total += sum(map(int, stat(p)[11:15 if reaped else 13]))
        except OSError:
            pass
    return total / TICKS


def busy_seconds():
    """Processor time that anybody took of CORES, stolen time included."""
    total = 0
    for line in open("/proc/stat"):
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in CORES:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            total += user + nice + system + irq + softirq + steal
    return total / TICKS


class Server:
    """One started server. url has no /v1; model is what to ask for."""

    def __init__(self, name, command, port, ready, model=None, environment=None, data=None):
        self.name, self.url, self.model, self.ready, self.data = name, f"http://127.0.0.1:{port}", model, ready, data
        self.log = tempfile.NamedTemporaryFile("w+", prefix=f"peers-{name.split()[0]}-", suffix=".log", delete=False)
        self.process = subprocess.Popen([str(c) for c in command], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, process_group=0,
                                        env={**os.environ, **(environment or {})}, preexec_fn=lambda: os.sched_setaffinity(0, CORES))

    def wait(self, seconds=300):
        """Waits until the server answers; False if it ended or did not in time."""
        until = time.time() + seconds
        while time.time() < until and self.process.poll() is None:
            try:
                with urllib.request.urlopen(self.url + self.ready, timeout=5) as r:
                    if r.status == 200:
                        return True
            except OSError:
                time.sleep(0.2)
        return False

    def cpu(self):
        return cpu_seconds(tree(self.process.pid), reaped=True)

    def resident(self):
        """Largest resident memory so far of all its processes, in MiB."""
        kib = 0
        for p in tree(self.process.pid):
            try:
                kib += sum(int(l.split()[1]) for l in open(f"/proc/{p}/status") if l.startswith("VmHWM"))
            except OSError:
                pass
        return kib / 1024

    def tail(self):
        return pathlib.Path(self.log.name).read_text()[-1500:]

    def stop(self):
        """Ends it, and what it started."""
        started = tree(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for p in started[1:]:
            try:
                os.kill(p, 9)
            except OSError:
                pass
        if self.data:
            shutil.rmtree(self.data, ignore_errors=True)
        self.log.close()
        os.unlink(self.log.name)


def pelton(binary, name, model, *flags):
    port, data = free_port(), tempfile.mkdtemp(prefix="peers-pelton-")
    command = [binary, "up", "--http", f"127.0.0.1:{port}", "--nats", f"127.0.0.1:{free_port()}", "--data", data, "--model", model, "--grace", "1s", *flags]
    return Server(name, command, port, "/readyz", data=data)


def llama(built, kind, slots, context):
    """llama-server with a slot for each stream; each slot has its own context."""
    port = free_port()
    command = [built["bin"] + "/llama-server", "-m", built["models"][kind], "--host", "127.0.0.1", "--port", port, "-t", "2", "-tb", "2",
               "-np", slots, "-c", slots * context, "--no-webui"]
    return Server(f"llama.cpp {kind}, {slots} slots", command, port, "/health", model="any")


def vllm(built, slots, context):
    """vLLM, compiled if its compiler got through when it was built."""
    port = free_port()
    command = [built["bin"], "serve", built["model"], "--host", "127.0.0.1", "--port", port, "--dtype", "bfloat16", "--max-model-len", context,
               "--max-num-seqs", slots, "--served-model-name", "any", "--disable-uvicorn-access-log", *built["flags"]]
    cache = str(pathlib.Path(built["model"]).parent / "vllm-cache")
    return Server("vLLM CPU bf16", command, port, "/health", model="any", environment={
        "VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CACHE_ROOT": cache, "TORCHINDUCTOR_CACHE_DIR": cache + "/inductor"})
