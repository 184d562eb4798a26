// Package batch runs many sequences on one engine at once: continuous batching.
//
// Previous step of the walk: worker/lease, which made sure that the job is ours. Next steps:
// runtime/engine runs each step, runtime/sampler picks the tokens, worker/emit writes them out.
//
// A sequence is one choice of a job. Its life:
//
//	waiting --open--> prefill --prompt done--> replay --> decode --> ended
//	   |                 |        (only after a resume)     |
//	   +-----------------+------ end asked, deadline, error +--> ended
//
// What of a prompt another sequence of the same tenant holds already, or held when it ended, is taken over from
// it, where the engine can ([engine.Sharer]).
//
// Few sequences share a step with tokens that are guessed to follow, see [Guess], where the engine reads them at
// hardly any cost ([engine.Drafter]). A guess is what sampling would have chosen, or it is forgotten: the tokens are the
// same, drawn ones too, only sooner.
//
// Sequences join and leave between steps. Each step carries one row for every sequence that decodes
// or replays, and prompt chunks under a token budget, so that a long prompt never stalls the streams
// that run beside it. How large the budget is, [Pace] says; what a step contains is decided by [Schedule]. Both
// are pure, and a [Planner] is both.
//
// Invariants:
//  1. One call to the engine at a time, made for the goroutine in [Loop.Run]; after a call that does not
//     come back in time, none.
//  2. A continued sequence is bit for bit the one that was interrupted. Where the engine's bits depend on
//     how a token is fed (MinPrefill is 2), prompts are fed in rows of at least two tokens and generated ones
//     one at a time, replayed ones too; elsewhere a replay is a part of the prompt.
//  3. A [Sink] hears Ended exactly once for each sequence, after the engine, unless it hangs, gave its
//     memory back.
//  4. A failure of one row ends one sequence; a failure of a step ends that step's sequences; neither
//     ends the loop.
//
// The package never talks to a network and knows nothing of jobs.
package batch
