// Package gather joins the calls of several jobs into one call of a graph: dynamic batching for models
// that answer in one call.
//
// It is to engine.Graph what worker/batch is to engine.Engine. Previous step of the walk: worker/lease,
// which holds the job. Next step: runtime/onnx runs the graph, then worker/emit writes the answer.
//
// Which calls are joined is decided by [Next], which is pure. Its rules:
//
//  1. The most urgent call that waits leads, the oldest of those.
//  2. Others of its bucket join, in the same order, while all together stay within the limit. A call
//     without a bucket runs alone.
//  3. A leader that waits for less than the delay and could have company waits on, unless the limit is
//     reached.
//
// What a call computes must not depend on the calls beside it; that is the promise of who gives it a
// bucket. When a joined call fails, each of its parts runs again alone, so that only the one at fault
// fails. A [Loop] is safe for concurrent use; its graph is driven by one goroutine.
package gather
