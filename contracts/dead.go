package contracts

// Dead is a job that was given up, as the stream DLQ keeps it.
type Dead struct {
	V        int     `msgpack:"v" json:"v"`
	Job      string  `msgpack:"job" json:"job"`
	Tenant   string  `msgpack:"tenant" json:"tenant"`
	Code     Code    `msgpack:"code" json:"code"`
	Message  string  `msgpack:"message" json:"message"`                     // as in the final record
	Died     int64   `msgpack:"died" json:"died"`                           // Unix milliseconds
	History  []Claim `msgpack:"history,omitempty" json:"history,omitempty"` // the claims and releases of its holders, oldest first
	Tokens   int     `msgpack:"tokens" json:"tokens"`                       // emitted before it was given up, over all choices
	Admitted []byte  `msgpack:"admitted,omitempty" json:"-"`                // the encoded [Admitted], also when it is damaged
}
