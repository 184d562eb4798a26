// Package ladder sheds the least urgent jobs first while first tokens come late.
//
// It belongs to step 4 of the walk, before dispatcher/breaker and dispatcher/admission's verdict. Admission
// predicts; the ladder looks at what really came of it. As long as predictions hold it lets everything
// through. Previous step: dispatcher/intake.go or the gateway; next: dispatcher/breaker.
//
// A job stands on a rung: its class, and in it one of [Cohorts] that its tenant is drawn into each hour anew,
// so that of equals the same ones are served for a while, and not always the same ones. A [Ladder] of a model
// lets the rungs below its top through. Each second it looks at two signals of each class that has an
// objective:
//
//  1. queue wait: jobs that were just taken by a worker had waited 90 % of their objective on average. They
//     are lost before their prompt is fed, and nothing need be waited for.
//  2. burn: the share of first tokens that were late, divided by the share that may be ([Budgets]), is above 1
//     over 5 s and over 60 s, and some were late in the last second: it is happening, and it is no blip.
//
// Then the top comes down by so many rungs as brought 5 % of what was let through lately, up to 20 % for a
// high burn, but never into a class more urgent than the one that suffers, and again two seconds later at the
// soonest: what was let through before still comes late. Between the signals and about half of them nothing
// moves. Below, the top rises by 1 % of what is let through a second, faster after 10 s without trouble; and
// when no more comes than was served in time since the last cut, to the end at once: the surge is over. (Levels and first constants: Zhou et
// al., Overload Control for Scaling WeChat Microservices, SoCC 2018.)
//
// Observing and asking take no lock: they are atomic counters, which Tick reads.
package ladder
