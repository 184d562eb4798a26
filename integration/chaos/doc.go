// Package chaos hurts a fleet on purpose and proves that nobody who reads an answer can tell.
//
// A [Script] drawn from a seed says which worker dies, freezes or drains when; [Run] keeps jobs in
// flight meanwhile, with readers that leave and come back; a [History] is what was asked, what the
// stream OUT holds and what the readers got, and its Check finds every broken promise. [InProcess] is a
// fleet whose workers die by losing their connection, [Processes] one of the pelton binary with real
// signals.
//
// It belongs to integration/ and is used by its tests only. Checks and scripts are pure.
package chaos
