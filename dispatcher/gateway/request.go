package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/retry"
	"github.com/pelton-run/pelton/dispatcher/admission"
)

// errTooLarge marks refusals of a body that was not read to its end.
var errTooLarge = errors.New("body too large")

// steering are the labels that mean something to the fleet.
var steering = []string{admission.LabelSLO, admission.LabelOverload, admission.LabelParts, retry.Label}

// maxKey bounds an Idempotency-Key, in bytes.
const maxKey = 256

// tenant is whom r belongs to.
func (g *gateway) tenant(r *http.Request) (string, error) {
	if g.cfg.Tenant == nil {
		return "default", nil
	}
	return g.cfg.Tenant(r)
}

// tenantAsked is the tenant whose jobs r looks at: its own, or any when nobody is asked who they are.
func (g *gateway) tenantAsked(r *http.Request) (string, error) {
	own, err := g.tenant(r)
	asked := r.URL.Query().Get("tenant")
	if err != nil || asked == "" || asked == own {
		return own, err
	}
	if g.cfg.Tenant != nil {
		return "", &contracts.Error{Code: contracts.CodePermissionDenied, Param: "tenant", Message: "these credentials belong to another tenant: leave tenant out"}
	}
	return asked, nil
}

// read is the request's JSON body, bounded in size and time.
func (g *gateway) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if err := wantJSON(r.Header); err != nil {
		return nil, err
	}
	return g.readAny(w, r)
}

// readAny is the request's body of any type, bounded in size and time.
func (g *gateway) readAny(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return nil, &refusal{http.StatusUnsupportedMediaType, contracts.Errorf(contracts.CodeInvalidArgument, "content encoding %q is not served: send the body as it is", brief(coding))}
	}
	tooLarge := errors.Join(errTooLarge, contracts.Errorf(contracts.CodePayloadTooLarge, "the body has more than %d bytes: shorten it", g.cfg.MaxBody))
	if r.ContentLength > g.cfg.MaxBody {
		return nil, tooLarge
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, g.cfg.MaxBody+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &refusal{http.StatusRequestTimeout, contracts.Errorf(contracts.CodeDeadlineExceeded, "the body did not arrive within %s: send it again", g.cfg.ReadTime)}
	case r.Context().Err() != nil:
		return nil, contracts.Errorf(contracts.CodeCanceled, "the caller left while sending the body")
	case contracts.CodeOf(err) == contracts.CodeOverloaded: // [weighed]
		return nil, err
	case err != nil:
		return nil, contracts.Errorf(contracts.CodeInvalidArgument, "the body is damaged: send it again")
	case int64(len(data)) > g.cfg.MaxBody:
		return nil, tooLarge
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // the server reads on, to notice a client that leaves
	return data, nil
}

// boundBody gives a request's body its time to arrive. The deadline stays when the handler refuses the
// request unread, because the server then reads the rest before it sends the answer.
func (g *gateway) boundBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(g.cfg.ReadTime))
	}
}

// wantJSON refuses a body that says it is something else. A body that says nothing is taken for JSON.
func wantJSON(h http.Header) error {
	given := h.Get("Content-Type")
	if media, _, err := mime.ParseMediaType(given); given != "" && (err != nil || media != jsonType) {
		return &refusal{http.StatusUnsupportedMediaType, contracts.Errorf(contracts.CodeInvalidArgument, "content type %q is not served: send application/json", brief(given))}
	}
	return nil
}

