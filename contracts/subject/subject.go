// Package subject spells and parses the NATS subjects of the fleet.
//
// It belongs to step 2 of the walk: contracts/client, the dispatcher and the workers all build their
// subjects here and nowhere else. Names that come from people (tenant, model, job id) are escaped so
// that any text is one subject token: bytes other than letters, digits, '-' and '_' become %XX.
// Pure functions, no state.
package subject

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pelton-run/pelton/contracts"
)

// Wildcards that the parts of the fleet subscribe to.
const (
	AllSubmits    = "submit.*"
	AllCancels    = "cancel.*.*"
	AllStatus     = "status.*.*"
	AllLive       = "live.*.*"
	AllOut        = "out.*.*"
	AllJobs       = "jobs.*.*.*.*.*"
	AllHeartbeats = "hb.*"
	AllCtlCancels = "ctl.cancel.*.*"
	AllCtlPreempt = "ctl.preempt.*.*"
	AllCtlRests   = "ctl.rest.*"
	AllCtlDrains  = "ctl.drain.*"
	AllSched      = "sched.*.*"
	AllDue        = "due.*.*"
	AllHeld       = "hold.*.*"
	AllDead       = "dlq.*.*"
	AllLoads      = "slo.load.*"
	AllLevels     = "slo.level.*"
	AllEvents     = "slo.event.*"
)

// OutTry is where a dispatcher tries whether records are stored. It names no job: no tenant's name is escaped so.
const OutTry = "out.%2D.try"

// AllDays is where dispatchers write down what tenants used of the day; it names no jobs either.
const AllDays = "out.%2D.*"

const day = "out.%2D.day-"

// Day is where one dispatcher writes down what tenants used of the day.
func Day(dispatcher string) string { return day + Escape(dispatcher) }

// ParseDay is the inverse of [Day].
func ParseDay(s string) (dispatcher string, ok bool) {
	token, ok := strings.CutPrefix(s, day)
	if !ok {
		return "", false
	}
	dispatcher, err := Unescape(token)
	return dispatcher, err == nil
}

