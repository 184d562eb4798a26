package openai

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strconv"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/body"
)

// Embeddings is a request to /v1/embeddings.
type Embeddings struct {
	Job    contracts.Job // with all inputs
	Base64 bool          // the vectors are wanted as base64 of little-endian float32
	// Dimensions is what the caller asks for, 0 when it does not say; only the model's own is served.
	Dimensions int
}

// ParseEmbeddings reads the body of POST /v1/embeddings.
func ParseEmbeddings(data []byte) (*Embeddings, error) {
	f, err := body.Parse(data)
	if err != nil {
		return nil, err
	}
	e := &Embeddings{Job: contracts.Job{V: contracts.Version, Kind: contracts.KindEmbed, Class: class(f), Labels: labels(f), Truncate: f.Bool("truncate")}}
	if e.Job.Model = f.Text("model"); e.Job.Model == "" {
		f.Failf("model", "model is missing: ask /v1/models what is served")
	}
	switch format := f.Text("encoding_format"); format {
	case "", "float":
	case "base64":
		e.Base64 = true
	default:
		f.Failf("encoding_format", "encoding_format %q is not one of float, base64", format)
	}
	if d := f.Int("dimensions"); d != nil {
		if e.Dimensions = *d; *d < 1 {
			f.Failf("dimensions", "dimensions is %d, it must be at least 1", *d)
		}
	}
	e.inputs(f)
	if err := f.Err(); err != nil {
		return nil, err
	}
	probe := e.Job // what the gateway fills in later must not fail here
	probe.ID, probe.Tenant = "probe", "probe"
	if err := probe.Validate(); err != nil {
		return nil, err
	}
	return e, nil
}

// inputs reads input: a string, strings, token ids, or lists of token ids.
func (e *Embeddings) inputs(f *body.Fields) {
	for _, p := range prompts(f, "input", contracts.MaxInputs) {
		if len(p.tokens) > 0 {
			e.Job.Rows = append(e.Job.Rows, p.tokens)
		} else {
			e.Job.Input = append(e.Job.Input, p.text)
		}
	}
	if len(e.Job.Rows) > 0 && len(e.Job.Input) > 0 {
		f.Failf("input", "input mixes strings and token ids: send one kind")
	}
}

// Jobs cuts the request into jobs of at most most inputs, so that each answer fits one record.
func (e *Embeddings) Jobs(most int) []*contracts.Job {
	var jobs []*contracts.Job
	for at := 0; at < len(e.Job.Input)+len(e.Job.Rows); at += most {
		j := e.Job
		j.Input, j.Rows = cut(e.Job.Input, at, most), cut(e.Job.Rows, at, most)
		jobs = append(jobs, &j)
	}
	return jobs
}

func cut[T any](list []T, at, most int) []T {
	if at >= len(list) {
		return nil
	}
	return list[at:min(len(list), at+most)]
}

// EmbeddingReply is the answer of /v1/embeddings.
type EmbeddingReply struct {
	Object string          `json:"object"`
	Data   []Vector        `json:"data"`
	Model  string          `json:"model"`
	Usage  EmbeddingsUsage `json:"usage"`
}

// EmbeddingsUsage counts the tokens of all inputs.
type EmbeddingsUsage struct {
	PromptTokens int `json:"prompt_tokens"`
	TotalTokens  int `json:"total_tokens"`
}

// Vector is the embedding of one input.
type Vector struct {
	Object    string `json:"object"`
	Index     int    `json:"index"`
	Embedding Floats `json:"embedding"`
}

// Floats writes a vector, given as little-endian float32, as numbers or as base64.
type Floats struct {
	Data   []byte
	Base64 bool
}

// MarshalJSON writes the shortest numbers that read back as the same float32.
func (v Floats) MarshalJSON() ([]byte, error) {
	if v.Base64 {
		out := make([]byte, 0, base64.StdEncoding.EncodedLen(len(v.Data))+2)
		return append(base64.StdEncoding.AppendEncode(append(out, '"'), v.Data), '"'), nil
	}
	out := append(make([]byte, 0, len(v.Data)*3+2), '[')
	for i := 0; i+4 <= len(v.Data); i += 4 {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendFloat(out, float64(math.Float32frombits(binary.LittleEndian.Uint32(v.Data[i:]))), 'g', -1, 32)
	}
	return append(out, ']'), nil
}

// Add appends the vectors of one job's final record.
func (r *EmbeddingReply) Add(c *contracts.Chunk, base64 bool) error {
	if err := c.Err(); err != nil {
		return err
	}
	if len(c.Outputs) != 1 || c.Outputs[0].Type != contracts.Float32 || len(c.Outputs[0].Shape) != 2 || c.Outputs[0].Shape[0] < 1 {
		return contracts.Errorf(contracts.CodeInternal, "the answer holds no vectors: %d outputs", len(c.Outputs))
	}
	t := &c.Outputs[0]
	each := len(t.Data) / int(t.Shape[0])
	for i := range int(t.Shape[0]) {
		r.Data = append(r.Data, Vector{"embedding", len(r.Data), Floats{t.Data[i*each : (i+1)*each], base64}})
	}
	r.Usage.PromptTokens += c.Usage.PromptTokens
	r.Usage.TotalTokens += c.Usage.TotalTokens
	return nil
}
