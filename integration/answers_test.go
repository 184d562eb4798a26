package integration

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/gateway/sdkcheck"
	"github.com/pelton-run/pelton/integration/harness"
	store "github.com/pelton-run/pelton/runtime/model"
)

// TestAnswersInOneCall serves the real sentence transformer and an added ONNX file from one fleet: OpenAI's
// own clients, jobs over NATS, and the Open Inference Protocol. testdata/tiny.onnx computes
// y = relu(x W + b) and the label of the largest y; it is written by hand for this test.
func TestAnswersInOneCall(t *testing.T) {
	t.Parallel()
	models := t.TempDir()
	for _, name := range []string{"all-minilm-l6-v2"} { // fetched once, as every user's is
		if out, err := exec.CommandContext(testContext(t, 5*time.Minute), harness.Binary(t), "model", "pull", name).CombinedOutput(); err != nil {
			t.Fatalf("pelton model pull %s: %v\n%s", name, err, out)
		}
		if err := os.Symlink(filepath.Join(store.DefaultRoot(), name), filepath.Join(models, name)); err != nil {
			t.Fatal(err)
		}
	}
	add := exec.CommandContext(testContext(t, 2*time.Minute), harness.Binary(t), "model", "add", filepath.Join("testdata", "tiny.onnx"), "--max-batch", "8", "--models", models)
	add.Env = os.Environ()
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("pelton model add: %v\n%s", err, out)
	}
	p := harness.Up(t, t.TempDir(), "--model", "minilm", "--model", "tiny", "--models", models)
	t.Run("clients", func(t *testing.T) {
		for name, check := range map[string]func() (string, error){
			"python": func() (string, error) {
				return sdkcheck.Python(testContext(t, 8*time.Minute), sdkDir(t, "python"), "embeddings", p.HTTP, "minilm")
			},
			"typescript": func() (string, error) {
				return sdkcheck.TypeScript(testContext(t, 8*time.Minute), sdkDir(t, "typescript"), "embeddings", p.HTTP, "minilm")
			},
		} {
			if out, err := check(); err != nil {
				t.Errorf("%s: %v", name, err)
			} else {
				t.Log(name, out)
			}
		}
	})
	t.Run("nats", func(t *testing.T) { embedOverNATS(t, p) })
	t.Run("triton's client", func(t *testing.T) {
		out, err := sdkcheck.Python(testContext(t, 8*time.Minute), sdkDir(t, "python"), "infer", p.HTTP, "tiny")
		if err != nil {
			t.Error(err)
		}
		t.Log(out)
	})
	t.Run("infer", func(t *testing.T) { inferV2(t, p) })
}

func sdkDir(t *testing.T, language string) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "dispatcher", "gateway", "testdata", "sdk", language))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// embedOverNATS submits jobs of all classes at once; equal texts get equal vectors, whatever was beside
// them, and the checksum is the stream's.
func embedOverNATS(t *testing.T, p *harness.Process) {
	c := connect(t, p)
	vectors := make([][]byte, 12)
	var all sync.WaitGroup
	for i := range vectors {
		all.Go(func() {
			s, err := c.Run(testContext(t, 5*time.Minute), &contracts.Job{
				Model: "minilm", Kind: contracts.KindEmbed, Class: contracts.Classes[i%4], Input: []string{strings.Repeat("filler ", i), "the same text"},
			})
			if err != nil {
				// the first text of job 0 is empty
				if i != 0 || contracts.CodeOf(err) != contracts.CodeInvalidArgument {
					t.Errorf("job %d: %v", i, err)
				}
				return
			}
			_, _, final := collect(t, s)
			if err := final.Err(); err != nil || len(final.Outputs) != 1 || final.Checksum == "" {
				t.Errorf("job %d: %v, %d outputs, checksum %q", i, err, len(final.Outputs), final.Checksum)
				return
			}
			out := final.Outputs[0]
			vectors[i] = out.Data[len(out.Data)/2:]
		})
	}
	all.Wait()
	for i, v := range vectors[2:] {
		if !slices.Equal(v, vectors[1]) {
			t.Errorf("job %d has another vector for the same text", i+2)
		}
	}
}

// inferV2 asks the added model over the Open Inference Protocol, rightly and wrongly.
func inferV2(t *testing.T, p *harness.Process) {
	for name, c := range map[string]struct {
		path, body string
		status     int
		says       string
	}{
		"server":     {"/v2", "", 200, `"name":"pelton"`},
		"live":       {"/v2/health/live", "", 200, "true"},
		"ready":      {"/v2/health/ready", "", 200, "true"},
		"metadata":   {"/v2/models/tiny", "", 200, `"inputs":[{"name":"x","datatype":"FP32","shape":[-1,4]}]`},
		"ready one":  {"/v2/models/tiny/ready", "", 200, `"ready":true`},
		"unknown":    {"/v2/models/none", "", 404, `{"error":"model none is not served`},
		"nested":     {"/v2/models/tiny/infer", `{"id":"7","inputs":[{"name":"x","shape":[2,4],"datatype":"FP32","data":[[1,2,3,4],[0,-1,0,1]]}]}`, 200, `"id":"7","outputs":[{"name":"y","shape":[2,3],"datatype":"FP32","data":[0,4.25,4.51,2.09,0,0.10`},
		"one output": {"/v2/models/tiny/infer", `{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}],"outputs":[{"name":"label"}]}`, 200, `"outputs":[{"name":"label","shape":[1],"datatype":"INT64","data":[2]}]`},
		"shape":      {"/v2/models/tiny/infer", `{"inputs":[{"name":"x","shape":[1,5],"datatype":"FP32","data":[1,2,3,4,5]}]}`, 400, "shape"},
		"count":      {"/v2/models/tiny/infer", `{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3]}]}`, 400, "takes 16 bytes, got 12"},
		"type":       {"/v2/models/tiny/infer", `{"inputs":[{"name":"x","shape":[1,4],"datatype":"INT32","data":[1,2,3,4]}]}`, 400, "the model reads FP32"},
		"number":     {"/v2/models/tiny/infer", `{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,"a",3,4]}]}`, 400, "element 1 is not a FP32"},
		"name":       {"/v2/models/tiny/infer", `{"inputs":[{"name":"z","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}`, 400, `no input \"z\"`},
		"output":     {"/v2/models/tiny/infer", `{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}],"outputs":[{"name":"q"}]}`, 400, `no output \"q\"`},
		"nothing":    {"/v2/models/tiny/infer", `{}`, 400, "inputs is missing"},
		"text model": {"/v2/models/minilm/infer", `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}`, 400, "it makes vectors"},
	} {
		method := http.MethodGet
		if c.body != "" {
			method = http.MethodPost
		}
		req, err := http.NewRequestWithContext(testContext(t, time.Minute), method, p.HTTP+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var raw json.RawMessage
		err = json.NewDecoder(resp.Body).Decode(&raw)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || !strings.Contains(string(raw), c.says) {
			t.Errorf("%s: status %d, %s, %v; want %d and %s", name, resp.StatusCode, raw, err, c.status, c.says)
		}
	}
}
