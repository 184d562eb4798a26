package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"time"
)

// maxFile is the largest file of a profile in bytes.
const maxFile = 64 << 10

// file is a profile as JSON.
type file struct {
	Name            string  `json:"name"`
	Variant         string  `json:"variant"`
	C0              float64 `json:"c0_ms"`
	PerToken        float64 `json:"per_token_ms"`
	PerRow          float64 `json:"per_row_ms"`
	Sched           float64 `json:"sched_ms"`
	KVBandwidth     float64 `json:"kv_bytes_per_second"`
	KVBytesPerToken int64   `json:"kv_bytes_per_token"`
	KVMemory        int64   `json:"kv_memory"`
	Jitter          float64 `json:"jitter"`
	Weights         int64   `json:"weights"`
	ContextLength   int     `json:"context_length"`
}

const millisecond = float64(time.Millisecond)

// span is a number of milliseconds to the nanosecond.
func span(ms float64) time.Duration { return time.Duration(math.Round(ms * millisecond)) }

// ReadProfile reads a profile that [Profile.Write] wrote.
func ReadProfile(path string) (Profile, error) {
	in, err := os.Open(path)
	if err != nil {
		return Profile{}, fmt.Errorf("profile of a device: %w", err)
	}
	defer func() { _ = in.Close() }()
	data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("it has more than %d bytes", maxFile)
	}
	var f file
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		err = dec.Decode(&f)
	}
	p := Profile{
		Name: f.Name, Variant: f.Variant, C0: span(f.C0), PerToken: span(f.PerToken),
		PerRow: span(f.PerRow), Sched: span(f.Sched), KVBandwidth: f.KVBandwidth,
		KVBytesPerToken: f.KVBytesPerToken, KVMemory: f.KVMemory, Jitter: f.Jitter, Weights: f.Weights, ContextLength: f.ContextLength,
	}
	if err == nil {
		err = p.Validate()
	}
	if err != nil {
		return Profile{}, fmt.Errorf("profile %s: %w", path, err)
	}
	return p, nil
}

// Write writes p as JSON.
func (p Profile) Write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	ms := func(d time.Duration) float64 { return float64(d) / millisecond }
	return enc.Encode(file{p.Name, p.Variant, ms(p.C0), ms(p.PerToken), ms(p.PerRow), ms(p.Sched), p.KVBandwidth,
		p.KVBytesPerToken, p.KVMemory, p.Jitter, p.Weights, p.ContextLength})
}
