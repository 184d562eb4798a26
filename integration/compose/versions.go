package compose

import (
	"context"
	"maps"
	"os/exec"
	"strings"

	"github.com/pelton-run/pelton/contracts/topology"
	"github.com/pelton-run/pelton/integration/chaos"
)

// Versions of the images that versions.sh makes beside the one under test.
const (
	Older = "older" // a commit of the past
	Newer = "newer" // with keys in every message that the others do not know
)

// What a change of version does to the fleet.
const (
	Join    chaos.Kind = "join"    // one more worker, of version Versions[Which]
	Upgrade chaos.Kind = "upgrade" // the whole fleet ends with jobs running, queued and held, and comes back on its volumes as the version under test
)

// Versions are what the workers of [Join] and [KillWorker] may be; the first is the version under test.
var Versions = []string{Version(), Older, Newer}

// Has tells whether the image of a version is there.
func Has(version string) bool {
	return exec.Command("docker", "image", "inspect", image(version)).Run() == nil
}

// image is the one that simulated workers run.
func image(version string) string { return "ghcr.io/pelton-run/pelton:" + version }

// join starts one more worker of a version beside those that there are.
func (f Target) join(version string) {
	f.t.Helper()
	n := len(f.workers(f.t.Context(), f.Model)) + 1
	was := f.version
	f.version = version
	defer func() { f.version = was }()
	f.scale(n)
	maps.Copy(f.born, f.hosts())
}

// upgrade waits until there are jobs in every state, ends the fleet and starts it anew.
func (f Target) upgrade(ctx context.Context) {
	f.t.Helper()
	f.loaded(ctx)
	f.compose("down", "-t", "3") // who runs a job does not get to hand it over
	f.version = Version()
	f.scaled["worker"] = 1
	f.start()
}

// loaded waits until jobs run, are queued and are held.
func (f Target) loaded(ctx context.Context) {
	f.t.Helper()
	js, end := f.streams()
	defer end()
	count := func(stream string) int {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return 0
		}
		return int(s.CachedInfo().State.Msgs)
	}
	var running, queued, held int
	f.await("running, queued and held jobs", func() bool {
		running = 0
		for _, w := range f.workers(ctx, f.Model) {
			running += len(w.Jobs)
		}
		queued, held = count(topology.StreamJobs)-running, count(topology.StreamSched)
		return running > 0 && queued > 0 && held > 0
	})
	f.t.Logf("%d jobs run, %d are queued, %d held", running, queued, held)
}

// Shares are the jobs that workers of each version finished.
func (f *Fleet) Shares(h *chaos.History) map[string]int {
	out := map[string]int{}
	for _, records := range h.Out {
		if c := records[len(records)-1].Claim; c != nil {
			host, _, _ := strings.Cut(c.Worker, "-")
			out[f.born[host]]++
		}
	}
	return out
}

// hosts are the versions of the simulated workers by host name, which is their container's id.
func (f *Fleet) hosts() map[string]string {
	f.t.Helper()
	out := map[string]string{}
	for _, id := range f.containers("worker-sim") {
		_, out[id], _ = strings.Cut(f.docker("inspect", "-f", "{{.Config.Image}}", id), ":")
	}
	return out
}

// of are the containers of a version.
func (f *Fleet) of(version string) (ids []string) {
	f.t.Helper()
	for id, v := range f.hosts() {
		if v == version {
			ids = append(ids, id)
		}
	}
	return ids
}
