package subject_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"pgregory.net/rapid"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/subject"
)

func TestEscape(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":           "%",
		"default":    "default",
		"a-b_C9":     "a-b_C9",
		"a.b":        "a%2Eb",
		"a b":        "a%20b",
		"*":          "%2A",
		">":          "%3E",
		"%":          "%25",
		"%2E":        "%252E",
		"é":          "%C3%A9",
		"\x00\xff\n": "%00%FF%0A",
	} {
		if got := subject.Escape(text); got != want {
			t.Errorf("Escape(%q) is %q, want %q", text, got, want)
		}
		if got, err := subject.Unescape(want); err != nil || got != text {
			t.Errorf("Unescape(%q) is %q, %v, want %q", want, got, err, text)
		}
	}
	for _, token := range []string{"", "a.b", "a b", "*", ">", "%2", "%2e", "%41", "%%", "%GG", "é", "a%", "\x00"} {
		if got, err := subject.Unescape(token); err == nil {
			t.Errorf("Unescape(%q) is %q, want an error: Escape never writes it", token, got)
		}
	}
}

func TestParseConsumer(t *testing.T) {
	t.Parallel()
	for _, model := range []string{"m", "llama 3.2", "a-p0-s", ""} {
		for _, class := range contracts.Classes {
			for _, size := range contracts.Sizes {
				name := subject.Consumer(model, class, size)
				if m, c, s, err := subject.ParseConsumer(name); err != nil || m != model || c != class || s != size {
					t.Errorf("ParseConsumer(%q) is %q %s %s, %v", name, m, c, s, err)
				}
			}
		}
	}
	for _, name := range []string{"", "due", "-p0-s", "m-p4-s", "m-p0-q", "m-p0-s ", "m.x-p0-s", "m_p0-s", "mp0-s"} {
		if m, _, _, err := subject.ParseConsumer(name); err == nil {
			t.Errorf("ParseConsumer(%q) is %q, want an error", name, m)
		}
	}
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	j := subject.Job{Model: "llama 3.2", Class: contracts.P1, Size: contracts.SizeM, Tenant: "a.b", Job: "id"}
	for got, want := range map[string]string{
		subject.Submit("a.b"):                               "submit.a%2Eb",
		subject.Cancel("t", "j.1"):                          "cancel.t.j%2E1",
		subject.Live("t", "j"):                              "live.t.j",
		subject.Out("t", "j"):                               "out.t.j",
		subject.Heartbeat("w.1"):                            "hb.w%2E1",
		subject.CtlCancel("t", "j"):                         "ctl.cancel.t.j",
		subject.CtlDrain("w.1"):                             "ctl.drain.w%2E1",
		subject.Bell("m"):                                   "bell.m",
		string(subject.Ring(contracts.P0, contracts.SizeM)): "p0.m",
		j.String():                                          "jobs.llama%203%2E2.p1.m.a%2Eb.id",
		subject.AnyJob("a.b", "id"):                         "jobs.*.*.*.a%2Eb.id",
		subject.JobsOf(j.Model, j.Class, j.Size):            "jobs.llama%203%2E2.p1.m.*.*",
		subject.Consumer("llama 3.2", contracts.P1, contracts.SizeM): "llama%203%2E2-p1-m",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for pattern, s := range map[string]string{
		subject.AllSubmits: subject.Submit("a.b"), subject.AllCancels: subject.Cancel("t", "j.1"), subject.AllLive: subject.Live("", "j"),
		subject.AllOut: subject.Out("t", ">"), subject.AllJobs: j.String(), subject.AllHeartbeats: subject.Heartbeat("w.1"), subject.AllCtlCancels: subject.CtlCancel("t", "*"),
		subject.AnyJob(j.Tenant, j.Job): j.String(), subject.JobsOf(j.Model, j.Class, j.Size): j.String(),
	} {
		if !server.IsValidLiteralSubject(s) || !matches(pattern, s) {
			t.Errorf("%q is not a literal subject that matches %q", s, pattern)
		}
	}
}

func matches(pattern, s string) bool {
	p, q := strings.Split(pattern, "."), strings.Split(s, ".")
	for i := range p {
		if i >= len(q) || (p[i] != "*" && p[i] != q[i]) {
			return false
		}
	}
	return len(p) == len(q)
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "jobs", "jobs.m.p1.s.t", "jobs.m.p1.s.t.j.x", "job.m.p1.s.t.j", "jobs.m.p4.s.t.j", "jobs.m.p1.q.t.j", "jobs.m.p1.s..j", "jobs.%.p1.s.t.a b", "jobs.*.p1.s.t.j"} {
		if j, err := subject.ParseJob(s); err == nil {
			t.Errorf("ParseJob(%q) is %+v, want an error", s, j)
		}
	}
	for _, s := range []string{"", "submit", "submit.", "submit.a.b", "xsubmit.a", "submit.%zz"} {
		if tenant, err := subject.ParseSubmit(s); err == nil {
			t.Errorf("ParseSubmit(%q) is %q, want an error", s, tenant)
		}
	}
	for _, s := range []string{"", "live", "live.t", "live.t.j.x", "live..j", "live.t.", "out.t.j", "live.t.%4"} {
		if tenant, job, err := subject.ParseJobRef("live", s); err == nil {
			t.Errorf("ParseJobRef(%q) is %q, %q, want an error", s, tenant, job)
		}
	}
}

