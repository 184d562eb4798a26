package cli_test

import (
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
	"github.com/pelton-run/pelton/ops/node"
)

// bury stores a dead letter of the job args[1] at the broker args[0], as a worker does.
func bury(ts *testscript.TestScript, _ bool, args []string) {
	one, seed, most := 1, int64(7), 3
	admitted, err := contracts.Encode(&contracts.Admitted{V: 1, Tokens: []int32{5, 6, 7}, KVTokens: 6, Digest: "d", Job: contracts.Job{
		V: 1, ID: args[1], Tenant: "default", Model: "sim", Kind: contracts.KindText, Class: contracts.P2,
		Params: contracts.Params{MaxTokens: &most, Seed: &seed, N: &one}}})
	ts.Check(err)
	data, err := contracts.Encode(&contracts.Dead{V: 1, Job: args[1], Tenant: "default", Code: contracts.CodeInternal, Message: "it kills workers",
		Died: time.Now().UnixMilli(), History: []contracts.Claim{{Worker: "w1", Attempt: 1}, {Worker: "w1", Attempt: 1, Released: contracts.ReleaseLost}}, Tokens: 2, Admitted: admitted})
	ts.Check(err)
	nc, err := node.Remote{URL: args[0]}.Connect("test")
	ts.Check(err)
	defer nc.Close()
	_, err = nc.Request(subject.Dead("default", args[1]), data, 20*time.Second)
	ts.Check(err)
}