const safe = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// Escape makes one subject token of any text. The empty text becomes "%".
func Escape(s string) string {
	if s == "" {
		return "%"
	}
	if strings.Trim(s, safe) == "" {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(safe, s[i]) >= 0 {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}

// Unescape is the inverse of Escape; it refuses every text that Escape would not have made.
func Unescape(token string) (string, error) {
	if token == "%" {
		return "", nil
	}
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		c := token[i]
		if strings.IndexByte(safe, c) >= 0 {
			b.WriteByte(c)
			continue
		}
		hi, lo := -1, -1
		if c == '%' && i+2 < len(token) {
			hi, lo = strings.IndexByte("0123456789ABCDEF", token[i+1]), strings.IndexByte("0123456789ABCDEF", token[i+2])
		}
		if hi < 0 || lo < 0 || strings.IndexByte(safe, byte(hi<<4|lo)) >= 0 {
			return "", fmt.Errorf("subject token %q is not escaped as %%XX at byte %d", token, i)
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	if b.Len() == 0 {
		return "", fmt.Errorf("subject token is empty")
	}
	return b.String(), nil
}

// Submit is where a producer publishes its jobs.
func Submit(tenant string) string { return "submit." + Escape(tenant) }

// Cancel is where a producer asks for a job's end.
func Cancel(tenant, job string) string { return "cancel." + Escape(tenant) + "." + Escape(job) }

// Status is where a producer asks where a job is.
func Status(tenant, job string) string { return "status." + Escape(tenant) + "." + Escape(job) }

// Live is where the records of a job's stream appear as they are accepted.
func Live(tenant, job string) string { return "live." + Escape(tenant) + "." + Escape(job) }

// Out is where a worker writes a job's records; the stream OUT keeps them.
func Out(tenant, job string) string { return "out." + Escape(tenant) + "." + Escape(job) }

// Heartbeat is where a worker says that it lives.
func Heartbeat(worker string) string { return "hb." + Escape(worker) }

// CtlCancel tells the worker that holds the job to end it.
func CtlCancel(tenant, job string) string {
	return "ctl.cancel." + Escape(tenant) + "." + Escape(job)
}

// CtlPreempt tells the worker that holds the job to give it back for a more urgent one.
func CtlPreempt(tenant, job string) string {
	return "ctl.preempt." + Escape(tenant) + "." + Escape(job)
}

// CtlRest tells a worker to take no jobs for a while, because it fails with most of them. A request with a body
// only asks the broker whether the worker is connected: the worker ignores it.
func CtlRest(worker string) string { return "ctl.rest." + Escape(worker) }

// CtlDrain tells a worker to take no more jobs and to leave. The body is how many milliseconds its jobs may go on, as
// decimal digits; unlike what the broker may answer to a spoofed reply subject it has no headers.
func CtlDrain(worker string) string { return "ctl.drain." + Escape(worker) }

// Sched is where a job waits until its time, and Due where it appears then; both in the stream SCHED.
func Sched(tenant, job string) string { return "sched." + Escape(tenant) + "." + Escape(job) }

// Due is where a scheduled job appears at its time.
func Due(tenant, job string) string { return "due." + Escape(tenant) + "." + Escape(job) }

// Held is where an admitted job waits for its turn, in the stream SCHED too.
func Held(tenant, job string) string { return "hold." + Escape(tenant) + "." + Escape(job) }

// AnySched is the pattern of a job in the stream SCHED, whatever it waits for there.
func AnySched(tenant, job string) string { return "*." + Escape(tenant) + "." + Escape(job) }

// TenantSched is the pattern of all jobs of a tenant in the stream SCHED.
func TenantSched(tenant string) string { return "*." + Escape(tenant) + ".*" }

// SLOLoad is where a dispatcher tells the others what it has waiting.
func SLOLoad(dispatcher string) string { return "slo.load." + Escape(dispatcher) }

// SLOLevel is where dispatchers tell each other what became of a model's jobs, and what they shed.
func SLOLevel(model string) string { return "slo.level." + Escape(model) }

// SLOEvent is where a dispatcher says that a ladder or a breaker moved; kind is that of the [contracts.Event].
func SLOEvent(kind string) string { return "slo.event." + Escape(kind) }

// Dead is where the stream DLQ keeps a job that was given up.
func Dead(tenant, job string) string { return "dlq." + Escape(tenant) + "." + Escape(job) }

// Bell rings when a job for the model was published.
func Bell(model string) string { return "bell." + Escape(model) }

// Ring is what the bell says: the class and size of the job that waits. Without both it says that jobs may wait
// anywhere: one worker looks.
func Ring(class contracts.Class, size contracts.Size) []byte {
	return []byte(string(class) + "." + string(size))
}

// Job addresses one admitted job in the stream JOBS.
type Job struct {
	Model  string
	Class  contracts.Class
	Size   contracts.Size
	Tenant string
	Job    string
}

// String is the subject of j.
func (j Job) String() string {
	return "jobs." + Escape(j.Model) + "." + string(j.Class) + "." + string(j.Size) + "." + Escape(j.Tenant) + "." + Escape(j.Job)
}

// AnyJob matches the job in whichever model, class and size it waits.
func AnyJob(tenant, job string) string {
	return "jobs.*.*.*." + Escape(tenant) + "." + Escape(job)
}

// JobsOf matches the jobs of one (model, class, size): the filter of one consumer.
func JobsOf(model string, class contracts.Class, size contracts.Size) string {
	return "jobs." + Escape(model) + "." + string(class) + "." + string(size) + ".*.*"
}

// Consumer is the durable name of the consumer over JobsOf.
func Consumer(model string, class contracts.Class, size contracts.Size) string {
	return Escape(model) + "-" + string(class) + "-" + string(size)
}

// ParseConsumer is the model whose jobs a consumer of JOBS delivers.
func ParseConsumer(name string) (model string, class contracts.Class, size contracts.Size, err error) {
	if n := len(name) - len("-p0-s"); n > 0 && name[n] == '-' && name[n+3] == '-' {
		class, size = contracts.Class(name[n+1:n+3]), contracts.Size(name[n+4:])
		if model, err = Unescape(name[:n]); err == nil && Consumer(model, class, size) == name && class.Valid() && slices.Contains(contracts.Sizes, size) {
			return model, class, size, nil
		}
	}
	return "", "", "", fmt.Errorf("consumer %q is not <model>-<class>-<size>", name)
}

// ParseJob parses a subject of the stream JOBS.
func ParseJob(s string) (Job, error) {
	p := strings.Split(s, ".")
	if len(p) != 6 || p[0] != "jobs" {
		return Job{}, fmt.Errorf("subject %q is not jobs.<model>.<class>.<size>.<tenant>.<job>", s)
	}
	j := Job{Class: contracts.Class(p[2]), Size: contracts.Size(p[3])}
	if !j.Class.Valid() || (j.Size != contracts.SizeS && j.Size != contracts.SizeM && j.Size != contracts.SizeL && j.Size != contracts.SizeX) {
		return Job{}, fmt.Errorf("subject %q has an unknown class or size", s)
	}
	for _, f := range []struct {
		to    *string
		token string
	}{{&j.Model, p[1]}, {&j.Tenant, p[4]}, {&j.Job, p[5]}} {
		v, err := Unescape(f.token)
		if err != nil {
			return Job{}, err
		}
		*f.to = v
	}
	return j, nil
}

// ParseSubmit returns the tenant of a submit subject.
func ParseSubmit(s string) (tenant string, err error) {
	rest, ok := strings.CutPrefix(s, "submit.")
	if !ok || strings.Contains(rest, ".") {
		return "", fmt.Errorf("subject %q is not submit.<tenant>", s)
	}
	return Unescape(rest)
}

// ParseJobRef returns tenant and job of a subject of the form prefix.<tenant>.<job>, where prefix is
// "cancel", "live", "out" or "ctl.cancel".
func ParseJobRef(prefix, s string) (tenant, job string, err error) {
	rest, ok := strings.CutPrefix(s, prefix+".")
	t, j, two := strings.Cut(rest, ".")
	if !ok || !two || strings.Contains(j, ".") {
		return "", "", fmt.Errorf("subject %q is not %s.<tenant>.<job>", s, prefix)
	}
	if tenant, err = Unescape(t); err != nil {
		return "", "", err
	}
	job, err = Unescape(j)
	return tenant, job, err
}
