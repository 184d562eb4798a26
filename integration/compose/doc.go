// Package compose runs the fleet of compose.yaml, unchanged, and hurts it: containers are killed, paused,
// restarted, cut off and scaled under load, and integration/chaos's checker judges what readers got.
//
// It belongs to integration/ and is used by its tests only, which run with PELTON_E2E=1 (make e2e): they
// need a Docker engine with compose v2 and the images of ops/deploy/docker. images.sh makes stand-ins for
// the base images where none can be pulled, engine.sh starts an engine where none runs.
package compose