// TestRoundTrip: any names make a valid subject that parses back to them, and other names another one.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		draw := func() subject.Job {
			return subject.Job{
				Model: rapid.String().Draw(t, "model"), Tenant: rapid.String().Draw(t, "tenant"), Job: rapid.String().Draw(t, "job"),
				Class: rapid.SampledFrom(contracts.Classes).Draw(t, "class"), Size: rapid.SampledFrom(contracts.Sizes).Draw(t, "size"),
			}
		}
		a, b := draw(), draw()
		checkJob(t, a)
		if (a == b) != (a.String() == b.String()) {
			t.Fatalf("%+v is %s and %+v is %s", a, a, b, b)
		}
		for prefix, s := range map[string]string{"cancel": subject.Cancel(a.Tenant, a.Job), "live": subject.Live(a.Tenant, a.Job), "out": subject.Out(a.Tenant, a.Job), "ctl.cancel": subject.CtlCancel(a.Tenant, a.Job)} {
			if tenant, job, err := subject.ParseJobRef(prefix, s); err != nil || tenant != a.Tenant || job != a.Job {
				t.Fatalf("%s parses to %q, %q, %v, want %q, %q", s, tenant, job, err, a.Tenant, a.Job)
			}
		}
		if tenant, err := subject.ParseSubmit(subject.Submit(a.Tenant)); err != nil || tenant != a.Tenant {
			t.Fatalf("%s parses to %q, %v", subject.Submit(a.Tenant), tenant, err)
		}
	})
}

type fataler interface{ Fatalf(string, ...any) }

func checkJob(t fataler, j subject.Job) {
	s := j.String()
	if !server.IsValidLiteralSubject(s) {
		t.Fatalf("%+v makes the subject %q, which NATS does not take", j, s)
	}
	if got, err := subject.ParseJob(s); err != nil || got != j {
		t.Fatalf("%s parses to %+v, %v, want %+v", s, got, err, j)
	}
}

func FuzzRoundTrip(f *testing.F) {
	f.Add("llama 3.2", "a.b", "01a20bcf")
	f.Add("", "*", ">")
	f.Add("%41", "\x00", "\xff\xfe")
	f.Fuzz(func(t *testing.T, model, tenant, job string) {
		checkJob(t, subject.Job{Model: model, Tenant: tenant, Job: job, Class: contracts.P0, Size: contracts.SizeX})
	})
}

// FuzzParse: what parses is exactly what is built from the parts.
func FuzzParse(f *testing.F) {
	f.Add("jobs.m.p1.s.t.j")
	f.Add("jobs.%.p0.x.%2E.%41")
	f.Fuzz(func(t *testing.T, s string) {
		if j, err := subject.ParseJob(s); err == nil && j.String() != s {
			t.Fatalf("%q parses to %+v, which is spelled %q", s, j, j)
		}
		if tenant, job, err := subject.ParseJobRef("live", s); err == nil && subject.Live(tenant, job) != s {
			t.Fatalf("%q parses to %q, %q", s, tenant, job)
		}
	})
}
