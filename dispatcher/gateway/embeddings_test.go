package gateway_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/gateway"
)

// embedModel has a tokenizer of a token for each byte.
var embedModel = admission.Model{Name: "embed", Kind: contracts.KindEmbed, Tokenizer: letters{}, ContextLength: 512, Vocab: 256, Dimensions: 384,
	Cut: func(ids []int32, most int) []int32 { return ids[:most] }}

type letters struct{ admission.Tokenizer }

func (letters) Encode(text string) []int32 {
	out := make([]int32, len(text))
	for i := range out {
		out[i] = int32(text[i])
	}
	return out
}

// embedFleet admits jobs for one worker with the usual memory; a text's vector begins with its first token.
type embedFleet struct{ *fakeFleet }

func (f embedFleet) Start(_ context.Context, j *contracts.Job) (*contracts.Answer, iter.Seq2[*contracts.Chunk, error], error) {
	if j.ID == "" {
		j.ID = uuid.NewString()
	}
	catalog, err := admission.NewCatalog([]admission.Model{embedModel})
	if err != nil {
		return nil, nil, err
	}
	worker := admission.Capacity{KVBytes: contracts.CallRoom, KVPerToken: contracts.EmbedCost(embedModel.Dimensions)}
	d, err := admission.Decide(j, catalog, func(string) admission.Capacity { return worker }, embedLimits, admission.Draw{Now: time.Now()})
	if err != nil {
		return nil, nil, err
	}
	out := contracts.Tensor{Name: contracts.Embedding, Type: contracts.Float32, Shape: []int64{int64(len(d.Admitted.Rows)), int64(embedModel.Dimensions)}}
	for _, row := range d.Admitted.Rows {
		vector := make([]byte, 4*embedModel.Dimensions)
		binary.LittleEndian.PutUint32(vector, math.Float32bits(float32(row[0])))
		out.Data = append(out.Data, vector...)
	}
	return &contracts.Answer{V: 1, Job: j.ID, Outcome: contracts.OutcomeAdmitted}, func(yield func(*contracts.Chunk, error) bool) {
		yield(&contracts.Chunk{V: 1, Finish: contracts.FinishStop, Outputs: []contracts.Tensor{out}, Usage: &contracts.Usage{PromptTokens: d.Admitted.KVTokens}}, nil)
	}, nil
}

var embedLimits = admission.Limits{MaxBytes: 8 << 20, MaxRecord: 1 << 20}

func openEmbed(t *testing.T) *door {
	return open(t, func(c *gateway.Config, f *fakeFleet) {
		c.Jobs = embedFleet{f}
		c.Models = func() []admission.ModelStatus {
			return []admission.ModelStatus{{Name: "embed", Kind: contracts.KindEmbed, Dimensions: embedModel.Dimensions, ContextLength: embedModel.ContextLength, Workers: 1, JobRows: embedModel.JobRows(embedLimits)}}
		}
	})
}

func embedBody(t *testing.T, input any) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"model": "embed", "input": input})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestManyLongTexts: as many of the longest texts as a request may hold are cut into jobs that fit a worker.
func TestManyLongTexts(t *testing.T) {
	t.Parallel()
	input := make([]string, contracts.MaxInputs)
	for i := range input {
		input[i] = string(rune('a'+i%26)) + strings.Repeat("x", embedModel.ContextLength-1)
	}
	r := openEmbed(t).do("POST", "/v1/embeddings", embedBody(t, input))
	var got struct {
		Data []struct {
			Index     int
			Embedding []float32
		}
	}
	if err := json.Unmarshal([]byte(r.text), &got); err != nil || r.status != 200 || len(got.Data) != len(input) {
		t.Fatalf("%d, %v, %d vectors: %.300s", r.status, err, len(got.Data), r.text)
	}
	for i, v := range got.Data {
		if v.Index != i || v.Embedding[0] != float32(input[i][0]) {
			t.Fatalf("vector %d has index %d and begins with %g, want %d", i, v.Index, v.Embedding[0], input[i][0])
		}
	}
}

// TestWrongInputIsNamed: a refusal names the input as the request numbers it, in whichever job it is.
func TestWrongInputIsNamed(t *testing.T) {
	t.Parallel()
	d := openEmbed(t)
	for _, wrong := range []int{0, 43, 299} {
		texts, ids := make([]string, 300), make([][]int32, 300)
		for i := range texts {
			texts[i], ids[i] = "x", []int32{1}
		}
		texts[wrong], ids[wrong] = strings.Repeat("x", embedModel.ContextLength+1), []int32{1, 256}
		name := fmt.Sprintf("input[%d]", wrong)
		for _, input := range []any{texts, ids} {
			r := d.do("POST", "/v1/embeddings", embedBody(t, input))
			e, _ := r.json(t)["error"].(map[string]any)
			message, _ := e["message"].(string)
			if r.status != 400 || e["param"] != name || !strings.HasPrefix(message, name) || strings.Contains(message, "rows") {
				t.Errorf("%d %s, want 400 about %s", r.status, r.text, name)
			}
		}
	}
}