// stamp fills in what the headers say of a request's jobs, and gives them their ids: from the
// Idempotency-Key, so that the same key means the same job; without one [Jobs] gives them new ones.
func (g *gateway) stamp(w http.ResponseWriter, r *http.Request, tenant string, jobs []*contracts.Job) error {
	class, err := classHeader(r.Header)
	if err != nil {
		return err
	}
	g.limitsOf(w, tenant)
	now := time.Now()
	deadline, err := deadlineHeader(r.Header, now)
	if err != nil {
		return err
	}
	steers, err := steeringHeaders(r.Header)
	if err != nil {
		return err
	}
	key := r.Header.Get("Idempotency-Key")
	if len(key) > maxKey {
		return headerError("Idempotency-Key", "it has %d bytes, at most %d are allowed", len(key), maxKey)
	}
	for i, j := range jobs {
		j.Tenant = tenant
		if class != "" {
			j.Class = class
		}
		if deadline != 0 {
			j.Deadline = deadline
		}
		if j.Submitted == 0 {
			j.Submitted = now.UnixMilli()
		}
		if j.ID == "" && key != "" {
			j.ID = jobID(tenant, key, i)
		}
		j.Labels = traceLabels(j.Labels, steers, r.Header, w.Header().Get("X-Request-Id"))
		if key != "" && len(jobs) > 1 {
			j.Labels[admission.LabelParts] = strconv.Itoa(len(jobs)) // there is room beside what these requests may say
		}
	}
	return nil
}

func jobID(tenant, key string, index int) string {
	sum := sha256.Sum256([]byte(tenant + "\x00" + key))
	id := "idem-" + hex.EncodeToString(sum[:16])
	if index > 0 {
		id += "-" + strconv.Itoa(index)
	}
	return id
}

func headerError(name, format string, args ...any) error {
	return contracts.Invalid(name, "header "+name+": "+format, args...)
}

func classHeader(h http.Header) (contracts.Class, error) {
	c := contracts.Class(h.Get("X-Pelton-Class"))
	if c != "" && !c.Valid() {
		return "", headerError("X-Pelton-Class", "class %q is not one of p0, p1, p2, p3", brief(string(c)))
	}
	return c, nil
}

// deadlineHeader is X-Pelton-Deadline in Unix milliseconds, 0 when it is absent.
func deadlineHeader(h http.Header, now time.Time) (int64, error) {
	text := h.Get("X-Pelton-Deadline")
	if text == "" {
		return 0, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		if d <= 0 {
			return 0, headerError("X-Pelton-Deadline", "%s is not in the future", text)
		}
		return now.Add(d).UnixMilli(), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.UnixMilli() <= 0 {
		return 0, headerError("X-Pelton-Deadline", "%q is neither a duration such as 2s nor a time such as 2026-11-24T10:00:00Z", brief(text))
	}
	return t.UnixMilli(), nil
}

// steeringHeaders are the headers that say what may become of a job in an overload, as its labels.
func steeringHeaders(h http.Header) (map[string]string, error) {
	labels := map[string]string{}
	if text := h.Get("X-Slo-Ttft-Ms"); text != "" {
		if ms, err := strconv.ParseFloat(text, 64); err != nil || !(ms >= 0 && ms < 1e9) || len(text) > contracts.MaxLabelLength {
			return nil, headerError("X-Slo-Ttft-Ms", "%q is not a number of milliseconds", brief(text))
		}
		labels[admission.LabelSLO] = text
	}
	text := h.Get("X-Pelton-On-Overload")
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); text != "" && part != "demote" && part != "shorten" || len(text) > contracts.MaxLabelLength {
			return nil, headerError("X-Pelton-On-Overload", "%q is not demote, shorten, or both with a comma", brief(text))
		}
	}
	if text != "" {
		labels[admission.LabelOverload] = text
	}
	return labels, nil
}

// traceLabels adds what steers the job and, as far as there is room, the headers that follow it through the fleet.
func traceLabels(labels, steers map[string]string, h http.Header, request string) map[string]string {
	out := maps.Clone(labels)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, steers)
	for name, value := range map[string]string{
		"traceparent": h.Get("Traceparent"), "tracestate": h.Get("Tracestate"), "request_id": request,
		retry.Label: h.Get("X-Stainless-Retry-Count"),
	} {
		if _, taken := out[name]; value != "" && len(value) <= contracts.MaxLabelLength && printable(value) && (taken || len(out) < contracts.MaxLabels) {
			out[name] = value
		}
	}
	return out
}
