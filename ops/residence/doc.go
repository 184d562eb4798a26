// Package residence decides which of a worker's models are in memory, where several share it.
//
// It stands beside the walk: ops/node adds each model, worker/intake asks a model's [Seat] for the
// memory of its jobs and says when a job waits for a model that is not loaded. Next step:
// runtime/onnx, which loads and unloads.
//
// All of it is one account, a memory.Budget: weights, activations and the KV cache of every job. So a
// model is loaded as a job is admitted: when there is room. Rules:
//
//  1. A model whose job waits is loaded at once if its weights and the job fit.
//  2. If they do not, idle models make room: those that cost least to have gone, where the cost is the
//     time to load times the frequency of use, for each byte that it frees. A pinned model stays; one
//     with a job stays.
//  3. If idle models are not enough, it waits for jobs to end. After [Patience] jobs of other models,
//     no other model takes a new job until there is room. The same goes for a job of a loaded model
//     that waits for more KV cache than is free.
//
// [Victims] and the bookkeeping of waits and uses are pure; a [Manager] runs one goroutine, in Run,
// which loads and unloads one model at a time. A model is opened once by Add, so that its cost is
// measured and its faults are known before the worker is ready.
package residence
