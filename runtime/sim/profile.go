package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Profile is a device with a model on it: what a step costs and how much memory there is.
//
// A step takes max(C0, PerToken x tokens fed) + KV bytes read / KVBandwidth + Sched. The constants of
// the H100 are fitted to Vidur's published kernel profiles (Llama-2-7B and phi-2, FP16) and to the
// latency tables of llm-d-inference-sim; A100 and L40S are those times by the factors of the same
// tables; H200 has the H100's arithmetic and 1.43 times its memory bandwidth.
type Profile struct {
	Name            string        // for example "h100" or "h100-2.7b"
	Variant         string        // of the weights, for example "fp16"
	C0              time.Duration // least time of a step: one read of the weights
	PerToken        time.Duration // time of one token when arithmetic is the limit
	KVBandwidth     float64       // bytes of KV cache read in a second
	Sched           time.Duration // fixed time around a step
	KVBytesPerToken int64         // bytes
	KVMemory        int64         // bytes left for the KV cache beside the weights
	Jitter          float64       // standard deviation of a step's time, as a share of it
}

// Step is the time of one pass that feeds fed tokens to sequences that then hold held tokens in all.
func (p Profile) Step(fed, held int) time.Duration {
	read := float64(held) * float64(p.KVBytesPerToken) / p.KVBandwidth
	return max(p.C0, time.Duration(fed)*p.PerToken) + time.Duration(read*float64(time.Second)) + p.Sched
}

const gib = 1 << 30

// profiles are the known devices: an 8B model with grouped attention unless the name says 2.7B.
var profiles = func() map[string]Profile {
	m := map[string]Profile{}
	large := Profile{
		Variant: "fp16", C0: 6200 * time.Microsecond, PerToken: 20500 * time.Nanosecond, KVBandwidth: 2.5e12,
		Sched: time.Millisecond, KVBytesPerToken: 128 << 10, KVMemory: 52 * gib, Jitter: 0.05,
	}
	small := large
	small.C0, small.PerToken = 2800*time.Microsecond, 9*time.Microsecond
	small.KVBytesPerToken, small.KVMemory = 320<<10, 62*gib
	for _, d := range []struct {
		name           string
		arithmetic     float64 // factor on PerToken
		bandwidth      float64 // factor on C0, inverse on KVBandwidth
		memory, reduce int64   // KVMemory is the 80 GB card's plus memory minus reduce
	}{
		{"h100", 1, 1, 0, 0},
		{"h200", 1, 0.7, 54 * gib, 0},
		{"a100", 1.7, 1.7, 0, 0},
		{"l40s", 2.7, 2.7, 0, 30 * gib},
	} {
		for suffix, p := range map[string]Profile{"": large, "-2.7b": small} {
			p.Name = d.name + suffix
			p.PerToken = time.Duration(float64(p.PerToken) * d.arithmetic)
			p.C0 = time.Duration(float64(p.C0) * d.bandwidth)
			p.KVBandwidth /= d.bandwidth
			p.KVMemory += d.memory - d.reduce
			m[p.Name] = p
		}
	}
	return m
}()

// ProfileFor finds a device by name, with or without the prefix "sim:"; "sim" alone is the H100.
func ProfileFor(device string) (Profile, error) {
	name := strings.ToLower(strings.TrimPrefix(device, "sim:"))
	if name == "sim" || name == "" {
		name = "h100"
	}
	p, ok := profiles[name]
	if !ok {
		return Profile{}, fmt.Errorf("simulated device %q is not known: choose one of %s", device, strings.Join(Devices(), ", "))
	}
	return p, nil
}

// Devices lists the names that ProfileFor knows.
func Devices() []string { return slices.Sorted(maps.Keys(profiles)) }
