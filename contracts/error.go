package contracts

import (
	"context"
	"errors"
	"fmt"
)

// Code is one of the closed set of error codes on the wire.
type Code string

// The codes. Their meaning, HTTP status and handling stand in the table below, the only place that
// knows them.
const (
	CodeInvalidArgument       Code = "invalid_argument"
	CodeContextLengthExceeded Code = "context_length_exceeded"
	CodePayloadTooLarge       Code = "payload_too_large"
	CodeModelNotFound         Code = "model_not_found"
	CodeNotFound              Code = "not_found"
	CodeUnauthenticated       Code = "unauthenticated"
	CodePermissionDenied      Code = "permission_denied"
	CodeConflict              Code = "conflict"
	CodeQuotaExceeded         Code = "quota_exceeded"
	CodeOverloaded            Code = "overloaded"
	CodeUnavailable           Code = "unavailable"
	CodeDeadlineExceeded      Code = "deadline_exceeded"
	CodeCanceled              Code = "canceled"
	CodeResourceExhausted     Code = "resource_exhausted"
	CodeLeaseLost             Code = "lease_lost"
	CodeUnimplemented         Code = "unimplemented"
	CodeInternal              Code = "internal"
)

// Verb is how a worker answers JetStream for a job that ended with a code.
type Verb string

// The verbs.
const (
	VerbAck  Verb = "ack"  // done with it
	VerbTerm Verb = "term" // no other worker should try
	VerbNak  Verb = "nak"  // hand it back with a delay
	VerbNone Verb = "none" // say nothing: another holder has it
)

// CodeInfo is one row of the error table.
type CodeInfo struct {
	Code       Code
	Meaning    string
	Advice     string // what the caller should do
	HTTP       int
	OpenAIType string
	Retryable  bool
	Verb       Verb
}

// Codes is the error table: HTTP status, OpenAI error type, retryability and the worker's verb all
// derive from it.
var Codes = []CodeInfo{
	{CodeInvalidArgument, "the job is malformed", "fix the parameter that the message names", 400, "invalid_request_error", false, VerbTerm},
	{CodeContextLengthExceeded, "prompt and max_tokens are longer than the model or any worker can hold", "shorten the prompt or lower max_tokens", 400, "invalid_request_error", false, VerbTerm},
	{CodePayloadTooLarge, "the request is over the size limit", "shorten it", 413, "invalid_request_error", false, VerbTerm},
	{CodeModelNotFound, "no such model or variant", "ask /v1/models what is served", 404, "not_found_error", false, VerbTerm},
	{CodeNotFound, "no such job or path", "check the id; finished jobs are kept for a limited time", 404, "not_found_error", false, VerbTerm},
	{CodeUnauthenticated, "the caller is not known", "send valid credentials", 401, "authentication_error", false, VerbTerm},
	{CodePermissionDenied, "the caller may not do this", "use the tenant that the credentials belong to", 403, "permission_error", false, VerbTerm},
	{CodeConflict, "the job id was used before for another request", "choose a new id", 409, "invalid_request_error", false, VerbTerm},
	{CodeQuotaExceeded, "the tenant's allowance is used up", "retry after the time given", 429, "rate_limit_error", true, VerbTerm},
	{CodeOverloaded, "shed by admission", "retry after the time given", 429, "rate_limit_error", true, VerbTerm},
	{CodeUnavailable, "no healthy worker, or the broker is away", "retry with backoff", 503, "service_unavailable", true, VerbNak},
	{CodeDeadlineExceeded, "out of time, queued or running", "decide whether it is still wanted", 504, "server_error", false, VerbTerm},
	{CodeCanceled, "the caller canceled the job or left", "nothing", 499, "server_error", false, VerbAck},
	{CodeResourceExhausted, "this worker lacks memory for it", "nothing: the fleet retries", 503, "service_unavailable", true, VerbNak},
	{CodeLeaseLost, "another worker has the job", "nothing: never reaches callers", 500, "server_error", true, VerbNone},
	{CodeUnimplemented, "version or feature not known here", "upgrade, or leave the feature out", 501, "invalid_request_error", false, VerbTerm},
	{CodeInternal, "our fault", "retry once, then report it", 500, "server_error", true, VerbNak},
}

var codeInfo = func() map[Code]CodeInfo {
	m := make(map[Code]CodeInfo, len(Codes))
	for _, c := range Codes {
		m[c.Code] = c
	}
	return m
}()

// Info is the table row of c; unknown codes are treated as CodeInternal.
func (c Code) Info() CodeInfo {
	if i, ok := codeInfo[c]; ok {
		return i
	}
	return codeInfo[CodeInternal]
}

// Error is a failure that can cross the wire.
type Error struct {
	Code         Code
	Message      string // lower case, says what failed and what to do
	Param        string // the parameter at fault, when there is one
	RetryAfterMS int64  // when a retry makes sense; 0 is not said
	NoRetry      bool   // it makes none, whatever the code says: too many of the tenant's requests are repeats
}

// Error formats e as "code: message".
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Outcome is what becomes of a job that is refused with e: rejected, or shed when that is not the caller's doing.
func (e *Error) Outcome() Outcome {
	if e.Code == CodeOverloaded || e.Code == CodeUnavailable {
		return OutcomeShed
	}
	return OutcomeRejected
}

// Errorf makes an [*Error].
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalid is the [*Error] of a parameter that is at fault.
func Invalid(param, format string, args ...any) *Error {
	return &Error{Code: CodeInvalidArgument, Param: param, Message: fmt.Sprintf(format, args...)}
}

// AsError is err as it may be shown to a caller: an *Error anywhere in its chain as it is, a
// context's end as deadline_exceeded or canceled, everything else as internal without its details,
// which belong in the log.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Errorf(CodeDeadlineExceeded, "out of time")
	case errors.Is(err, context.Canceled):
		return Errorf(CodeCanceled, "canceled")
	}
	return Errorf(CodeInternal, "internal error: retry once, then report it")
}

// CodeOf is the code of err, CodeInternal when it carries none and "" when err is nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return AsError(err).Code
}
