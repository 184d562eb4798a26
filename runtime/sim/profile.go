package sim

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Profile is a device with a model on it: what a step costs and how much memory there is.
//
// A step takes max(C0, PerToken x prompt tokens + PerRow x other rows) + KV bytes read / KVBandwidth + Sched.
// The constants of the H100 are fitted to Vidur's published kernel profiles (Llama-2-7B and phi-2, FP16) and
// to the latency tables of llm-d-inference-sim; A100 and L40S are those times by the factors of the same
// tables; H200 has the H100's arithmetic and 1.43 times its memory bandwidth; FP8 halves what is read and
// takes 0.7 of the arithmetic's time, which gives TensorRT-LLM's throughput on Llama 3.1 8B.
type Profile struct {
	Name            string        // for example "h100" or "h100-2.7b"
	Variant         string        // of the weights, for example "fp16"
	C0              time.Duration // least time of a step: one read of the weights
	PerToken        time.Duration // time of one prompt token when arithmetic is the limit
	PerRow          time.Duration // time of one row that feeds a generated token
	KVBandwidth     float64       // bytes of KV cache read in a second
	Sched           time.Duration // fixed time around a step
	KVBytesPerToken int64         // bytes
	KVMemory        int64         // bytes left for the KV cache beside the weights
	Jitter          float64       // standard deviation of a step's time, as a share of it
	Weights         int64         // bytes
	ContextLength   int           // tokens; 0 means 8192
}

// mostRead bounds the time in which all of the KV cache is read.
const mostRead = time.Hour

// Step is the time of one pass that feeds so many prompt tokens and rows of one generated token to sequences
// that then hold held tokens in all.
func (p Profile) Step(prompt, rows, held int) time.Duration {
	read := float64(held) * float64(p.KVBytesPerToken) / p.KVBandwidth
	work := time.Duration(prompt)*p.PerToken + time.Duration(rows)*p.PerRow
	return max(p.C0, work) + time.Duration(read*float64(time.Second)) + p.Sched
}

// Vary is a step's time with the device's jitter, which depends on a seed and the step's number alone.
func (p Profile) Vary(d time.Duration, seed, step uint64) time.Duration {
	if p.Jitter == 0 {
		return d
	}
	var source rand.PCG
	source.Seed(seed, step)
	f := p.Jitter * rand.New(&source).NormFloat64()
	return time.Duration(float64(d) * (1 + max(-0.7, min(0.7, f))))
}

// Start is how long a worker takes from its process's start until it is ready: a second, the weights from a
// disk, and a warm-up.
func (p Profile) Start() time.Duration {
	const diskBytes = 2e9 // a second
	return time.Second + time.Duration(float64(p.Weights)/diskBytes*float64(time.Second)) + 3*time.Second
}

// Validate returns all problems of p at once.
func (p Profile) Validate() error {
	var errs []error
	if p.C0 < 0 || p.PerToken < 0 || p.PerRow < 0 || p.Sched < 0 || p.C0+p.Sched+p.PerToken <= 0 || max(p.C0, p.PerToken, p.PerRow, p.Sched) > time.Minute {
		errs = append(errs, errors.New("the times of a step must not be negative, nor all zero, nor above a minute"))
	}
	if !(float64(p.KVMemory)/p.KVBandwidth <= mostRead.Seconds()) || p.KVBandwidth <= 0 || p.KVBytesPerToken < 1 || p.KVMemory/blockTokens < p.KVBytesPerToken || p.Weights < 0 {
		errs = append(errs, fmt.Errorf("the memory must hold a block of %d tokens, and all of it be read within %v", blockTokens, mostRead))
	}
	if !(p.Jitter >= 0 && p.Jitter <= 0.3) {
		errs = append(errs, errors.New("the jitter must be from 0 to 0.3 of a step"))
	}
	if p.ContextLength < 0 || p.ContextLength > 1<<22 {
		errs = append(errs, errors.New("the context length must be from 0 to 4194304"))
	}
	if p.Name == "" || len(p.Name) > 64 {
		errs = append(errs, errors.New("a name of 1 to 64 bytes is needed"))
	}
	return errors.Join(errs...)
}

const gib = 1 << 30

// sizes are the models; all figures are an H100's of 80 GB.
var sizes = map[string]Profile{
	"8b": {
		Variant: "fp16", C0: 6200 * time.Microsecond, PerToken: 20500 * time.Nanosecond, KVBandwidth: 2.5e12,
		Sched: time.Millisecond, KVBytesPerToken: 128 << 10, KVMemory: 52 * gib, Jitter: 0.05, Weights: 16e9,
	},
	"8b-fp8": {
		Variant: "fp8", C0: 3100 * time.Microsecond, PerToken: 14400 * time.Nanosecond, KVBandwidth: 2.5e12,
		Sched: time.Millisecond, KVBytesPerToken: 128 << 10, KVMemory: 60 * gib, Jitter: 0.05, Weights: 8e9,
	},
	"2.7b": {
		Variant: "fp16", C0: 2800 * time.Microsecond, PerToken: 9 * time.Microsecond, KVBandwidth: 2.5e12,
		Sched: time.Millisecond, KVBytesPerToken: 320 << 10, KVMemory: 62 * gib, Jitter: 0.05, Weights: 54e8,
	},
}

// cards are the devices beside the H100.
var cards = []struct {
	name       string
	arithmetic float64 // factor on PerToken
	bandwidth  float64 // factor on C0, inverse on KVBandwidth
	memory     int64   // more than the H100's
}{
	{"h100", 1, 1, 0},
	{"h200", 1, 0.7, 54 * gib},
	{"a100", 1.7, 1.7, 0},
	{"l40s", 2.7, 2.7, -30 * gib},
}

// profiles are the known devices: with an 8B model in FP16 unless the name says another. "instant" takes no
// time and nearly no memory, to measure everything around a device.
var profiles = func() map[string]Profile {
	m := map[string]Profile{}
	for _, card := range cards {
		for size, p := range sizes {
			p.Name = strings.TrimSuffix(card.name+"-"+size, "-8b")
			p.PerToken = time.Duration(float64(p.PerToken) * card.arithmetic)
			p.PerRow = p.PerToken
			p.C0 = time.Duration(float64(p.C0) * card.bandwidth)
			p.KVBandwidth /= card.bandwidth
			p.KVMemory += card.memory
			if card.name != "a100" || p.Variant != "fp8" { // which has no such arithmetic
				m[p.Name] = p
			}
		}
	}
	m["instant"] = Profile{Name: "instant", Variant: "none", C0: 1, KVBandwidth: 1e18, KVBytesPerToken: 1, KVMemory: gib}
	return m
}()

// ProfileFor finds a device by name, with or without the prefix "sim:"; "sim" alone is the H100, and
// "h100:2.7b" is "h100-2.7b". A name that ends in .json is a file (see [ReadProfile]).
func ProfileFor(device string) (Profile, error) {
	path := strings.TrimPrefix(device, "sim:")
	if strings.HasSuffix(path, ".json") {
		return ReadProfile(path)
	}
	name := strings.TrimSuffix(strings.ReplaceAll(strings.ToLower(path), ":", "-"), "-8b")
	if name == "sim" || name == "" {
		name = "h100"
	}
	p, ok := profiles[name]
	if !ok {
		return Profile{}, fmt.Errorf("simulated device %q is not known: choose one of %s, or a file of pelton bench --calibrate", device, strings.Join(Devices(), ", "))
	}
	return p, nil
}

// Devices lists the names that ProfileFor knows.
func Devices() []string { return slices.Sorted(maps.Keys(profiles)) }
