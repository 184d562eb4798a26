#!/bin/sh
# The default model on a GPU: the engine alone, the whole path in closed and open loop, the naive export, Hugging Face
# transformers, and vLLM's server under the same load. Run by `make bench-gpu`, with PELTON_ORT_LIB naming the GPU build of ONNX Runtime and DEVICE the GPU.
set -u
device=${DEVICE:-cuda:0} http=127.0.0.1:18080 nats=127.0.0.1:14222
data=$(mktemp -d)
trap 'kill "$server" 2>/dev/null; rm -rf "$data"' EXIT
server=
say() { printf '\n== %s\n' "$*"; }

serve() { # MODEL: starts it and waits until it is ready
	bin/pelton up --model "$1" --device "$device" --data "$data/$1" --http "$http" --nats "$nats" >"$data/$1.log" 2>&1 &
	server=$!
	for _ in $(seq 600); do
		curl -sf "http://$http/v1/models" >/dev/null && return
		kill -0 "$server" 2>/dev/null || break
		sleep 0.1
	done
	cat "$data/$1.log"
	exit 1
}

load() { bin/pelton bench --url "http://${url:-$http}" --seed 7 --output-tokens 64 -o wide "$@" | grep -E 'requests in|good|output|TTFT|TPOT|refus|warning'; }

say 'engine'
PELTON_TEST_DEVICE=$device go test -tags nvml -run '^$' -bench . -benchtime 100x ./runtime/onnx/paged | grep -E 'Benchmark|FAIL'

say 'embeddings'
PELTON_TEST_DEVICE=$device go test -tags nvml -run '^$' -bench 'Embed/fp32' -benchtime 50x ./runtime/onnx | grep -E 'Benchmark|FAIL'

serve smollm2:fp16
for n in 1 8 32 128 256 512; do
	say "$n open, 60 tokens in, 64 out"
	load --concurrency "$n" --requests $((n * 10 + 20)) --input-tokens 60
done
for rate in 500 500 600 750; do # the second finds most of its calls captured
	say "$rate requests/s, 100 to 500 tokens in, 64 out"
	load --rate "$rate" --duration 10s --warm-up 2s --input-tokens 100-500 --slo-ttft 200ms
done
kill "$server" && wait "$server"

serve smollm2:naive
for n in 1 8 32; do
	say "naive export, $n open"
	load --concurrency "$n" --requests $((n * 3)) --input-tokens 60
done
kill "$server" && wait "$server"
server=

model=${XDG_CACHE_HOME:-$HOME/.cache}/pelton/models/smollm2-135m-instruct/fp16
say 'transformers'
if python3 -c 'import torch, transformers, onnx' 2>/dev/null; then
	python3 ops/loadgen/testdata/bench_gpu.py "$model" 2>/dev/null
else
	echo 'not here: pip install torch transformers onnx'
fi

if ! python3 -c 'import vllm' 2>/dev/null; then
	say 'vLLM is not here: pip install vllm onnx'
	exit
fi
url=127.0.0.1:18081
python3 ops/loadgen/testdata/bench_gpu.py "$model" "$data/model" || exit
CUDA_VISIBLE_DEVICES=${device#cuda:} python3 -m vllm.entrypoints.openai.api_server --model "$data/model" --dtype float16 --host 127.0.0.1 --port 18081 >"$data/vllm.log" 2>&1 &
server=$!
for _ in $(seq 6000); do
	curl -sf "http://$url/health" >/dev/null && break
	kill -0 "$server" 2>/dev/null || { cat "$data/vllm.log"; exit 1; }
	sleep 0.1
done
load --concurrency 8 --requests 80 --input-tokens 60 >/dev/null # warms up
for n in 1 8 32 128 256 512; do
	say "vLLM, $n open, 60 tokens in, 64 out"
	load --concurrency "$n" --requests $((n * 4 + 20)) --input-tokens 60
done
for rate in 100 250 500; do
	say "vLLM, $rate requests/s, 100 to 500 tokens in, 64 out"
	load --rate "$rate" --duration 10s --warm-up 2s --input-tokens 100-500 --slo-ttft 200ms
done
