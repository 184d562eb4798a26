package openai

import "github.com/pelton-run/pelton/contracts"

// ErrorReply is the error object of OpenAI's API: all four members are always there, Param and Code
// may be null.
type ErrorReply struct {
	Error ErrorDetail `json:"error"`
}

// ErrorDetail is what an [ErrorReply] says. Code is one of contracts' codes.
type ErrorDetail struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

// NewError is e as an error object.
func NewError(e *contracts.Error) ErrorReply {
	code := string(e.Code)
	d := ErrorDetail{Message: e.Message, Type: e.Code.Info().OpenAIType, Code: &code}
	if e.Param != "" {
		param := e.Param
		d.Param = &param
	}
	return ErrorReply{Error: d}
}
