package contracts_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/contracts"
)

// TestErrorTable: every code that error.go declares has a row, and every row every column.
func TestErrorTable(t *testing.T) {
	t.Parallel()
	declared := map[contracts.Code]bool{}
	file, err := parser.ParseFile(token.NewFileSet(), "error.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 || !strings.HasPrefix(v.Names[0].Name, "Code") {
			return true
		}
		if lit, ok := v.Values[0].(*ast.BasicLit); ok {
			s, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			declared[contracts.Code(s)] = true
		}
		return true
	})
	if len(declared) < 17 {
		t.Fatalf("found %d codes in error.go, want at least 17", len(declared))
	}
	verbs := map[contracts.Verb]bool{contracts.VerbAck: true, contracts.VerbTerm: true, contracts.VerbNak: true, contracts.VerbNone: true}
	for _, row := range contracts.Codes {
		if !declared[row.Code] {
			t.Errorf("row %q is not a declared code, or there twice", row.Code)
		}
		delete(declared, row.Code)
		if row.Meaning == "" || row.Advice == "" || row.OpenAIType == "" || !verbs[row.Verb] {
			t.Errorf("row %q lacks a column: %+v", row.Code, row)
		}
		if row.HTTP < 400 || row.HTTP > 599 {
			t.Errorf("row %q: HTTP status %d is no error", row.Code, row.HTTP)
		}
		if row.Retryable && row.Verb == contracts.VerbTerm && row.HTTP != 429 {
			t.Errorf("row %q: a retryable failure of a worker must not end the job", row.Code)
		}
		if got := row.Code.Info(); got != row {
			t.Errorf("Info of %q is %+v, want its row", row.Code, got)
		}
	}
	for c := range declared {
		t.Errorf("code %q has no row", c)
	}
	if got := contracts.Code("new").Info().Code; got != contracts.CodeInternal {
		t.Errorf("an unknown code is treated as %q, want internal", got)
	}
}

func TestAsError(t *testing.T) {
	t.Parallel()
	refusal := &contracts.Error{Code: contracts.CodeConflict, Message: "id was used before", Param: "job"}
	for _, tt := range []struct {
		err  error
		code contracts.Code
	}{
		{nil, ""},
		{refusal, contracts.CodeConflict},
		{fmt.Errorf("submit: %w", refusal), contracts.CodeConflict},
		{errors.Join(errors.New("x"), refusal), contracts.CodeConflict},
		{fmt.Errorf("get: %w", context.DeadlineExceeded), contracts.CodeDeadlineExceeded},
		{fmt.Errorf("get: %w", context.Canceled), contracts.CodeCanceled},
		{errors.New("secret detail"), contracts.CodeInternal},
	} {
		if got := contracts.CodeOf(tt.err); got != tt.code {
			t.Errorf("CodeOf(%v) is %q, want %q", tt.err, got, tt.code)
		}
	}
	if got := contracts.AsError(errors.New("secret detail")).Error(); strings.Contains(got, "secret") {
		t.Errorf("an internal error tells %q", got)
	}
	if got, want := refusal.Error(), "conflict: id was used before"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRecordKinds(t *testing.T) {
	t.Parallel()
	claim, usage := &contracts.Claim{}, &contracts.Usage{}
	for _, tt := range []struct {
		c            contracts.Chunk
		final, claim bool
		code         contracts.Code
		state        contracts.State
	}{
		{contracts.Chunk{Tokens: []int32{1}}, false, false, "", contracts.StateCompleted},
		{contracts.Chunk{Claim: claim}, false, true, "", contracts.StateCompleted},
		{contracts.Chunk{Claim: claim, Usage: usage}, true, false, "", contracts.StateCompleted},
		{contracts.Chunk{Usage: usage, Code: contracts.CodeCanceled}, true, false, contracts.CodeCanceled, contracts.StateCanceled},
		{contracts.Chunk{Usage: usage, Code: contracts.CodeDeadlineExceeded}, true, false, contracts.CodeDeadlineExceeded, contracts.StateExpired},
		{contracts.Chunk{Usage: usage, Code: contracts.CodeInternal}, true, false, contracts.CodeInternal, contracts.StateFailed},
	} {
		if tt.c.Final() != tt.final || tt.c.IsClaim() != tt.claim || contracts.CodeOf(tt.c.Err()) != tt.code || contracts.FinalState(&tt.c) != tt.state {
			t.Errorf("%+v: final %v, claim %v, error %v, state %s", tt.c, tt.c.Final(), tt.c.IsClaim(), tt.c.Err(), contracts.FinalState(&tt.c))
		}
	}
	a := contracts.Answer{Code: contracts.CodeOverloaded, Message: "full", RetryAfterMS: 5}
	if e := contracts.AsError(a.Err()); e.Code != a.Code || e.RetryAfterMS != 5 {
		t.Errorf("refusal %+v, want its code and retry time", e)
	}
	if err := (&contracts.Answer{}).Err(); err != nil {
		t.Errorf("an admitted job is the error %v", err)
	}
}
