// Package hostile proves that a worker holds what it says it can hold, and no more.
//
// TestPrediction compares what an engine should hold with what the system counts, in a process of its
// own, over random mixes of sequences. TestHostile sends a fleet in a control group with a hard limit
// the largest prompts, the largest batches and storms of cancels, for several models that do not fit
// together: nobody may be killed and no job may fail. `make memory` runs both in full.
//
// It belongs to integration/ and has no code but its tests.
package hostile
