package gateway_test

import (
	"strings"
	"testing"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/gateway"
)

// TestVersions: the paths with a version know the one that every model has.
func TestVersions(t *testing.T) {
	t.Parallel()
	d := open(t, nil)
	const body = `{"inputs":[{"name":"a","datatype":"BOOL","shape":[1],"data":[true]}]}`
	for _, c := range []struct {
		method, path, says string
		status             int
	}{
		{"GET", "/versions/1", `"versions":["1"]`, 200},
		{"GET", "/versions/1/ready", `"ready":true`, 200},
		{"POST", "/versions/1/infer", `"model_version":"1"`, 200},
		{"GET", "/versions/2", "no version 2", 404},
		{"GET", "/versions/2/ready", "no version 2", 404},
		{"POST", "/versions/2/infer", "no version 2", 404},
	} {
		in := ""
		if c.method == "POST" {
			in = body
		}
		if r := d.do(c.method, "/v2/models/parrot"+c.path, in); r.status != c.status || !strings.Contains(r.text, c.says) {
			t.Errorf("%s %s: %d %s, want %d with %s", c.method, c.path, r.status, r.text, c.status, c.says)
		}
	}
}

// TestMetadataIsOfInfer: only models that infer serves describe inputs and outputs.
func TestMetadataIsOfInfer(t *testing.T) {
	t.Parallel()
	ports := []admission.Port{{Name: "ids", Type: "INT64", Shape: []int64{-1}}}
	d := open(t, func(c *gateway.Config, _ *fakeFleet) {
		c.Models = func() []admission.ModelStatus {
			return []admission.ModelStatus{
				{Name: "vectors", Kind: contracts.KindEmbed, Workers: 1, Inputs: ports, Outputs: ports},
				{Name: "sums", Kind: contracts.KindTensor, Workers: 1, Inputs: ports, Outputs: ports},
			}
		}
	})
	for name, want := range map[string]string{"vectors": `"inputs":[],"outputs":[]`, "sums": `"inputs":[{"name":"ids"`} {
		if r := d.do("GET", "/v2/models/"+name, ""); r.status != 200 || !strings.Contains(r.text, want) {
			t.Errorf("%s: %d %s, want %s", name, r.status, r.text, want)
		}
	}
}
