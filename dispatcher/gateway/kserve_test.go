package gateway_test

import (
	"strings"
	"testing"
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
