package gateway

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/dispatcher/admission"
	"github.com/pelton-run/pelton/dispatcher/gateway/kserve"
)

// serverV2 serves GET /v2.
func (g *gateway) serverV2(w http.ResponseWriter, _ *http.Request) error {
	return g.writeJSON(w, http.StatusOK, map[string]any{"name": "pelton", "version": g.cfg.Version, "extensions": []string{"binary_tensor_data"}})
}

// liveV2 serves GET /v2/health/live.
func (g *gateway) liveV2(w http.ResponseWriter, _ *http.Request) error {
	return g.writeJSON(w, http.StatusOK, map[string]bool{"live": true})
}

// readyV2 serves GET /v2/health/ready.
func (g *gateway) readyV2(w http.ResponseWriter, _ *http.Request) error {
	if err := g.cfg.Ready(); err != nil {
		return contracts.Errorf(contracts.CodeUnavailable, "not ready: %s", contracts.AsError(err).Message)
	}
	return g.writeJSON(w, http.StatusOK, map[string]bool{"ready": true})
}

// versionV2 is the version that every model has.
const versionV2 = "1"

// modelV2 is the model that a path names.
func (g *gateway) modelV2(r *http.Request) (admission.ModelStatus, error) {
	name, version := r.PathValue("id"), r.PathValue("version")
	m, known := g.model(name)
	switch {
	case !known:
		return m, unknownModel(name)
	case version != "" && version != versionV2:
		return m, &contracts.Error{Code: contracts.CodeModelNotFound, Param: "version", Message: "model " + brief(name) + " has no version " + brief(version) + ": its only one is " + versionV2}
	}
	return m, nil
}

// showV2 serves GET /v2/models/{id}, with a version or without.
func (g *gateway) showV2(w http.ResponseWriter, r *http.Request) error {
	m, err := g.modelV2(r)
	if err != nil {
		return err
	}
	if m.Kind != contracts.KindTensor { // its graph's are not for infer, which refuses them
		m.Inputs, m.Outputs = nil, nil
	}
	return g.writeJSON(w, http.StatusOK, kserve.Metadata{Name: m.Name, Versions: []string{versionV2}, Platform: "onnxruntime_onnx", Inputs: portsV2(m.Inputs), Outputs: portsV2(m.Outputs)})
}

func portsV2(list []admission.Port) []kserve.Port {
	out := make([]kserve.Port, len(list))
	for i, p := range list {
		out[i] = kserve.Port{Name: p.Name, Type: p.Type, Shape: p.Shape}
	}
	return out
}

// modelReadyV2 serves GET /v2/models/{id}/ready, with a version or without.
func (g *gateway) modelReadyV2(w http.ResponseWriter, r *http.Request) error {
	m, err := g.modelV2(r)
	if err != nil {
		return err
	}
	if _, err := g.served(m.Name); err != nil {
		return err
	}
	return g.writeJSON(w, http.StatusOK, map[string]any{"name": m.Name, "ready": true})
}

// infer serves POST /v2/models/{id}/infer, with a version or without.
func (g *gateway) infer(w http.ResponseWriter, r *http.Request) error {
	tenant, err := g.tenant(r)
	if err != nil {
		return err
	}
	length, err := jsonLength(r.Header)
	if err != nil {
		return err
	}
	read := g.read
	if length >= 0 {
		read = g.readAny // JSON and bytes
	}
	data, err := read(w, r)
	if err != nil {
		return err
	}
	if length < 0 {
		length = len(data)
	}
	req, err := kserve.Parse(data, length)
	if err != nil {
		return badRequest(err)
	}
	m, err := g.modelV2(r)
	if err != nil {
		return err
	}
	if _, err := g.served(m.Name); err != nil {
		return err
	}
	req.Job.Model = m.Name
	jobs := []*contracts.Job{&req.Job}
	if err := g.stamp(w, r, tenant, jobs); err != nil {
		return err
	}
	given(w)
	finals, err := g.collect(r, jobs)
	if err != nil {
		return requestParam(err)
	}
	nameJob(w, jobIDs(jobs))
	reply, tail := kserve.NewReply(m.Name, req, finals[0].Outputs)
	if tail == nil {
		return g.writeJSON(w, http.StatusOK, reply)
	}
	head, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	w.Header().Set(kserve.LengthHeader, strconv.Itoa(len(head)))
	g.write(w, http.StatusOK, "application/octet-stream", append(head, tail...))
	return nil
}

// jsonLength is how many bytes of the body are JSON by the header of the binary extension, -1 without it.
func jsonLength(h http.Header) (int, error) {
	given := h.Get(kserve.LengthHeader)
	if given == "" {
		return -1, nil
	}
	n, err := strconv.ParseUint(given, 10, 31)
	if err != nil {
		return 0, headerError(kserve.LengthHeader, "%q is not the length of the JSON in bytes", brief(given))
	}
	return int(n), nil
}
